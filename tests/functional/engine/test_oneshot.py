"""A command that sweeps: what it looks at while it lists, and what it never does before it has listed all."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from consumer.conf.tasks import TaskSettings
from consumer.conf.window import Window
from consumer.engine.oneshot import OneShot
from consumer.engine.task import Task
from consumer.journal import history
from handlers.base import Finding, Handler, Key, Mode, Unavailable
from tests.doubles import CarefulMender, Mender
from tests.functional.engine.machine import Machine


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
    one_shot = OneShot(machine.database, machine.settings, "cli", patience=5.0)
    [result] = one_shot.examine(task, [Key("thing", "a")], "operator")
    assert result.action == "failed"
    assert len(looks) < 10, "at once, then half a second, one and two seconds later"
