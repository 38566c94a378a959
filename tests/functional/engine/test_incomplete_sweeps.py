"""A sweep that a silent dependency ended early."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import ClassVar

import pytest

from consumer.journal import controls, work
from consumer.journal.work import Hint, Priority
from handlers.base import Incomplete, Key, Unavailable
from tests.doubles import Mender, World
from tests.functional.engine.machine import Machine
from tests.waiting import eventually


class Counting(Mender):
    """Sweeps a world with a cell."""

    name: ClassVar[str] = "mender"
    sweeps = 0
    probes = 0

    def population(self) -> int:
        self.sweeps += 1
        return 0

    def require(self, dependency: str) -> None:
        self.probes += 1
        assert dependency == "cell:cell2"
        if self.world.sweep_error:
            raise self.world.sweep_error


@pytest.fixture
def handler(machine: Machine, world: World) -> Counting:
    made = Counting(world)
    world.sweep_error = Unavailable("cell:cell2", "silent")
    machine.handlers = lambda: [made]  # type: ignore[method-assign]
    return made


def request_sweep(machine: Machine) -> None:
    machine.enqueue(Hint("mender", Key(work.SWEEP, "mender"), Priority.OPERATOR, "operator"))


def test_a_sweep_is_not_repeated_while_its_cell_is_silent(machine: Machine, handler: Counting) -> None:
    machine.start()
    request_sweep(machine)
    eventually(lambda: handler.probes >= 2)
    assert handler.sweeps == 1
    handler.world.things["a"] = 1
    handler.world.sweep_error = None
    eventually(lambda: not handler.world.drifted())
    assert handler.sweeps == 2
    assert not controls.read(machine.database)["mender"].missing


def test_an_operator_gets_a_sweep_though_a_cell_is_silent(machine: Machine, handler: Counting) -> None:
    machine.start()
    request_sweep(machine)
    eventually(lambda: handler.probes >= 1)
    request_sweep(machine)
    eventually(lambda: handler.sweeps == 2)


def test_a_sweep_comes_at_its_interval_though_a_cell_stays_silent(machine: Machine, handler: Counting) -> None:
    machine.interval = 2
    machine.start()
    request_sweep(machine)
    eventually(lambda: handler.sweeps >= 3)


class Divided(Mender):
    """Mends things named ``cell/thing``; some cells may be silent."""

    name: ClassVar[str] = "mender"

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.silent: set[str] = set()

    def of_cells(self, cells: Iterable[str]) -> Iterator[Key]:
        return (Key("thing", name) for name in sorted(self.world.drifted()) if name.partition("/")[0] in cells)

    def sweep(self) -> Iterator[Key]:
        yield from self.of_cells({"one", "two", "three"} - self.silent)
        error: Incomplete | None = None
        for cell in sorted(self.silent):
            error = Incomplete(Unavailable(cell, "silent"), error)
        if error is not None:
            raise error

    def sweep_rest(self, missing: frozenset[str]) -> Iterator[Key]:
        return self.of_cells(missing)

    def require(self, dependency: str) -> None:
        if dependency in self.silent:
            raise Unavailable(dependency, "silent")


@pytest.fixture
def divided(machine: Machine, world: World) -> Divided:
    made = Divided(world)
    machine.handlers = lambda: [made]  # type: ignore[method-assign]
    return made


def missing(machine: Machine) -> frozenset[str]:
    known = controls.read(machine.database)
    return known["mender"].missing if "mender" in known else frozenset()


def test_once_a_cell_answers_only_its_things_are_listed(machine: Machine, divided: Divided) -> None:
    things = divided.world.things
    things.update({"one/a": 1, "two/a": 1})
    divided.silent = {"two"}
    machine.start()
    request_sweep(machine)
    eventually(lambda: missing(machine) == {"two"} and divided.world.drifted() == {"two/a"})
    things["one/b"] = 1
    divided.silent = set()
    eventually(lambda: not missing(machine) and "two/a" not in divided.world.drifted())
    assert divided.world.drifted() == {"one/b"}, "the next whole sweep finds it"


def test_of_two_silent_cells_one_comes_back(machine: Machine, divided: Divided) -> None:
    divided.world.things.update({"one/a": 1, "two/a": 1, "three/a": 1})
    divided.silent = {"two", "three"}
    machine.start()
    request_sweep(machine)
    eventually(lambda: missing(machine) == {"two", "three"})
    divided.silent = {"three"}
    eventually(lambda: divided.world.drifted() == {"three/a"})
    eventually(lambda: missing(machine) == {"three"})
    divided.silent = set()
    eventually(lambda: not divided.world.drifted() and not missing(machine))
    assert controls.read(machine.database)["mender"].sweep_found == 3
