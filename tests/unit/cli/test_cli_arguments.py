"""What operators type: keys, times; and what commands make of results."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import ClassVar

import pytest

from consumer.cli.errors import DRIFT, ERROR, OK, CommandError
from consumer.cli.handler import state
from consumer.cli.moments import read_since, read_until
from consumer.cli.session import read_key
from consumer.cli.sweep import exit_code, summaries
from consumer.engine.oneshot import Action, Result
from consumer.journal.controls import Control
from handlers.base import Key, Mode
from tests.doubles import Mender

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC).timestamp()


class Both(Mender):
    """Takes two kinds."""

    kinds: ClassVar[tuple[str, ...]] = ("thing", "part")


@pytest.mark.parametrize(
    "text", ["99999999w", "9" * 400 + "w", "9999-12-31T23:59:59-14:00", "0001-01-01T00:00:00+14:00"]
)
def test_a_time_outside_the_calendar_is_named(text: str) -> None:
    with pytest.raises(CommandError, match=r"^--since "):
        read_since(text, NOW)
    with pytest.raises(CommandError, match=r"^--until "):
        read_until(text, NOW)


def test_keys() -> None:
    assert read_key(Mender, "thing:a") == Key("thing", "a")
    assert read_key(Mender, "a") == Key("thing", "a")
    assert read_key(Both, "part:a:b") == Key("part", "a:b")


@pytest.mark.parametrize("text", ["", "thing:", "other:a", ":a"])
def test_what_is_no_key_of_the_handler(text: str) -> None:
    with pytest.raises(CommandError, match="it takes thing:<id>"):
        read_key(Mender, text)


def test_an_id_alone_is_ambiguous_for_two_kinds() -> None:
    with pytest.raises(CommandError, match="thing:<id> or part:<id>"):
        read_key(Both, "a")


def test_a_key_that_is_too_long() -> None:
    with pytest.raises(ValueError, match="longer than 255"):
        read_key(Mender, "a" * 256)


@pytest.mark.parametrize(
    ("text", "ago"),
    [("90s", 90), ("15m", 900), ("15min", 900), ("2h", 7200), ("1.5h", 5400), ("3d", 259200), ("1w", 604800)],
)
def test_how_long_ago(text: str, ago: float) -> None:
    assert read_since(text, NOW) == NOW - ago


@pytest.mark.parametrize(
    ("text", "clock"),
    [
        ("2026-11-22T10:00", NOW - 7200),
        ("2026-11-22 10:00:00", NOW - 7200),
        ("2026-11-22T10:00:00Z", NOW - 7200),
        ("2026-11-22T10:00:00+01:00", NOW - 10800),
        ("2026-11-22", NOW - 43200),
    ],
)
def test_since_when(text: str, clock: float) -> None:
    assert read_since(text, NOW) == clock


@pytest.mark.parametrize("text", ["", "yesterday", "2", "h", "-2h", "2026-13-01", "2y"])
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(CommandError, match="write a time span"):
        read_since(text, NOW)


def result(action: str, problem: str = "broken", handler: str = "mender") -> Result:
    return Result(handler, "thing:a", problem, Action(action), "a is broken")


@pytest.mark.parametrize(
    ("results", "code"),
    [
        ([], OK),
        ([result("healed")], OK),
        ([result("healed"), result("in flight")], OK),
        ([result("healed"), result("found")], DRIFT),
        ([result("refused")], DRIFT),
        ([result("deferred")], DRIFT),
        ([result("failed")], DRIFT),
        ([result("failed", "failed")], ERROR),
        ([result("found"), result("unavailable")], ERROR),
        ([result("stopped", "breaker")], ERROR),
    ],
)
def test_exit_codes(results: list[Result], code: int) -> None:
    assert exit_code(results) == code


@pytest.mark.parametrize(
    ("results", "sentences"),
    [
        ([], ["no drift found"]),
        ([result("in flight")], ["no drift found", "1 object in flight, so nothing is proved: try again later"]),
        ([result("healed")], ["1 drift found in 1 handler: 1 healed"]),
        (
            [*[result("healed")] * 10, result("refused", handler="a"), result("refused", handler="b")],
            ["12 drifts found in 3 handlers: 10 healed, 2 refused"],
        ),
        ([result("found")] * 2, ["2 drifts found in 1 handler: 2 not healed"]),
        ([result("unavailable")], ["1 inspection failed: the state of these objects is unknown"]),
        ([result("failed", "failed")], ["1 inspection failed: the state of these objects is unknown"]),
        ([result("stopped")], ["1 handler found implausibly much drift and healed nothing"]),
    ],
)
def test_summaries(results: list[Result], sentences: list[str]) -> None:
    assert list(summaries(results)) == sentences


@pytest.mark.parametrize(
    ("mode", "control", "text"),
    [
        (Mode.HEAL, Control("x"), "running"),
        (Mode.OFF, Control("x"), "off"),
        (Mode.HEAL, Control("x", paused=True), "paused"),
        (Mode.HEAL, Control("x", paused=True, broken=True, reason="by hand"), "paused: by hand"),
        (Mode.HEAL, Control("x", broken=True, reason="too many"), "stopped: too many"),
    ],
)
def test_states(mode: Mode, control: Control, text: str) -> None:
    assert state(mode, control) == text
