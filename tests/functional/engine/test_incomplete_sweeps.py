"""A sweep that a silent dependency ended early."""

from __future__ import annotations

from typing import ClassVar

import pytest

from consumer.journal import controls, work
from consumer.journal.work import Hint, Priority
from handlers.base import Key, Unavailable
from tests.doubles import Mender, World
from tests.functional.engine.conftest import Machine, eventually


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
    assert controls.read(machine.database)["mender"].missing is None


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
