"""Octavia's scenes in ``stackmend demo``: three amphorae of the driver ``noop`` fail, and a spare is missing.

stackmend preserves a failed amphora as an image. But the first amphora boots from a volume, so stackmend keeps its server
without a network. The third amphora exceeds the maximum of two, so stackmend deletes the first.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from handlers.base import Key, Resources
from handlers.demo import Demo, Notification, Scene
from handlers.octavia import queries, records
from handlers.octavia.cloud_objects import AMPHORA_PREFIX, SPARE
from handlers.octavia.drivers.chosen import chosen_driver
from handlers.octavia.drivers.noop import NoopDriver
from handlers.octavia.preserved import pool as preserved
from handlers.octavia.spares import pool as spares

MAXIMUM = 2
#: Seconds since the last heartbeat of an amphora that fails: long enough to contradict nothing.
_SILENT = 15.0


#: The event that Nova publishes when a server reaches a state.
_EVENTS = {"SHUTOFF": "instance.power_off.end", "ERROR": "instance.update"}
_POOL = Key("pool", spares.ANY)


class OctaviaDemo(Demo):
    world = "Octavia's database, with amphorae in memory"
    handlers = frozenset({"failed_amphora", "spare_pool"})

    def __init__(self) -> None:
        self._running: NoopDriver | None = None
        self._scenes: tuple[Scene, ...] = ()
        self._bystanders: Mapping[str, str | None] = {}
        self._dead: list[str] = []

    @property
    def driver(self) -> NoopDriver:
        if self._running is None:
            raise RuntimeError("the demonstration has not joined a daemon")
        return self._running

    def start(self, folder: Path) -> Mapping[str, Mapping[str, str]]:
        return {
            "octavia": {"database_connection": f"sqlite:///{folder / 'octavia.sqlite'}"},
            "housekeeping": {
                "driver": "noop",
                "spare_amphora_pool_size": "1",
                "maximum_preserved_amphora_count": str(MAXIMUM),
                "preservation_scheme": "cycle",
                "preservation_method": "snapshot",
            },
        }

    def join(self, resources: Resources) -> None:
        driver = resources.get(chosen_driver)
        if not isinstance(driver, NoopDriver):
            raise TypeError(f"the demonstration needs the driver noop, not {type(driver).__name__}")
        self._running = driver
        [spare] = spares.begin(driver, 1)
        driver.stop_server(spare)
        pair = driver.octavia.add_load_balancer("ACTIVE_STANDBY")
        self._bystanders = {amphora.id: amphora.compute_id for amphora in self._amphorae(pair)}
        self._scenes = (
            self._missing_spare(spare),
            self._failed(
                "lb-1",
                "SHUTOFF",
                "an amphora dies; it boots from a volume, so it is preserved as a server",
                volume=True,
            ),
            self._failed("lb-2", "ERROR", "the server of a second amphora goes into ERROR"),
            self._failed("lb-3", "SHUTOFF", f"a third amphora dies, and {MAXIMUM} are preserved already"),
        )

    def scenes(self) -> Sequence[Scene]:
        return self._scenes

    def stop(self) -> None:
        self._running = None

    # spares

    def _missing_spare(self, spare: str) -> Scene:
        def play() -> Sequence[Notification]:
            self.driver.delete_server(spare)
            return ()

        def drift() -> str:
            ready = sum(SPARE in server.tags and spares.is_placeholder(server) for server in self.driver.servers())
            return "" if ready else "the pool has 0 of 1 spares"

        return Scene("the only spare amphora is deleted, and no notification arrives", "spare_pool", _POOL, play, drift)

    # amphorae

    def _failed(self, name: str, status: str, title: str, volume: bool = False) -> Scene:
        octavia = self.driver.octavia
        balancer = octavia.add_load_balancer(volume_backed=volume)
        [amphora] = self._amphorae(balancer)

        def play() -> Sequence[Notification]:
            self._dead.append(amphora.id)
            octavia.heartbeat(amphora.id, _SILENT)
            self.driver.cloud.alter_server(amphora.compute_id or "", status=status)
            return (_notification(amphora, status),)

        def drift() -> str:
            wrong = self._harm() or self._unserved(name, balancer) or self._row_left(name, amphora.id)
            return wrong or self._not_preserved(amphora.id)

        return Scene(title, "failed_amphora", Key("amphora", amphora.id), play, drift)

    def _amphorae(self, balancer: str) -> list[records.Amphora]:
        return self.driver.database.run(partial(queries.amphorae_of, load_balancer=balancer))

    def _unserved(self, name: str, balancer: str) -> str:
        servers = (self.driver.cloud.server(one.compute_id or "") for one in self._amphorae(balancer))
        serves = any(server is not None and server.status == "ACTIVE" for server in servers)
        return "" if serves else f"no amphora serves load balancer {name}"

    def _not_preserved(self, amphora: str) -> str:
        kept = {one.amphora for one in preserved.read(self.driver) if one.complete}
        if amphora in self._dead[-MAXIMUM:]:
            return "" if amphora in kept else "the failed amphora is not preserved"
        return f"{len(kept)} amphorae are preserved, the maximum is {MAXIMUM}" if amphora in kept else ""

    def _row_left(self, name: str, amphora: str) -> str:
        row = self.driver.database.run(partial(queries.amphora, identity=amphora))
        return f"the row of the failed amphora is still on {name}" if row is not None and row.load_balancer_id else ""

    def _harm(self) -> str:
        for amphora, server in self._bystanders.items():
            found = self.driver.cloud.server(server or "")
            if found is None or found.status != "ACTIVE":
                return f"harm: amphora {amphora} never failed, and lost its server"
        return ""


def _notification(amphora: records.Amphora, status: str) -> Notification:
    data: dict[str, object] = {
        "uuid": amphora.compute_id,
        "display_name": f"{AMPHORA_PREFIX}{amphora.id}",
        "state": "stopped",
    }
    if status == "ERROR":
        update = {"old_state": "active", "state": "error", "old_task_state": None, "new_task_state": None}
        data |= {"state": "error", "state_update": _versioned("InstanceStateUpdatePayload", update)}
    message = {
        "message_id": str(uuid.uuid4()),
        "publisher_id": "nova-compute:compute-1",
        "event_type": _EVENTS[status],
        "priority": "INFO",
        "payload": _versioned("InstancePayload", data),
        "timestamp": datetime.now(UTC).replace(tzinfo=None).isoformat(sep=" "),
    }
    body = {"oslo.version": "2.0", "oslo.message": json.dumps(message)}
    return Notification("nova", "versioned_notifications.info", json.dumps(body).encode())


def _versioned(name: str, data: Mapping[str, object]) -> dict[str, object]:
    return {
        "nova_object.name": name,
        "nova_object.namespace": "nova",
        "nova_object.version": "1.0",
        "nova_object.data": data,
    }
