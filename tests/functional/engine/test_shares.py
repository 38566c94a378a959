"""An event finds a worker, whatever else hangs, sweeps or archives."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import ClassVar

import pytest

from consumer.journal import backlog, work
from consumer.journal.work import Hint, Priority
from handlers.base import Key
from tests.doubles import Mender
from tests.functional.engine.machine import Machine, hint
from tests.waiting import eventually


class Nova(Mender):
    name: ClassVar[str] = "nova"
    service: ClassVar[str] = "nova"


class Octavia(Mender):
    name: ClassVar[str] = "octavia"
    service: ClassVar[str] = "octavia"


@pytest.fixture
def hanging(machine: Machine) -> Iterator[Machine]:
    """Every inspection hangs, except that of the amphora, which is broken."""
    release = threading.Event()
    machine.world.things = {"amphora": 1}

    def hang(key: Key) -> None:
        if key.id != "amphora":
            release.wait(60)

    machine.world.before_look = hang
    machine.handlers = lambda: [Nova(machine.world), Octavia(machine.world)]  # type: ignore[method-assign]
    machine.with_settings(workers=8)
    yield machine
    release.set()


def running(machine: Machine) -> int:
    return [row.state for row in backlog.listing(machine.database)].count(backlog.Standing.RUNNING)


def test_an_event_of_one_service_is_inspected_while_the_other_service_hangs(hanging: Machine) -> None:
    hanging.enqueue(*(hint(str(number), "nova") for number in range(50)))
    hanging.start()
    eventually(lambda: running(hanging) == 7)
    hanging.enqueue(hint("amphora", "octavia"))
    eventually(lambda: not hanging.world.drifted())


@pytest.mark.parametrize("priority", [Priority.SWEEP, Priority.PERIODIC])
def test_an_event_is_inspected_while_suspects_of_a_sweep_hang(hanging: Machine, priority: Priority) -> None:
    hanging.enqueue(*(hint(str(number), name, priority) for name in ("nova", "octavia") for number in range(50)))
    hanging.start()
    eventually(lambda: running(hanging) == 6)
    hanging.enqueue(hint("amphora", "octavia"))
    eventually(lambda: not hanging.world.drifted())


def test_one_worker_serves_everything(machine: Machine) -> None:
    machine.world.things = {"a": 1, "b": 1}
    machine.handlers = lambda: [Nova(machine.world), Octavia(machine.world)]  # type: ignore[method-assign]
    machine.with_settings(workers=1)
    timer = Hint("nova", Key(work.SWEEP, "nova"), Priority.OPERATOR, "start")
    machine.enqueue(timer, hint("b", "octavia"))
    machine.start()
    eventually(lambda: not machine.world.drifted())
