"""Heals that stop at their next step, workers that hang, faults that repeat, and leases beside slow upkeep."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import ClassVar

import pytest

from consumer.conf.journal import JournalSettings
from consumer.conf.window import Window
from consumer.engine.reconciler import Reconciler
from consumer.engine.stores import JournalStore, MemoryStore
from consumer.engine.upkeep import Upkeep
from consumer.engine.worker import Worker
from consumer.journal import backlog, claiming, controls, dead, hinting, history, work
from consumer.journal.dead import DeadLetter
from consumer.journal.errors import JournalUnavailable
from consumer.status import health
from consumer.status.health import Beats, alive
from handlers.base import Conflict, Finding, Handler, Healed, Key, Mode
from tests.doubles import Mender
from tests.functional.engine.machine import Machine, hint
from tests.waiting import eventually

STEPS = 50


class Stepwise(Mender):
    """Heals in steps until it may not go on."""

    name: ClassVar[str] = "stepwise"
    begun: bool = False

    def inspect(self, key: Key) -> Iterator[Finding]:
        for finding in super().inspect(key):
            yield replace(finding, begun=self.begun)

    def heal_while(self, finding: Finding, go_on: Callable[[], bool]) -> Healed:
        for step in range(STEPS):
            if not go_on():
                if not step:
                    raise Conflict("nothing was done")
                return Healed(f"stopped after {step} steps", complete=False)
            self.world.writes[finding.key.id] = step + 1
            self.world.after_heal(finding)
        return self.heal(finding)


class Steps(Machine):
    begun = False
    now = datetime(2026, 11, 23, 23, 0, tzinfo=UTC)
    patch: pytest.MonkeyPatch

    def handlers(self) -> list[Handler]:
        handler = Stepwise(self.world)
        handler.begun = self.begun
        return [handler]


@pytest.fixture
def steps(machine: Machine) -> Steps:
    made = Steps(machine.database, machine.world)
    made.world.things = {"a": 1}
    controls.ensure(made.database, made.tasks())
    hinting.enqueue(made.database, [hint("a", "stepwise")])
    return made


def pause(steps: Steps) -> None:
    controls.pause(steps.database, ["stepwise"], "an operator")


def lose(steps: Steps) -> None:
    claiming.free_all(steps.database)
    claiming.claim(steps.database, "another", ["stepwise"], 1, 30.0)


@pytest.mark.parametrize("stop", [pause, lose], ids=["pause", "a lost lease"])
def test_a_heal_stops_at_its_next_step(steps: Steps, stop: Callable[[Steps], None]) -> None:
    steps.world.after_heal = lambda finding: stop(steps) if steps.world.writes["a"] == 3 else None
    (claim,) = claiming.claim(steps.database, "r1", ["stepwise"], 1, 30.0)
    steps.worker().work(claim)
    assert steps.world.writes == {"a": 3}
    assert steps.world.drifted() == {"a"}


def silence(steps: Steps) -> None:
    def fail(*_arguments: object) -> None:
        raise JournalUnavailable("the journal does not answer")

    steps.patch.setattr(claiming, "renew", fail)
    steps.patch.setattr(controls, "state", fail)


def break_off(steps: Steps) -> None:
    steps.database.transact(lambda connection: controls.break_off(connection, ["stepwise"], "restored"))


def close_window(steps: Steps) -> None:
    steps.now = steps.now.replace(hour=12)


STOPS: dict[Callable[[Steps], None], str] = {
    pause: "stepwise is paused: an operator",
    break_off: "stepwise is stopped: restored",
    close_window: "the window of stepwise (22:00-06:00) is closed",
    silence: "the journal does not answer",
}


@pytest.mark.parametrize("by_command", [False, True], ids=["daemon", "command"])
@pytest.mark.parametrize("stop", STOPS)
def test_the_history_names_what_stopped_a_heal(
    steps: Steps, monkeypatch: pytest.MonkeyPatch, stop: Callable[[Steps], None], by_command: bool
) -> None:
    steps.patch, steps.window, steps.clock = monkeypatch, Window.parse("22:00-06:00"), lambda: steps.now
    steps.world.after_heal = lambda _finding: stop(steps) if steps.world.writes["a"] == 3 else None
    task = steps.tasks()["stepwise"]
    (claim,) = claiming.claim(steps.database, "r1", ["stepwise"], 1, 30.0)
    store = MemoryStore(steps.database) if by_command else JournalStore(steps.database, {"stepwise": task})
    Reconciler(steps.settings, "r1").reconcile(task, claim, store)
    [entry] = history.listing(steps.database)
    assert (entry.action, entry.after) == ("stopped after 3 steps", {"stopped": STOPS[stop]})


def test_a_heal_that_was_stopped_before_its_first_step_names_the_reason(steps: Steps) -> None:
    (claim,) = claiming.claim(steps.database, "r1", ["stepwise"], 1, 30.0)
    steps.worker().work(claim, lambda: pause(steps))
    [entry] = history.listing(steps.database)
    assert (entry.outcome, entry.error) == ("conflict", "nothing was done: stepwise is paused: an operator")


def test_another_mode_stops_a_heal_at_its_next_step(steps: Steps) -> None:
    engine = steps.engine()

    def audit(_finding: Finding) -> None:
        task = engine.tasks["stepwise"]
        engine.tasks["stepwise"] = replace(task, settings=replace(task.settings, mode=Mode.AUDIT))

    steps.world.after_heal = audit
    (claim,) = claiming.claim(steps.database, "r1", ["stepwise"], 1, 30.0)
    Worker(engine).work(claim)
    assert steps.world.writes == {"a": 1}


def test_a_heal_that_was_begun_goes_on_to_its_end(steps: Steps) -> None:
    steps.begun = True
    steps.world.after_heal = lambda _finding: pause(steps)
    (claim,) = claiming.claim(steps.database, "r1", ["stepwise"], 1, 30.0)
    steps.worker().work(claim)
    assert steps.world.drifted() == set()


@pytest.mark.parametrize("begun", [True, False])
@pytest.mark.parametrize("how", ["pause", "breaker", "window"])
def test_after_a_kill_a_begun_heal_ends_though_its_handler_is_stopped(steps: Steps, how: str, begun: bool) -> None:
    steps.begun = begun
    steps.world.after_heal = die
    (claim,) = claiming.claim(steps.database, "r1", ["stepwise"], 1, 30.0)
    with pytest.raises(Killed):
        steps.worker().work(claim)
    claiming.free_all(steps.database)
    steps.world.after_heal = lambda _finding: None
    match how:
        case "pause":
            pause(steps)
        case "breaker":
            steps.database.transact(lambda connection: controls.break_off(connection, ["stepwise"], "restored"))
        case _:
            hour = (time.gmtime().tm_hour + 12) % 24
            steps.window = Window.parse(f"{hour:02}:00-{hour:02}:01")
    steps.start()
    try:
        if begun:
            eventually(lambda: steps.world.drifted() == set())
        else:
            steps.at_rest()
            assert steps.world.drifted() == {"a"}
    finally:
        steps.stop()


class Killed(BaseException):
    """Stands for kill -9."""


def die(_finding: Finding) -> None:
    raise Killed


def test_a_worker_that_hangs_loses_its_lease_and_is_unhealthy(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "SILENT", 1.0)
    release = threading.Event()
    machine.world.things = {"a": 1}
    machine.world.before_look = lambda _key: (release.wait(60), None)[1]
    beats = Beats()
    machine.meter = beats
    machine.with_settings(claim_seconds=0.5, lease_seconds=1)
    machine.start()
    try:
        eventually(lambda: "workers" in beats.silence([]))
        machine.enqueue(hint("a"))
        eventually(lambda: not alive(beats, []).healthy)
        taken: list[work.Claim] = []
        eventually(lambda: bool(taken.extend(claiming.claim(machine.database, "r2", ["mender"], 1, 30.0)) or taken))
    finally:
        release.set()


def test_leases_are_extended_while_retention_is_slow(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    release, begun = threading.Event(), threading.Event()

    def slow(*_arguments: object) -> int:
        begun.set()
        release.wait(60)
        return 0

    monkeypatch.setattr(history, "expire", slow)
    machine.world.things = {"a": 1}
    machine.world.before_look = lambda _key: (release.wait(60), None)[1]
    engine = machine.engine()
    upkeep = Upkeep(engine, JournalSettings(""))
    upkeep.start()
    machine.start()
    machine.enqueue(hint("a"))
    try:
        assert begun.wait(20)
        eventually(lambda: [row.state for row in backlog.listing(machine.database)] == ["running"])
        end = time.monotonic() + 3 * machine.settings.lease_seconds
        while time.monotonic() < end:
            assert claiming.claim(machine.database, "r2", ["mender"], 1, 30.0) == []
            time.sleep(0.1)
    finally:
        release.set()
        upkeep.stop()


def test_a_fault_that_repeats_is_parked(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """For example a NUL in a summary, which PostgreSQL refuses."""

    def fails(*_arguments: object, **_named: object) -> None:
        raise TypeError("keys must be str")

    machine.world.things = {"a": 1}
    machine.mode = Mode.AUDIT
    monkeypatch.setattr("consumer.journal.history.write", lambda connection, lines, clock: fails() if lines else [])
    machine.start()
    machine.enqueue(hint("a"))
    eventually(lambda: [row.state for row in backlog.listing(machine.database)] == ["parked"])


def test_half_of_the_workers_remain_for_keys_while_sweeps_hang(machine: Machine) -> None:
    release = threading.Event()

    class Slow(Mender):
        def population(self) -> int:
            release.wait(60)
            return 0

    slow = [type(f"Slow{number}", (Slow,), {"name": f"slow{number}"})(machine.world) for number in range(6)]
    machine.handlers = lambda: [Mender(machine.world), *slow]  # type: ignore[method-assign]
    machine.world.things = {"a": 1}
    timers = [work.Hint(task.name, task.timer, work.Priority.EVENT, "start") for task in machine.tasks().values()]
    hinting.enqueue(machine.database, timers[1:])
    machine.start()
    try:
        eventually(
            lambda: [row.state for row in backlog.listing(machine.database)].count(backlog.Standing.RUNNING) == 2
        )
        machine.enqueue(hint("a"))
        eventually(lambda: machine.world.drifted() == set())
    finally:
        release.set()


def test_retention_deletes_everything_old_in_small_transactions(machine: Machine) -> None:
    letters = [DeadLetter("nova", "", "", "garbage", 1000, b"x" * 1000) for _ in range(2500)]
    hinting.enqueue(machine.database, [], letters)
    upkeep = Upkeep(machine.engine(), JournalSettings("", dead_bytes=1_000_000))
    upkeep.start()
    try:
        eventually(lambda: dead.count(machine.database) == 1000)
    finally:
        upkeep.stop()


def test_keys_that_wait_for_a_used_up_budget_are_not_inspected_again_and_warned_of_once(
    machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    looks: list[str] = []
    machine.world.things = {str(number): 1 for number in range(30)}
    machine.world.before_look = lambda key: looks.append(key.id)
    machine.heals_per_hour = 5
    with caplog.at_level("WARNING"):
        machine.start()
        machine.enqueue(*(hint(str(number)) for number in range(30)))
        eventually(lambda: len(machine.world.drifted()) == 25)
        eventually(lambda: len(looks) >= 30)
        machine.at_rest()
    assert sorted(looks) == sorted(machine.world.things)
    assert len([record for record in caplog.records if "has no room" in record.getMessage()]) == 1
    waits = sorted(row.due_in for row in backlog.listing(machine.database))
    assert all(wait > 3000 for wait in waits)
