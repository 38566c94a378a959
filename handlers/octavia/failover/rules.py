"""The rules that choose the next step for a failed amphora.

The cloud and Octavia's database store all progress, so any process can continue a recovery after a crash.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from handlers.octavia import rebuild, records
from handlers.octavia.cloud_objects import Server
from handlers.octavia.failover.ending import WILLING, finish, label_of, marked_for, shelving_of
from handlers.octavia.failover.proof import Alive, Failed, OneWitness, Unclear, judge
from handlers.octavia.failover.steps import (
    AnyReading,
    Deactivated,
    Decision,
    Nothing,
    Replaced,
    Report,
    Situation,
    Step,
    StepName,
    Wait,
)
from handlers.octavia.failover.table import Row, first
from handlers.octavia.preserved import pool
from handlers.octavia.settings import HousekeepingSettings

#: seconds between two inspections of an amphora while heartbeats settle
_OBSERVE = 5.0
#: seconds for which another process may still be giving a marked server its number
CHOOSING = 30.0
#: stackmend renews a heartbeat lease of which less than this part is left. Even of the shortest lease, this part is longer than
#: ``records.SKEW``, the time by which a wrong clock can be ahead
_RENEW = 2 / 3
#: number of other failed amphorae on the same host from which on stackmend reports the host
_NEIGHBOURS = 2

#: the states of a server that can be preserved
_PRESERVABLE = WILLING | {"ERROR", "SUSPENDED"}


@dataclass(frozen=True, slots=True)
class Case:
    s: Situation
    settings: HousekeepingSettings
    failed: Failed

    @property
    def why(self) -> str:
        return self.failed.why

    @property
    def not_preserved(self) -> str:
        return _not_preserved(self.s, self.settings, self.failed)

    @property
    def settling(self) -> bool:
        """Whether it is to be preserved, and its silence will prove something soon, because most amphorae are heard."""
        proved = replace(self.failed, perhaps_beats=False)
        soon = self.failed.perhaps_beats and not self.s.heard.mostly_silent
        return soon and not _not_preserved(self.s, self.settings, proved)

    @property
    def taken(self) -> bool:
        """Whether Octavia's health manager has begun to replace the amphora."""
        return self.s.serves and self.s.health is not None and self.s.health.busy

    def step(self, name: StepName, summary: str, *objects: str) -> Step:
        return Step(name, summary, self.why, objects)


@dataclass(frozen=True, slots=True)
class ServerCase:
    s: Situation | Deactivated
    settings: HousekeepingSettings
    failed: Failed
    server: Server

    def step(self, name: StepName, summary: str, *objects: str) -> Step:
        return Step(name, summary, self.failed.why, objects)

    @property
    def working(self) -> Wait:
        return Wait(f"Nova is working on server {self.server.id}: {self.server.task_state}")

    @property
    def place(self) -> bool | None:
        return has_place(self.s, self.settings)

    @property
    def wants_lease(self) -> bool:
        """Whether a serving amphora with a heartbeat record has no lease, or less than two thirds of its lease is left."""
        if isinstance(self.s, Deactivated) or not self.s.serves or self.s.health is None:
            return False
        return not self.s.leased or -self.s.health.silent < _RENEW * self.settings.preservation_lease

    @property
    def late(self) -> bool:
        """Whether stackmend no longer waits for Nova: the deadline has passed, or the host is down."""
        return marked_for(self.s) > self.settings.preservation_deadline or self.server.host_up is False

    @property
    def runs(self) -> bool:
        """Whether the guest perhaps still runs. Then its SR-IOV port works even when ``admin_state_up`` is false."""
        return self.server.status in {"ACTIVE", "PAUSED"} and self.server.host_up is not False

    @property
    def stopping(self) -> Step:
        return self.step(StepName.STOP, "stop its server, because Nova changes nothing of it in ERROR", self.server.id)


# whether anything may be requested


