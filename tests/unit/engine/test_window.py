"""Windows: days, midnight, daylight saving, wrong text."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.conf.window import DAYS, Window

BERLIN = ZoneInfo("Europe/Berlin")


def at(text: str, zone: ZoneInfo = BERLIN) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=zone)


@pytest.mark.parametrize(
    ("text", "moment", "is_open"),
    [
        ("", "2026-11-22T03:00", True),
        ("Sat,Sun 01:00-05:00", "2026-11-22T03:00", True),  # a Sunday
        ("Sat,Sun 01:00-05:00", "2026-11-22T05:00", False),
        ("Sat,Sun 01:00-05:00", "2026-11-23T03:00", False),
        ("Mon-Fri 22:00-06:00", "2026-11-28T05:59", True),  # Saturday morning belongs to Friday's night
        ("Mon-Fri 22:00-06:00", "2026-11-28T23:00", False),
        ("Mon-Fri 22:00-06:00", "2026-11-23T05:00", False),  # Monday morning belongs to Sunday's night
        ("Fri-Mon 10:00-11:00", "2026-11-23T10:30", True),
        ("22:00-24:00", "2026-11-23T23:59", True),
        ("22:00-24:00", "2026-11-23T00:00", False),
        ("00:00-24:00", "2026-11-23T12:00", True),
        ("Mon 01:00-02:00; Tue 03:00-04:00", "2026-11-24T03:30", True),
    ],
)
def test_is_open(text: str, moment: str, is_open: bool) -> None:
    assert Window.parse(text).is_open(at(moment)) is is_open


@pytest.mark.parametrize(
    "text", ["Sat", "25:00-26:00", "Caturday 01:00-02:00", "01:00-01:00", "Mon- 01:00-02:00", "1-2"]
)
def test_the_error_for_wrong_text_gives_a_right_value(text: str) -> None:
    with pytest.raises(ValueError, match="write for example"):
        Window.parse(text)


def test_next_opening_over_the_hour_that_is_skipped() -> None:
    # In Berlin, 2026-03-29 goes from 02:00 to 03:00 at once: a window 02:00-02:30 does not open that night.
    opening = Window.parse("02:00-02:30").next_opening(at("2026-03-29T01:00"))
    assert opening.astimezone(BERLIN).isoformat() == "2026-03-30T02:00:00+02:00"


def test_next_opening_over_the_hour_that_comes_twice() -> None:
    opening = Window.parse("02:30-03:00").next_opening(at("2026-10-25T01:00"))
    assert opening.astimezone(UTC).isoformat() == "2026-10-25T00:30:00+00:00"


@given(
    st.sampled_from(DAYS),
    st.integers(0, 23),
    st.integers(0, 23),
    st.datetimes(datetime(2026, 1, 1), datetime(2027, 1, 1)),
)
def test_the_next_opening_is_open(day: str, start: int, end: int, moment: datetime) -> None:
    if start == end:
        return
    window = Window.parse(f"{day} {start:02}:15-{end:02}:15")
    opening = window.next_opening(moment.replace(tzinfo=UTC))
    assert window.is_open(opening)
    assert opening >= moment.replace(tzinfo=UTC)
