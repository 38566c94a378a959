"""The reconciler's contract, over both stores: a heal ends the same way in the daemon and in a one-shot command."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import pytest
from sqlalchemy import update

from consumer.conf.tasks import TaskSettings
from consumer.conf.window import Window
from consumer.engine.oneshot import OneShot, in_order
from consumer.engine.reconciler import Reconciled, Reconciler, Result
from consumer.engine.stores import JournalStore, MemoryStore, Store
from consumer.engine.task import Task
from consumer.journal import backlog, claiming, controls, hinting, history, schema
from consumer.journal.database import Database
from consumer.journal.work import Claim, Later, Priority
from handlers.base import Conflict, Finding, InFlight, Key, Mode, Refused, Unavailable, Unfinished
from tests.doubles import Mender, World
from tests.functional.engine.machine import SETTINGS, Machine, hint
from tests.waiting import eventually

CLOSED = Window.parse("Mon 00:00-00:01")
MONDAY_NOON = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


@dataclass
class Run:
    """Reconciles the thing ``a`` again and again, with one of the stores."""

    database: Database
    world: World
    store: Store
    claims: Callable[[Reconciled | None], Claim]

    def task(self, mode: Mode = Mode.HEAL, per_hour: int = 0, window: Window | None = None) -> Task:
        settings = TaskSettings(mode, 3600, window or Window(), per_hour)
        return Task(Mender(self.world), settings, lambda: MONDAY_NOON)

    def once(self, before: Reconciled | None = None, task: Task | None = None) -> Reconciled:
        return Reconciler(SETTINGS, "r1").reconcile(task or self.task(), self.claims(before), self.store)

    @property
    def outcomes(self) -> list[tuple[str, str]]:
        """Outcome and undo of every line."""
        return [(line.outcome, line.undo) for line in history.listing(self.database)]


def _from_journal(journal: Database) -> Callable[[Reconciled | None], Claim]:
    def claim(_before: Reconciled | None) -> Claim:
        hinting.enqueue(journal, [hint("a", priority=Priority.EVENT)])
        found: list[Claim] = []

        def claimed() -> bool:
            found.extend(claiming.claim(journal, "r1", ["mender"], 1, 30))
            return bool(found)

        eventually(claimed)
        return found[0]

    return claim


def _from_memory(before: Reconciled | None) -> Claim:
    now = time.time()
    claim = Claim(
        0, "", "mender", Key("thing", "a"), 0, 90, 0, 0, 0.0, None, None, None, None, "operator", "", None, now, now
    )
    return replace(claim, healing_id=before.end.healing_id) if before and isinstance(before.end, Later) else claim


@pytest.fixture(params=["journal", "memory"])
def run(request: pytest.FixtureRequest, journal: Database, world: World) -> Run:
    controls.ensure(journal, ["mender"])
    world.things = {"a": 1}
    if request.param == "journal":
        return Run(journal, world, JournalStore(journal, {}), _from_journal(journal))
    return Run(journal, world, MemoryStore(journal), _from_memory)


def raising(error: Exception) -> Callable[[Finding], None]:
    def before_heal(_finding: Finding) -> None:
        raise error

    return before_heal


def test_a_heal_is_recorded_with_its_undo(run: Run) -> None:
    done = run.once()

    assert done.result is Result.HEALED
    assert run.outcomes == [("healed", "break a")]
    assert run.world.things == {"a": 0}


def test_a_refused_heal_is_refused_and_spends_nothing(run: Run) -> None:
    run.world.before_heal = raising(Refused("it is full"))

    done = run.once()

    assert (done.result, done.reason) == (Result.REFUSED, "it is full")
    assert [outcome for outcome, _ in run.outcomes] == ["refused"]
    assert history.budget_left(run.database, "mender", 1) == 1


@pytest.mark.parametrize("error", [Conflict("it changed"), InFlight("it moves", 0.0)])
def test_a_heal_that_wrote_nothing_is_a_conflict(run: Run, error: Exception) -> None:
    run.world.before_heal = raising(error)

    assert run.once().result is Result.WAITS
    assert [outcome for outcome, _ in run.outcomes] == ["conflict"]


def test_a_heal_whose_effect_does_not_show_counts_against_the_budget(run: Run) -> None:
    run.world.before_heal = raising(Unfinished("the workshop has not begun yet"))

    done = run.once()

    assert (done.result, done.reason) == (Result.FAILED, "the workshop has not begun yet")
    assert [outcome for outcome, _ in run.outcomes] == ["failed"]
    assert history.budget_left(run.database, "mender", 1) == 0


def test_a_bug_is_a_failed_heal(run: Run) -> None:
    run.world.before_heal = raising(RuntimeError("a bug"))

    assert run.once().result is Result.FAILED
    assert [outcome for outcome, _ in run.outcomes] == ["failed"]


@pytest.mark.parametrize("arrived", [True, False])
def test_after_an_unanswered_write_the_line_stays_open_until_an_inspection_decides(run: Run, arrived: bool) -> None:
    when = "after_heal" if arrived else "before_heal"
    setattr(run.world, when, raising(Unavailable("cell:cell1", "no answer")))

    first = run.once()
    assert first.result is Result.UNAVAILABLE
    assert [outcome for outcome, _ in run.outcomes] == ["healing"]

    setattr(run.world, when, lambda _finding: None)
    assert run.once(first).result is Result.HEALED
    assert [outcome for outcome, _ in run.outcomes] == ["healed"]
    assert run.world.writes == {"a": 1}


def test_a_heal_that_goes_on_asks_the_gates_again(run: Run) -> None:
    run.world.before_heal = raising(Unavailable("cell:cell1", "no answer"))
    first = run.once()
    run.world.before_heal = lambda _finding: None
    controls.pause(run.database, ["mender"], "maintenance")

    assert run.once(first).result is Result.DEFERRED
    assert run.world.things == {"a": 1}


@pytest.mark.parametrize("gate", ["window", "pause", "budget"])
def test_every_gate_defers_a_heal(run: Run, gate: str) -> None:
    task = run.task()
    if gate == "window":
        task = run.task(window=CLOSED)
    elif gate == "pause":
        controls.pause(run.database, ["mender"], "maintenance")
    else:
        task = run.task(per_hour=1)
        origin = history.Origin("sweep", "r2")
        line = history.Line("mender", Key("thing", "b"), history.Outcome.HEALING, "broken", "", origin)
        history.append(run.database, [line])

    done = run.once(task=task)

    assert done.result is Result.DEFERRED
    assert done.reason
    assert run.world.things == {"a": 1}


def test_no_gate_stops_a_heal_that_was_begun(run: Run) -> None:
    class Begun(Mender):
        def inspect(self, key: Key) -> list[Finding]:
            return [replace(finding, begun=True) for finding in super().inspect(key)]

    settings = TaskSettings(Mode.HEAL, 3600, CLOSED, 1)
    controls.pause(run.database, ["mender"], "maintenance")

    done = run.once(task=Task(Begun(run.world), settings, lambda: MONDAY_NOON))

    assert done.result is Result.HEALED
    assert run.world.things == {"a": 0}


def test_audit_never_heals(run: Run) -> None:
    assert run.once(task=run.task(Mode.AUDIT)).result is Result.FOUND
    assert run.world.things == {"a": 1}


def test_the_breaker_counts_objects_and_names_examples(machine: Machine) -> None:
    class Batches(Mender):
        def sweep(self):  # type: ignore[no-untyped-def]
            yield Key("thing", "a", weight=6)
            yield Key("thing", "b", weight=6)

        def inspect(self, key: Key) -> list[Finding]:
            return [replace(finding, weight=6) for finding in super().inspect(key)]

    machine.world.things = {"a": 1, "b": 1}
    task = Task(Batches(machine.world), TaskSettings(Mode.HEAL, 0, Window(), 0), lambda: MONDAY_NOON)
    bounds = {"breaker_count": 10, "breaker_percent": 0}

    [stopped] = OneShot(machine.database, replace(machine.settings, **bounds), "cli").sweep([task])  # type: ignore[arg-type]

    assert stopped.action == "stopped"
    assert machine.world.things == {"a": 1, "b": 1}


def test_a_one_shot_sweep_runs_a_task_after_those_it_relies_on(machine: Machine) -> None:
    class First(Mender):
        name = "zeta"

    class Second(Mender):
        name = "alpha"
        follows = ("zeta", "one that is off")

    settings = TaskSettings(Mode.HEAL, 0, Window(), 0)
    tasks = [Task(kind(machine.world), settings, lambda: MONDAY_NOON) for kind in (Second, First)]

    assert [task.name for task in in_order(tasks)] == ["zeta", "alpha"]


def test_an_unreadable_row_stops_no_other(machine: Machine) -> None:
    machine.world.things = {"a": 1}
    machine.enqueue(hint("a"), hint("x"))
    broken = update(schema.work).where(schema.work.c.key == "thing:x").values(key="thing:")
    machine.database.transact(lambda connection: connection.execute(broken))

    machine.start()

    eventually(lambda: machine.world.things == {"a": 0})
    eventually(lambda: [row.state for row in backlog.listing(machine.database)] == ["parked"])
