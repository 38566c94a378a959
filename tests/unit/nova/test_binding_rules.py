"""Each row of the tables about bindings of ports, by a case that only this row decides."""

from __future__ import annotations

from dataclasses import replace

import pytest

from handlers.nova.bindings.rules import Bound, Delete, Facts, Problem, decide, state
from handlers.nova.names import HostNames
from handlers.nova.records import Instance, Migration
from handlers.nova.verdicts import Keep, Report, Wait

MOVE = Migration("m", "i", "completed", "live-migration", ("a", "a"), ("b", "b"), False, 3600.0)
HERE = Instance("i", "p", "u", "b", "b", "active", None, False, False, 3600.0)
FACTS = Facts(HERE, (HERE,), (MOVE,), False, HostNames(True))
LEFT = Bound(FACTS, "a", "b")


def after(move: Migration, *older: Migration) -> Bound:
    return replace(LEFT, facts=replace(FACTS, migrations=(move, *older)))


def at(**values: object) -> Facts:
    row = replace(HERE, **values)  # type: ignore[arg-type]
    return replace(FACTS, here=row, copies=(row,))


@pytest.mark.parametrize(
    "facts",
    [
        replace(FACTS, building=True),
        replace(FACTS, here=None, copies=()),
        at(deleted=True),
        replace(FACTS, copies=(HERE, replace(HERE, hidden=True))),
        at(host=None),
        at(vm_state="resized"),
        at(vm_state="building"),
    ],
)
def test_a_state_without_a_verdict(facts: Facts) -> None:
    assert isinstance(state(facts), Keep)


@pytest.mark.parametrize(
    "facts",
    [
        at(task_state="migrating"),
        replace(FACTS, migrations=(replace(MOVE, status="running"),)),
        replace(FACTS, migrations=(MOVE, replace(MOVE, status="finished"))),
        at(age=10.0),
        replace(FACTS, migrations=(replace(MOVE, age=10.0),)),
    ],
)
def test_a_state_that_passes(facts: Facts) -> None:
    assert isinstance(state(facts), Wait)


def test_an_instance_at_rest_is_judged() -> None:
    assert state(FACTS) is None


@pytest.mark.parametrize(
    "bound",
    [
        LEFT,
        replace(after(replace(MOVE, status="failed", source=("b", "b"), dest=("c", "c"))), host="c"),
        after(replace(MOVE, kind="migration", status="confirmed", source=("c", "c")), MOVE),
    ],
)
def test_a_binding_to_a_host_that_the_instance_left_is_deleted(bound: Bound) -> None:
    assert isinstance(decide(bound), Delete)


@pytest.mark.parametrize(
    "bound",
    [
        replace(LEFT, active=""),
        replace(LEFT, host="b"),
        replace(LEFT, active="a", host="b"),
        replace(LEFT, active="c"),
        replace(LEFT, host="B", facts=replace(FACTS, names=HostNames(False))),
    ],
)
def test_a_binding_that_is_right_or_unclear_stays(bound: Bound) -> None:
    assert isinstance(decide(bound), Keep)


@pytest.mark.parametrize(
    "bound",
    [
        replace(LEFT, facts=replace(FACTS, migrations=())),
        replace(LEFT, host="c"),
        after(replace(MOVE, status="error")),
        after(replace(MOVE, status="error"), MOVE),
        after(replace(MOVE, dest=("c", "c"))),
        after(replace(MOVE, kind="migration", status="confirmed")),
        after(replace(MOVE, status="failed")),
    ],
)
def test_a_binding_that_nothing_explains_is_reported(bound: Bound) -> None:
    verdict = decide(bound)
    assert isinstance(verdict, Report)
    assert verdict.problem == Problem.INACTIVE


def test_an_active_binding_to_another_host_is_reported() -> None:
    verdict = decide(replace(LEFT, active="c", host="c"))
    assert isinstance(verdict, Report)
    assert verdict.problem == Problem.ELSEWHERE
