"""The next step for a failed amphora: ordered tables over one reading. Of each table, the first row that applies decides.

Only the cloud and Octavia's database remember the progress. So any process continues a recovery after a crash, and a step
that is repeated does no harm.

=============================== ==================================================================================
:data:`FAILED`                  may it be touched, and is it to be preserved
:data:`REQUEST`                 may a load balancer in ERROR be failed over now
:data:`PRESERVE`                marks, place and lease of a server that is to be preserved
:data:`CUT_OFF`                 the server loses its networks, and Octavia forgets it
:data:`REPLACED`                the end: marks, oldest amphora, DELETED rows, the place in the server group
:data:`IMAGE`                   method snapshot: the image, once the load balancer has its replacement
=============================== ==================================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from handlers.octavia import rebuild, records
from handlers.octavia.cloud_objects import METHOD, STATE, Image, Server
from handlers.octavia.failover.proof import Alive, Failed, Suspect, Unclear, judge
from handlers.octavia.failover.steps import Decision, Nothing, Replaced, Report, Situation, Step, StepName, Wait
from handlers.octavia.preserved import pool
from handlers.octavia.preserved.pool import State
from handlers.octavia.settings import HousekeepingSettings
from handlers.withheld import Withheld, is_withheld, refusal

#: seconds for which another process may still be giving a marked server its number
CHOOSING = 30.0
#: the part of a lease below which it is renewed; the shortest lease must not look like a wrong clock then
_RENEW = 2 / 3
#: neighbours on one host that failed as well, from which on the host is reported
_NEIGHBOURS = 2

#: the states in which Nova detaches ports and makes images
_WILLING = frozenset({"ACTIVE", "SHUTOFF", "PAUSED"})
_PRESERVABLE = _WILLING | {"ERROR", "SUSPENDED"}
#: the states in which Nova changes tags and metadata
_DESCRIBABLE = _WILLING | {"SUSPENDED"}
#: the states of an image that may become active
_COMING = frozenset({"queued", "saving", "uploading", "importing"})

C = TypeVar("C")


@dataclass(frozen=True, slots=True)
class Row(Generic[C]):
    """A row of a table."""

    name: str
    applies: Callable[[C], bool]
    decision: Callable[[C], Decision]


def _first(table: Sequence[Row[C]], case: C) -> Decision | None:
    return next((row.decision(case) for row in table if row.applies(case)), None)


@dataclass(frozen=True, slots=True)
class Case:
    """An amphora that has failed."""

    s: Situation
    settings: HousekeepingSettings
    failed: Failed

    @property
    def why(self) -> str:
        """The proof."""
        return self.failed.why

    @property
    def taken(self) -> bool:
        """Whether the health manager has taken it for a failover."""
        return self.s.serves and self.s.health is not None and self.s.health.busy

    def step(self, name: StepName, summary: str, *objects: str) -> Step:
        """Return a step with the proof as its reason."""
        return Step(name, summary, self.why, objects)


@dataclass(frozen=True, slots=True)
class ServerCase(Case):
    """A failed amphora whose server is to be preserved."""

    server: Server

    @property
    def working(self) -> Wait:
        """Wait for Nova's work on the server."""
        return Wait(f"Nova is working on server {self.server.id}: {self.server.task_state}")

    @property
    def place(self) -> bool | None:
        """Whether its number is within the maximum; None while other servers have no number yet."""
        return has_place(self.s, self.settings)

    @property
    def wants_lease(self) -> bool:
        """Whether the health manager must be kept off, and the lease is a third over."""
        health = self.s.health
        return self.s.serves and health is not None and -health.silent < _RENEW * self.settings.preservation_lease

    @property
    def late(self) -> bool:
        """Whether detached ports and images are no longer waited for."""
        return marked_for(self.s) > self.settings.preservation_deadline or self.server.host_up is False

    @property
    def runs(self) -> bool:
        """Whether its server may still use its ports: setting them down stops no SR-IOV port without an agent."""
        return self.server.status in {"ACTIVE", "PAUSED"} and self.server.host_up is not False

    @property
    def stopping(self) -> Step:
        """Stop a server in ERROR."""
        return self.step(StepName.STOP, "stop its server, because Nova changes nothing of it in ERROR", self.server.id)


# whether anything may be requested


