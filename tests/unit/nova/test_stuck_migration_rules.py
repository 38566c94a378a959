"""Each row of the table about unfinished migrations, by a case that only this row decides."""

from __future__ import annotations

from dataclasses import replace

import pytest

from handlers.nova.migrations.rules import Case, Fail, Move, Problem, decide
from handlers.nova.names import HostNames
from handlers.nova.records import Instance
from handlers.nova.verdicts import Keep, Report, Wait

MOVE = Move(7, "m", "running", "live-migration", "a", "b", False, None, 9000.0)
YOUNGER = Move(8, "n", "completed", "live-migration", "a", "d", False, None, 8000.0)
LIVE = Instance("i", "p", "u", "d", "d", "active", None, False, False, 9000.0)
DELETED = replace(LIVE, deleted=True, vm_state="deleted")
SUPERSEDED = Case(MOVE, LIVE, (LIVE,), (MOVE, YOUNGER), HostNames(True), False, 7200.0)
GONE = replace(SUPERSEDED, here=DELETED, copies=(DELETED,), others=(MOVE,))


def at(case: Case, **values: object) -> Case:
    """Change the instance's row in the migration's cell."""
    row = replace(case.here, **values)  # type: ignore[arg-type]
    return replace(case, here=row, copies=(row, *case.copies[1:]))


def with_younger(**values: object) -> Case:
    return replace(SUPERSEDED, others=(MOVE, replace(YOUNGER, **values)))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("case", "problem"),
    [
        (SUPERSEDED, Problem.SUPERSEDED),
        (at(SUPERSEDED, vm_state="error"), Problem.SUPERSEDED),
        (with_younger(status="confirmed"), Problem.SUPERSEDED),
        (with_younger(status="done"), Problem.SUPERSEDED),
        (replace(with_younger(dest="D"), names=HostNames(False)), Problem.SUPERSEDED),
        (GONE, Problem.OF_DELETED),
        (replace(GONE, move=replace(MOVE, status="finished")), Problem.OF_DELETED),
    ],
)
def test_a_migration_that_is_over_must_end(case: Case, problem: Problem) -> None:
    verdict = decide(case)
    assert isinstance(verdict, Fail)
    assert verdict.problem is problem


@pytest.mark.parametrize(
    "case",
    [
        replace(SUPERSEDED, building=True),
        replace(GONE, building=True),
        at(SUPERSEDED, task_state="migrating"),
        at(SUPERSEDED, vm_state="resized"),
        at(SUPERSEDED, vm_state="building"),
        replace(SUPERSEDED, copies=(LIVE, replace(LIVE, hidden=True))),
        replace(GONE, copies=(DELETED, replace(LIVE, hidden=True))),
        replace(SUPERSEDED, copies=(LIVE, LIVE)),
        replace(GONE, copies=(DELETED, LIVE)),
        replace(at(GONE, hidden=True), others=()),
    ],
)
def test_a_migration_that_may_be_legal_is_left_alone(case: Case) -> None:
    assert isinstance(decide(case), Keep)


@pytest.mark.parametrize(
    ("case", "after"),
    [
        (at(SUPERSEDED, age=7000.0), 200.0),
        (replace(SUPERSEDED, move=replace(MOVE, age=7100.0)), 100.0),
        (at(GONE, age=20.0), 40.0),
        (replace(GONE, move=replace(MOVE, age=30.0)), 30.0),
    ],
)
def test_a_recent_change_delays_the_verdict(case: Case, after: float) -> None:
    verdict = decide(case)
    assert isinstance(verdict, Wait)
    assert verdict.after == after


@pytest.mark.parametrize(
    "case",
    [
        replace(SUPERSEDED, others=(MOVE,)),
        with_younger(status="failed"),
        with_younger(status="error"),
        with_younger(status="running"),
        with_younger(dest="b"),
        with_younger(dest="D"),
        with_younger(id=6),
        replace(SUPERSEDED, move=replace(MOVE, cross_cell=True)),
    ],
)
def test_without_a_younger_success_the_migration_is_reported(case: Case) -> None:
    verdict = decide(case)
    assert isinstance(verdict, Report)
    assert verdict.problem is Problem.WITHOUT_END


@pytest.mark.parametrize(
    ("case", "problem"), [(SUPERSEDED, Problem.WITHOUT_END), (GONE, Problem.OF_DELETED)], ids=["live", "deleted"]
)
def test_an_evacuation_whose_former_host_may_return_is_only_reported(case: Case, problem: Problem) -> None:
    evacuation = replace(MOVE, kind="evacuation", status="pre-migrating")
    others = tuple(evacuation if one is MOVE else one for one in case.others)
    verdict = decide(replace(case, move=evacuation, others=others))
    assert isinstance(verdict, Report)
    assert verdict.problem is problem
    assert "nova-compute on a starts" in verdict.refusal


def test_an_evacuation_that_never_led_away_is_a_danger_to_the_only_guest() -> None:
    evacuation = replace(MOVE, kind="evacuation", status="accepted")
    verdict = decide(replace(at(SUPERSEDED, host="a"), move=evacuation, others=(evacuation,)))
    assert isinstance(verdict, Report)
    assert "destroys the guest there" in verdict.refusal
    assert "before nova-compute starts" in verdict.refusal