def at_rest(amphora: records.Amphora, balancer: records.LoadBalancer | None) -> Wait | Nothing | None:
    """Return the decision if Octavia's rows alone give it; None when stackmend must read the cloud too."""
    forgotten = amphora.status == "DELETED" and amphora.compute_id is None
    if balancer is None:
        return None if forgotten else Nothing()
    if balancer.provider not in records.AMPHORA_PROVIDERS:
        return Nothing()
    if balancer.status == "DELETED":
        return None if amphora.status == "DELETED" else Nothing()
    if not balancer.idle:
        return Wait(f"Octavia is working on load balancer {balancer.id}: {balancer.status}")
    if amphora.status in {*records.SERVING, "ERROR", "DELETED"}:
        return None
    # BOOTING or PENDING_* beside a load balancer at rest: a flow that died, which deactivated_amphorae judges
    return Nothing()


@dataclass(frozen=True, slots=True)
class Request:
    s: Situation
    why: str

    @property
    def obstacle(self) -> str:
        return rebuild.obstacle(self.s.remains) if self.s.remains is not None else ""

    @property
    def remaining(self) -> float:
        """Seconds until stackmend may fail over the load balancer; 0 or less when it may now."""
        return rebuild.pause(self.s.remains) - self.s.balancer.age if self.s.remains is not None else 0.0


REQUEST: tuple[Row[Request], ...] = (
    Row("another row names its server or port", lambda r: bool(r.s.shared), lambda r: Report(rebuild.SHARED, r.why)),
    Row(
        "it is one too many",
        lambda r: r.s.surplus,
        lambda r: Report(
            "it is one too many: all amphorae of the topology serve, and its failover would build another: when the traffic "
            f"allows it, run openstack loadbalancer failover {r.s.balancer.id}",
            r.why,
        ),
    ),
    Row("the load balancer is ACTIVE", lambda r: r.s.balancer.status == "ACTIVE", lambda _: Nothing()),
    Row("only its owner decides", lambda r: bool(r.obstacle), lambda r: Report(r.obstacle, r.why)),
    Row(
        "too early",
        lambda r: r.remaining > 0,
        lambda r: Wait(
            f"load balancer {r.s.balancer.id} is in ERROR, and the next failover waits",
            r.remaining,
        ),
    ),
)


def _denial(s: Situation, why: str) -> Wait | Report | None:
    decision = first(REQUEST, Request(s, why))
    return decision if isinstance(decision, Wait | Report) else None


def _request(s: Situation, why: str) -> Decision:
    if denial := _denial(s, why):
        return denial
    if s.balancer.status == "ACTIVE":
        return Step(StepName.FAILOVER, "let Octavia replace it", why, (s.amphora.id,))
    return Step(StepName.REBUILD, "let Octavia replace all amphorae of the load balancer", why, (s.balancer.id,))


# a failed amphora


def _not_preserved(s: Situation | Deactivated, settings: HousekeepingSettings, failed: Failed) -> str:
    server, limit = s.server, settings.maximum_preserved_amphora_count
    others = s.others if settings.preservation_scheme == "keep" else [one for one in s.others if not one.complete]
    if server is None:
        return "it has no server to preserve"
    unkeepable = server.status not in _PRESERVABLE or server.task_state in pool.LEAVING
    reasons = (
        (limit == 0, "none is preserved"),
        (failed.beats, "it still sends heartbeats, so it is not cut off before it has a replacement"),
        (failed.perhaps_beats, "heartbeats prove nothing now, so it is not cut off before it has a replacement"),
        (unkeepable, f"its server is {server.status} and cannot be preserved"),
        (not s.marked and s.sealed is None and len(others) >= limit, "the pool is full"),
    )
    found = next((reason for applies, reason in reasons if applies), "")
    return found or ("" if s.marked else pool.obstacle(server, settings.preservation_deadline))


def _replace(c: Case, reason: str) -> Decision:
    if c.s.unfinished:
        return c.step(StepName.DROP_IMAGE, "delete its image, which is not complete", *c.s.unfinished)
    return _request(c.s, f"{c.why}; {reason}")