def at_rest(amphora: records.Amphora, balancer: records.LoadBalancer | None) -> Wait | Nothing | None:
    """Return the decision that Octavia's rows alone allow, before anything else is read; None for the rest."""
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
    """A failover that is to be requested."""

    s: Situation
    why: str

    @property
    def obstacle(self) -> str:
        """Why a load balancer in ERROR must not be rebuilt."""
        return rebuild.obstacle(self.s.remains) if self.s.remains is not None else ""

    @property
    def remaining(self) -> float:
        """Seconds until a load balancer in ERROR may be failed over."""
        return rebuild.pause(self.s.remains) - self.s.balancer.age if self.s.remains is not None else 0.0


REQUEST: tuple[Row[Request], ...] = (
    Row("the load balancer is ACTIVE", lambda r: r.s.balancer.status == "ACTIVE", lambda _: Nothing()),
    Row("only its owner decides", lambda r: bool(r.obstacle), lambda r: Report(r.obstacle, r.why)),
    Row(
        "withheld",
        lambda _: is_withheld(Withheld.REBUILD_ERROR),
        lambda r: Report(refusal(Withheld.REBUILD_ERROR), r.why),
    ),
    Row(
        "too early",
        lambda r: r.remaining > 0,
        lambda r: Wait(
            f"load balancer {r.s.balancer.id} is in ERROR after {r.s.attempts} failovers, and the next one waits",
            r.remaining,
        ),
    ),
)


def _denial(s: Situation, why: str) -> Wait | Report | None:
    """Return why no failover may be requested now; None when it may."""
    decision = _first(REQUEST, Request(s, why))
    return decision if isinstance(decision, Wait | Report) else None


def _request(s: Situation, why: str) -> Decision:
    if denial := _denial(s, why):
        return denial
    if s.balancer.status == "ACTIVE":
        return Step(StepName.FAILOVER, "let Octavia replace it", why, (s.amphora.id,))
    return Step(StepName.REBUILD, "let Octavia replace all amphorae of the load balancer", why, (s.balancer.id,))


# a failed amphora


def _not_preserved(c: Case) -> str:
    """Return why an amphora is replaced without being preserved; empty when it is to be preserved."""
    s, server, limit = c.s, c.s.server, c.settings.maximum_preserved_amphora_count
    others = s.others if c.settings.preservation_scheme == "keep" else [one for one in s.others if not one.complete]
    if server is None:
        return "it has no server to preserve"
    unkeepable = server.status not in _PRESERVABLE or server.task_state in pool.LEAVING
    reasons = (
        (limit == 0, "none is preserved"),
        (c.failed.beats, "it still sends heartbeats, so it is not cut off before it has a replacement"),
        (unkeepable, f"its server is {server.status} and cannot be preserved"),
        (not s.marked and s.sealed is None and len(others) >= limit, "the pool is full"),
    )
    found = next((reason for applies, reason in reasons if applies), "")
    return found or ("" if s.marked else pool.obstacle(server, c.settings.preservation_deadline))


