"""Rules about the bindings of an instance's port.

While the instance's youngest migration is in ``error``, nothing proves where the guest runs, so no binding is deleted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from handlers.nova.names import HostNames
from handlers.nova.records import Instance, Migration
from handlers.nova.verdicts import BUSY, MOVED_SETTLE, Keep, Report, Wait

LIVE = "live-migration"
_SUCCEEDED = frozenset({"confirmed", "completed", "done"})
_ROLLED_BACK = frozenset({"failed", "cancelled", "reverted"})


class Problem(StrEnum):
    INACTIVE = "binding-inactive"
    ELSEWHERE = "binding-on-another-host"


@dataclass(frozen=True, slots=True)
class Facts:
    """The records of an instance in Nova.

    :param here: the instance's row in the cell that its mapping names; None without such a row
    :param migrations: the instance's migrations in the mapping's cell, youngest first
    :param building: whether the instance has a build request, or no mapping to a cell
    """

    here: Instance | None
    copies: tuple[Instance, ...]
    migrations: tuple[Migration, ...]
    building: bool
    names: HostNames

    @property
    def host(self) -> str | None:
        return None if self.here is None else self.here.host

    @property
    def age(self) -> float:
        ages = [one.age for one in self.migrations[:1]]
        return min([*ages, float("inf") if self.here is None else self.here.age])

    @property
    def latest(self) -> Migration | None:
        return next(iter(self.migrations), None)

    @property
    def settled(self) -> bool:
        """Whether the instance's youngest migration proves that the instance lives on the host that Nova names."""
        move = self.latest
        if move is None:
            return False
        if move.status in _SUCCEEDED:
            return self.names.same(move.dest[0], self.host)
        return move.status in _ROLLED_BACK and self.names.same(move.source[0], self.host)

    def explains(self, host: str) -> bool:
        ended = (one for one in self.migrations if one.terminal and one.kind == LIVE)
        return any(self.names.same(end, host) for one in ended for end in (one.source[0], one.dest[0]))


@dataclass(frozen=True, slots=True)
class Bound:
    """One binding of a port, active or not.

    :param active: the host of the port's active binding; empty without one
    """

    facts: Facts
    host: str
    active: str


@dataclass(frozen=True, slots=True)
class Delete:
    """The verdict to delete the binding."""


Verdict = Keep | Wait | Report | Delete

_BUSY = "the instance moves"


def completed_there(bound: Bound) -> bool:
    """Return whether the instance's youngest migration succeeded and led to the host of the port's active binding."""
    move, names = bound.facts.latest, bound.facts.names
    return move is not None and move.status in _SUCCEEDED and names.same(move.dest[0], bound.active)


def _elsewhere(bound: Bound) -> Report:
    if completed_there(bound):
        reason = (
            "the youngest migration led there too. Look for the guest on both hypervisors. If it runs only there, run"
        )
    else:
        reason = "the youngest migration did not end there. Find out where the guest runs before you change anything"
    return Report(Problem.ELSEWHERE, f"Nova names {bound.facts.host} as host of the instance", reason)


def _unexplained(bound: Bound) -> Report:
    where = f"no record proves that the guest left {bound.host}, or that Nova made the binding"
    return Report(
        Problem.INACTIVE,
        f"the instance is on {bound.facts.host}",
        f"{where}. Look for the guest on both hypervisors. If it runs only on {bound.facts.host}, send",
    )


#: the state of an instance in which its bindings cannot be judged
STATES: tuple[tuple[Callable[[Facts], bool], Callable[[Facts], Keep | Wait]], ...] = (
    (lambda it: it.building, lambda it: Keep("Nova schedules the instance")),
    (lambda it: it.here is None or it.here.deleted, lambda it: Keep("audit_ports judges ports of deleted instances")),
    (
        lambda it: sum(not copy.deleted for copy in it.copies) > 1,
        lambda it: Keep("a cross-cell resize runs, or several cells have the instance"),
    ),
    (lambda it: it.host is None, lambda it: Keep("the instance has no host")),
    (lambda it: it.here is not None and it.here.task_state is not None, lambda it: Wait(_BUSY, BUSY)),
    (
        lambda it: it.here is not None and it.here.vm_state in {"resized", "building"},
        lambda it: Keep("a resize waits for the user, or Nova builds the instance"),
    ),
    (lambda it: any(not one.terminal for one in it.migrations), lambda it: Wait(_BUSY, BUSY)),
    (lambda it: it.age < MOVED_SETTLE, lambda it: Wait("the instance changed just now", MOVED_SETTLE - it.age)),
)

BINDINGS: tuple[tuple[Callable[[Bound], bool], Callable[[Bound], Verdict]], ...] = (
    (lambda it: not it.active, lambda it: Keep("the port has no active binding")),
    (
        lambda it: not it.facts.names.same(it.active, it.facts.host) and it.host == it.active,
        _elsewhere,
    ),
    (lambda it: it.host == it.active, lambda it: Keep("it is the binding to the instance's host")),
    (lambda it: not it.facts.names.same(it.active, it.facts.host), lambda it: Keep("the active binding is wrong too")),
    (lambda it: it.facts.names.same(it.host, it.facts.host), lambda it: Keep("it is a binding to the instance's host")),
    (lambda it: it.facts.settled and it.facts.explains(it.host), lambda it: Delete()),
    (lambda it: True, _unexplained),
)


def state(facts: Facts) -> Keep | Wait | None:
    """Return the verdict to leave all bindings alone; None if :func:`decide` must judge each of them."""
    return next((verdict(facts) for holds, verdict in STATES if holds(facts)), None)


def decide(bound: Bound) -> Verdict:
    return next(verdict(bound) for holds, verdict in BINDINGS if holds(bound))
