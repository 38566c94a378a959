"""Replaces amphorae that have failed, and keeps some of them for examination.

**What drifts.** An amphora fails: its server is deleted, stopped or in ERROR, its guest or its network dies. Octavia's
health manager notices after a minute of silence, replaces the amphora and deletes the server, and with it everything
that could say why. Some failures it never notices: an amphora in ERROR it ignores for ever, and one that never sent a
heartbeat too.

**Why Octavia lets it.** Its health manager knows heartbeats only. A failover that fails leaves the amphora and its load
balancer in ERROR, and nobody tries again. And keeping failed amphorae was specified in 2014 and never built.

**What is read.** Nova's notifications about servers named as Octavia names amphorae say which amphora to look at
(:mod:`handlers.octavia.failover.keys`); the watch, one query over Octavia's tables every few seconds, finds what no notification
tells: silence, ERROR, rows without a server, and what an interrupted recovery left. What proves a failure is in
:mod:`handlers.octavia.failover.proof`. Where Octavia works on the load balancer (PENDING_*), it is left to do so: its own
failovers and deletions look like failures from outside.

**What is changed.** Step by step, as :mod:`handlers.octavia.failover.rules` decides: the health manager is fenced off by a
heartbeat in the future that expires by itself; the server is marked, cut off from its networks or made an image of, and
let go of, when ``maximum_preserved_amphora_count`` and the scheme have room for it; then Octavia's API is asked for a
failover. At the end the DELETED row that every failover leaves is taken off its load balancer: the next update of the load
balancer would look for that row's port, and fail (Octavia 16 to 19). This is done for Octavia's own failovers, too, where a
notification tells of one.

**What is not changed.** An amphora that sends heartbeats is not cut off, and not kept, whatever its row says; one in ERROR
is replaced. A load balancer in ERROR whose amphorae are all well is ``stuck_load_balancers``'s. When several fail at once
(``failover_threshold`` within ``failover_window``, or three on one host) nothing is touched and all are reported: then it is
the network or a host that fails, and failovers make it worse. Octavia's health manager still acts by its own threshold.

**Why a race does no harm.** A step is taken only if all is still as it was when it was decided, and each write into
Octavia's database compares under the locks that the health manager takes. If that was faster, its failover goes on and
nothing is kept. Whoever is killed between two steps leaves a fence that expires and marks by which the next look goes on;
without that look, the health manager replaces the amphora as ever. The one state from which it does not, after Octavia has
been made to forget the server, is found by the watch.

**Modes.** ``audit`` by default: a failover deletes a server, so it is the operator who opts in. The hourly bound counts
steps, of which a replacement takes two and a preservation about ten; by default there is room for all that
``failover_threshold`` lets pass. Where it is used up in the middle, the load balancer waits for the rest.

**Undo.** The history has, for each step, the command or statement that takes it back; a failover is not taken back. A
preserved server is released or deleted with ``stackmend amphora preserved``.

Sources: ``octavia/controller/healthmanager/health_manager.py``, ``octavia/controller/worker/v2/flows/amphora_flows.py``,
``octavia/api/v2/controllers/amphora.py``, ``nova/compute/api.py`` (which states a call is refused in).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any, Self

from handlers.access.roles import AMPHORAE
from handlers.base import Conflict, Finding, Handler, Healed, InFlight, Key, Mode, Privilege, Resources, Roles, Trigger
from handlers.octavia import settings
from handlers.octavia.base import OctaviaPlugin
from handlers.octavia.drivers.base import Driver
from handlers.octavia.drivers.chosen import chosen_driver
from handlers.octavia.failover import facts, keys, queries
from handlers.octavia.failover.actions import Measures
from handlers.octavia.failover.rules import next_step
from handlers.octavia.failover.steps import Hold, Nothing, Situation, Step, Wait
from handlers.octavia.housekeeping import NotFoundError

#: seconds from a notification of a start to the first look: by then Nova has begun what it tells of
_BEGUN = 1.0

#: what the second finding of each look says: that one step is not all
_NOT_YET = "it is mended step by step, and the other finding is the next step"


class FailedAmphora(OctaviaPlugin, Handler):
    """See the module."""

    name = "failed_amphora"
    title = "Replace amphorae that have failed, and keep some of them for examination"
    group = settings.GROUP
    kinds = ("amphora", "server")
    healable_problems = frozenset(
        {
            "fence",
            "stop",
            "mark",
            "unmark",
            "image",
            "seal",
            "drop-image",
            "unplug",
            "quarantine",
            "let-go",
            "failover",
            "failover-load-balancer",
            "label",
            "trim",
            "detach",
            "shelve",
        }
    )
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
    default_mode = Mode.AUDIT
    default_interval = 5
    default_heals_per_hour = 500
    requires = ("octavia_database", "compute")
    cost = (
        "A sweep is one query over Octavia's tables; every few seconds suits thousands of amphorae. Of "
        "failed_amphora_heals_per_hour, each step takes one: a replacement two, a preservation about ten."
    )
    rights = {
        "octavia": {
            "amphora": frozenset({Privilege.UPDATE}),
            "amphora_health": frozenset({Privilege.UPDATE}),
            "load_balancer": frozenset({Privilege.UPDATE}),
        }
    }
    roles = Roles((AMPHORAE,))

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._settings = driver.settings
        self._measures = Measures(driver, driver.settings)

    @classmethod
    def from_resources(cls, resources: Resources) -> Self:
        """Make it on the shared driver."""
        return cls(resources.get(chosen_driver))

    def inspect(self, key: Key) -> Iterable[Finding]:
        """Judge one amphora: the next step, and that it is not the last."""
        seen = self._see(key)
        if isinstance(seen, Nothing):
            return []
        if isinstance(seen, Wait):
            raise InFlight(seen.reason, seen.after)
        read, decision = seen
        if isinstance(decision, Hold):
            return [self._finding(key, read, "amphora-failed", decision.why, decision.reason)]
        what = f"{decision.why}; the next step: {decision.summary}" if decision.why else decision.summary
        return [
            Finding(key, decision.what, f"amphora {read.amphora.id}: {what}", _evidence(read, decision)),
            self._finding(key, read, "amphora-not-whole", decision.why or decision.summary, _NOT_YET),
        ]

    def _finding(self, key: Key, read: Situation, problem: str, why: str, refusal: str) -> Finding:
        summary = f"amphora {read.amphora.id}: {why}"
        return Finding(key, problem, summary, _evidence(read), healable=False, refusal=refusal)

    def _see(self, key: Key) -> tuple[Situation, Step | Hold] | Wait | Nothing:
        identity = facts.amphora_of(self._driver, key)
        if identity is None:
            return Nothing()
        read = facts.read(self._driver, self._settings, identity)
        if not isinstance(read, Situation):
            return read
        decision = next_step(read, self._settings)
        return decision if isinstance(decision, Wait | Nothing) else (read, decision)

    def sweep(self) -> Iterator[Key]:
        """Watch: silent amphorae, those in ERROR, and what an interrupted recovery left."""
        watch = partial(queries.failed_amphorae, stale_after=self._settings.stale_after)
        yield from (Key("amphora", identity) for identity in self._driver.database.run(watch))

    def population(self) -> int:
        """How many amphorae there are."""
        return self._driver.database.run(queries.amphora_count)

    def heal(self, finding: Finding) -> Healed:
        """Take the step that was decided, if a new look decides the same."""
        self._driver.database.require_known_schema()
        try:
            seen = self._see(finding.key)
            if isinstance(seen, Wait):
                raise InFlight(seen.reason, seen.after)
            if isinstance(seen, Nothing):
                raise Conflict("there is nothing to be done any more")
            read, decision = seen
            if isinstance(decision, Hold) or (decision.what, _evidence(read, decision)) != (
                finding.problem,
                finding.evidence,
            ):
                raise Conflict(f"amphora {read.amphora.id} is no longer as it was found")
            return self._measures.take(read, decision)
        except NotFoundError as gone:
            raise Conflict(str(gone)) from gone


def _evidence(read: Situation, step: Step | None = None) -> dict[str, Any]:
    """What a step is decided by, and compared with before it is taken; nothing that a clock changes."""
    server, balancer = read.server, read.balancer
    evidence: dict[str, Any] = {
        "amphora": read.amphora.id,
        "status": read.amphora.status,
        "compute_id": read.amphora.compute_id,
        "load_balancer": read.amphora.load_balancer_id,
        "provisioning_status": balancer.status if balancer is not None else None,
        "server": server.id if server is not None else None,
        "server_status": server.status if server is not None else None,
        "host": server.host if server is not None else None,
    }
    if step is not None:
        evidence |= {"why": step.why, "objects": list(step.objects)}
    return evidence
