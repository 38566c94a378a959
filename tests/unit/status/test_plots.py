"""The geometry and the words of the plots."""

from __future__ import annotations

import pytest

from consumer.journal.history import Outcome
from consumer.journal.hours import Hour
from consumer.status import plots
from consumer.status.plots import HEIGHT, Bar, Kind, Plot

BEGIN = 1_700_000_000 // 3600 * 3600.0


def hour(number: int, lags: tuple[float, ...] = (), whole: bool = True, **entries: int) -> Hour:
    """Return an hour of the handler ``mender``; the names are those of outcomes."""
    counted = {("mender", Outcome[name.upper()]): value for name, value in entries.items()}
    return Hour(BEGIN + number * 3600, counted, lags, whole)


def heights(plot: Plot) -> list[dict[Kind, float]]:
    return [{bar.kind: bar.height for bar in column.bars} for column in plot.columns]


def test_bars_stand_one_upon_the_other_and_the_highest_hour_fills_the_plot() -> None:
    plot = plots.findings([hour(0, healed=3, found=1, asked=4, conflict=2), hour(1, healed=1), hour(2)], "mender")
    first, second, third = plot.columns
    assert first.bars == (
        Bar(Kind.HEALED, 1.0, 27.85, 12.15),
        Bar(Kind.REPORTED, 1.0, 8.6, 19.25),
        Bar(Kind.FAILED, 1.0, 0.0, 8.6),
    )
    assert second.bars == (Bar(Kind.HEALED, 11.0, 34.65, 5.35),)
    assert third.bars == ()
    assert plot.top == "10"
    assert plot.text == "mender, last 24 hours: 4 healed, 5 reported, 2 failed"
    assert [column.text.partition(": ")[2] for column in plot.columns] == [
        "3 healed, 5 reported, 2 failed",
        "1 healed, 0 reported, 0 failed",
        "0 healed, 0 reported, 0 failed",
    ]


def test_the_plot_of_heals_counts_heals_only() -> None:
    past = [hour(0, healed=3, failed=1, conflict=4, parked=5), hour(1, conflict=2), hour(2, failed=1, healed=3)]
    plot = plots.heals(past)
    assert plot.text == "Heals, last 24 hours: 6 healed, 2 failed"
    assert plot.top == "4"
    assert [column.text.partition(": ")[2] for column in plot.columns] == [
        "3 healed, 1 failed",
        "0 healed, 0 failed",
        "3 healed, 1 failed",
    ]
    first, second, third = heights(plot)
    assert (set(first), second, third) == ({Kind.HEALED, Kind.FAILED}, {}, first)
    assert str(plots.sums(past, "mender")) == "6 healed, 0 reported, 13 failed"


def test_another_handler_has_its_own_plot() -> None:
    assert heights(plots.findings([hour(0, healed=3)], "other")) == [{}]
    assert heights(plots.heals([hour(0, healed=3, found=9)])) == [{Kind.HEALED: HEIGHT}]


def test_one_entry_beside_thousands_is_visible_and_no_bar_leaves_the_plot() -> None:
    plot = plots.findings([hour(0, healed=1, found=5000, failed=1)], "mender")
    (column,) = plot.columns
    assert all(bar.height > 1 for bar in column.bars)
    assert all(bar.y >= 0 and bar.y + bar.height <= HEIGHT + 0.01 for bar in column.bars)


def test_what_was_not_counted_completely_is_named() -> None:
    assert (
        str(plots.sums([hour(0, found=9, whole=False), hour(1, healed=1)])) == "at least 1 healed, 9 reported, 0 failed"
    )
    assert "at least" in plots.heals([hour(0, healed=9, whole=False)]).text


def test_open_heals_and_acts_are_no_findings() -> None:
    assert str(plots.sums([hour(0, healing=2, act=3, stopped=1)])) == "0 healed, 0 reported, 0 failed"


def test_lags() -> None:
    past = [hour(0, lags=(1.0, 2.0, 30.0)), hour(1), hour(2, lags=(4.0,))]
    assert heights(plots.median_lag(past)) == [{Kind.LAG: 20.75}, {}, {Kind.LAG: HEIGHT}]
    assert plots.median_lag(past).top == "4.0 s"
    assert plots.longest_lag(past).text == "Longest lag, last 24 hours: at most 30 s"
    assert [column.text.partition(": ")[2] for column in plots.longest_lag(past).columns] == [
        "30 s",
        "no heal after a notification",
        "4.0 s",
    ]
    assert plots.median_lag([hour(0)]).text == "Median lag, last 24 hours: no heal after a notification"


@pytest.mark.parametrize(("value", "text"), [(0.04, "0.0 s"), (9.96, "10.0 s"), (75.0, "75 s"), (600.0, "10 min")])
def test_seconds(value: float, text: str) -> None:
    assert plots.seconds(value) == text
