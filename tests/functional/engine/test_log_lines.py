"""The log: one line of level INFO for each act, and none for a sweep or an attempt that shows nothing new."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from itertools import chain

import pytest

from consumer.journal import controls
from consumer.journal.work import SWEEP, Hint, Priority
from handlers.base import HandlerError, InFlight, Key, Mode, Refused, Unavailable
from tests.functional.engine.machine import Machine, hint
from tests.waiting import eventually


@pytest.fixture(autouse=True)
def _level(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)


def sweep(machine: Machine, times: int) -> None:
    """Sweep several times, and wait for the inspections of each sweep."""
    for _ in range(times):
        before = swept_at(machine)
        machine.enqueue(Hint("mender", Key(SWEEP, "mender"), Priority.OPERATOR, "timer"))
        eventually(lambda: swept_at(machine) != before)  # noqa: B023
        machine.at_rest()


def swept_at(machine: Machine) -> float | None:
    return controls.read(machine.database)["mender"].swept_at


def failing(error: HandlerError, times: list[Key]) -> Callable[[Key], None]:
    def fail(key: Key) -> None:
        times.append(key)
        raise error

    return fail


def test_a_sweep_that_finds_nothing_logs_nothing(machine: Machine, caplog: pytest.LogCaptureFixture) -> None:
    machine.start()
    sweep(machine, 3)
    assert caplog.messages == []


def test_sweeps_over_the_same_drift_log_it_once(machine: Machine, caplog: pytest.LogCaptureFixture) -> None:
    machine.mode = Mode.AUDIT
    machine.world.things = {"a": 1}
    machine.start()
    sweep(machine, 4)
    assert sorted(caplog.messages) == [
        "mender thing:a: found: a is broken",
        "mender: a sweep of 1 objects lists 1 suspect",
    ]


def test_a_heal_logs_one_line(machine: Machine, caplog: pytest.LogCaptureFixture) -> None:
    machine.world.things = {"a": 1}
    machine.start()
    machine.enqueue(hint("a"))
    eventually(machine.idle)
    [line] = caplog.messages
    assert line.startswith("mender thing:a: healed in ")


def test_a_refusal_that_repeats_logs_one_line(machine: Machine, caplog: pytest.LogCaptureFixture) -> None:
    inspected: list[Key] = []
    machine.world.before_look = failing(Refused("two cells have it"), inspected)
    machine.start()
    for count in (1, 2, 3):
        machine.enqueue(hint("a"))
        eventually(lambda: len(inspected) == count)  # noqa: B023
        machine.at_rest()
    assert caplog.messages == ["mender thing:a: refused: two cells have it"]


def test_a_silent_dependency_logs_one_line(machine: Machine, caplog: pytest.LogCaptureFixture) -> None:
    inspected: list[Key] = []
    machine.world.before_look = failing(Unavailable("workshop", "no answer"), inspected)
    machine.start()
    machine.enqueue(hint("a"))
    eventually(lambda: len(inspected) > 2)
    machine.stop()
    assert caplog.messages == ["mender thing:a: unavailable: workshop: no answer"]


def test_the_first_error_after_other_waits_logs_one_line(machine: Machine, caplog: pytest.LogCaptureFixture) -> None:
    errors: Iterator[HandlerError] = chain(
        [InFlight("it moves", 0.0), Unavailable("cell:cell1", "no route")],
        [Unavailable("cell:cell1", "no answer"), Unavailable("cell:cell2", "no answer")],
    )

    def fail(_key: Key) -> None:
        for error in errors:
            raise error

    machine.world.before_look = fail
    machine.start()
    machine.enqueue(hint("a"))
    eventually(machine.idle, 90)
    assert caplog.messages == [
        "mender thing:a: unavailable: cell:cell1: no route",
        "mender thing:a: unavailable: cell:cell2: no answer",
    ]


def test_an_incomplete_sweep_logs_one_line_until_it_is_complete(
    machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    probes: list[str] = []

    def require(dependency: str) -> None:
        probes.append(dependency)
        if machine.world.sweep_error:
            raise machine.world.sweep_error

    [mender, careful] = machine.handlers()
    mender.require = require  # type: ignore[method-assign]
    machine.handlers = lambda: [mender, careful]  # type: ignore[method-assign]
    machine.world.sweep_error = Unavailable("cell:cell2", "silent")
    machine.start()
    machine.enqueue(Hint("mender", Key(SWEEP, "mender"), Priority.OPERATOR, "operator"))
    eventually(lambda: len(probes) > 1)
    machine.stop()
    assert caplog.messages == ["mender: the sweep is incomplete and will be repeated: cell:cell2: silent"]