def _denied(c: Case) -> Decision:
    return _denial(c.s, c.why) or Nothing()


FAILED: tuple[Row[Case], ...] = (
    Row(
        "too many have failed",
        lambda c: not c.s.begun and 0 < c.settings.failover_threshold <= len(c.s.failing),
        lambda c: Report(
            f"{len(c.s.failing)} other amphorae failed or were replaced within {c.settings.failover_window} s, which is "
            "[housekeeping] failover_threshold: examine the network and the hosts that they have in common",
            c.why,
        ),
    ),
    Row(
        "its host has failed",
        lambda c: not c.s.begun and c.settings.failover_threshold > 0 and len(c.s.neighbours) >= _NEIGHBOURS,
        lambda c: Report(
            f"{len(c.s.neighbours)} other amphorae on its host failed as well: examine that host first", c.why
        ),
    ),
    Row(
        "the health manager acts",
        lambda c: c.taken and c.s.balancer.age < CHOOSING,
        lambda c: Wait(f"Octavia's health manager has taken amphora {c.s.amphora.id} for a failover"),
    ),
    Row(
        "it beats, and a failover was tried",
        lambda c: c.failed.beats and (c.s.balancer.status == "ERROR" or c.s.attempts > 0),
        lambda c: Report(
            "it still sends heartbeats, and its failover did not help: examine the logs of octavia-worker", c.why
        ),
    ),
    Row("no failover may be requested now", lambda c: _denial(c.s, c.why) is not None, _denied),
    Row(
        "the health manager gave up",
        lambda c: c.taken,
        lambda c: _replace(c, "Octavia's health manager took it, and gave up"),
    ),
    Row(
        "its silence proves nothing yet",
        lambda c: c.settling,
        lambda c: Wait(
            f"{c.why}, and it is cut off for its preservation after {c.s.unsettled:.0f} s in which most amphorae are heard",
            min(_OBSERVE, c.s.unsettled),
        ),
    ),
    Row("not preserved", lambda c: bool(c.not_preserved), lambda c: _replace(c, c.not_preserved)),
)


def _leave(c: ServerCase) -> Decision:
    """Return the step that removes the server from the amphora's row, so that Octavia does not delete the server."""
    if isinstance(c.s, Deactivated):
        return c.step(StepName.FORGET, "set its row to DELETED, without its server", c.server.id)
    return c.step(StepName.LET_GO, "let Octavia forget its server, and replace it", c.server.id)


def _give_up(c: ServerCase, reason: str) -> Decision:
    if isinstance(c.s, Deactivated):
        return c.step(StepName.UNMARK, f"remove its mark: {reason}", c.server.id)
    return _replace(Case(c.s, c.settings, c.failed), reason)


PRESERVE: tuple[Row[ServerCase], ...] = (
    Row("Nova works on it", lambda c: not c.s.marked and c.server.task_state is not None, lambda c: c.working),
    Row("in ERROR", lambda c: not c.s.marked and c.server.status == "ERROR", lambda c: c.stopping),
    Row(
        "no mark or no number",
        lambda c: not c.s.since or not c.s.marked,
        lambda c: c.step(StepName.MARK, "mark its server for preservation", c.server.id),
    ),
    Row(
        "the place is taken",
        lambda c: bool(c.s.connected) and not c.s.detaching and c.place is False,
        lambda c: c.step(StepName.UNMARK, "remove its mark: the pool is full", c.server.id),
    ),
    Row(
        "others have no number yet",
        lambda c: bool(c.s.connected) and not c.s.detaching and c.place is None,
        lambda _: Wait("other amphorae are being marked for preservation", 1.0),
    ),
    Row(
        "no lease",
        lambda c: c.wants_lease,
        lambda c: c.step(StepName.LEASE, "keep Octavia's health manager off it", c.s.amphora.id),
    ),
)

