"""Rules about a migration that has not ended.

Nova begins a migration only while the instance has no task. So a younger migration that succeeded proves that all older
migrations have ended.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from handlers.nova.names import HostNames
from handlers.nova.records import TERMINAL, Instance
from handlers.nova.verdicts import MOVED_SETTLE, Keep, Report, Wait

#: statuses after which the instance lives on the destination
SUCCEEDED = frozenset({"confirmed", "completed", "done"})
EVACUATION = "evacuation"


class Problem(StrEnum):
    OF_DELETED = "migration-of-deleted-instance"
    SUPERSEDED = "migration-superseded"
    WITHOUT_END = "migration-without-end"


@dataclass(frozen=True, slots=True)
class Move:
    """A row of ``migrations`` that is not deleted.

    :param changed: the raw ``updated_at``, for comparison; None if never updated
    :param age: seconds since the row last changed
    """

    id: int
    uuid: str | None
    status: str
    kind: str
    source: str | None
    dest: str | None
    cross_cell: bool
    changed: str | None
    age: float
    nodes: tuple[str | None, str | None] = (None, None)

    @property
    def ended(self) -> bool:
        return self.status in TERMINAL

    @property
    def is_evacuation(self) -> bool:
        """Whether the migration is an evacuation. When nova-compute at its source starts, it destroys the old guest.

        Nova's ``_destroy_evacuated_instances`` does so for the statuses accepted, pre-migrating and done, even for deleted
        instances. With the status ``error``, the old guest would run beside the new guest.
        """
        return self.kind == EVACUATION


@dataclass(frozen=True, slots=True)
class Case:
    """An unfinished migration and related records.

    :param building: whether the instance has a build request, or a mapping without a cell
    :param others: all migrations of the instance in this cell, ``move`` included
    :param after: seconds without a change after which Nova cannot be at work
    """

    move: Move
    here: Instance
    copies: tuple[Instance, ...]
    others: tuple[Move, ...]
    names: HostNames
    building: bool
    after: float

    @property
    def gone(self) -> bool:
        return all(copy.deleted for copy in self.copies) and not self.here.hidden

    @property
    def successor(self) -> Move | None:
        """A younger migration that succeeded and led to the instance's host; None if there is none."""
        younger = (one for one in self.others if one.id > self.move.id and one.status in SUCCEEDED)
        return next((one for one in younger if self.names.same(one.dest, self.here.host)), None)

    @property
    def unchanged(self) -> float:
        """Seconds since the last change of the migration or of its instance."""
        return min(self.move.age, self.here.age)


@dataclass(frozen=True, slots=True)
class Fail:
    """The verdict to set the migration's status to ``error``."""

    problem: Problem
    summary: str


Verdict = Keep | Wait | Report | Fail

_OF_DELETED = Fail(Problem.OF_DELETED, "its instance is deleted")
_SUPERSEDED = Fail(Problem.SUPERSEDED, "a younger migration of its instance succeeded")
_WITHOUT_END = Report(
    Problem.WITHOUT_END,
    "its instance has no task, and nothing carries it on",
    "no record proves where the guest runs: look for it on both hypervisors. If it runs only on the host that Nova names, run "
    "the statement",
)


def _evacuation(case: Case) -> Report:
    source, problem = case.move.source, Problem.OF_DELETED if case.gone else Problem.WITHOUT_END
    if not case.gone and case.names.same(source, case.here.host):
        return Report(
            problem,
            f"it is an evacuation, and the instance is still on {source}",
            f"when nova-compute on {source} starts, it destroys the guest there. Look for the guest on both hypervisors first. "
            f"If it runs only on {source}, run, before nova-compute starts,",
        )
    return Report(
        problem,
        f"it is an evacuation, and {source} may still have the old guest",
        f"when nova-compute on {source} starts, it destroys the old guest and ends the migration. With the status error, it "
        "would leave the guest. Only if that host never returns, run",
    )


CASES: tuple[tuple[Callable[[Case], bool], Callable[[Case], Verdict]], ...] = (
    (lambda it: it.building, lambda it: Keep("Nova schedules the instance")),
    (
        lambda it: any(copy.hidden and not copy.deleted for copy in it.copies),
        lambda it: Keep("a cross-cell resize runs"),
    ),
    (
        lambda it: it.gone and it.unchanged < MOVED_SETTLE,
        lambda it: Wait("the instance was deleted just now", MOVED_SETTLE - it.unchanged),
    ),
    (lambda it: it.gone and it.move.is_evacuation, _evacuation),
    (lambda it: it.gone, lambda it: _OF_DELETED),
    (lambda it: sum(not copy.deleted for copy in it.copies) > 1, lambda it: Keep("several cells have the instance")),
    (lambda it: it.here.deleted, lambda it: Keep("another cell has the live instance")),
    (lambda it: it.here.task_state is not None, lambda it: Keep("Nova works on the instance")),
    (lambda it: it.here.vm_state == "building", lambda it: Keep("Nova builds the instance")),
    (lambda it: it.here.vm_state == "resized", lambda it: Keep("the resize waits for the user")),
    (
        lambda it: it.unchanged < it.after,
        lambda it: Wait("Nova may still be at work on the migration", it.after - it.unchanged),
    ),
    (lambda it: it.move.is_evacuation, _evacuation),
    (lambda it: it.successor is not None and not it.move.cross_cell, lambda it: _SUPERSEDED),
    (lambda it: True, lambda it: _WITHOUT_END),
)


def decide(case: Case) -> Verdict:
    return next(verdict(case) for holds, verdict in CASES if holds(case))
