"""Writers: threads that boot servers, change them and delete them, and know what must be there."""

from __future__ import annotations

import random
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from tests.cloud.control_plane import ControlPlane, wait_until
from tests.cloud.lifecycle import Lifecycle

#: Seconds for one change of a server.
PATIENCE = 180
#: The flavor to which servers are resized; it must have a disk as large as that of ``tiny``.
LARGE = "large"
#: Servers of one writer, at least and at most.
FEW, MANY = 2, 5


class Gate:
    """Lets writers through, one step at a time, until it is closed."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside = 0
        self._is_closed = False

    @contextmanager
    def step(self) -> Iterator[None]:
        """Wait until the gate is open; it does not close before the step ends."""
        with self._changed:
            self._changed.wait_for(lambda: not self._is_closed)
            self._inside += 1
        try:
            yield
        finally:
            with self._changed:
                self._inside -= 1
                self._changed.notify_all()

    @contextmanager
    def closed(self) -> Iterator[None]:
        """Let every step end, and begin none meanwhile."""
        with self._changed:
            self._is_closed = True
            self._changed.wait_for(lambda: self._inside == 0)
        try:
            yield
        finally:
            with self._changed:
                self._is_closed = False
                self._changed.notify_all()


@dataclass
class Expected:
    """What the API must answer about a server.

    :param volume: the id of the one volume that is attached; empty without one
    """

    status: str = "ACTIVE"
    flavor: str = "tiny"
    volume: str = ""


@dataclass
class Ledger:
    """What a writer did.

    :param servers: those that it has
    :param aged: the cells of deleted servers whose rows say that they were deleted three months ago
    :param steps: how often it did what
    """

    servers: dict[str, Expected] = field(default_factory=dict)
    deleted: set[str] = field(default_factory=set)
    aged: dict[str, str] = field(default_factory=dict)
    steps: Counter[str] = field(default_factory=Counter)


class Writer:
    """One thread that works on servers of its own. Its first error ends it.

    :param gate: of all writers
    :param cell_gate: of the writers of its cell, closed while the spare host takes servers
    :param hosts: where it boots servers, all in one cell
    :param spare: a disabled host of that cell from which it evacuates servers
    """

    def __init__(
        self,
        cloud: ControlPlane,
        gate: Gate,
        cell_gate: Gate,
        cell: str,
        hosts: tuple[str, ...],
        seed: int,
        spare: str = "",
    ) -> None:
        self.ledger = Ledger()
        self.error: BaseException | None = None
        self._cloud = cloud
        self._compute: Any = cloud.admin.compute
        self._storage: Any = cloud.admin.block_storage
        self._ages = Lifecycle(cloud)
        self._gate = gate
        self._cell_gate = cell_gate
        self._cell = cell
        self._hosts = hosts
        self._spare = spare
        self._random = random.Random(seed)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"writer-{seed}", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End after the present step."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                with self._gate.step():
                    name, step = self._choose()
                    with nullcontext() if name == "evacuate" else self._cell_gate.step():
                        print(f"{time.strftime('%X')} {threading.current_thread().name}: {name}", flush=True)
                        step()
                    self.ledger.steps[name] += 1
        except BaseException as error:
            error.add_note(f"the step was {name}")
            self.error = error

    def _choose(self) -> tuple[str, Callable[[], None]]:
        servers = self.ledger.servers
        chance = self._random.random()
        if len(servers) < FEW or (len(servers) < MANY and chance < 0.25):
            return "boot", self._boot
        if chance > 0.95:
            return "archive", self._archive
        if self._spare and chance > 0.85:
            return "evacuate", self._evacuate
        server = self._random.choice(list(servers))
        steps: dict[str, Callable[[str], None]]
        if servers[server].status == "SHELVED_OFFLOADED":
            steps = {"unshelve": self._unshelve, "delete a shelved one": self._delete}
        else:
            steps = {
                "resize": self._resize,
                "revert": self._revert,
                "live-migrate": self._live_migrate,
                "migrate": self._migrate,
                "shelve": self._shelve,
                "rebuild": self._rebuild,
                "delete": self._delete,
            }
            steps |= {"detach": self._detach} if servers[server].volume else {"attach": self._attach}
        name = self._random.choice(list(steps))
        return name, partial(steps[name], server)

    # steps

    def _boot(self) -> None:
        self._boot_on(self._random.choice(self._hosts))

    def _boot_on(self, host: str) -> str:
        booted = self._cloud.boot(f"churn-{uuid.uuid4().hex[:8]}", host=host, wait=False)
        self.ledger.servers[booted.id] = Expected()
        self._reach(booted.id, "ACTIVE")
        return str(booted.id)

    def _resize(self, server: str) -> None:
        flavor = LARGE if self.ledger.servers[server].flavor == "tiny" else "tiny"
        self._compute.resize_server(server, flavor)
        self._confirm(server)
        self.ledger.servers[server].flavor = flavor

    def _migrate(self, server: str) -> None:
        self._compute.migrate_server(server)
        self._confirm(server)

    def _confirm(self, server: str) -> None:
        self._reach(server, "VERIFY_RESIZE")
        self._compute.confirm_server_resize(server)
        self._reach(server, "ACTIVE")

    def _revert(self, server: str) -> None:
        self._compute.resize_server(server, LARGE if self.ledger.servers[server].flavor == "tiny" else "tiny")
        self._reach(server, "VERIFY_RESIZE")
        self._compute.revert_server_resize(server)
        self._reach(server, "ACTIVE")

    def _live_migrate(self, server: str) -> None:
        here = self._host(server)
        self._compute.live_migrate_server(server, host=None, block_migration="auto")
        wait_until(lambda: self._host(server) != here, PATIENCE, f"the live migration of {server}")
        self._reach(server, "ACTIVE")

    def _shelve(self, server: str) -> None:
        self._compute.shelve_server(server)
        self._reach(server, "SHELVED_OFFLOADED")

    def _unshelve(self, server: str) -> None:
        self._compute.unshelve_server(server)
        self._reach(server, "ACTIVE")

    def _rebuild(self, server: str) -> None:
        self._compute.rebuild_server(server, self._cloud.image_id)
        self._reach(server, "ACTIVE")

    def _attach(self, server: str) -> None:
        volume = str(self._storage.create_volume(size=1).id)
        self._reach_volume(volume, "available")
        self._compute.create_volume_attachment(server, volume_id=volume)
        self.ledger.servers[server].volume = volume
        self._reach_volume(volume, "in-use")

    def _detach(self, server: str) -> None:
        expected = self.ledger.servers[server]
        self._compute.delete_volume_attachment(server, expected.volume)
        self._drop(expected.volume)
        expected.volume = ""

    def _drop(self, volume: str) -> None:
        """Delete a volume that Nova detaches."""
        self._reach_volume(volume, "available")
        self._storage.delete_volume(volume)
        wait_until(lambda: self._storage.find_volume(volume) is None, PATIENCE, f"the deletion of volume {volume}")

    def _reach_volume(self, volume: str, status: str) -> None:
        wait_until(lambda: self._storage.get_volume(volume).status == status, PATIENCE, f"volume {volume} {status}")

    def _delete(self, server: str) -> None:
        self._cloud.delete(server, PATIENCE)
        if volume := self.ledger.servers.pop(server).volume:
            self._drop(volume)
        self.ledger.deleted.add(server)
        if self._random.random() < 0.5:
            self._ages.age(self._cell, server)
            self.ledger.aged[server] = self._cell

    def _archive(self) -> None:
        wait_until(self._has_archived, PATIENCE, "an archive without a deadlock")

    def _has_archived(self) -> bool:
        """Return False after a deadlock: another writer archives, and nova-manage does not try again."""
        done = self._cloud.nova_manage("db", "archive_deleted_rows", "--all-cells")
        if done.returncode in (0, 1):  # nothing to archive, something archived
            return True
        if "(1213, 'Deadlock found" in done.stdout + done.stderr:
            return False
        raise AssertionError(f"archive_deleted_rows failed: {done.stdout}{done.stderr}")

    def _evacuate(self) -> None:
        service = wait_until(self._spare_that_is_up, PATIENCE, f"{self._spare} up")
        with self._cell_gate.closed():
            self._compute.enable_service(service)
            wait_until(self._spare_takes_servers, PATIENCE, f"no COMPUTE_STATUS_DISABLED on {self._spare}")
            server = self._boot_on(self._spare)
            self._compute.disable_service(service, disabled_reason="only here to be lost")
        self._cloud.lose_host(self._spare)
        self._compute.evacuate_server(server)
        wait_until(lambda: self._host(server) != self._spare, PATIENCE, f"the evacuation of {server}")
        self._reach(server, "SHUTOFF")
        self._cloud.return_host(self._spare, PATIENCE)
        self._compute.start_server(server)
        self._reach(server, "ACTIVE")

    def _spare_that_is_up(self) -> Any:
        """Return the service once it is up: Nova changes no trait of a host whose service is down."""
        [service] = self._compute.services(binary="nova-compute", host=self._spare)
        return service if service.state == "up" else None

    def _spare_takes_servers(self) -> bool:
        query = (
            "SELECT COUNT(*) FROM resource_provider_traits m JOIN traits t ON t.id = m.trait_id JOIN resource_providers p"
            f" ON p.id = m.resource_provider_id WHERE p.name = '{self._spare}' AND t.name = 'COMPUTE_STATUS_DISABLED'"
        )
        return self._cloud.mariadb.execute(query, "placement") == "0\n"

    def _reach(self, server: str, status: str) -> None:
        self._cloud.wait_for_server(server, status, PATIENCE)
        self.ledger.servers[server].status = status

    def _host(self, server: str) -> str:
        return str(self._compute.get_server(server).compute_host)