CUT_OFF: tuple[Row[ServerCase], ...] = (
    Row(
        "no network is left",
        lambda c: not c.s.connected,
        _leave,
    ),
    Row(
        "Nova neither detaches nor stops",
        lambda c: c.late and c.runs and c.server.task_state is not None,
        lambda c: _give_up(c, "Nova neither detaches its ports nor stops it"),
    ),
    Row(
        "Nova does not detach from a running server",
        lambda c: c.late and c.runs,
        lambda c: c.step(StepName.STOP, "stop its server, whose ports Nova does not detach", c.server.id),
    ),
    Row(
        "Nova cannot detach",
        lambda c: c.late or c.server.status not in {*WILLING, "ERROR"},
        lambda c: c.step(StepName.QUARANTINE, "set its ports down", *_ports(c)),
    ),
    Row("Nova works on it", lambda c: c.server.task_state is not None, lambda c: c.working),
    Row("in ERROR", lambda c: c.server.status == "ERROR", lambda c: c.stopping),
    Row("connected", lambda c: not c.s.detaching, lambda c: c.step(StepName.UNPLUG, "detach its ports", *_ports(c))),
    Row(
        "detaching",
        lambda _: True,
        lambda c: Wait(f"Nova detaches {len(c.s.connected)} ports of server {c.server.id}", 1.5),
    ),
)


def _ports(c: ServerCase) -> tuple[str, ...]:
    return tuple(port.id for port in c.s.connected)


def next_step(s: AnyReading, settings: HousekeepingSettings) -> Decision:
    if isinstance(s, Replaced):
        return finish(s, settings)
    if isinstance(s, Deactivated):
        return _preserve(s, settings)
    if s.forgotten:
        return _recover_forgotten(s)
    match judge(s, settings):
        case Unclear(reason=reason, after=after):
            return Wait(reason, after)
        case OneWitness(why=why, reason=reason):
            return Report(reason, why)
        case Alive():
            return _leave_alone(s)
        case Failed() as failed:
            return _recover(Case(s, settings, failed))


def _recover(c: Case) -> Decision:
    decision = first(FAILED, c)
    if decision is not None or c.s.server is None:
        return decision or Nothing()
    case = ServerCase(c.s, c.settings, c.failed, c.s.server)
    return first(PRESERVE, case) or first(CUT_OFF, case) or Nothing()


def _preserve(s: Deactivated, settings: HousekeepingSettings) -> Decision:
    failed = Failed("Octavia reports it in ERROR, and it is on no load balancer")
    reason = _not_preserved(s, settings, failed)
    if s.server is None or (reason and not s.marked):
        return Nothing()
    case = ServerCase(s, settings, failed, s.server)
    if reason:
        return _give_up(case, reason)
    return first(PRESERVE, case) or first(CUT_OFF, case) or Nothing()


def _leave_alone(s: Situation) -> Decision:
    if s.marked and s.server is not None:
        return Step(StepName.UNMARK, "remove the mark of an amphora that lives", "it lives", (s.server.id,))
    if s.unfinished:
        return Step(StepName.DROP_IMAGE, "delete the image of an amphora that lives", "it lives", s.unfinished)
    return Nothing()


def _recover_forgotten(s: Situation) -> Decision:
    why = "it is in ERROR without a server"
    if s.balancer.status == "ERROR" and s.server is not None and (shelving := shelving_of(s.server, s.marked)):
        return label_of(s.server) or shelving  # Nova changes no marks of a shelved server
    return _request(s, why)


def has_place(s: Situation | Deactivated, settings: HousekeepingSettings) -> bool | None:
    """Return whether the pool has room for an amphora; None while that depends on marked amphorae without a number."""
    mine = (s.since, s.amphora.id)
    limit = settings.maximum_preserved_amphora_count
    cycles = settings.preservation_scheme == "cycle"
    rivals = [one for one in s.others if not (cycles and one.complete)]
    before = sum(one.complete or bool(one.since and (one.since, one.amphora) < mine) for one in rivals)
    choosing = sum(not one.complete and not one.since for one in rivals)
    if before >= limit:
        return False
    if before + choosing < limit:
        return True
    return None if marked_for(s) < CHOOSING else False
