from __future__ import annotations

from dataclasses import replace

import pytest

from handlers.nova.attachments.rules import Case, Delete, Facts, Problem, Remains, decide, state
from handlers.nova.records import InstanceMapping, Migration
from handlers.nova.verdicts import Keep, Report, Wait

REMAINS = Remains(False, "a", True, 9000.0, True, ())
GONE = Facts(False, InstanceMapping("i", 2, True), frozenset({2}), False, False, (REMAINS,), 3600.0)


def remaining(**values: object) -> Facts:
    return replace(GONE, remains=(replace(REMAINS, **values),))  # type: ignore[arg-type]


def moved(kind: str, status: str) -> Facts:
    return remaining(moves=(Migration("m", "i", status, kind, ("b", "b"), ("a", "a"), True, 9000.0),))


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        (replace(GONE, building=True), Keep),
        (replace(GONE, alive=True), Keep),
        (remaining(age=3599.0), Wait),
    ],
)
def test_the_attachments_are_left_alone(facts: Facts, expected: type) -> None:
    assert isinstance(state(facts), expected)


@pytest.mark.parametrize("facts", [GONE, remaining(age=3600.0), remaining(hidden=True)])
def test_the_attachments_are_judged(facts: Facts) -> None:
    assert state(facts) is None


@pytest.mark.parametrize(
    ("facts", "connected", "deletes"),
    [
        (GONE, True, True),
        (GONE, False, True),
        (remaining(host=None, host_up=None), True, False),
        (remaining(host=None, host_up=None), False, True),
        (remaining(host_up=None), True, False),
        (remaining(host_up=False), True, False),
        (remaining(host_up=False), False, True),
        (remaining(cleaned=False), True, False),
        (remaining(cleaned=False), False, True),
        (remaining(hidden=True), False, False),
        (replace(GONE, remains=()), False, False),
        (replace(GONE, mapping=None), False, False),
        (replace(GONE, mapping=None, archived=True), True, True),
        (replace(GONE, mapping=InstanceMapping("i", 2, False), archived=True), False, False),
        (replace(GONE, mapping=InstanceMapping("i", 2, False)), False, False),
        (replace(GONE, mapping=InstanceMapping("i", 3, True)), False, False),
        (moved("evacuation", "completed"), True, True),
        (moved("evacuation", "done"), True, False),
        (moved("evacuation", "error"), True, False),
        (moved("live-migration", "completed"), True, True),
        (moved("live-migration", "running"), True, False),
        (moved("live-migration", "error"), True, False),
        (moved("migration", "error"), True, True),
        (moved("resize", "finished"), True, False),
        (moved("resize", "finished"), False, True),
        (replace(GONE, remains=(REMAINS, replace(REMAINS, cleaned=False))), True, False),
    ],
)
def test_a_deletion_needs_every_record(facts: Facts, connected: bool, deletes: bool) -> None:
    verdict = decide(Case(facts, connected))
    assert isinstance(verdict, Delete if deletes else Report)


@pytest.mark.parametrize("connected", [True, False])
@pytest.mark.parametrize("contradiction", ["shared", "lost"])
def test_a_volume_that_another_instance_uses_otherwise_is_reported(connected: bool, contradiction: str) -> None:
    assert isinstance(decide(replace(Case(GONE, connected), **{contradiction: True})), Report)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("connected", "unchanged", "expected"), [(False, 599.0, Wait), (False, 600.0, Report), (True, 0.0, Report)]
)
def test_only_a_fresh_reservation_may_be_of_a_server_without_records(
    connected: bool, unchanged: float, expected: type
) -> None:
    unknown = replace(GONE, remains=(), cells=frozenset(), mapping=None)
    assert isinstance(decide(Case(unknown, connected, unchanged=unchanged)), expected)


def test_only_a_visible_deleted_row_is_a_deletion() -> None:
    unknown = decide(Case(remaining(hidden=True), False))
    assert isinstance(unknown, Report)
    assert unknown.problem == Problem.UNKNOWN
