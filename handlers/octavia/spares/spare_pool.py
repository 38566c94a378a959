"""Keeps spares, so that a failover finds room in a full cloud.

**What drifts.** Each zone and flavor has one pool. A pool has fewer or more spares than ``spare_amphora_pool_size``. Or a spare
still runs, failed to build, or was claimed for a failover and not deleted.

**What a spare is.** A stopped, tagged server without a network in Octavia's project, with an amphora's flavor and image. It
holds an allocation in Placement, but uses no processor and no memory. As soon as Octavia has accepted a failover, stackmend
deletes one spare that is not on the surviving amphora's host. Octavia's new amphora then finds the room. stackmend deletes a
spare even where a host has room. Only a refusal by Nova would show that none has, and would leave the load balancer in ERROR.

**What spares bring.** A failover that would end with NoValidHost can succeed, also with anti-affinity. The new amphora does not
boot faster. New load balancers, and failovers of Octavia's health manager, get no room. For some seconds, any other server can
take the room, unless an aggregate accepts only the amphora flavor. A spare makes no room for a larger amphora: list the flavors
of Octavia's flavor profiles in ``spare_amphora_flavors``. A spare holds no SR-IOV device and no volume. After a change of
``amp_flavor_id``, delete the spares, and the pool builds new ones.

**What is read.** The servers and quotas of Octavia's project, amphora rows and load balancers.

**What is changed.** stackmend builds spares, and stops and deletes only its own. No build of a spare begins while Octavia
replaces an amphora, has just failed to replace one, or a claimed placeholder exists. With each build, at most
``maximum_deploying_amphora_count`` amphorae and spares are building. stackmend fills one pool at a time. After a failed build,
the pool waits ten minutes. The quotas of Octavia's project must leave room for two amphorae; otherwise stackmend deletes
spares.

**What is not changed.** Spares of another stackmend in the same project (``spare_amphora_owner``). If an amphora in the project
has no row in this Octavia, stackmend only reports surplus spares, and spares of pools that are not configured. Where the quotas
are used up, stackmend deletes surplus spares nevertheless.

**Undo.** Lower ``spare_amphora_pool_size``; stackmend then deletes the surplus.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Self

from handlers.access.roles import AMPHORAE
from handlers.base import Conflict, Event, Finding, Healed, InFlight, Key, Mode, Resources, Roles, Trigger
from handlers.octavia import concerns, housekeeping, queries, settings
from handlers.octavia.base import OctaviaHandler
from handlers.octavia.cloud_objects import SPARE, SPARE_PREFIX, Server
from handlers.octavia.drivers.base import Driver
from handlers.octavia.drivers.chosen import chosen_driver
from handlers.octavia.housekeeper import Housekeeper
from handlers.octavia.pairing import pairing
from handlers.octavia.rehearsal import plan
from handlers.octavia.spares import pool as spares

LOG = logging.getLogger(__name__)

#: seconds for which a spare that failed to build stops its pool
RETRY_AFTER = 600.0


class Problem(StrEnum):
    SHORT = "pool-short"
    OVER = "pool-over"
    RUNNING = "spare-not-stopped"
    CLAIMED = "spare-claimed"
    FAILED = "spare-failed"


def pool_key(event: Event) -> Key | None:
    """Return the key of the pool that a server's name contains: ``octavia-spare-<pool>-<suffix>``; None for any other name."""
    name = event.payload["display_name"]
    if not (isinstance(name, str) and name.startswith(SPARE_PREFIX)):
        return None
    return Key("pool", name.removeprefix(SPARE_PREFIX).rpartition("-")[0])


@dataclass(frozen=True, slots=True)
class _Cloud:
    pools: Sequence[spares.Pool]
    deploying: int
    failing_over: frozenset[str]
    strangers: int


