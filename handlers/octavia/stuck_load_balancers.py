"""Frees load balancers that Octavia will never come back to, and restores their number of amphorae.

**What drifts.**

=====================  =================================================================================================
stuck-pending-update   PENDING_UPDATE longer than any flow of Octavia's lasts: it can be neither changed nor failed over
stuck-pending-create   PENDING_CREATE as long: reported, for its owner can delete it once it is in ERROR
stuck-pending-delete   PENDING_DELETE as long: reported, for what its owner wants gone is not known (cascade)
failover-due           in ERROR because this program freed it
amphora-count          more or fewer amphorae than its topology has, although no flow works on it
deleted-amphora        rows of deleted amphorae are still on it: Octavia's next update looks for their ports, does not
                       find them, and puts the load balancer into ERROR
load-balancer-error    in ERROR, with all its amphorae: reported, unless stuck_load_balancers_failover_errors
=====================  =================================================================================================

**Why Octavia lets it.** A worker takes a request off the queue before it begins: one that dies takes the request with it,
and the state stays. Octavia's health manager looks at heartbeats only, so it does not notice an amphora that is not there.
A failover leaves the old row on its load balancer for a week.

**What is read, and why it is proof.** The load balancer and its amphora rows, whose last change, by the database's clock,
must be older than ``stuck_load_balancers_after``. No server of its amphorae is building. And Octavia's queue is empty while
a worker consumes it (:mod:`handlers.octavia.work_queue`): a request that merely waits for a worker would else run beside the
failover, and leave two amphorae. With a jobboard, or without a way to ask the queue, all of this is only reported.

**What is changed.** Step by step, one step a look, each whole by itself. PENDING_UPDATE becomes ERROR, if status and time
are still those that were judged; the servers of its amphorae have been told the time that is written with it, so that
whoever comes next, after a crash too, knows a load balancer that is in ERROR for this reason, and that nobody has written
since. Then, and where the number of amphorae is wrong, it is failed over by Octavia's API, which replaces all
amphorae and removes the superfluous; a spare is handed over before. Rows of deleted amphorae are taken off their load
balancer: Octavia uses them for nothing else.

**What is not changed.** A load balancer that a flow may work on. Failed amphorae are ``failed_amphora``'s. A failover that did
not help is not repeated before ``stuck_load_balancers_after`` has passed again.

**Undo.** For rows, the statement is in the history; a failover cannot be taken back.

Sources: ``octavia/controller/worker/v2/controller_worker.py``, ``octavia/controller/worker/v2/flows/load_balancer_flows.py``
(get_failover_LB_flow), ``octavia/controller/worker/v2/tasks/network_tasks.py``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Self

import sqlalchemy as sa
from oslo_config import cfg

from handlers import withheld
from handlers.access.roles import AMPHORAE
from handlers.base import Conflict, Finding, Handler, Healed, InFlight, Key, Mode, Privilege, Refused, Resources, Roles
from handlers.octavia import changes, queries, records, settings
from handlers.octavia.base import OctaviaPlugin
from handlers.octavia.cloud_objects import AMPHORA_PREFIX, Server
from handlers.octavia.drivers.base import Driver
from handlers.octavia.drivers.chosen import chosen_driver
from handlers.octavia.housekeeping import NotFoundError, UnavailableException
from handlers.octavia.spares import pool
from handlers.octavia.work_queue import WorkQueue
from handlers.withheld import Withheld, is_withheld

OPTIONS: list[cfg.Opt] = [
    cfg.IntOpt(
        "stuck_load_balancers_after",
        default=1800,
        min=60,
        help="Seconds without any change to a load balancer in PENDING_* and its amphorae after which no flow of Octavia "
        "works on it any more. Not below the longest step: the boot of an amphora may take 300, its agent 600, and giving "
        "up on a deletion 230. Where Octavia's own database was down, its workers may retry for almost three hours.",
    ),
    cfg.BoolOpt(
        "stuck_load_balancers_failover_errors",
        default=False,
        help="Whether a load balancer in ERROR that has all its amphorae is failed over too, when nothing has changed for "
        "stuck_load_balancers_after. It may still pass traffic, and why it is in ERROR is not known.",
    ),
]

#: metadata of a server: when the load balancer of its amphora was set to ERROR by us
FREED = "stackmend_freed"

#: seconds for which a wrong number of amphorae must have stood: a flow that has just ended looks like it for a moment
_SETTLE = 120.0

#: seconds for which the row of an amphora that was preserved is left to ``failed_amphora``, which takes it off, too
_PRESERVING = 600.0

_REPORTED = {
    "PENDING_CREATE": "nothing is known to have served yet: set it to ERROR, and its owner can delete it",
    "PENDING_DELETE": "what was to be deleted with it is not known: set it to ERROR, and delete it again",
}


@dataclass(frozen=True, slots=True)
class Balancer:
    """A load balancer with the amphora rows that are on it.

    :param live: those that are not DELETED
    :param deleted: those that are to be taken off
    """

    row: records.LoadBalancer
    live: tuple[records.Amphora, ...]
    deleted: tuple[records.Amphora, ...]

    @classmethod
    def of(cls, row: records.LoadBalancer, amphorae: Iterable[records.Amphora]) -> Balancer:
        """Sort its amphorae."""
        rows = sorted(amphorae, key=lambda amphora: amphora.id)
        deleted = tuple(amphora for amphora in rows if amphora.status == "DELETED" and not _is_seen_to(amphora))
        return cls(row, tuple(amphora for amphora in rows if amphora.status != "DELETED"), deleted)

    @property
    def quiet(self) -> float:
        """Seconds since anything of it was written."""
        return min([self.row.age, *(amphora.age for amphora in (*self.live, *self.deleted))])

    @property
    def is_pending(self) -> bool:
        """Whether a flow works on it, or is said to."""
        return self.row.status.startswith("PENDING")

    @property
    def miscounted(self) -> bool:
        """Whether it has more or fewer amphorae than its topology; False for a topology that is not known."""
        wanted = records.AMPHORAE_OF.get(self.row.topology or "")
        return self.row.idle and wanted is not None and len(self.live) != wanted

    def looks_wrong(self, after: float) -> bool:
        """Whether ``inspect`` should look, as far as rows tell."""
        if self.is_pending:
            return self.quiet >= after
        return self.row.idle and bool(self.deleted or self.miscounted or self.row.status == "ERROR")


def _is_seen_to(amphora: records.Amphora) -> bool:
    """Whether ``failed_amphora``, which made the row forget its server, may not be done with it."""
    return amphora.compute_id is None and amphora.age < _PRESERVING


class StuckLoadBalancers(OctaviaPlugin, Handler):
    """See the module.

    :param after: seconds, see the option
    :param failover_errors: see the option
    """

    name = "stuck_load_balancers"
    title = "Free load balancers that are stuck in PENDING_*, and restore their number of amphorae"
    group = settings.GROUP
    kinds = ("load-balancer",)
    healable_problems = frozenset(
        {
            "deleted-amphora",
            "stuck-pending-update",
            "failover-due",
            "amphora-count",
            "load-balancer-error",
        }
    )
    default_mode = Mode.AUDIT
    default_interval = 300
    confirm_after = 10.0
    requires = ("octavia_database",)
    cost = "Three queries of Octavia's database; five minutes suit thousands of load balancers."
    rights = {"octavia": {"amphora": frozenset({Privilege.UPDATE}), "load_balancer": frozenset({Privilege.UPDATE})}}
    roles = Roles((AMPHORAE,))

    def __init__(self, driver: Driver, queue: WorkQueue, after: float, failover_errors: bool = False) -> None:
        self._driver = driver
        self._database = driver.database
        self._queue = queue
        self._after = after
        self._failover_errors = failover_errors

    @classmethod
    def options(cls) -> Mapping[str, Sequence[cfg.Opt]]:
        """Its own, and what the driver needs."""
        shared = super().options()
        return {**shared, settings.GROUP: [*shared[settings.GROUP], *OPTIONS]}

    @classmethod
    def from_resources(cls, resources: Resources) -> Self:
        """Make it on the shared driver.

        :raises ConfigError: when Octavia's transport URL cannot be understood
        """
        group = resources.conf[settings.GROUP]
        return cls(
            resources.get(chosen_driver),
            resources.get(WorkQueue.from_resources),
            group.stuck_load_balancers_after,
            group.stuck_load_balancers_failover_errors,
        )

    def inspect(self, key: Key) -> Iterable[Finding]:
        """Judge a load balancer by its rows, its servers and Octavia's queue."""
        balancer = self._read(key.id)
        if balancer is None:
            return []
        if balancer.is_pending:
            return self._stuck(key, balancer)
        if not balancer.row.idle:
            return []
        return [*self._deleted(key, balancer), *self._incomplete(key, balancer)]

    def _stuck(self, key: Key, balancer: Balancer) -> list[Finding]:
        status = balancer.row.status
        if balancer.quiet < self._after:
            return []
        building = self._building(balancer)
        if building:
            raise InFlight(f"server {building} of load balancer {key.id} is building", 60.0)
        refusal = self._queue.refusal
        if not refusal:
            self._queue.prove_idle()
            refusal = _REPORTED.get(status, "")
        summary = f"load balancer {key.id} is {status}, and no flow of Octavia works on it"
        problem = f"stuck-{status.lower().replace('_', '-')}"
        return [Finding(key, problem, summary, _evidence(balancer), not refusal, refusal)]

    def _building(self, balancer: Balancer) -> str | None:
        """The server of an amphora of it that Nova is still building, if there is one."""
        names = {f"{AMPHORA_PREFIX}{amphora.id}" for amphora in balancer.live}
        known = [self._driver.server(amphora.compute_id) for amphora in balancer.live if amphora.compute_id]
        named = [server for server in self._driver.servers() if server.name in names]
        found = (server for server in (*known, *named) if server is not None and server.status == "BUILD")
        return next((server.id for server in found), None)

    def _deleted(self, key: Key, balancer: Balancer) -> Iterator[Finding]:
        if balancer.deleted:
            ids = [amphora.id for amphora in balancer.deleted]
            summary = f"{len(ids)} deleted amphorae are still on load balancer {key.id}, and break its next update"
            yield Finding(key, "deleted-amphora", summary, {"amphorae": ids})

    def _incomplete(self, key: Key, balancer: Balancer) -> Iterator[Finding]:
        """What a failover of the load balancer mends; one finding at most."""
        row, evidence = balancer.row, _evidence(balancer)
        again = self._after if row.status == "ERROR" else _SETTLE
        if row.status == "ERROR" and self._was_freed(balancer):
            summary = f"load balancer {key.id} was stuck, is in ERROR since it was freed, and needs a failover"
            yield _rebuild(Finding(key, "failover-due", summary, evidence))
        elif balancer.quiet < again:
            return
        elif balancer.miscounted:
            summary = f"load balancer {key.id} ({row.topology}) has {len(balancer.live)} amphorae"
            found = Finding(key, "amphora-count", summary, evidence)
            yield _rebuild(found) if row.status == "ERROR" else found
        elif row.status == "ERROR" and all(amphora.status in records.SERVING for amphora in balancer.live):
            refusal = (
                ""
                if self._failover_errors
                else f"why is not known; to replace its amphorae: openstack loadbalancer failover {key.id}"
            )
            summary = f"load balancer {key.id} is in ERROR, although it has all its amphorae"
            found = Finding(key, "load-balancer-error", summary, evidence, not refusal, refusal)
            yield found if refusal else _rebuild(found)

    def _was_freed(self, balancer: Balancer) -> bool:
        """Whether nobody has written it since we set it to ERROR."""
        at = balancer.row.updated_at
        return at is not None and any(
            server.metadata.get(FREED) == at.isoformat() for server in self._servers(balancer.live)
        )

    def _servers(self, amphorae: Iterable[records.Amphora]) -> list[Server]:
        found = [self._driver.server(amphora.compute_id) for amphora in amphorae if amphora.compute_id]
        return [server for server in found if server is not None]

    def sweep(self) -> Iterator[Key]:
        """Yield what looks wrong by rows alone."""
        rows, amphorae = self._database.run(
            lambda connection: (
                queries.load_balancers(connection),
                [*queries.amphorae(connection), *queries.deleted_amphorae(connection)],
            )
        )
        by_balancer: dict[str | None, list[records.Amphora]] = defaultdict(list)
        for amphora in amphorae:
            by_balancer[amphora.load_balancer_id].append(amphora)
        for row in rows:
            if Balancer.of(row, by_balancer[row.id]).looks_wrong(self._after):
                yield Key("load-balancer", row.id)

    def population(self) -> int:
        """How many load balancers there are."""
        return len(self._database.run(queries.load_balancers))

    def heal(self, finding: Finding) -> Healed:
        """Prove again, then take the next step."""
        if not finding.healable:
            raise Refused(finding.refusal)
        self._database.require_known_schema()
        # read before the proof: the write compares with it, so nothing that came after may pass for proved
        balancer = self._read(finding.key.id)
        if balancer is None or finding not in self.inspect(finding.key):
            raise Conflict(f"{finding.key} is not as it was")
        step: Callable[[Balancer], Healed] = {
            "deleted-amphora": self._detach,
            "stuck-pending-update": self._free,
        }.get(finding.problem, self._fail_over)
        return step(balancer)

    def _detach(self, balancer: Balancer) -> Healed:
        ids = [amphora.id for amphora in balancer.deleted]

        def detach(connection: Any) -> list[str]:
            return [amphora for amphora in ids if changes.detach_deleted(connection, amphora, balancer.row.id)]

        detached = self._database.run(detach)
        if not detached:
            raise Conflict(f"no deleted amphora is on load balancer {balancer.row.id} any more")
        listed = ", ".join(f"'{amphora}'" for amphora in detached)
        return Healed(
            f"took {len(detached)} deleted amphorae off load balancer {balancer.row.id}",
            before={"load_balancer": balancer.row.id, "amphorae": detached},
            after={"load_balancer": None},
            undo=f"UPDATE amphora SET load_balancer_id='{balancer.row.id}' WHERE id IN ({listed}) AND status='DELETED'",
        )

    def _free(self, balancer: Balancer) -> Healed:
        row = balancer.row
        at = self._database.run(_a_second_ago)
        for server in self._servers(balancer.live):
            self._tell(server, at)
        self._queue.prove_idle()
        self._database.run(partial(changes.mark_error, balancer=row, at=at))
        return Healed(
            f"set load balancer {row.id} from {row.status} to ERROR, in which it can be failed over",
            before=_evidence(balancer),
            after={"status": "ERROR", "updated_at": at.isoformat()},
            undo=f"UPDATE load_balancer SET provisioning_status='{row.status}' WHERE id='{row.id}' "
            f"AND provisioning_status='ERROR' AND updated_at='{at.isoformat(sep=' ')}'",
        )

    def _tell(self, server: Server, at: datetime) -> None:
        """Note on a server when its load balancer is freed.

        Nova refuses that for one in ERROR; then its amphora has failed, and ``failed_amphora`` asks for the failover.
        """
        try:
            self._driver.describe_server(server.id, {FREED: at.isoformat()})
        except NotFoundError:
            return
        except UnavailableException as error:
            if error.dependency != f"server:{server.id}":
                raise

    def _fail_over(self, balancer: Balancer) -> Healed:
        row = balancer.row
        if balancer.live:
            # the new amphora is built before the old one goes; those of a pair one after the other
            pool.make_room(self._driver, balancer.live[0])
        self._driver.failover_load_balancer(row.id)
        return Healed(
            f"asked Octavia to fail over load balancer {row.id}, which was {row.status}",
            before=_evidence(balancer),
            undo="a failover cannot be taken back; the next sweep tells whether it succeeded",
        )

    def _read(self, identity: str) -> Balancer | None:
        def read(connection: Any) -> Balancer | None:
            row = queries.load_balancer(connection, identity)
            if row is None or row.provider not in records.AMPHORA_PROVIDERS:
                return None
            return Balancer.of(row, queries.amphorae_of(connection, identity))

        return self._database.run(read)


def _a_second_ago(connection: Any) -> datetime:
    """The database's time, in the seconds that MySQL keeps; whoever writes after this look writes another one."""
    now: datetime = connection.execute(sa.select(queries.NOW)).scalar_one()
    return now.replace(microsecond=0) - timedelta(seconds=1)


def _rebuild(finding: Finding) -> Finding:
    """Return a finding whose heal rebuilds a load balancer in ERROR."""
    if not is_withheld(Withheld.REBUILD_ERROR):
        return finding
    return replace(finding, healable=False, refusal=withheld.refusal(Withheld.REBUILD_ERROR))


def _evidence(balancer: Balancer) -> dict[str, Any]:
    return {
        "status": balancer.row.status,
        "updated_at": str(balancer.row.updated_at),
        "topology": balancer.row.topology,
        "amphorae": {amphora.id: amphora.status for amphora in balancer.live},
    }
