"""A command that sweeps: what it looks at while it lists, and what it never does before it has listed all."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from sqlalchemy import update

from consumer.conf.tasks import TaskSettings
from consumer.conf.window import Window
from consumer.engine import open_lines
from consumer.engine.oneshot import OneShot
from consumer.engine.open_lines import ABANDONED_AFTER
from consumer.engine.task import Task
from consumer.journal import history, schema
from consumer.journal.history import Outcome, Presumed
from handlers.base import Finding, Handler, Key, Mode, Unavailable
from tests.doubles import CarefulMender, Mender
from tests.functional.engine.machine import Machine
from tests.waiting import eventually


def sweep(machine: Machine, handler: Handler, **settings: int) -> list[tuple[str, str]]:
    """Key and action of each result of a sweep that may heal."""
    task = Task(handler, TaskSettings(Mode.HEAL, 3600, Window(), 0), lambda: datetime.now(UTC))
    one_shot = OneShot(machine.database, replace(machine.settings, **settings), "cli")  # type: ignore[arg-type]
    return [(result.key, result.action) for result in one_shot.sweep([task])]


def test_what_must_be_seen_twice_is_first_seen_while_the_sweep_still_lists(machine: Machine) -> None:
    machine.world.things = {"a": 1, "b": 1}
    seen = threading.Event()
    machine.world.before_look = lambda _key: seen.set()

    class Slow(CarefulMender):
        """Lists the second thing only when the first was looked at."""

        def sweep(self) -> Iterator[Key]:
            yield Key("thing", "a")
            assert seen.wait(30)
            yield Key("thing", "b")

    assert sweep(machine, Slow(machine.world)) == [("thing:a", "healed"), ("thing:b", "healed")]
    assert machine.world.things == {"a": 0, "b": 0}


@pytest.mark.parametrize("kind", [Mender, CarefulMender])
def test_nothing_is_healed_before_all_is_listed(machine: Machine, kind: type[Mender]) -> None:
    machine.world.things = {"a": 1, "b": 1}
    at_the_end: dict[str, int] = {}

    class Slow(kind):  # type: ignore[misc,valid-type]
        """Lists the second thing long after the first could have been healed."""

        def sweep(self) -> Iterator[Key]:
            yield Key("thing", "a")
            threading.Event().wait(3 * CarefulMender.confirm_after)
            at_the_end.update(machine.world.things)
            yield Key("thing", "b")

    assert sweep(machine, Slow(machine.world)) == [("thing:a", "healed"), ("thing:b", "healed")]
    assert at_the_end == {"a": 1, "b": 1}
    assert machine.world.things == {"a": 0, "b": 0}


@pytest.mark.parametrize("kind", [Mender, CarefulMender])
def test_more_than_can_be_believed_is_not_healed_though_it_was_looked_at(machine: Machine, kind: type[Mender]) -> None:
    machine.world.things = {f"t{number}": 1 for number in range(5)}
    assert sweep(machine, kind(machine.world), breaker_count=4, breaker_percent=0) == [("", "stopped")]
    assert set(machine.world.things.values()) == {1}
    assert not history.listing(machine.database)
    assert len(sweep(machine, kind(machine.world), breaker_count=5, breaker_percent=0)) == 5
    assert set(machine.world.things.values()) == {0}


def test_a_sweep_that_fails_heals_nothing_of_what_it_had_listed(machine: Machine) -> None:
    machine.world.things = {"a": 1}
    machine.world.sweep_error = RuntimeError("a fault of ours")
    with pytest.raises(RuntimeError, match="a fault of ours"):
        sweep(machine, CarefulMender(machine.world))
    assert machine.world.things == {"a": 1}


def test_a_problem_that_the_handler_does_not_declare_is_reported_and_not_healed(machine: Machine) -> None:
    machine.world.things = {"a": 1}

    class Undeclared(Mender):
        """Finds a problem that it does not name."""

        healable_problems = frozenset({"bent"})

    assert sweep(machine, Undeclared(machine.world)) == [("thing:a", "refused")]
    assert machine.world.things == {"a": 1}


def test_a_heal_without_an_answer_waits_before_each_further_inspection(machine: Machine) -> None:
    machine.world.things = {"a": 1}
    looks: list[Key] = []
    machine.world.before_look = looks.append

    def silent(_finding: Finding) -> None:
        raise Unavailable("workshop", "silent")

    machine.world.before_heal = silent
    task = Task(Mender(machine.world), TaskSettings(Mode.HEAL, 3600, Window(), 0), lambda: datetime.now(UTC))
    one_shot = OneShot(machine.database, machine.settings, "cli", patience=2.0)
    [result] = one_shot.examine(task, [Key("thing", "a")], "operator")
    assert result.action == "failed"
    assert len(looks) < 10, "at most every half second"


def healing(machine: Machine, **settings: int) -> Future[list[tuple[str, str]]]:
    """Begin a sweep that may heal, as another process would."""
    return ThreadPoolExecutor(1).submit(sweep, machine, Mender(machine.world), **settings)


def abandoned(machine: Machine) -> list[str]:
    return [str(orphan.key) for orphan in history.orphans(machine.database, ABANDONED_AFTER)]


@pytest.fixture
def long(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Make the heal of a thing last until this is set. Half an hour passes as soon as the heal has begun."""
    monkeypatch.setattr(open_lines, "EVERY", 0.05)
    end = threading.Event()
    machine.world.things = {"a": 1}

    def wait(_finding: Finding) -> None:
        old = update(schema.history).values(at=schema.history.c.at - 1800)
        machine.database.transact(lambda connection: connection.execute(old))
        machine.world.things["begun"] = 0
        assert end.wait(60)

    machine.world.before_heal = wait
    yield end
    end.set()


