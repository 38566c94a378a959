"""Carries out the steps of :mod:`handlers.octavia.failover.rules`, one call of a function each.

Each is given the situation in which it was decided, read again just before; what it writes into Octavia's database is
compared there once more, under lock. Each can be repeated.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from handlers.base import Conflict, Healed
from handlers.octavia import changes, records
from handlers.octavia.cloud_objects import (
    AMPHORA,
    LOAD_BALANCER,
    METHOD,
    PRESERVED,
    PRESERVED_PREFIX,
    REASON,
    SINCE,
    STATE,
    Server,
)
from handlers.octavia.drivers.base import Driver
from handlers.octavia.failover.proof import QUIET
from handlers.octavia.failover.steps import Situation, Step
from handlers.octavia.preserved import pool
from handlers.octavia.settings import HousekeepingSettings
from handlers.octavia.spares import pool as spares

#: characters that a value of a server's metadata may have
_MAX_VALUE = 255


class Measures:
    """What can be done for a failed amphora."""

    def __init__(self, driver: Driver, settings: HousekeepingSettings) -> None:
        self._driver = driver
        self._settings = settings
        self._by_name: Mapping[str, Callable[[Situation, Step], Healed]] = {
            "fence": self._fence,
            "mark": self._mark,
            "unmark": self._unmark,
            "stop": self._stop,
            "image": self._image,
            "seal": self._seal,
            "drop-image": self._drop_image,
            "unplug": self._unplug,
            "quarantine": self._quarantine,
            "let-go": self._let_go,
            "failover": self._failover,
            "failover-load-balancer": self._failover_load_balancer,
            "label": self._label,
            "trim": self._trim,
            "detach": self._detach,
            "shelve": self._shelve,
        }

    def take(self, situation: Situation, step: Step) -> Healed:
        """Carry out a step.

        :raises Conflict: when the world has changed since the situation was read
        :raises InFlight, AmphoraDriverError: see there
        """
        return self._by_name[step.what](situation, step)

    def _fence(self, s: Situation, step: Step) -> Healed:
        lease = self._settings.preservation_lease
        self._renew_fence(s)
        return Healed(
            f"kept Octavia's health manager off amphora {s.amphora.id} for {lease} s ({step.why})",
            undo="it ends by itself, or: UPDATE amphora_health SET last_update=utc_timestamp() WHERE amphora_id="
            f"'{s.amphora.id}'",
        )

    def _renew_fence(self, s: Situation) -> None:
        # what is cut off cannot send a heartbeat; its last one may be young when a fence has run out
        quiet = QUIET if s.connected else 0.0
        fence = partial(changes.fence, amphora=s.amphora, lease=self._settings.preservation_lease, quiet=quiet)
        self._driver.database.run(fence)

    def _mark(self, s: Situation, step: Step) -> Healed:
        server = _server(s)
        self._driver.tag_server(server.id, PRESERVED)
        kept = [one for one in pool.read(self._driver) if one.amphora != s.amphora.id]
        why = "its server was in ERROR" if server.name.startswith(PRESERVED_PREFIX) else step.why
        marks = {**self._marks(s, why), SINCE: pool.next_number(kept, s.now)}
        self._driver.describe_server(server.id, marks)
        return Healed(
            f"marked server {server.id} of amphora {s.amphora.id} as being preserved ({why})",
            before={"tags": sorted(server.tags)},
            after=marks,
            undo=f"openstack server unset --tag {PRESERVED} {server.id}",
        )

    def _marks(self, s: Situation, why: str) -> dict[str, str]:
        return {
            AMPHORA: s.amphora.id,
            LOAD_BALANCER: s.amphora.load_balancer_id or "",
            REASON: why[:_MAX_VALUE],
            METHOD: self._settings.preservation_method if _server(s).image is not None else "unplug",
            STATE: pool.PRESERVING,
        }

    def _unmark(self, s: Situation, step: Step) -> Healed:
        server = _server(s)
        # the number first: a tag without one is a server that is about to get another
        self._driver.describe_server(server.id, {SINCE: "", STATE: ""})
        self._driver.untag_server(server.id, PRESERVED)
        return Healed(
            f"took back the mark of server {server.id} of amphora {s.amphora.id}: {step.why or step.summary}",
            before={name: server.metadata.get(name, "") for name in (SINCE, STATE)},
        )

    def _stop(self, s: Situation, step: Step) -> Healed:
        server = _server(s)
        self._driver.stop_server(server.id)
        if not s.marked:
            # a name is all that Nova changes in ERROR; it says that stopping was tried
            self._driver.describe_server(server.id, {}, f"{PRESERVED_PREFIX}{s.amphora.id}")
        return Healed(
            f"asked Nova to stop server {server.id} of amphora {s.amphora.id} ({step.why})",
            before={"status": server.status},
            undo=f"openstack server start {server.id}",
        )

    def _image(self, s: Situation, step: Step) -> Healed:
        server = _server(s)
        properties = {**self._marks(s, server.metadata.get(REASON) or step.why), SINCE: s.since, STATE: pool.KEPT}
        image = self._driver.create_image(server.id, f"{PRESERVED_PREFIX}{s.amphora.id}", properties)
        return Healed(
            f"asked Nova for an image of server {server.id} of amphora {s.amphora.id}",
            after={"image": image},
            undo=f"openstack image delete {image}",
        )

    def _seal(self, s: Situation, step: Step) -> Healed:
        (image,) = step.objects
        self._driver.seal_image(image)
        return Healed(
            f"protected image {image} of amphora {s.amphora.id}, which is complete",
            before={"protected": False},
            after={"protected": True, "visibility": "private"},
            undo=f"openstack image set --unprotected {image}",
        )

    def _drop_image(self, s: Situation, step: Step) -> Healed:
        for image in step.objects:
            self._driver.delete_image(image)
        return Healed(f"deleted images {', '.join(step.objects)} of amphora {s.amphora.id}: {step.summary}")

    def _unplug(self, s: Situation, step: Step) -> Healed:
        server = _server(s)
        for port in s.connected:
            self._driver.detach_port(server.id, port.id)
        self._driver.describe_server(server.id, {STATE: pool.DETACHING})
        return Healed(
            f"asked Nova to detach {len(s.connected)} ports of server {server.id} of amphora {s.amphora.id}",
            before={"ports": [port.id for port in s.connected]},
            undo=f"openstack server add port {server.id} PORT; the one in the management network has to be made anew",
        )

    def _quarantine(self, s: Situation, step: Step) -> Healed:
        for port in s.connected:
            self._driver.disable_port(port)
        return Healed(
            f"set {len(s.connected)} ports of server {_server(s).id} of amphora {s.amphora.id} down",
            before={"ports": [port.id for port in s.connected]},
            undo="openstack port set --enable PORT",
        )

    def _let_go(self, s: Situation, step: Step) -> Healed:
        amphora = s.amphora
        self._driver.database.run(partial(changes.let_go, amphora=amphora))
        return Healed(
            f"let Octavia forget server {amphora.compute_id} of amphora {amphora.id}",
            before={"status": amphora.status, "compute_id": amphora.compute_id},
            after={"status": "ERROR", "compute_id": None},
            undo="only while the amphora has not been replaced: UPDATE amphora SET status='ERROR', compute_id="
            f"'{amphora.compute_id}' WHERE id='{amphora.id}' AND status='ERROR' AND compute_id IS NULL",
        )

    def _failover(self, s: Situation, step: Step) -> Healed:
        if s.sealed is not None and s.amphora.status in records.SERVING and s.health is not None and not s.health.busy:
            self._renew_fence(s)
        spares.make_room(self._driver, s.amphora)
        self._driver.failover_amphora(s.amphora.id)
        return Healed(f"asked Octavia to replace amphora {s.amphora.id}: {step.why}", before=_row(s))

    def _failover_load_balancer(self, s: Situation, step: Step) -> Healed:
        spares.make_room(self._driver, s.amphora)
        self._driver.failover_load_balancer(s.served.id)
        return Healed(
            f"asked Octavia to replace all amphorae of load balancer {s.served.id}, which is in ERROR: {step.why}",
            before=_row(s),
        )

    def _label(self, s: Situation, step: Step) -> Healed:
        server, name = _server(s), f"{PRESERVED_PREFIX}{s.amphora.id}"
        self._driver.lock_server(server.id, f"preserved by stackmend: amphora {s.amphora.id} failed")
        self._driver.describe_server(server.id, {STATE: pool.KEPT}, name)
        return Healed(
            f"preserved server {server.id} of amphora {s.amphora.id}",
            before={"name": server.name, "locked": server.locked},
            after={"name": name, "locked": True},
            undo=f"stackmend amphora preserved release {s.amphora.id}, or delete",
        )

    def _trim(self, s: Situation, step: Step) -> Healed:
        oldest = next((one for one in s.others if one.amphora in step.objects), None)
        if oldest is None:
            raise Conflict("it is no longer kept")
        pool.discard(self._driver, oldest)
        return Healed(
            f"deleted preserved amphora {oldest.amphora}, the oldest: amphora {s.amphora.id} took its place",
            before={
                "server": oldest.server.id if oldest.server else None,
                "image": oldest.image.id if oldest.image else None,
                "since": oldest.since,
            },
        )

    def _detach(self, s: Situation, step: Step) -> Healed:
        balancer, rows = s.served.id, ", ".join(step.objects)
        for amphora in step.objects:
            self._driver.database.run(partial(changes.detach_deleted, amphora=amphora, load_balancer=balancer))
        return Healed(
            f"took the rows of deleted amphorae off load balancer {balancer}, whose next update they would break: {rows}",
            before={"load_balancer_id": balancer},
            after={"load_balancer_id": None},
            undo=f"UPDATE amphora SET load_balancer_id='{balancer}' WHERE id IN ("
            + ", ".join(f"'{amphora}'" for amphora in step.objects)
            + ")",
        )

    def _shelve(self, s: Situation, step: Step) -> Healed:
        server = _server(s)
        self._driver.shelve_server(server.id)
        return Healed(
            f"asked Nova to shelve preserved server {server.id}: it holds host {server.host} for its server group",
            before={"status": server.status, "host": server.host, "groups": list(server.groups)},
            undo=f"openstack server unshelve {server.id}",
        )


def _server(s: Situation) -> Server:
    if s.server is None:
        raise Conflict(f"amphora {s.amphora.id} has no server any more")
    return s.server


def _row(s: Situation) -> dict[str, object]:
    return {
        "status": s.amphora.status,
        "compute_id": s.amphora.compute_id,
        "load_balancer": s.amphora.load_balancer_id,
        "provisioning_status": s.served.status,
    }