class SparePool(OctaviaHandler):
    name = "spare_pool"
    title = "Keep stopped placeholder servers that make room for failovers"
    group = settings.GROUP
    kinds = ("pool",)
    healable_problems = frozenset(Problem)
    triggers = (
        Trigger("instance.create.end", pool_key),
        Trigger("instance.create.error", pool_key),
        Trigger("instance.power_off.end", pool_key),
        Trigger("instance.delete.end", pool_key, after=10.0),
    )
    concerned_kinds = concerns.KINDS
    default_mode = Mode.HEAL
    interval_option = "housekeeping_interval"
    # The room of a deleted spare is for a failover, which has begun by the second inspection.
    confirm_after = 10.0
    requires = ("octavia_database", "compute")
    roles = Roles((AMPHORAE,))

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._manager = Housekeeper(driver)

    @classmethod
    def from_resources(cls, resources: Resources) -> Self:
        return cls(resources.get(chosen_driver))

    def inspect(self, key: Key) -> Iterable[Finding]:
        cloud = self._read()
        found = next((pool for pool in cloud.pools if pool.name == key.id), None)
        if found is None:
            return []
        findings = [
            self._planned(_finding(key, problem, server, _foreign(found, cloud, problem, server)))
            for problem, server in _wrong(found)
        ]
        if not found.missing:
            return findings
        wait = _obstacle(found, cloud, self._driver.settings.maximum_deploying_amphora_count)
        if wait is None:
            refusal = _QUOTA if spares.quota_for(self._driver, found) == 0 else ""
            return [*findings, self._planned(_short(key, found, refusal))]
        if not findings:
            raise InFlight(wait, 10.0)
        return findings

    def _planned(self, finding: Finding) -> Finding:
        names = finding.concerns | concerns.named("project", self._driver.project())
        if not finding.healable:
            return replace(finding, concerns=names)
        writes = plan(self._driver, lambda driver: SparePool(driver)._write(finding))
        return replace(finding, plan=writes, undo=_undo(finding), concerns=names)

    def sweep(self) -> Iterator[Key]:
        housekeeping.log_pool_size(self._manager)
        for pool in self._read().pools:
            if pool.missing or any(_wrong(pool)):
                yield Key("pool", pool.name)

    def population(self) -> int:
        return sum(max(pool.wanted, len(pool.present)) for pool in self._read().pools)

    def heal(self, finding: Finding) -> Healed:
        now = self.prove_again(finding)
        before = {server.id for server in self._driver.servers()}
        self._write(now)
        match Problem(now.problem):
            case Problem.SHORT:
                return self._made(now, before)
            case Problem.RUNNING:
                return Healed(f"stopped spare {now.evidence['server']}", undo=now.undo)
            case Problem.OVER | Problem.CLAIMED | Problem.FAILED:
                return Healed(
                    f"deleted spare {now.evidence['server']}",
                    before=dict(now.evidence),
                    undo=now.undo,
                )

    def _write(self, finding: Finding) -> None:
        match Problem(finding.problem):
            case Problem.SHORT:
                housekeeping.top_up(self._manager)
            case Problem.RUNNING:
                self._driver.stop_server(finding.evidence["server"])
            case Problem.OVER:
                if not self._driver.untag_server(finding.evidence["server"], SPARE):
                    raise Conflict(f"spare {finding.evidence['server']} was claimed")
                self._driver.delete_server(finding.evidence["server"])
            case Problem.CLAIMED | Problem.FAILED:
                self._driver.delete_server(finding.evidence["server"])

    def _read(self) -> _Cloud:
        rows, deleted, balancers = self._driver.database.run(
            lambda connection: (
                queries.amphorae(connection),
                queries.deleted_amphorae(connection),
                queries.load_balancers(connection),
            )
        )
        servers, settings = self._driver.servers(), self._driver.settings
        found, failing = spares.pools(servers, settings), spares.failing_over(balancers, rows, settings.longest_flow)
        return _Cloud(
            # a failover needs the quota of one more amphora for a moment
            found if failing else spares.giving_way(self._driver, found),
            spares.deploying(servers, rows, settings.longest_flow),
            failing,
            pairing(servers, rows, deleted).strangers,
        )

    def _made(self, finding: Finding, before: Collection[str]) -> Healed:
        made = sorted(
            server.id for server in self._driver.servers() if spares.is_placeholder(server) and server.id not in before
        )
        if not made:
            raise InFlight("the maximum number of amphorae is building", 10.0)
        return Healed(
            f"began to build {len(made)} spare amphorae for {finding.key}",
            before={"present": finding.evidence["present"]},
            after={"made": made},
            undo=finding.undo,
        )