def test_a_long_heal_of_a_living_command_is_not_abandoned(machine: Machine, long: threading.Event) -> None:
    command = healing(machine)
    eventually(lambda: "begun" in machine.world.things)
    eventually(lambda: abandoned(machine) == [])
    long.set()
    assert command.result(30) == [("thing:a", "healed")]
    assert [entry.outcome for entry in history.listing(machine.database)] == ["healed"]


def test_a_heal_that_its_command_gave_up_is_abandoned(machine: Machine, long: threading.Event) -> None:
    def silent(_finding: Finding) -> None:
        raise Unavailable("cell:cell1", "silent")

    machine.world.after_heal = silent
    machine.world.things["a"] = 1
    long.set()
    looks: list[Key] = []

    def silent_later(key: Key) -> None:
        looks.append(key)
        if len(looks) > 1:
            raise Unavailable("cell:cell1", "silent")

    machine.world.before_look = silent_later
    task = Task(Mender(machine.world), TaskSettings(Mode.HEAL, 3600, Window(), 0), lambda: datetime.now(UTC))
    OneShot(machine.database, machine.settings, "cli", patience=0.0).examine(task, [Key("thing", "a")], "operator")
    assert [entry.outcome for entry in history.listing(machine.database)] == ["healing"]
    # the command may have renewed the entry before it gave up
    old = update(schema.history).values(closed_at=schema.history.c.closed_at - 1800)
    machine.database.transact(lambda connection: connection.execute(old))
    assert abandoned(machine) == ["thing:a"]


def test_the_result_of_a_long_heal_stands_beside_the_end_that_a_daemon_presumed(
    machine: Machine, long: threading.Event
) -> None:
    command = healing(machine)
    eventually(lambda: "begun" in machine.world.things)
    [entry] = history.listing(machine.database)
    history.close(machine.database, Presumed(entry.id, Outcome.FAILED, error="interrupted"))
    long.set()
    assert command.result(30) == [("thing:a", "healed")]
    entries = history.listing(machine.database)
    assert [(one.outcome, one.action) for one in entries] == [("failed", ""), ("healed", "mended a")]
