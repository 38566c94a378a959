"""Sweeps after events may have been lost: enough, and not more."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from consumer import conf as configuration
from consumer import plugins
from consumer.conf.tasks import TaskSettings
from consumer.conf.window import Window
from consumer.engine.meter import Meter
from consumer.engine.service import Service
from consumer.engine.task import Task
from consumer.journal import backlog, controls, hinting
from consumer.journal.database import Database
from consumer.journal.errors import JournalUnavailable
from consumer.journal.work import Hint, Priority
from handlers.base import Mode, Resources
from tests.doubles import Mender, World
from tests.functional.engine.machine import Machine
from tests.waiting import eventually


class Daily(Mender):
    name = "daily"
    triggers = ()


class Counted(World):
    sweeps: int = 0


class Counting(Mender):
    def population(self) -> int:
        assert isinstance(self.world, Counted)
        self.world.sweeps += 1
        return 0


@pytest.fixture
def daemon(journal: Database, tmp_path: Path) -> Service:
    file = tmp_path / "stackmend.conf"
    file.write_text("")
    conf = configuration.load(plugins.handlers(), [str(file)])
    settings = TaskSettings(Mode.HEAL, 86400, Window(), 0)
    tasks = [Task(handler(World()), settings, lambda: datetime.now(UTC)) for handler in (Mender, Daily)]
    return Service(conf, journal, Resources(conf), tasks, [], Meter())


def test_only_handlers_that_events_may_have_missed_sweep_after_a_gap(daemon: Service, journal: Database) -> None:
    daemon._on_gap("nova", "the connection was lost")
    assert [row.handler for row in backlog.listing(journal)] == ["mender"]


def test_a_gap_that_the_journal_does_not_store_is_reported_again(
    daemon: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_arguments: object) -> None:
        raise JournalUnavailable("away")

    monkeypatch.setattr(hinting, "enqueue", away)
    with pytest.raises(JournalUnavailable):
        daemon._on_gap("nova", "the connection was lost")


def test_a_broker_that_comes_and_goes_causes_one_sweep_now_and_one_later(machine: Machine) -> None:
    world = Counted()
    machine.handlers = lambda: [Counting(world)]  # type: ignore[method-assign]
    machine.interval = 86400
    machine.start()
    (task,) = machine.tasks().values()
    for _ in range(20):
        machine.enqueue(Hint("mender", task.timer, Priority.OPERATOR, "bus: the connection was lost"))
        machine.at_rest()
    assert world.sweeps == 1
    (row,) = backlog.listing(machine.database)
    assert 100 < row.due_in <= 300
    assert controls.read(machine.database)["mender"].swept_at is not None


def test_an_operator_waits_for_no_earlier_sweep(machine: Machine) -> None:
    world = Counted()
    machine.handlers = lambda: [Counting(world)]  # type: ignore[method-assign]
    machine.interval = 86400
    machine.start()
    (task,) = machine.tasks().values()
    for source in ("bus: lost", "operator"):
        swept = world.sweeps
        machine.enqueue(Hint("mender", task.timer, Priority.OPERATOR, source))
        eventually(lambda swept=swept: world.sweeps == swept + 1)  # type: ignore[misc]
        machine.at_rest()
