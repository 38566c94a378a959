"""Computes small plots of the last 24 hours; ``plots.html`` draws them as inline SVG."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from consumer.journal.history import Outcome
from consumer.journal.hours import Hour
from consumer.text import span

#: Width and height of a plot, the room of one hour, and the width of its bar, in units of the drawing.
WIDTH, HEIGHT, STEP, BAR = 240.0, 40.0, 10.0, 8.0
#: The height of the smallest bar, so that one entry beside thousands is visible.
_LEAST = 1.5


class Kind(StrEnum):
    """The kinds of bars in a plot; ``style.html`` has a colour for each."""

    HEALED = "healed"
    REPORTED = "reported"
    FAILED = "failed"
    LAG = "lag"


OUTCOMES: Mapping[Kind, tuple[Outcome, ...]] = {
    Kind.HEALED: (Outcome.HEALED,),
    Kind.REPORTED: (Outcome.FOUND, Outcome.REFUSED, Outcome.ASKED, Outcome.DENIED, Outcome.EXEMPT),
    Kind.FAILED: (Outcome.FAILED, Outcome.CONFLICT, Outcome.PARKED),
}


@dataclass(frozen=True, slots=True)
class Bar:
    kind: Kind
    x: float
    y: float
    height: float


@dataclass(frozen=True, slots=True)
class Column:
    """One hour of a plot; ``text`` names the hour's values."""

    text: str
    bars: tuple[Bar, ...]


@dataclass(frozen=True, slots=True)
class Plot:
    """:param text: the content in words, for readers who do not see the plot
    :param top: the largest sum of one hour's values, as text
    """

    text: str
    top: str
    columns: tuple[Column, ...]


@dataclass(frozen=True, slots=True)
class Sums:
    """The numbers of history entries of some hours. ``whole`` is False if entries were perhaps not counted."""

    healed: int
    reported: int
    failed: int
    whole: bool = True

    def __str__(self) -> str:
        more = "" if self.whole else "at least "
        return f"{more}{self.healed} healed, {self.reported} reported, {self.failed} failed"


def sums(hours: Sequence[Hour], handler: str | None = None) -> Sums:
    """Add up the history entries of several hours."""
    healed, reported, failed = (sum(hour.count(OUTCOMES[kind], handler) for hour in hours) for kind in OUTCOMES)
    return Sums(healed, reported, failed, all(hour.whole for hour in hours))


def findings(hours: Sequence[Hour], handler: str) -> Plot:
    values = [{kind: float(hour.count(OUTCOMES[kind], handler)) for kind in OUTCOMES} for hour in hours]
    texts = [_in_words(hour, f"{sums([hour], handler)}") for hour in hours]
    return _plot(f"{handler}, last 24 hours: {sums(hours, handler)}", values, texts, lambda value: f"{value:.0f}")


def heals(hours: Sequence[Hour]) -> Plot:
    # Unlike for one handler: a conflict changed nothing, and an object can be parked without a heal.
    outcomes = {Kind.HEALED: (Outcome.HEALED,), Kind.FAILED: (Outcome.FAILED,)}
    counted = [{kind: hour.count(outcomes[kind]) for kind in outcomes} for hour in hours]
    values = [{kind: float(number) for kind, number in one.items()} for one in counted]
    healed, failed = (sum(one[kind] for one in counted) for kind in outcomes)
    more = "" if all(hour.whole for hour in hours) else "at least "
    texts = [
        _in_words(hour, f"{one[Kind.HEALED]} healed, {one[Kind.FAILED]} failed")
        for hour, one in zip(hours, counted, strict=True)
    ]
    text = f"Heals, last 24 hours: {more}{healed} healed, {failed} failed"
    return _plot(text, values, texts, lambda value: f"{value:.0f}")


def median_lag(hours: Sequence[Hour]) -> Plot:
    return _lags("Median lag", hours, lambda hour: hour.median_lag)


def longest_lag(hours: Sequence[Hour]) -> Plot:
    return _lags("Longest lag", hours, lambda hour: hour.longest_lag)


def _lags(title: str, hours: Sequence[Hour], lag: Callable[[Hour], float | None]) -> Plot:
    lags = [lag(hour) for hour in hours]
    values = [{} if value is None else {Kind.LAG: value} for value in lags]
    texts = [
        _in_words(hour, "no heal after a notification" if value is None else seconds(value))
        for hour, value in zip(hours, lags, strict=True)
    ]
    known = [value for value in lags if value is not None]
    said = f"at most {seconds(max(known))}" if known else "no heal after a notification"
    return _plot(f"{title}, last 24 hours: {said}", values, texts, seconds)


def seconds(value: float) -> str:
    return f"{value:.1f} s" if value < 10 else span(value)


def _in_words(hour: Hour, text: str) -> str:
    return f"{datetime.fromtimestamp(hour.begin, UTC):%H:%M} UTC: {text}"


def _plot(
    text: str, values: Sequence[Mapping[Kind, float]], texts: Sequence[str], name: Callable[[float], str]
) -> Plot:
    top = max((sum(one.values()) for one in values), default=0.0)
    columns = [
        Column(said, _stacked(one, number * STEP + (STEP - BAR) / 2, top))
        for number, (one, said) in enumerate(zip(values, texts, strict=True))
    ]
    return Plot(text, name(top) if top else "", tuple(columns))


def _stacked(values: Mapping[Kind, float], x: float, top: float) -> tuple[Bar, ...]:
    """:param top: the sum that fills the plot's height"""
    there = {kind: value for kind, value in values.items() if value > 0}
    bars, floor = [], HEIGHT
    for kind, value in there.items():
        height = _LEAST + (HEIGHT - _LEAST * len(there)) * value / top
        floor -= height
        bars.append(Bar(kind, x, round(max(0.0, floor), 2), round(height, 2)))
    return tuple(bars)