def _undo(finding: Finding) -> str:
    match Problem(finding.problem):
        case Problem.SHORT:
            return "lower [housekeeping] spare_amphora_pool_size, and the pool deletes the surplus"
        case Problem.RUNNING:
            return f"openstack server start {finding.evidence['server']}"
        case Problem.OVER | Problem.CLAIMED:
            return "none: a spare has no data, and with a larger [housekeeping] spare_amphora_pool_size the pool builds another"
        case Problem.FAILED:
            return "none: a spare has no data, and the pool builds another"


def _wrong(pool: spares.Pool) -> Iterator[tuple[Problem, Server]]:
    surplus = {server.id for server in pool.surplus}
    for server in pool.claimed:
        if server.task_state != "deleting":
            yield Problem.CLAIMED, server
    for server in pool.failed:
        if server.age >= RETRY_AFTER or not pool.wanted:
            yield Problem.FAILED, server
    for server in pool.surplus:
        yield Problem.OVER, server
    for server in pool.running:
        if server.id not in surplus:
            yield Problem.RUNNING, server


def _foreign(pool: spares.Pool, cloud: _Cloud, problem: Problem, server: Server) -> str:
    """Return why stackmend leaves a spare, which is perhaps another stackmend's; empty without a reason."""
    disputed = problem is Problem.OVER or not pool.wanted
    gives_quota = server in pool.surplus[: pool.excess]
    return _FOREIGN if cloud.strangers and disputed and not gives_quota else ""


def _obstacle(pool: spares.Pool, cloud: _Cloud, most: int) -> str | None:
    first = spares.next_to_fill(cloud.pools)
    if pool.failed:
        return f"a spare of {pool.name} could not be built; the next attempt is made after {RETRY_AFTER:.0f} s"
    if cloud.failing_over:
        return f"the failovers of {', '.join(sorted(cloud.failing_over))} need the room"
    if any(other.claimed for other in cloud.pools):
        return "a spare was claimed, and its room is for a failover"
    if cloud.deploying >= most:
        return f"{cloud.deploying} amphorae are building, and {most} is the maximum"
    return None if first is None or first == pool else f"the spares of {first.name} are built first"


#: why surplus spares stay
_FOREIGN = (
    "an amphora in the project is not of this Octavia, so the spare may belong to another stackmend: write "
    "[housekeeping] spare_amphora_owner there and here, or delete the spare by stackmend amphora spare delete"
)

#: why a pool is not filled
_QUOTA = (
    f"the quotas of Octavia's project leave room for no more than {spares.RESERVE} further amphorae, which Octavia needs: "
    "raise the project's instances, cores and ram (openstack quota set), or lower [housekeeping] spare_amphora_pool_size"
)

_SUMMARIES = {
    Problem.CLAIMED: "spare {name} was claimed, but not deleted",
    Problem.FAILED: "spare {name} is {status}",
    Problem.OVER: "spare {name} is more than the pool needs, or than the quotas of Octavia's project allow",
    Problem.RUNNING: "spare {name} is built and still runs",
}


@dataclass(frozen=True, slots=True)
class SpareEvidence:
    server: str
    name: str
    status: str


@dataclass(frozen=True, slots=True)
class PoolEvidence:
    pool: str
    wanted: int
    present: Sequence[str]


def _finding(key: Key, problem: Problem, server: Server, foreign: str) -> Finding:
    summary = _SUMMARIES[problem].format(name=server.name, status=server.status)
    evidence = SpareEvidence(server.id, server.name, server.status)
    names = concerns.of_server(server)
    return Finding(key, problem, summary, asdict(evidence), not foreign, foreign, concerns=names)


def _short(key: Key, pool: spares.Pool, refusal: str) -> Finding:
    present = sorted(server.id for server in pool.present)
    summary = f"the spare pool {pool.name} has {len(present)} of {pool.wanted} amphorae"
    evidence = PoolEvidence(pool.name, pool.wanted, present)
    return Finding(key, Problem.SHORT, summary, asdict(evidence), not refusal, refusal, weight=pool.missing)
