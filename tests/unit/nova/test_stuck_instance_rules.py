"""Each row of the table about instances with a task or a build, by a case that only this row decides."""

from __future__ import annotations

from dataclasses import replace

import pytest

from handlers.nova.instances.rules import ByHand, Case, Problem, Repeat, Row, decide
from handlers.nova.verdicts import Keep, Report, Wait

ROW = Row("i", "p", "a", "active", "deleting", False, None, 9000.0)
DELETING = Case(ROW, 1, True, False, True, True, 7200.0)


def at(case: Case, **values: object) -> Case:
    return replace(case, row=replace(case.row, **values))  # type: ignore[arg-type]


#: stackmend was killed between the two writes of its heal
BEGUN = at(DELETING, task_state=None, ending=True, age=1.0)
BUILDING = at(DELETING, vm_state="building", task_state="scheduling", host=None)
TASK = at(DELETING, task_state="rebooting")


@pytest.mark.parametrize("case", [DELETING, BEGUN, at(DELETING, vm_state="building"), at(DELETING, vm_state="error")])
def test_a_deletion_that_its_owner_asked_for_is_repeated(case: Case) -> None:
    assert isinstance(decide(case), Repeat)


@pytest.mark.parametrize(
    "case",
    [
        replace(DELETING, building=True),
        replace(DELETING, rows=2),
        replace(DELETING, home=False),
        at(DELETING, hidden=True),
        at(DELETING, task_state=None),
        replace(BEGUN, queued=False),
        at(BEGUN, vm_state="deleted"),
        at(BEGUN, host=None),
        at(BUILDING, task_state=None, host="a"),
        replace(TASK, host_up=False),
        replace(TASK, host_up=None),
    ],
)
def test_a_legal_state_is_left_alone(case: Case) -> None:
    assert isinstance(decide(case), Keep)


@pytest.mark.parametrize("case", [DELETING, BUILDING, TASK])
def test_a_recent_change_delays_the_verdict(case: Case) -> None:
    verdict = decide(at(case, age=7000.0))
    assert isinstance(verdict, Wait)
    assert verdict.after == 200.0


@pytest.mark.parametrize(
    ("case", "problem", "words"),
    [
        (at(DELETING, host=None), Problem.DELETING, "openstack server delete i"),
        (replace(DELETING, host_up=False), Problem.DELETING, "start nova-compute on a"),
        (replace(DELETING, host_up=None), Problem.DELETING, "start nova-compute on a"),
        (replace(BEGUN, host_up=False), Problem.DELETING, "start nova-compute on a"),
        (replace(DELETING, queued=False), Problem.DELETING, "Ask the owner"),
        (BUILDING, Problem.BUILDING, "openstack server delete i"),
        (at(BUILDING, task_state=None), Problem.BUILDING, "openstack server delete i"),
        (TASK, Problem.TASK, "restart nova-compute on a"),
        (at(TASK, vm_state="building", task_state="spawning"), Problem.TASK, "restart nova-compute on a"),
    ],
)
def test_everything_else_is_reported_with_the_next_step(case: Case, problem: Problem, words: str) -> None:
    verdict = decide(case)
    assert isinstance(verdict, Report)
    assert not isinstance(verdict, ByHand)
    assert (verdict.problem, words in verdict.refusal) == (problem, True)


@pytest.mark.parametrize(
    "case",
    [
        at(TASK, task_state="resize_finish"),
        at(TASK, vm_state="error"),
        at(TASK, task_state="unshelving", vm_state="shelved_offloaded", host=None),
    ],
)
def test_a_task_that_a_restart_does_not_end_has_a_statement(case: Case) -> None:
    verdict = decide(case)
    assert isinstance(verdict, ByHand)
    assert verdict.problem is Problem.TASK
