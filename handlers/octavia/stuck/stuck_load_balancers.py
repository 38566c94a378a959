"""Frees load balancers that are stuck in PENDING_*, and restores their number of amphorae.

**What drifts.**

=====================  =================================================================================================
stuck-pending-update   PENDING_UPDATE for longer than any flow of Octavia works: no change and no failover is possible
stuck-pending-create   PENDING_CREATE for as long: reported, unless stuck_load_balancers_return_to_owner
stuck-pending-delete   PENDING_DELETE for as long: reported, unless stuck_load_balancers_return_to_owner
failover-due           in ERROR because stackmend freed the load balancer: the failover is due
amphora-count          more or fewer amphorae than the topology has, although no flow works on the load balancer
deleted-amphora        rows of deleted amphorae are still attached; from Octavia 16 on, the next update looks for their ports,
                       fails, and sets the load balancer to ERROR
load-balancer-error    in ERROR, with all its amphorae: reported, unless stuck_load_balancers_failover_errors
stuck-children         ACTIVE, but a listener, pool, member, health monitor, L7 policy or L7 rule of it stays in PENDING_*:
                       reported, unless stuck_load_balancers_failover_children
=====================  =================================================================================================

**Why Octavia lets it.** A worker takes a request off the queue before it begins. When the worker dies, the request is lost and
the state stays. Octavia's health manager reads only heartbeats, so it does not notice a missing amphora. After a failover, the
old amphora's row stays on the load balancer, by default for a week. A flow that fails can set the load balancer back, but not
all its objects (:mod:`handlers.octavia.children`).

**What is read.** The load balancer, its objects in PENDING_*, and its amphora rows. A load balancer in PENDING_* is stuck if
its row and amphora rows are unchanged for ``stuck_load_balancers_after``, and no amphora's server is building. A wrong number
of amphorae counts after two minutes, or in ERROR after ``stuck_load_balancers_after``. stackmend frees a load balancer only if
Octavia's queue proves that no request waits for a worker (:mod:`handlers.octavia.work_queue`). Octavia's jobboard, if it has
one, must have no job of the load balancer (:mod:`handlers.octavia.jobboard`).

**What is changed.** One step for each inspection. To free a load balancer in PENDING_UPDATE, stackmend writes a time into the
metadata of the amphorae's servers. Then it sets the row to ERROR with that time, if the row still has the proved status and
time. The equal times show, even after a crash, that stackmend freed the load balancer. In the next step, and for a wrong number
of amphorae, stackmend asks Octavia's API for a failover, and a spare makes room. From Octavia 16 on, stackmend detaches a
deleted amphora's row once the amphora has no server and no port.

A load balancer in PENDING_CREATE or PENDING_DELETE becomes ERROR too, but gets no failover: Octavia lets its owner delete it in
ERROR. A tag of its security group keeps the time (:mod:`handlers.octavia.stuck.freeing`).

**What is not changed.** A load balancer on which a flow perhaps works. Failed amphorae, which ``failed_amphora`` replaces. A
load balancer in ERROR whose deletion or creation failed: the owner decides (:mod:`handlers.octavia.rebuild`). An object in
PENDING_DELETE: a failover would restore it.

**Why a race does no harm.** Octavia refuses a failover while a flow works on the load balancer. After a failover that did not
help, the next failover waits for ``stuck_load_balancers_after``. stackmend requests at most three a week, in ACTIVE too
(:mod:`handlers.octavia.rebuild`), and repeats none that left an object in PENDING_*.

**Undo.** The history has the SQL statement that restores a row. Nothing takes a failover back.

Sources: ``octavia/controller/worker/v2/controller_worker.py``, ``octavia/controller/worker/v2/flows/load_balancer_flows.py``
(get_failover_LB_flow), ``octavia/controller/worker/v2/tasks/network_tasks.py`` (UpdateAmphoraSecurityGroup).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Self

from sqlalchemy.engine import Connection

from handlers.access.roles import AMPHORAE
from handlers.base import (
    Conflict,
    Finding,
    Healed,
    InFlight,
    Key,
    Mode,
    Privilege,
    Refused,
    Resources,
    Roles,
    Trigger,
)
from handlers.octavia import (
    changes,
    children,
    concerns,
    notifications,
    options,
    queries,
    rebuild,
    records,
    settings,
)
from handlers.octavia.balancers import SETTLE, Balancer
from handlers.octavia.base import OctaviaHandler
from handlers.octavia.children import Child
from handlers.octavia.cloud_objects import AMPHORA_PREFIX
from handlers.octavia.drivers.base import Driver
from handlers.octavia.drivers.chosen import chosen_driver
from handlers.octavia.flow_times import age_or_default, flow_times
from handlers.octavia.rehearsal import plan
from handlers.octavia.reversal import NO_RETURN, attaching
from handlers.octavia.spares import pool
from handlers.octavia.stuck import freeing
from handlers.octavia.stuck.problems import NONE, OPTIONS, OWNERS, STUCK, Permissions, Problem, evidence
from handlers.octavia.work_queue import WorkQueue


class StuckLoadBalancers(OctaviaHandler):
    """:param after: seconds without a change after which no flow works on a load balancer"""

    name = "stuck_load_balancers"
    title = "Free load balancers that are stuck in PENDING_*, and restore their number of amphorae"
    group = settings.GROUP
    kinds = ("load-balancer",)
    healable_problems = frozenset(Problem)
    concerned_kinds = concerns.KINDS
    default_mode = Mode.AUDIT
    follows = ("failed_amphora",)
    default_interval = 300
    confirm_after = 10.0
    requires = ("octavia_database",)
    triggers = (
        Trigger(notifications.CREATED, notifications.load_balancer),
        Trigger(notifications.UPDATED, notifications.load_balancer),
    )
    cost = "Nine queries of Octavia's database; five minutes suit thousands of load balancers."
    rights = {"octavia": {"amphora": frozenset({Privilege.UPDATE}), "load_balancer": frozenset({Privilege.UPDATE})}}
    roles = Roles((AMPHORAE,))
    own_options = OPTIONS

    def __init__(
        self,
        driver: Driver,
        queue: WorkQueue,
        after: float,
        permissions: Permissions = NONE,
    ) -> None:
        self._driver = driver
        self._database = driver.database
        self._queue = queue
        self._after = after
        self._permitted = permissions

    @classmethod
    def from_resources(cls, resources: Resources) -> Self:
        """:raises ConfigError: octavia.conf is malformed, or ``stuck_load_balancers_after`` is shorter than a flow can take"""
        group = resources.conf[settings.GROUP]
        after = age_or_default(
            group.stuck_load_balancers_after,
            flow_times(options.files(resources.conf)),
            "[housekeeping] stuck_load_balancers_after",
        )
        return cls(
            resources.get(chosen_driver),
            resources.get(WorkQueue.from_resources),
            after,
            Permissions(
                group.stuck_load_balancers_failover_errors,
                group.stuck_load_balancers_failover_children,
                group.stuck_load_balancers_return_to_owner,
            ),
        )

    def inspect(self, key: Key) -> Iterable[Finding]:
        balancer = self._read(key.id)
        findings = [] if balancer is None else self._findings(key, balancer)
        if balancer is None or not findings:
            return []
        names = concerns.of_balancer(balancer.row) | concerns.of_amphorae((*balancer.live, *balancer.deleted))
        names = names.union(*map(concerns.of_server, freeing.servers(self._driver, balancer)))
        return [self._planned(balancer, replace(finding, concerns=names)) for finding in findings]

    def _planned(self, balancer: Balancer, finding: Finding) -> Finding:
        if not finding.healable:
            return finding
        writes = plan(self._driver, lambda driver: self._on(driver)._write(balancer, finding))
        return replace(finding, plan=writes, undo=self._undo(balancer, finding))

    def _undo(self, balancer: Balancer, finding: Finding) -> str:
        match Problem(finding.problem):
            case Problem.DELETED_AMPHORA:
                return attaching(finding.evidence["amphorae"], balancer.row.id, self._database.typed)
            case Problem.PENDING_UPDATE:
                return freeing.undo_for_failover(self._driver, balancer)
            case Problem.PENDING_CREATE | Problem.PENDING_DELETE:
                return freeing.undo_for_owner(self._driver, balancer)
            case _:
                return NO_RETURN

    def _on(self, driver: Driver) -> StuckLoadBalancers:
        return StuckLoadBalancers(driver, self._queue, self._after, self._permitted)

    def _findings(self, key: Key, balancer: Balancer) -> list[Finding]:
        if balancer.is_pending:
            return self._stuck(key, balancer)
        if not balancer.row.idle:
            return []
        findings = [*self._deleted(key, balancer), *self._incomplete(key, balancer)]
        if not findings and balancer.row.status == "ACTIVE" and balancer.miscounted and balancer.quiet < SETTLE:
            raise InFlight(f"load balancer {key.id} or its amphorae have just changed", SETTLE - balancer.quiet)
        return findings or [*self._stuck_children(key, balancer)]

    def _stuck(self, key: Key, balancer: Balancer) -> list[Finding]:
        if balancer.quiet < self._after or balancer.row.status not in STUCK:
            return []
        building = self._building(balancer)
        if building:
            raise InFlight(f"server {building} of load balancer {key.id} is building", 60.0)
        problem = STUCK[balancer.row.status]
        refusal = self._flow(balancer)
        summary = f"load balancer {key.id} is {balancer.row.status}, unchanged for {self._after:.0f} s"
        if not refusal:
            summary = f"load balancer {key.id} is {balancer.row.status}, and no flow of Octavia works on it"
        if problem in OWNERS:
            refusal = refusal or self._keeps_from_owner(balancer)
        return [Finding(key, problem, summary, evidence(balancer), not refusal, refusal)]

    def _flow(self, balancer: Balancer) -> str:
        """Return why a flow of Octavia perhaps works on a load balancer; empty without a reason.

        :raises InFlight: a request perhaps waits in Octavia's queue or in a worker
        :raises Unavailable: the broker or the jobboard does not answer
        """
        if self._queue.refusal:
            return self._queue.refusal
        self._queue.prove_idle(
            *self._database.run(lambda connection: (queries.open_requests(connection), queries.providers(connection)))
        )
        # A worker first takes a request off the queue, then posts its job. So the jobboard is read last.
        return self._queue.job({balancer.row.id, *(amphora.id for amphora in balancer.live)})

    def _require_no_flow(self, balancer: Balancer) -> None:
        if refusal := self._flow(balancer):
            raise Refused(refusal)

    def _keeps_from_owner(self, balancer: Balancer) -> str:
        """Return why stackmend must not set a load balancer to ERROR for its owner; empty without a reason."""
        row = balancer.row
        if silent := freeing.endangered(self._driver, balancer):
            return (
                f"its amphora {silent} is silent, and Octavia's health manager fails over a load balancer in ERROR: first run "
                f"{freeing.marking_busy(self._driver, silent)}"
            )
        if self._permitted.return_to_owner:
            return ""
        return (
            "only its owner can delete it, in ERROR: write [housekeeping] stuck_load_balancers_return_to_owner = true, or run "
            f"{freeing.by_hand(self._driver, balancer)}; then its owner runs openstack loadbalancer delete --cascade {row.id}"
        )

    def _building(self, balancer: Balancer) -> str | None:
        names = {f"{AMPHORA_PREFIX}{amphora.id}" for amphora in balancer.live}
        known = [self._driver.server(amphora.compute_id) for amphora in balancer.live if amphora.compute_id]
        named = [server for server in self._driver.servers() if server.name in names]
        found = (server for server in (*known, *named) if server is not None and server.status == "BUILD")
        return next((server.id for server in found), None)

    def _deleted(self, key: Key, balancer: Balancer) -> Iterator[Finding]:
        if not balancer.deleted or not self._database.run(queries.has_member_ports):
            return
        ids = [amphora.id for amphora in balancer.deleted if self._is_gone(amphora)]
        if ids:
            summary = f"{len(ids)} deleted amphorae are still on load balancer {key.id}, and its next update will fail"
            yield Finding(key, Problem.DELETED_AMPHORA, summary, {"amphorae": ids}, weight=len(ids))

    def _is_gone(self, amphora: records.Amphora) -> bool:
        has_server = amphora.compute_id is not None and self._driver.server(amphora.compute_id) is not None
        has_port = amphora.vrrp_port_id is not None and self._driver.port(amphora.vrrp_port_id) is not None
        return not has_server and not has_port

    def _incomplete(self, key: Key, balancer: Balancer) -> Iterator[Finding]:
        row = balancer.row
        again = self._after if row.status == "ERROR" else SETTLE
        if row.status == "ERROR" and freeing.was_freed(self._driver, balancer):
            summary = f"load balancer {key.id} was stuck, is in ERROR since stackmend freed it, and needs a failover"
            yield replace(self._failover(key, Problem.FAILOVER_DUE, summary, balancer), begun=True)
        elif balancer.quiet < again:
            return
        elif balancer.miscounted:
            summary = f"load balancer {key.id} ({row.topology}) has {len(balancer.live)} amphorae"
            refusal = self._repetition(balancer) if row.status == "ACTIVE" else ""
            yield self._failover(key, Problem.COUNT, summary, balancer, refusal)
        elif row.status == "ERROR" and all(amphora.status in records.SERVING for amphora in balancer.live):
            summary = f"load balancer {key.id} is in ERROR, although it has all its amphorae"
            yield self._failover(key, Problem.ERROR, summary, balancer, self._unpermitted(balancer))

    def _unpermitted(self, balancer: Balancer) -> str:
        if self._permitted.failover_errors:
            return ""
        if rebuild.is_freed(rebuild.security_group(self._driver, balancer.row.id)):
            return rebuild.OWNERS
        return f"the reason is unknown; to replace its amphorae: openstack loadbalancer failover {balancer.row.id}"

    def _repetition(self, balancer: Balancer) -> str:
        """Return the reason not to fail over an ACTIVE load balancer with a wrong amphora count; empty without a reason."""
        serving = sum(amphora.status in records.SERVING for amphora in balancer.live)
        if serving < len(balancer.live) and balancer.row.is_whole(serving):
            return (
                "all amphorae of its topology serve, and a failover would interrupt it: when the traffic allows it, run "
                f"openstack loadbalancer failover {balancer.row.id}"
            )
        remains = rebuild.read(self._driver, balancer.row, balancer.live)
        if (refusal := rebuild.repetition(remains)) or not remains.lately or balancer.quiet >= self._after:
            return refusal
        return (
            f"it is wrong within a week of a failover: the next one follows after {self._after:.0f} s without a change"
        )

    def _stuck_children(self, key: Key, balancer: Balancer) -> Iterator[Finding]:
        if not balancer.has_stuck_children(self._after):
            return
        refusal = children.deleted(balancer.children)
        if not self._permitted.failover_children:
            refusal = refusal or f"a failover would complete them: openstack loadbalancer failover {key.id}"
        listed = children.names(balancer.children)
        summary = f"load balancer {key.id} is ACTIVE, and for {self._after:.0f} s nothing changed its {listed}"
        refusal = refusal or self._flow(balancer)
        if not refusal:
            refusal = children.obstacle(rebuild.read(self._driver, balancer.row, balancer.live), balancer.children)
            summary = f"load balancer {key.id} is ACTIVE, but no flow works on its {listed}"
        proof = evidence(balancer) | {
            "children": {str(child): [child.status, str(child.updated_at)] for child in balancer.children}
        }
        yield Finding(key, Problem.CHILDREN, summary, proof, not refusal, refusal, weight=len(balancer.live) or 1)

    def _failover(self, key: Key, problem: Problem, summary: str, balancer: Balancer, refusal: str = "") -> Finding:
        if not refusal and balancer.row.status == "ERROR":
            refusal = rebuild.obstacle(rebuild.read(self._driver, balancer.row, balancer.live))
        return Finding(key, problem, summary, evidence(balancer), not refusal, refusal, weight=len(balancer.live) or 1)

    def sweep(self) -> Iterator[Key]:
        rows, amphorae, pending, detaches = self._database.run(
            lambda connection: (
                queries.load_balancers(connection),
                [*queries.amphorae(connection), *queries.deleted_amphorae(connection)],
                children.pending(connection),
                queries.has_member_ports(connection),
            )
        )
        by_balancer: dict[str | None, list[records.Amphora]] = defaultdict(list)
        for amphora in amphorae:
            by_balancer[amphora.load_balancer_id].append(amphora)
        unfinished: dict[str, list[Child]] = defaultdict(list)
        for child in pending:
            unfinished[child.load_balancer_id].append(child)
        for row in rows:
            if Balancer.of(row, by_balancer[row.id], unfinished[row.id]).looks_wrong(self._after, detaches):
                yield Key("load-balancer", row.id)

    def population(self) -> int:
        return len(self._database.run(queries.load_balancers))

    def heal(self, finding: Finding) -> Healed:
        self._database.require_known_schema()
        # The write compares with rows that were read before the proof, so that it never takes a later state for proved.
        balancer = self._read(finding.key.id)
        now = self.prove_again(finding)
        if balancer is None:
            raise Conflict(f"{finding.key} is gone")
        return self._write(balancer, now)

    def _write(self, balancer: Balancer, finding: Finding) -> Healed:
        match Problem(finding.problem):
            case Problem.DELETED_AMPHORA:
                return self._detach(balancer, finding.evidence["amphorae"])
            case Problem.PENDING_UPDATE:
                return freeing.for_failover(self._driver, balancer, partial(self._require_no_flow, balancer))
            case Problem.FAILOVER_DUE:
                return self._fail_over(balancer, settled_for=float("inf"))
            case Problem.COUNT | Problem.ERROR:
                return self._fail_over(balancer, settled_for=balancer.quiet)
            case Problem.CHILDREN:
                return self._complete_children(balancer)
            case Problem.PENDING_CREATE | Problem.PENDING_DELETE:
                return freeing.for_owner(self._driver, balancer, partial(self._require_no_flow, balancer))

    def _detach(self, balancer: Balancer, ids: Sequence[str]) -> Healed:
        def detach(connection: Connection) -> list[str]:
            return [amphora for amphora in ids if changes.detach_deleted(connection, amphora, balancer.row.id)]

        detached = self._database.run(detach)
        if not detached:
            raise Conflict(f"load balancer {balancer.row.id} no longer has these deleted amphorae")
        return Healed(
            f"detached {len(detached)} deleted amphorae from load balancer {balancer.row.id}",
            before={"load_balancer": balancer.row.id, "amphorae": detached},
            after={"load_balancer": None},
            undo=attaching(detached, balancer.row.id, self._database.typed),
        )

    def _fail_over(self, balancer: Balancer, settled_for: float) -> Healed:
        row = balancer.row
        remains = rebuild.require(self._driver, row, balancer.live, settled_for)
        amphora = next(iter(remains.amphorae), row.id)
        with rebuild.recorded_attempt(self._driver, remains.security_group, row, amphora):
            return self._request_failover(balancer, remains.attempts)

    def _complete_children(self, balancer: Balancer) -> Healed:
        if not balancer.children:
            raise Conflict(f"load balancer {balancer.row.id} has other objects in PENDING_* now")
        group = rebuild.security_group(self._driver, balancer.row.id)
        with rebuild.recorded_attempt(self._driver, group, balancer.row, balancer.children[0].id):
            return self._request_failover(balancer)

    def _request_failover(self, balancer: Balancer, attempts: int = 0) -> Healed:
        row = balancer.row
        # Octavia builds the amphorae of a pair one after the other.
        ready = pool.spares_for(self._driver, balancer.live[0], attempts) if balancer.live else []
        self._driver.failover_load_balancer(row.id)
        spare = pool.make_room(self._driver, ready)
        return Healed(
            f"asked Octavia to fail over load balancer {row.id}, which was {row.status}{pool.room_text(spare)}",
            before=evidence(balancer),
            undo=NO_RETURN,
        )

    def _read(self, identity: str) -> Balancer | None:
        def read(connection: Connection) -> Balancer | None:
            row = queries.load_balancer(connection, identity)
            if row is None or row.provider not in records.AMPHORA_PROVIDERS:
                return None
            return Balancer.of(
                row, queries.amphorae_of(connection, identity), children.pending_of(connection, identity)
            )

        return self._database.run(read)
