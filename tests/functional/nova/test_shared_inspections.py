"""Looks that inspections share, in the engine: no event and no second inspection rests on a look that is too old for it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from consumer.conf.engine import EngineSettings
from consumer.conf.tasks import TaskSettings
from consumer.conf.window import Window
from consumer.engine.engine import Engine
from consumer.engine.task import Task
from consumer.engine.worker import Worker
from consumer.journal import backlog, claiming, controls, hinting, history
from consumer.journal.database import Database
from consumer.journal.work import Hint, Priority
from handlers.base import Finding, Healed, Key, Mode, Resources, Unavailable
from handlers.nova.allocations import shared_looks
from handlers.nova.allocations.audit_allocations import AuditAllocations
from handlers.nova.simulation import NovaSimulation
from tests import journals
from tests.waiting import eventually

pytestmark = pytest.mark.hosts(a="cell1")

LONG = {"hours": 1}


class Replica:
    """A replica whose work a test orders step by step."""

    def __init__(self, journal: Database, resources: Resources, name: str, mode: Mode = Mode.AUDIT) -> None:
        self._journal = journal
        self.handler = AuditAllocations.from_resources(resources)
        task = Task(self.handler, TaskSettings(mode, 0, Window(), 0), lambda: datetime.now(UTC))
        controls.ensure(journal, [task.name])
        self._name = name
        self._worker = Worker(Engine(journal, {task.name: task}, EngineSettings(), name))

    def sweep(self) -> list[Key]:
        keys = list(self.handler.sweep())
        hinting.enqueue(self._journal, [Hint(self.handler.name, key, Priority.SWEEP, "sweep") for key in keys])
        return keys

    def inspect(self, key: Key) -> None:
        """Inspect a key once, as soon as it is due."""
        eventually(lambda: self._inspected(key))

    def _inspected(self, key: Key) -> bool:
        claims = claiming.claim(self._journal, self._name, [self.handler.name], 1, 60, [key])
        for claim in claims:
            self._worker.work(claim)
        return bool(claims)

    def outcomes(self, key: Key) -> list[str]:
        return [entry.outcome for entry in history.listing(self._journal, key=str(key))]

    def found(self, key: Key) -> list[str]:
        return [entry.problem for entry in history.listing(self._journal, key=str(key))]

    def is_reported(self, key: Key) -> bool:
        return [row.state for row in backlog.listing(self._journal) if str(row.key) == str(key)] == ["reported"]


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Database]:
    database = journals.fresh(tmp_path)
    yield database
    database.close()


def offloaded(cloud: NovaSimulation) -> str:
    with cloud.ago(**LONG):
        server = cloud.boot("a")
        held = cloud.allocation(server)
        cloud.set_instance(server, vm_state="shelved_offloaded", host=None, node=None)
        cloud.hold(server, held)
    return server


def test_an_event_is_not_answered_by_a_look_before_it(
    cloud: NovaSimulation, resources: Resources, journal: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sweep lists two reported suspects again; one of them is deleted after the look that both share."""
    monkeypatch.setattr(AuditAllocations, "confirm_after", 0.1)
    monkeypatch.setattr(shared_looks, "FRESH", math.inf)
    for _ in range(2):
        offloaded(cloud)
    replica = Replica(journal, resources, "r1")
    for key in replica.sweep():
        while not replica.is_reported(key):
            replica.inspect(key)
    first, second = replica.sweep()
    replica.inspect(first)
    with cloud.ago(**LONG):
        cloud.delete(second.id, leak_allocation=True)
    event = Hint(replica.handler.name, second, Priority.EVENT, "instance.delete.end")
    hinting.enqueue(journal, [event])
    replica.inspect(second)
    while not replica.is_reported(second):
        replica.inspect(second)
    assert "instance-deleted" in replica.found(second)


def test_a_look_before_a_write_does_not_judge_the_write(
    cloud: NovaSimulation, resources: Resources, journal: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A replica does not learn that its write arrived; the other one, whose look is older, inspects next."""
    monkeypatch.setattr(AuditAllocations, "confirm_after", 0.1)
    monkeypatch.setattr(shared_looks, "FRESH", math.inf)
    with cloud.ago(**LONG):
        for server in (cloud.boot("a"), cloud.boot("a")):
            cloud.delete(server, leak_allocation=True)
    one, other = (Replica(journal, resources, name, Mode.HEAL) for name in ("r1", "r2"))
    first, second = one.sweep()
    one.inspect(first)

    def unanswered(finding: Finding, _go_on: Callable[[], bool]) -> Healed:
        other.handler.heal(finding)
        raise Unavailable("placement", "no answer in time")

    monkeypatch.setattr(other.handler, "heal_while", unanswered)
    while cloud.allocation(second.id):
        other.inspect(second)
    assert other.outcomes(second) == ["healing"]
    one.inspect(second)
    assert one.outcomes(second) == ["healed"]
