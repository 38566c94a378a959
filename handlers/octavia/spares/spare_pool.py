"""Keeps placeholder servers, so that a failover finds room in a cloud that is otherwise full.

**What drifts.** A pool, of which there is one for each zone and flavor, has fewer or more spares than
``spare_amphora_pool_size``; one was built and still runs, failed to build, or was claimed by somebody who died before
deleting it.

**What a spare is.** A server of an amphora's flavor and image in Octavia's project, without a network, stopped and tagged. It
holds its allocation in Placement, and the image in its host's cache; it uses neither processor nor memory. Just before
this program requests a failover, it takes the tag off one spare on another host than the surviving amphora's, deletes
it, and Octavia's new amphora finds the room; the pool is topped up afterwards.

**What it buys, and what not.** A failover that would end with NoValidHost succeeds, also of an ACTIVE_STANDBY pair with
anti-affinity. It does not make the new amphora boot faster than a cached image does: Octavia cannot adopt a server that it
did not build (its own pool of bootable spares went with release 9). Failovers that Octavia's health manager begins by
itself, and new load balancers, are given nothing. Between the deletion and Octavia's boot, seconds, anybody may take the
room; an aggregate of its own for the amphora flavor shuts that gap. A spare makes room for an amphora that is not larger:
where Octavia's flavor profiles name flavors of Nova, list them in ``spare_amphora_flavors``; one of the amphora's own flavor
is handed over first, then one of ``amp_flavor_id``, then any. After another ``amp_flavor_id`` was configured, delete the
spares: they come back with the new one.

**What is read.** The servers of Octavia's project, amphora rows and load balancers.

**What is changed.** Placeholders are created, stopped and deleted; nothing else. Never more than
``maximum_deploying_amphora_count`` are building at once, with Octavia's own builds counted, and none is begun while an
amphora is being replaced or a claimed spare is still there: its room is meant for the new amphora. Pools are filled one
after the other, so that two replicas cannot pass the bound together. A spare that failed to build is kept, and holds
its pool back, for ten minutes: a full cloud is not asked every few seconds.

**Undo.** Lower ``spare_amphora_pool_size``; what is too much is deleted.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Self

from handlers.access.roles import AMPHORAE
from handlers.base import Conflict, Event, Finding, Handler, Healed, InFlight, Key, Mode, Resources, Roles, Trigger
from handlers.octavia import housekeeping, queries, settings
from handlers.octavia.base import OctaviaPlugin
from handlers.octavia.cloud_objects import SPARE, SPARE_PREFIX, Server
from handlers.octavia.drivers.base import Driver
from handlers.octavia.drivers.chosen import chosen_driver
from handlers.octavia.housekeeper import Housekeeper
from handlers.octavia.spares import pool as spares

LOG = logging.getLogger(__name__)

#: seconds for which a spare that failed to build holds its pool back
RETRY_AFTER = 600.0


def pool_key(event: Event) -> Key | None:
    """Take the pool's name out of a placeholder's name; None for any other server."""
    name = event.payload["display_name"]
    if not (isinstance(name, str) and name.startswith(SPARE_PREFIX)):
        return None
    return Key("pool", name.removeprefix(SPARE_PREFIX).rpartition("-")[0])


@dataclass(frozen=True, slots=True)
class _Cloud:
    """What was read for one look."""

    pools: Sequence[spares.Pool]
    deploying: int
    failing_over: frozenset[str]


class SparePool(OctaviaPlugin, Handler):
    """See the module."""

    name = "spare_pool"
    title = "Keep stopped placeholder servers that make room for failovers"
    group = settings.GROUP
    kinds = ("pool",)
    healable_problems = frozenset({"pool-short", "spare-not-stopped", "pool-over", "spare-claimed", "spare-failed"})
    triggers = (
        Trigger("instance.create.end", pool_key),
        Trigger("instance.create.error", pool_key),
        Trigger("instance.power_off.end", pool_key),
        Trigger("instance.delete.end", pool_key, after=10.0),
    )
    default_mode = Mode.HEAL
    interval_option = "housekeeping_interval"
    # The room of a spare that was just deleted is meant for a failover: by the second look that has begun.
    confirm_after = 10.0
    requires = ("octavia_database", "compute")
    roles = Roles((AMPHORAE,))

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._manager = Housekeeper(driver)

    @classmethod
    def from_resources(cls, resources: Resources) -> Self:
        """Make it on the shared driver."""
        return cls(resources.get(chosen_driver))

    def inspect(self, key: Key) -> Iterable[Finding]:
        """Compare a pool with what it should be."""
        cloud = self._read()
        found = next((pool for pool in cloud.pools if pool.name == key.id), None)
        if found is None:
            return []
        findings = [_finding(key, problem, server) for problem, server in _wrong(found)]
        if not found.missing:
            return findings
        wait = _obstacle(found, cloud, self._driver.settings.maximum_deploying_amphora_count)
        if wait is None:
            return [*findings, _short(key, found)]
        if not findings:
            raise InFlight(wait, 10.0)
        return findings

    def sweep(self) -> Iterator[Key]:
        """Tell how many spares are ready, and yield the pools of which something is to be done."""
        housekeeping.tell_size(self._manager)
        for pool in self._read().pools:
            if pool.missing or any(_wrong(pool)):
                yield Key("pool", pool.name)

    def population(self) -> int:
        """How many spares there are or should be."""
        return sum(max(pool.wanted, len(pool.present)) for pool in self._read().pools)

    def heal(self, finding: Finding) -> Healed:
        """Look again, then create, stop or delete."""
        if finding not in self.inspect(finding.key):
            raise Conflict(f"the spare pool of {finding.key} is not as it was")
        heal: Callable[[Finding], Healed] = {
            "pool-short": self._create,
            "spare-not-stopped": self._stop,
        }.get(finding.problem, self._delete)
        return heal(finding)

    def _read(self) -> _Cloud:
        rows, balancers = self._driver.database.run(
            lambda connection: (queries.amphorae(connection), queries.load_balancers(connection))
        )
        servers = self._driver.servers()
        return _Cloud(
            spares.pools(servers, self._driver.settings),
            spares.deploying(servers, rows),
            spares.failing_over(balancers, rows),
        )

    def _create(self, finding: Finding) -> Healed:
        before = {server.id for server in self._driver.servers()}
        housekeeping.top_up(self._manager)
        made = sorted(
            server.id for server in self._driver.servers() if spares.is_placeholder(server) and server.id not in before
        )
        if not made:
            raise InFlight("as many amphorae as may be are building", 10.0)
        return Healed(
            f"began to build {len(made)} spare amphorae for {finding.key}",
            before={"present": finding.evidence["present"]},
            after={"made": made},
            undo="lower [housekeeping] spare_amphora_pool_size; what is too much is deleted",
        )

    def _stop(self, finding: Finding) -> Healed:
        server = finding.evidence["server"]
        self._driver.stop_server(server)
        return Healed(f"stopped spare {server}", undo=f"openstack server start {server}")

    def _delete(self, finding: Finding) -> Healed:
        server = finding.evidence["server"]
        if finding.problem == "pool-over" and not self._driver.untag_server(server, SPARE):
            raise Conflict(f"spare {server} was claimed")
        self._driver.delete_server(server)
        return Healed(
            f"deleted spare {server}",
            before=dict(finding.evidence),
            undo="a spare holds nothing: raise [housekeeping] spare_amphora_pool_size to have another",
        )


def _wrong(pool: spares.Pool) -> Iterator[tuple[str, Server]]:
    """The placeholders of a pool with which something is to be done, and what it is called."""
    surplus = {server.id for server in pool.surplus}
    for server in pool.claimed:
        if server.task_state != "deleting":
            yield "spare-claimed", server
    for server in pool.failed:
        if server.age >= RETRY_AFTER or not pool.wanted:
            yield "spare-failed", server
    for server in pool.surplus:
        yield "pool-over", server
    for server in pool.running:
        if server.id not in surplus:
            yield "spare-not-stopped", server


def _obstacle(pool: spares.Pool, cloud: _Cloud, most: int) -> str | None:
    """Why nothing may be built for a pool now, if there is a reason."""
    first = spares.next_to_fill(cloud.pools)
    if pool.failed:
        return f"a spare of {pool.name} could not be built; the next attempt is made after {RETRY_AFTER:.0f} s"
    if cloud.failing_over:
        return f"amphorae of {', '.join(sorted(cloud.failing_over))} are being replaced, and need the room"
    if any(other.claimed for other in cloud.pools):
        return "a spare is being handed over, and its room is meant for a failover"
    if cloud.deploying >= most:
        return f"{cloud.deploying} amphorae are building, and {most} may"
    return None if first is None or first == pool else f"the spares of {first.name} are built first"


_SUMMARIES = {
    "spare-claimed": "spare {name} was claimed and never deleted",
    "spare-failed": "spare {name} is {status}",
    "pool-over": "spare {name} is more than the pool needs",
    "spare-not-stopped": "spare {name} is built and runs; it needs to be stopped",
}


def _finding(key: Key, problem: str, server: Server) -> Finding:
    summary = _SUMMARIES[problem].format(name=server.name, status=server.status)
    return Finding(key, problem, summary, {"server": server.id, "name": server.name, "status": server.status})


def _short(key: Key, pool: spares.Pool) -> Finding:
    present = sorted(server.id for server in pool.present)
    summary = f"the spare pool {pool.name} has {len(present)} of {pool.wanted} amphorae"
    return Finding(key, "pool-short", summary, {"pool": pool.name, "wanted": pool.wanted, "present": present})