def _replace(c: Case, reason: str) -> Decision:
    """Replace without preserving. A mark may stay: it proves that we cut the amphora off, and goes with its server."""
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
    Row("not preserved", lambda c: bool(_not_preserved(c)), lambda c: _replace(c, _not_preserved(c))),
)

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
        lambda c: c.step(StepName.LET_GO, "let Octavia forget its server, and replace it", c.server.id),
    ),
    Row(
        "Nova neither detaches nor stops",
        lambda c: c.late and c.runs and c.server.task_state is not None,
        lambda c: _replace(c, "Nova neither detaches its ports nor stops it"),
    ),
    Row(
        "Nova does not detach from a running server",
        lambda c: c.late and c.runs,
        lambda c: c.step(StepName.STOP, "stop its server, whose ports Nova does not detach", c.server.id),
    ),
    Row(
        "Nova cannot detach",
        lambda c: c.late or c.server.status not in {*_WILLING, "ERROR"},
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


def next_step(s: Situation | Replaced, settings: HousekeepingSettings) -> Decision:
    """Return the next step of a recovery."""
    if isinstance(s, Replaced):
        return _finish(s, settings)
    if s.forgotten:
        return _recover_forgotten(s)
    match judge(s, settings):
        case Unclear(reason=reason, after=after):
            return Wait(reason, after)
        case Suspect(why=why, reason=reason):
            return Report(reason, why)
        case Alive():
            return _leave_alone(s)
        case Failed() as failed:
            return _recover(Case(s, settings, failed))


def _recover(c: Case) -> Decision:
    decision = _first(FAILED, c)
    if decision is not None or c.s.server is None:
        return decision or Nothing()
    case = ServerCase(c.s, c.settings, c.failed, c.s.server)
    return _first(PRESERVE, case) or _first(CUT_OFF, case) or Nothing()


def _leave_alone(s: Situation) -> Decision:
    """Undo the preparations for an amphora that lives."""
    if s.marked and s.server is not None:
        return Step(StepName.UNMARK, "remove the mark of an amphora that lives", "it lives", (s.server.id,))
    if s.unfinished:
        return Step(StepName.DROP_IMAGE, "delete the image of an amphora that lives", "it lives", s.unfinished)
    return Nothing()


def _recover_forgotten(s: Situation) -> Decision:
    why = "it is in ERROR without a server"
    if s.balancer.status == "ERROR" and s.server is not None and (shelving := _shelving(s.server, s.marked)):
        return _label(s.server) or shelving  # Nova changes no marks of a shelved server
    return _request(s, why)


def has_place(s: Situation, settings: HousekeepingSettings) -> bool | None:
    """Return whether an amphora's number is within the maximum; None while others have no number yet."""
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


def marked_for(s: Situation | Replaced) -> float:
    """Return for how many seconds an amphora has been marked."""
    since = pool.parsed(s.since)
    return (s.now - since).total_seconds() if since is not None else 0.0


# an amphora that was replaced


@dataclass(frozen=True, slots=True)
class End:
    """A replaced amphora."""

    s: Replaced
    settings: HousekeepingSettings

    @property
    def server(self) -> Server | None:
        """The server that Octavia has forgotten, and that is to be preserved."""
        return self.s.server if self.s.marked and self.s.amphora.compute_id is None else None

    @property
    def imaging(self) -> Imaging | None:
        """The image that is to be made of the server, or completed; None when the server itself is preserved."""
        server = self.server
        if server is None or server.image is None or server.metadata.get(METHOD) != "snapshot":
            return None
        found = Imaging(self.s, self.settings, server)
        return None if found.done or _is_final(server) else found

    @property
    def closing(self) -> Step | Wait | None:
        """Make the marks of its server final: of a preserved one, or of one that Octavia failed to delete."""
        server = self.s.server
        if server is None or not self.s.marked or self.imaging is not None:
            return None
        step = _label(server)
        if self.server is None:
            step = Step(StepName.UNMARK, "remove the mark of a server that is not preserved", objects=(server.id,))
        if step is not None and (server.task_state or server.status not in _DESCRIBABLE):
            return Wait(
                f"Nova changes no marks of server {server.id}: it is {server.status}, {server.task_state}", 30.0
            )
        return step

    @property
    def oldest(self) -> str:
        """The amphora that leaves the pool for this one; empty when there is room."""
        limit = self.settings.maximum_preserved_amphora_count
        complete = [one for one in self.s.others if one.complete]
        cycles = self.settings.preservation_scheme == "cycle" and (self.s.marked or self.s.sealed is not None)
        return complete[0].amphora if cycles and complete and len(complete) >= limit > 0 else ""

    @property
    def attached(self) -> tuple[str, ...]:
        """The amphorae whose DELETED rows are to be taken off."""
        if self.s.balancer is None or not self.s.balancer.idle:
            return ()
        return tuple(sorted({self.s.amphora.id, *self.s.rows}))

    @property
    def shelving(self) -> Step | Wait | None:
        """Free the place of a preserved server in its server group."""
        return _shelving(self.server, self.s.marked) if self.server is not None else None


@dataclass(frozen=True, slots=True)
class Imaging:
    """A server whose image is to be preserved."""

    s: Replaced
    settings: HousekeepingSettings
    server: Server

    @property
    def late(self) -> bool:
        """Whether the image is no longer waited for."""
        return marked_for(self.s) > self.settings.preservation_deadline or self.server.host_up is False

    @property
    def image(self) -> Image | None:
        """The sealed image, or the one that is nearest to it."""
        rest = sorted(self.s.images, key=lambda found: (found.status != "active", found.id))
        return self.s.sealed or next(iter(rest), None)

    @property
    def extra(self) -> tuple[str, ...]:
        """Further images, made because an answer of Nova was lost."""
        return tuple(found.id for found in self.s.images if found is not self.image and not found.protected)

    @property
    def complete(self) -> bool:
        """Whether the image is active and protected."""
        return self.s.sealed is not None and self.s.sealed.status == "active"

    @property
    def done(self) -> bool:
        """Whether the server is to be preserved as it is: beside its image, or because no image can be made."""
        if self.image is None:
            return self.late or self.server.status not in {*_WILLING, "ERROR"}
        return self.complete and not self.extra and self.settings.preservation_keeps == "server"

    def step(self, name: StepName, summary: str, *objects: str) -> Step:
        """Return a step."""
        return Step(name, summary, objects=objects)

    @property
    def named(self) -> str:
        """The id of the image."""
        return self.image.id if self.image is not None else ""

    @property
    def status(self) -> str:
        """The status of the image."""
        return self.image.status if self.image is not None else ""


IMAGE: tuple[Row[Imaging], ...] = (
    Row(
        "more than one",
        lambda i: bool(i.extra),
        lambda i: i.step(StepName.DROP_IMAGE, "delete an image that was made twice", *i.extra),
    ),
    Row(
        "Nova works on the server",
        lambda i: i.image is None and i.server.task_state is not None,
        lambda i: Wait(f"Nova is working on server {i.server.id}: {i.server.task_state}"),
    ),
    Row(
        "the server is in ERROR",
        lambda i: i.image is None and i.server.status == "ERROR",
        lambda i: i.step(StepName.STOP, "stop its server, because Nova makes no image of it in ERROR", i.server.id),
    ),
    Row(
        "none",
        lambda i: i.image is None,
        lambda i: i.step(StepName.IMAGE, "make an image of its server", i.server.id),
    ),
    Row(
        "tagged",
        lambda i: i.image is not None and bool(i.image.tags),
        lambda i: Report(
            f"image {i.named} has tags, and Octavia may boot amphorae from it: remove the tags", "it failed"
        ),
    ),
    Row(
        "it may become active",
        lambda i: i.status in _COMING and not i.late,
        lambda i: Wait(f"image {i.named} is {i.status}", 3.0),
    ),
    Row(
        "it will not become active",
        lambda i: i.status != "active",
        lambda i: i.step(StepName.DROP_IMAGE, f"delete the image, which is {i.status}", i.named),
    ),
    Row(
        "not protected",
        lambda i: not i.complete,
        lambda i: i.step(StepName.SEAL, "protect the image, which is complete", i.named),
    ),
    Row(
        "complete",
        lambda i: i.complete,
        lambda i: i.step(StepName.DROP_SERVER, "delete its server, whose image is preserved", i.server.id),
    ),
)

#: The load balancer waits neither for an image nor for a server whose marks Nova changes only later.
REPLACED: tuple[Row[End], ...] = (
    Row(
        "an image that is not wanted",
        lambda e: bool(e.s.unfinished) and e.imaging is None,
        lambda e: Step(StepName.DROP_IMAGE, "delete its image, which is not complete", objects=e.s.unfinished),
    ),
    Row("marks", lambda e: isinstance(e.closing, Step), lambda e: e.closing or Nothing()),
    Row(
        "the pool is over its limit",
        lambda e: bool(e.oldest),
        lambda e: Step(StepName.TRIM, "delete the oldest preserved amphora", objects=(e.oldest,)),
    ),
    Row(
        "DELETED rows",
        lambda e: bool(e.attached),
        lambda e: Step(StepName.DETACH, "take rows of deleted amphorae off the load balancer", objects=e.attached),
    ),
    Row(
        "an image",
        lambda e: e.imaging is not None,
        lambda e: (_first(IMAGE, e.imaging) if e.imaging is not None else None) or Nothing(),
    ),
    Row("marks, later", lambda e: e.closing is not None, lambda e: e.closing or Nothing()),
    Row("a place in a server group", lambda e: e.shelving is not None, lambda e: e.shelving or Nothing()),
    Row("nothing", lambda _: True, lambda _: Nothing()),
)


def _finish(s: Replaced, settings: HousekeepingSettings) -> Decision:
    return _first(REPLACED, End(s, settings)) or Nothing()


def _is_final(server: Server) -> bool:
    return server.metadata.get(STATE) == State.PRESERVED


def _label(server: Server) -> Step | None:
    if _is_final(server):
        return None
    return Step(StepName.LABEL, "rename and lock the preserved server", objects=(server.id,))


def _shelving(server: Server, marked: bool) -> Step | Wait | None:
    """Free the place of a preserved server in its server group, if it has one and Nova can."""
    if not marked or not server.groups or server.host is None or server.host_up is False:
        return None
    if server.task_state:
        return Wait(f"Nova is working on server {server.id}: {server.task_state}", 5.0)
    if server.status not in {*_DESCRIBABLE, "SHELVED"}:
        return None
    return Step(StepName.SHELVE, "shelve the server, which has a place in a server group", objects=(server.id,))
