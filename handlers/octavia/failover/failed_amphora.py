"""Replaces failed amphorae, and preserves some of them for examination.

**What drifts.** An amphora fails: the server is deleted, stopped or in ERROR, or the guest or network dies. After a minute of
silence (``heartbeat_timeout``), Octavia's health manager replaces the amphora, and so deletes the server with all logs on it.
The health manager never replaces an amphora that is in ERROR or never sent a heartbeat.

**Why Octavia lets it.** The health manager knows heartbeats only. After a failed failover, amphora and load balancer stay in
ERROR.

**What is read.** Nova's notifications about amphorae (:mod:`handlers.octavia.failover.keys`). The sweep finds silent amphorae,
amphorae in ERROR or without a server, and interrupted recoveries. :mod:`handlers.octavia.failover.proof` proves a failure. The
handler leaves a load balancer in PENDING_* to Octavia.

**What is changed.** stackmend takes steps, each after a proof of its own (:mod:`handlers.octavia.failover.rules`). One heal can
take several steps up to the failover. To preserve an amphora within ``maximum_preserved_amphora_count``, stackmend marks the
server and writes a heartbeat lease, which keeps the health manager off. Then it detaches the server's networks and removes the
server from the amphora's row. With or without preservation, it asks Octavia's API for a failover. After the failover, it
detaches the old amphora's DELETED row from the load balancer, whose next update would otherwise fail (Octavia 16 to 19). Last,
with the method snapshot, it makes an image of a preserved server.

**What is not changed.** An amphora that sends heartbeats keeps its networks and is not preserved. If it is in ERROR, stackmend
replaces it once. Silence proves nothing while most amphorae are silent, and for one ``heartbeat_timeout`` afterwards or after a
start of stackmend. In a cloud of three or fewer amphorae, silence alone proves nothing
(:mod:`handlers.octavia.failover.heartbeats`). stackmend reports the failure and begins no recovery when ``failover_threshold``
(not 0) other amphorae failed or were replaced within ``failover_window``, or two on the same host. stackmend fails over a load
balancer in ERROR at most three times a week, and never after a failed deletion (:mod:`handlers.octavia.rebuild`).
stackmend only reports an amphora whose server or VRRP port another row names too, because the failover would delete both.

**Why a race does no harm.** Each write into Octavia's database compares the locked row. If the health manager was faster,
stackmend preserves nothing. Before stackmend detaches a network, Octavia's API must show that it would accept the failover. If
Octavia still refuses, stackmend writes the server back into the row. Unless the row was in ERROR, the health manager then
replaces the amphora. After a crash of stackmend, the lease expires, and the next inspection continues from the marks.

**Modes.** The default is ``audit``, because a failover deletes a server. Once the server is marked, no gate stops the recovery
up to the failover.

**Undo.** The history has the command or statement that reverses each step; failovers and deletions have none.
``stackmend amphora preserved`` releases or deletes a preserved amphora.

Sources: ``octavia/controller/healthmanager/health_manager.py``, ``octavia/controller/worker/v2/flows/amphora_flows.py``,
``octavia/api/v2/controllers/amphora.py``, ``nova/compute/api.py``.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Self

from handlers.access.roles import AMPHORAE
from handlers.base import (
    Conflict,
    Finding,
    HandlerError,
    Healed,
    InFlight,
    Json,
    Key,
    Mode,
    Privilege,
    Refused,
    Resources,
    Roles,
    Trigger,
    keys_of,
)
from handlers.octavia import concerns, polling, settings
from handlers.octavia import queries as octavia_queries
from handlers.octavia.base import OctaviaHandler
from handlers.octavia.drivers.base import Driver
from handlers.octavia.drivers.chosen import chosen_driver
from handlers.octavia.failover import facts, keys, queries
from handlers.octavia.failover.actions import Actions
from handlers.octavia.failover.heartbeats import Listener
from handlers.octavia.failover.rules import next_step
from handlers.octavia.failover.steps import THEN, Nothing, Replaced, Report, Situation, Step, StepName, Wait
from handlers.octavia.failover.undo import undo_of_heal
from handlers.octavia.housekeeping import AmphoraDriverError, NotFoundError
from handlers.octavia.pairing import Pairing, mismatch, pairing
from handlers.octavia.rehearsal import plan
from handlers.octavia.settings import HousekeepingSettings

LOG = logging.getLogger(__name__)

#: seconds within which one heal may begin further steps: Nova usually detaches all ports in this time
STEPS_WITHIN = 8.0
#: seconds between two reads of the ports that Nova detaches
_POLL = 0.25
#: the steps that lead to a failover
_REBUILDING = frozenset({StepName.REBUILD, StepName.LET_GO, *THEN})

#: seconds from a notification of a start to the first inspection: by then Nova has begun
_BEGUN = 1.0


@dataclass(frozen=True, slots=True)
class Evidence:
    """The facts that decided a step or a report. A heal compares them again before its first step."""

    amphora: str
    status: str
    compute_id: str | None
    load_balancer: str | None
    provisioning_status: str | None
    server: str | None
    server_status: str | None
    host: str | None
    why: str
    objects: tuple[str, ...]

    @classmethod
    def of(cls, read: Situation | Replaced, decision: Step | Report) -> Self:
        server, balancer = read.server, read.balancer
        return cls(
            amphora=read.amphora.id,
            status=read.amphora.status,
            compute_id=read.amphora.compute_id,
            load_balancer=read.amphora.load_balancer_id,
            provisioning_status=balancer.status if balancer is not None else None,
            server=server.id if server is not None else None,
            server_status=server.status if server is not None else None,
            host=server.host if server is not None else None,
            why=decision.why,
            objects=decision.objects if isinstance(decision, Step) else (),
        )

    def to_json(self) -> Json:
        return {**asdict(self), "objects": list(self.objects)}


class FailedAmphora(OctaviaHandler):
    name = "failed_amphora"
    title = "Replace amphorae that have failed, and preserve some of them for examination"
    group = settings.GROUP
    kinds = ("amphora", "server")
    healable_problems = frozenset(step.value for step in StepName if step is not StepName.FORGET)
    triggers = (
        Trigger("instance.update", keys.lost_amphora),
        Trigger("instance.update", keys.leaving_amphora, after=_BEGUN),
        Trigger("instance.delete.start", keys.amphora, after=_BEGUN),
        *(
            Trigger(event, keys.amphora)
            for event in (
                "instance.delete.end",
                "instance.soft_delete.end",
                "instance.power_off.end",
                "instance.suspend.end",
                "instance.shelve.end",
                "instance.shelve_offload.end",
            )
        ),
    )
    concerned_kinds = concerns.KINDS
    default_mode = Mode.AUDIT
    default_interval = 5
    default_heals_per_hour = 500
    requires = ("octavia_database", "compute")
    cost = (
        "A sweep is one query over Octavia's tables; every few seconds suits thousands of amphorae. It lists servers only "
        "while an amphora has no heartbeat record, or is silent while silence proves nothing: while most are silent, and for "
        "one heartbeat_timeout afterwards or after a start. Of failed_amphora_heals_per_hour, each heal takes one: a "
        "replacement takes two, a preservation about four. With more than 30 s, silence is left to Octavia's health manager."
    )
    rights = {
        "octavia": {
            "amphora": frozenset({Privilege.UPDATE}),
            "amphora_health": frozenset({Privilege.UPDATE}),
            "load_balancer": frozenset({Privilege.UPDATE}),
        }
    }
    roles = Roles((AMPHORAE,))

    def __init__(self, driver: Driver, listener: Listener | None = None, steps_within: float = STEPS_WITHIN) -> None:
        self._driver = driver
        self._settings = driver.settings
        self._listener = listener or _listener(driver.settings)
        self._steps_within = steps_within

    @classmethod
    def from_resources(cls, resources: Resources) -> Self:
        return cls(resources.get(chosen_driver))

    def inspect(self, key: Key) -> Iterable[Finding]:
        read = self._read(key)
        if isinstance(read, Nothing):
            return []
        decision = next_step(read, self._settings)
        match decision:
            case Nothing():
                return []
            case Wait(reason=reason, after=after):
                raise InFlight(reason, after)
            case Report(reason=reason, why=why):
                evidence = Evidence.of(read, decision).to_json()
                finding = Finding(key, "amphora-failed", f"amphora {read.amphora.id}: {why}", evidence, False, reason)
                return [replace(finding, concerns=self._concerns(read))]
            case Step():
                writes = plan(self._driver, lambda driver: Actions(driver, self._settings).take(read, decision))
                writes += self._announced(decision)
                others = (one for one in read.others if one.amphora in decision.objects)
                names = self._concerns(read) | concerns.named("amphora", *decision.objects)
                names = names.union(*(concerns.of_server(one.server) for one in others))
                return [replace(self._finding(key, read, decision), plan=writes, concerns=names)]

    def _announced(self, step: Step) -> str:
        further = THEN.get(step.name, ()) if self._steps_within else ()
        return f"\n-- then, each after its own proof: {', '.join(further)}" if further else ""

    def _concerns(self, read: Situation | Replaced) -> frozenset[str]:
        own = (
            concerns.of_amphorae([read.amphora]) | concerns.of_server(read.server) | concerns.of_balancer(read.balancer)
        )
        if read.balancer is None or read.balancer.status != "ERROR":
            return own
        # its failover replaces all its amphorae
        rows = self._driver.database.run(partial(octavia_queries.amphorae_of, load_balancer=read.balancer.id))
        servers = (self._driver.server(row.compute_id) for row in rows if row.compute_id)
        return own.union(concerns.of_amphorae(rows), *map(concerns.of_server, servers))

    def _read(self, key: Key) -> Situation | Replaced | Nothing:
        identity = facts.amphora_of(self._driver, key)
        if identity is None:
            return Nothing()
        read = facts.read(self._driver, self._settings, self._listener, identity)
        if isinstance(read, Wait):
            raise InFlight(read.reason, read.after)
        return read

    def sweep(self) -> Iterator[Key]:
        rows = self._driver.database.run(queries.watch)
        unsettled = self._listener.observe(queries.heard_of(rows, self._settings.heard_within))
        stale_after = None if unsettled else self._settings.stale_after
        suspects = {row.id for row in rows if row.looks_failed(stale_after)}
        yield from keys_of("amphora", sorted(suspects))
        yield from keys_of("amphora", self._gone([row for row in rows if row.id not in suspects]))

    def _gone(self, rows: Iterable[queries.Watched]) -> Iterator[str]:
        """Yield the ids of serving amphorae that send no heartbeat and have no server in Nova.

        Silence alone is no proof: perhaps Octavia's health manager is away. Yield no id if database and cloud perhaps do not
        belong together.
        """
        patience = self._settings.heartbeat_timeout
        unheard = {row.id: row.compute_id for row in rows if row.compute_id and row.unheard(patience)}
        if not unheard:
            return
        servers = self._driver.servers()
        live, deleted = self._driver.database.run(
            lambda connection: (octavia_queries.amphorae(connection), octavia_queries.deleted_amphorae(connection))
        )
        if mismatch(_with_one_gone(pairing(servers, live, deleted))):
            return
        shown = {server.id for server in servers}
        yield from (amphora for amphora, server in unheard.items() if server not in shown)

    def population(self) -> int:
        return self._driver.database.run(queries.amphora_count)

    def heal(self, finding: Finding) -> Healed:
        if not finding.healable:
            raise Refused(finding.refusal)
        self._driver.database.require_known_schema()
        actions, ends = Actions(self._driver, self._settings), time.monotonic() + self._steps_within
        try:
            read, step = self._proved(finding)
            first = actions.take(read, step)
        except NotFoundError as gone:
            raise Conflict(str(gone)) from gone
        return _joined([(step.name, first), *self._take_following(actions, read, step, ends)])

    def _take_following(
        self, actions: Actions, read: Situation | Replaced, step: Step, ends: float
    ) -> Iterator[tuple[StepName, Healed]]:
        """Take further steps, each after its own proof, and yield each step's name and result.

        :param ends: the monotonic time after which no step begins
        """
        try:
            while (following := self._following(read, step, ends)) is not None:
                read, step = following
                yield step.name, actions.take(read, step)
        except (HandlerError, AmphoraDriverError) as error:
            LOG.info("the next heal continues with amphora %s: %s", read.amphora.id, error)

    def _following(self, read: Situation | Replaced, step: Step, ends: float) -> tuple[Situation, Step] | None:
        left = ends - time.monotonic()
        if not isinstance(read, Situation) or step.name not in THEN or left <= 0:
            return None
        if step.name is StepName.UNPLUG and read.server is not None:
            polling.until(partial(self._is_cut_off, read.server.id), left, _POLL)
        known = None if step.name is StepName.MARK else read
        again = facts.read(self._driver, self._settings, self._listener, read.amphora.id, known)
        if not isinstance(again, Situation):
            return None
        decision = next_step(again, self._settings)
        return (again, decision) if isinstance(decision, Step) and decision.name in THEN[step.name] else None

    def _is_cut_off(self, server: str) -> bool:
        return not any(port.admin_up for port in self._driver.ports_of(server))

    def _proved(self, finding: Finding) -> tuple[Situation | Replaced, Step]:
        read = self._read(finding.key)
        if isinstance(read, Nothing):
            raise Conflict(f"{finding.key} is no longer as it was found")
        decision = next_step(read, self._settings)
        if isinstance(decision, Wait):
            raise InFlight(decision.reason, decision.after)
        if not isinstance(decision, Step) or not finding.same_as(self._finding(finding.key, read, decision)):
            raise Conflict(f"{finding.key} is no longer as it was found")
        return read, decision

    def _finding(self, key: Key, read: Situation | Replaced, step: Step) -> Finding:
        further = ", and then the further steps up to the failover" if step.name in THEN else ""
        what = f"{step.why}; the next step: {step.summary}{further}" if step.why else step.summary
        return Finding(
            key,
            step.name.value,
            f"amphora {read.amphora.id}: {what}",
            Evidence.of(read, step).to_json(),
            weight=_weight(read, step),
            undo=undo_of_heal(read, step, self._driver.database.typed),
            begun=isinstance(read, Situation) and read.begun,
        )


def _listener(s: HousekeepingSettings) -> Listener:
    return Listener(s.heartbeat_timeout, s.stale_after - s.heartbeat_interval)


def _with_one_gone(compared: Pairing) -> Pairing:
    """Count one more server as seen, if Nova shows any. So in a small cloud, one missing server is no mismatch."""
    return replace(compared, seen=min(compared.named, compared.seen + 1)) if compared.seen else compared


def _weight(read: Situation | Replaced, step: Step) -> int:
    if step.name is StepName.DETACH:
        return len(step.objects)
    if isinstance(read, Situation) and read.remains is not None and step.name in _REBUILDING:
        return len(read.remains.amphorae)
    return 1


def _joined(taken: Sequence[tuple[StepName, Healed]]) -> Healed:
    if len(taken) == 1:
        return replace(taken[0][1], complete=False)
    return Healed(
        "; ".join(healed.action for _name, healed in taken),
        before={name.value: healed.before for name, healed in taken},
        after={name.value: healed.after for name, healed in taken},
        undo="; ".join(f"after {name}: {healed.undo}" for name, healed in reversed(taken)),
        complete=False,
    )
