"""The difference of two clocks, from two readings of the services' reports."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest

from handlers.base import Verdict
from handlers.nova.checks import judge_clock
from handlers.nova.clocks import Reading, difference

START = datetime(2026, 1, 31, 12)


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


#: the report of service 1 in the second reading, four seconds after the first one: count, its clock; the difference
RULES: list[tuple[int, float, float | None]] = [
    (7, 0.0, None),
    (7, -500.0, None),
    (8, 2.0, 0.0),
    (8, 4.0, 0.0),
    (8, 0.0, 0.0),
    (8, -1.0, 0.0),
    (8, 5.0, 0.0),
    (8, -6.0, 5.0),
    (8, 44.0, 39.0),
    (9, -40.0, 39.0),
]


@pytest.mark.parametrize(("count", "clock", "expected"), RULES)
def test_the_least_difference_that_explains_a_report(count: int, clock: float, expected: float | None) -> None:
    first = Reading(at(0), {1: (7, at(-3)), 2: (5, at(-300))})
    second = Reading(at(4), {1: (count, at(clock)), 2: (5, at(-300)), 3: (1, at(-999))})
    assert difference(first, second) == expected


def test_the_worst_clock_counts() -> None:
    first = Reading(at(0), {1: (1, at(0)), 2: (1, at(0))})
    assert difference(first, Reading(at(4), {1: (2, at(3)), 2: (2, at(-20))})) == 19.0


@pytest.mark.parametrize("count", [1, 40])
def test_a_restored_table_measures_nothing(count: int) -> None:
    """Its rows are as old as the dump: the count of one service goes back, or grows by more than its reports."""
    first = Reading(at(0), {1: (7, at(0)), 2: (5, at(0))})
    assert difference(first, Reading(at(4), {1: (count, at(-220)), 2: (6, at(-220))})) is None


@pytest.mark.parametrize(
    ("seconds", "verdict"),
    [
        (None, Verdict.OK),
        (0.0, Verdict.OK),
        (2.0, Verdict.OK),
        (3.0, Verdict.WARNING),
        (30.0, Verdict.WARNING),
        (31.0, Verdict.FAILURE),
    ],
)
def test_the_verdict_of_check(seconds: float | None, verdict: Verdict) -> None:
    assert judge_clock("cell:cell1", seconds).verdict is verdict
