"""Windows: hours and days in which a task may work, by ``[engine] timezone``. Daylight saving does not shift a window."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from typing import Self

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_SPAN = re.compile(r"(?:(?P<days>[a-z,\- ]+?)\s+)?(?P<start>\d{1,2}:\d{2})\s*-\s*(?P<end>\d{1,2}:\d{2})", re.IGNORECASE)
_EXAMPLE = "write for example 'Sat,Sun 01:00-05:00' or 'Mon-Fri 22:00-06:00'"


@dataclass(frozen=True, slots=True)
class Span:
    """Some hours on some days. If ``end`` is before ``start``, the span ends on the next day.

    :param days: the days on which the span starts; Monday is 0
    :param end: the first minute after the span; 00:00 means the end of the day
    """

    days: frozenset[int]
    start: time
    end: time

    def contains(self, local: datetime) -> bool:
        clock, today = local.time(), local.weekday()
        if self.start < self.end:
            return today in self.days and self.start <= clock < self.end
        if clock >= self.start:
            return today in self.days
        return clock < self.end and (today - 1) % 7 in self.days


@dataclass(frozen=True, slots=True)
class Window:
    """A set of spans of time. A window without spans is always open."""

    spans: tuple[Span, ...] = ()
    text: str = ""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the window of a text such as ``Sat,Sun 01:00-05:00; Mon-Fri 22:00-06:00``."""
        parts = [part.strip() for part in text.split(";") if part.strip()]
        return cls(tuple(_span(part) for part in parts), "; ".join(parts))

    def __str__(self) -> str:
        return self.text

    def is_open(self, local: datetime) -> bool:
        return not self.spans or any(span.contains(local) for span in self.spans)

    def next_opening(self, at: datetime) -> datetime:
        """Return the first time from ``at`` (aware) on at which the window is open; without one, the end of eight days."""
        # Steps in UTC, so that skipped and repeated hours are no special case.
        zone, moment = at.tzinfo, at.astimezone(UTC)
        for _ in range(8 * 24 * 60):
            if self.is_open(moment.astimezone(zone)):
                return moment.astimezone(zone)
            moment = moment.replace(second=0, microsecond=0) + timedelta(minutes=1)
        return moment.astimezone(zone)


def _span(text: str) -> Span:
    match = _SPAN.fullmatch(text)
    if not match:
        raise ValueError(f"{text!r} is not a window; {_EXAMPLE}")
    start, end = _time(match["start"]), _time(match["end"])
    if start == end and match["start"] == match["end"]:
        raise ValueError(f"the window {text!r} is empty; {_EXAMPLE}")
    return Span(_days(match["days"] or "mon-sun"), start, end)


def _time(text: str) -> time:
    hour, minute = (int(part) for part in text.split(":"))
    if (hour, minute) == (24, 0):
        return time(0, 0)
    if hour > 23 or minute > 59:
        raise ValueError(f"{text!r} is not a time of day; {_EXAMPLE}")
    return time(hour, minute)


def _days(text: str) -> frozenset[int]:
    days: set[int] = set()
    for part in text.lower().replace(" ", "").split(","):
        first, dash, last = part.partition("-")
        if first not in DAYS or (dash and last not in DAYS):
            raise ValueError(f"{part!r} is not a day or a range of days; {_EXAMPLE}")
        start, end = DAYS.index(first), DAYS.index(last or first)
        days.update((start + step) % 7 for step in range((end - start) % 7 + 1))
    return frozenset(days)
