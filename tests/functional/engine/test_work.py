"""The engine over a world that drifts: heals, left drift and history."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from consumer.conf.window import Window
from consumer.engine import sweeps
from consumer.journal import backlog, claiming, controls, hinting, history
from consumer.journal.work import SWEEP, Hint, Priority
from handlers.base import Finding, InFlight, Key, Mode, Refused, Unavailable
from tests.functional.engine.machine import Machine, hint
from tests.waiting import eventually


def outcomes(machine: Machine) -> list[tuple[str, str]]:
    return [(entry.key, entry.outcome) for entry in history.listing(machine.database)]


def timer(name: str = "mender") -> Hint:
    return Hint(name, Key(SWEEP, name), Priority.OPERATOR, "start")


def test_a_hint_heals_and_the_history_has_one_line(machine: Machine) -> None:
    machine.world.things = {"a": 1, "b": 1}
    machine.start()
    machine.enqueue(hint("a"), hint("a"), hint("right"))
    eventually(machine.idle)
    assert machine.world.things == {"a": 0, "b": 1}
    (entry,) = history.listing(machine.database)
    assert (entry.key, entry.outcome, entry.action, entry.undo) == ("thing:a", "healed", "mended a", "break a")
    assert (entry.before, entry.after) == ({"generation": 1}, {"generation": 0})
    assert entry.lag is not None
    assert 0 <= entry.lag < 20
    assert backlog.listing(machine.database) == []


def test_audit_reports_once_and_changes_nothing(machine: Machine) -> None:
    machine.mode = Mode.AUDIT
    machine.world.things = {"a": 1}
    machine.start()
    for _ in range(3):
        machine.enqueue(hint("a"))
        eventually(machine.idle)
    assert machine.world.things == {"a": 1}
    assert machine.world.writes == {}
    assert outcomes(machine) == [("thing:a", "found")]
    assert [row.state for row in backlog.listing(machine.database)] == ["reported"]


def test_reported_drift_that_went_away_leaves_the_list_at_the_next_sweep(machine: Machine) -> None:
    machine.mode = Mode.AUDIT
    machine.world.things = {"a": 1}
    machine.start()
    machine.enqueue(hint("a"))
    eventually(machine.idle)
    machine.world.things["a"] = 0
    machine.enqueue(timer())
    eventually(lambda: [row.key for row in backlog.listing(machine.database)] == ["sweep:mender"])


def test_unhealable_is_refused_once(machine: Machine) -> None:
    machine.world.things = {"a": 1}
    machine.world.unhealable = frozenset({"a"})
    machine.start()
    for _ in range(2):
        machine.enqueue(hint("a"))
        eventually(machine.idle)
    assert machine.world.drifted() == {"a"}
    assert outcomes(machine) == [("thing:a", "refused")]


def test_a_careful_handler_looks_twice(machine: Machine) -> None:
    looks: list[float] = []
    machine.world.things = {"a": 1}
    machine.world.before_look = lambda _key: looks.append(time.monotonic())
    machine.start()
    machine.enqueue(hint("a", "careful_mender"))
    eventually(machine.idle)
    assert machine.world.drifted() == set()
    assert len(looks) == 2
    assert looks[1] - looks[0] >= 0.29


def test_what_changes_between_two_looks_is_not_touched(machine: Machine) -> None:
    machine.world.things = {"a": 1}

    def move(_key: Key) -> None:
        machine.world.things["a"] += 1
        if machine.world.things["a"] > 5:
            machine.world.things["a"] = 0

    machine.world.before_look = move
    machine.start()
    machine.enqueue(hint("a", "careful_mender"))
    eventually(machine.idle)
    assert machine.world.writes == {}
    assert outcomes(machine) == []


def test_a_sweep_finds_drift_without_an_event(machine: Machine) -> None:
    machine.world.things = {"a": 1, "b": 0, "c": 3}
    machine.start()
    machine.enqueue(timer())
    eventually(lambda: machine.world.drifted() == set())
    eventually(lambda: controls.read(machine.database)["mender"].sweep_found == 2)
    assert controls.read(machine.database)["mender"].sweep_population == 3
    eventually(lambda: [row.key for row in backlog.listing(machine.database)] == ["sweep:mender"])
    (row,) = backlog.listing(machine.database)
    assert 3000 < row.due_in <= 3960


def test_a_sweep_cut_short_heals_what_it_had_listed_and_is_repeated(machine: Machine) -> None:
    machine.world.things = {"a": 1}
    machine.world.sweep_error = Unavailable("cell:two", "no answer")
    machine.start()
    machine.enqueue(timer())
    eventually(lambda: machine.world.drifted() == set())
    assert controls.read(machine.database)["mender"].swept_at is None, "an incomplete sweep is none"
    machine.world.things["b"] = 1
    machine.enqueue(hint("b"))
    eventually(lambda: machine.world.drifted() == set())
    machine.world.sweep_error = None
    eventually(lambda: controls.read(machine.database)["mender"].swept_at is not None)


def test_without_an_interval_a_sweep_leaves_no_timer(machine: Machine) -> None:
    machine.interval = 0
    machine.world.things = {"a": 1}
    machine.start()
    machine.enqueue(timer())
    eventually(lambda: machine.world.drifted() == set())
    eventually(lambda: backlog.listing(machine.database) == [])


def test_a_sweep_that_finds_too_much_heals_nothing_and_stops_its_handler(machine: Machine) -> None:
    machine.with_settings(breaker_count=5, breaker_percent=10)
    machine.world.things = {str(number): 1 for number in range(20)}
    machine.start()
    machine.enqueue(timer())
    eventually(lambda: controls.read(machine.database)["mender"].broken)
    machine.enqueue(hint("1"))
    machine.at_rest()
    assert len(machine.world.drifted()) == 20
    assert ("sweep:mender", "stopped") in outcomes(machine)
    controls.resume(machine.database, ["mender"])
    eventually(lambda: machine.world.drifted() == {str(number) for number in range(20)} - {"1"})


def test_a_breaker_closes_after_two_sweeps_that_list_little(machine: Machine) -> None:
    machine.with_settings(breaker_count=5, breaker_percent=0)
    machine.world.things = {str(number): 1 for number in range(20)}
    machine.start()
    assert next_sweep(machine).broken
    assert next_sweep(machine).broken
    assert [outcome for outcome in outcomes(machine) if outcome[1] == "stopped"] == [("sweep:mender", "stopped")]
    machine.world.things = {"1": 1}
    assert next_sweep(machine).broken
    assert machine.world.drifted() == {"1"}
    assert not next_sweep(machine).broken
    eventually(lambda: machine.world.drifted() == set())


def test_a_restored_database_stays_stopped_however_calm_the_sweeps(machine: Machine) -> None:
    machine.start()
    machine.database.transact(lambda connection: controls.break_off(connection, ["mender"], "restored"))
    machine.enqueue(timer())
    machine.at_rest()
    machine.enqueue(timer())
    machine.at_rest()
    assert controls.read(machine.database)["mender"].broken


def test_known_refusals_stop_no_handler(machine: Machine) -> None:
    machine.with_settings(breaker_count=5, breaker_percent=0)
    machine.world.things = {str(number): 1 for number in range(5)}
    machine.world.before_look = refuse_numbers
    machine.start()
    machine.enqueue(timer())
    eventually(lambda: len([one for one in outcomes(machine) if one[1] == "refused"]) == 5)
    machine.world.things |= {"a": 1, "b": 1}
    machine.enqueue(timer())
    eventually(lambda: not {"a", "b"} & machine.world.drifted())
    assert not controls.read(machine.database)["mender"].broken


def test_many_refusals_at_first_sight_stop_no_handler(machine: Machine) -> None:
    machine.with_settings(breaker_count=5, breaker_percent=0)
    machine.world.things = {str(number): 1 for number in range(20)} | {"a": 1}
    machine.world.before_look = refuse_numbers
    machine.start()
    machine.enqueue(timer())
    eventually(lambda: len([one for one in outcomes(machine) if one[1] == "refused"]) == 20)
    eventually(lambda: "a" not in machine.world.drifted())
    assert not controls.read(machine.database)["mender"].broken


def test_suspects_that_no_inspection_can_judge_count_for_the_breaker(machine: Machine) -> None:
    machine.with_settings(breaker_count=5, breaker_percent=0)
    machine.world.things = {str(number): 1 for number in range(20)}
    machine.world.before_look = answer_nothing
    machine.start()
    machine.enqueue(timer())
    eventually(lambda: controls.read(machine.database)["mender"].broken)
    assert len(machine.world.drifted()) == 20


def answer_nothing(key: Key) -> None:
    raise InFlight(f"{key} changes", after=1.0)


def refuse_numbers(key: Key) -> None:
    if key.id.isdigit():
        raise Refused("two hosts answer to it")


def next_sweep(machine: Machine) -> controls.Control:
    """Let one more sweep end; return the state afterwards."""
    machine.enqueue(timer())

    def ended() -> bool:
        [row] = [row for row in backlog.listing(machine.database) if row.key == "sweep:mender"]
        return row.state == "pending" and row.due_in > 60

    eventually(ended)
    return controls.read(machine.database)["mender"]


def test_the_handler_is_stopped_before_the_log_reports_it(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise another replica could heal after the log line."""
    stopped: list[bool] = []

    class Reader(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "stopped:" in record.getMessage():
                stopped.append(controls.read(machine.database)["mender"].broken)

    monkeypatch.setattr(sweeps.LOG, "handlers", [Reader()])
    machine.with_settings(breaker_count=1, breaker_percent=0)
    machine.world.things = {"a": 1, "b": 1}
    machine.start()
    machine.enqueue(timer())
    eventually(lambda: bool(stopped))
    assert stopped == [True]
    assert ("sweep:mender", "stopped") in outcomes(machine)


def test_a_paused_handler_does_nothing_until_resumed(machine: Machine) -> None:
    machine.world.things = {"a": 1}
    machine.start()
    controls.pause(machine.database, ["mender"], "maintenance")
    machine.enqueue(hint("a"))
    machine.at_rest()
    assert machine.world.drifted() == {"a"}
    controls.resume(machine.database, ["mender"])
    eventually(lambda: machine.world.drifted() == set())


def test_a_closed_window_holds_work(machine: Machine) -> None:
    hour = (time.gmtime().tm_hour + 12) % 24
    machine.window = Window.parse(f"{hour:02}:00-{hour:02}:01")
    machine.world.things = {"a": 1}
    machine.start()
    machine.enqueue(hint("a"))
    machine.at_rest()
    assert machine.world.drifted() == {"a"}
    assert not machine.idle()


def test_the_hourly_budget_holds_the_rest(machine: Machine) -> None:
    machine.heals_per_hour = 3
    machine.world.things = {str(number): 1 for number in range(10)}
    machine.start()
    machine.enqueue(*(hint(str(number)) for number in range(10)))
    eventually(lambda: len(machine.world.writes) == 3)
    eventually(lambda: len([row for row in backlog.listing(machine.database) if "has no room" in row.error]) == 7)
    assert len(machine.world.drifted()) == 7


def test_a_bug_backs_off_then_parks_and_a_new_event_rearms(machine: Machine) -> None:
    broken = threading.Event()
    broken.set()

    def fail(_finding: Finding) -> None:
        if broken.is_set():
            raise RuntimeError("a fault of the handler")

    machine.world.things = {"a": 1}
    machine.world.before_heal = fail
    machine.start()
    machine.enqueue(hint("a"))
    eventually(lambda: [row.state for row in backlog.listing(machine.database)] == ["parked"])
    assert outcomes(machine) == [("thing:a", "failed")] * 3
    machine.enqueue(hint("a", priority=Priority.SWEEP))
    eventually(machine.idle)
    assert outcomes(machine) == [("thing:a", "failed")] * 3, "a sweep must not re-arm what has not changed"
    broken.clear()
    machine.enqueue(hint("a"))
    eventually(lambda: machine.world.drifted() == set())
    eventually(lambda: backlog.listing(machine.database) == [])


def test_a_conflict_is_looked_at_anew(machine: Machine) -> None:
    moves = iter([True, False])

    def move(finding: Finding) -> None:
        if next(moves, False):
            machine.world.things["a"] = finding.evidence["generation"] + 1

    machine.world.things = {"a": 1}
    machine.world.before_heal = move
    machine.start()
    machine.enqueue(hint("a"))
    eventually(machine.idle)
    assert machine.world.writes == {"a": 1}
    assert outcomes(machine) == [("thing:a", "conflict"), ("thing:a", "healed")]


def test_an_outage_holds_the_handler_and_all_go_on_after_it(machine: Machine) -> None:
    down = threading.Event()
    down.set()
    refused: list[Key] = []

    def ask(key: Key) -> None:
        if down.is_set():
            refused.append(key)
            raise Unavailable("workshop", "connection refused")

    machine.world.things = {str(number): 1 for number in range(30)}
    machine.world.before_look = ask
    machine.start()
    machine.enqueue(*(hint(str(number)) for number in range(30)))
    # Every worker was refused, and then one attempt after another.
    eventually(lambda: len(refused) > machine.settings.workers + 1)
    assert machine.world.writes == {}
    down.clear()
    eventually(machine.idle)
    assert machine.world.drifted() == set()
    assert outcomes(machine).count(("thing:0", "healed")) == 1
    assert len(outcomes(machine)) == 30


def test_a_write_whose_answer_was_lost_is_one_line(machine: Machine) -> None:
    lost = iter([True])

    def lose(_finding: Finding) -> None:
        if next(lost, False):
            raise Unavailable("workshop", "the answer was lost")

    machine.world.things = {"a": 1}
    machine.world.after_heal = lose
    machine.start()
    machine.enqueue(hint("a"))
    eventually(machine.idle)
    (entry,) = history.listing(machine.database)
    assert entry.outcome == "healed"
    assert machine.world.writes == {"a": 1}


@pytest.mark.parametrize("error", [InFlight("being migrated", 0.05), Refused("two hosts answer to it")])
def test_in_flight_waits_and_refused_reports(machine: Machine, error: Exception) -> None:
    raised = threading.Event()

    def once(_key: Key) -> None:
        if not raised.is_set():
            raised.set()
            raise error

    machine.world.things = {"a": 1}
    machine.world.before_look = once
    machine.start()
    machine.enqueue(hint("a"))
    eventually(machine.idle)
    if isinstance(error, InFlight):
        assert machine.world.drifted() == set()
    else:
        assert outcomes(machine) == [("thing:a", "refused")]
        assert machine.world.drifted() == {"a"}


class Killed(BaseException):
    """Stands for kill -9: nothing of the program's own handling may run."""


@pytest.mark.parametrize("moment", ["before", "after"])
def test_killed_around_the_write_ends_as_one_heal(machine: Machine, moment: str) -> None:
    kills = iter([True])

    def kill(_finding: Finding) -> None:
        if next(kills, False):
            raise Killed

    machine.world.things = {"a": 1}
    if moment == "before":
        machine.world.before_heal = kill
    else:
        machine.world.after_heal = kill
    hinting.enqueue(machine.database, [hint("a")])
    controls.ensure(machine.database, machine.tasks())
    (claim,) = claiming.claim(machine.database, "dead", ["mender"], 1, 0.0)
    with pytest.raises(Killed):
        machine.worker().work(claim)
    machine.start()
    eventually(machine.idle)
    assert machine.world.writes == {"a": 1}
    (entry,) = history.listing(machine.database)
    assert entry.outcome == "healed"


def test_two_replicas_share_the_work(machine: Machine, journal: object) -> None:
    world = machine.world
    world.things = {str(number): 1 for number in range(100)}
    # Each replica's first heal waits for the other's: a fast one alone would otherwise be done before the other wakes up.
    both_heal = {"r1": threading.Event(), "r2": threading.Event()}

    def meet(mine: str, others: str) -> Callable[[Finding], None]:
        def wait(_finding: Finding) -> None:
            both_heal[mine].set()
            both_heal[others].wait(20)

        return wait

    other = Machine(machine.database, replace(world, before_heal=meet("r2", "r1")), replica="r2")
    world.before_heal = meet("r1", "r2")
    machine.start()
    other.start()
    try:
        machine.enqueue(*(hint(str(number)) for number in range(100)))
        eventually(machine.idle)
    finally:
        other.stop()
    assert world.writes == {str(number): 1 for number in range(100)}
    lines = history.listing(machine.database)
    assert len(lines) == 100
    assert {line.replica for line in lines} == {"r1", "r2"}


def test_stop_finishes_what_runs_and_gives_back_the_rest(machine: Machine) -> None:
    started, go = threading.Event(), threading.Event()

    def wait(_finding: Finding) -> None:
        started.set()
        go.wait(10)

    machine.with_settings(workers=1)
    machine.world.things = {"a": 1, "b": 1}
    machine.world.before_heal = wait
    dispatcher = machine.start()
    machine.enqueue(hint("a"), hint("b"))
    assert started.wait(10)
    threading.Timer(0.3, go.set).start()
    assert dispatcher.stop(5)
    assert len(machine.world.writes) == 1
    (left,) = backlog.listing(machine.database)
    assert left.owner == ""


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=12), st.randoms())
def test_duplicated_reordered_and_lost_events_end_in_the_same_world(
    machine: Machine, names: list[str], random: object
) -> None:
    machine.world.things = {"a": 1, "b": 2, "c": 3}
    machine.world.writes.clear()
    if not machine.running:
        machine.start()
    for name in names:
        machine.enqueue(hint(name))
    machine.enqueue(timer())
    eventually(lambda: machine.world.drifted() == set())
    eventually(lambda: [row.key for row in backlog.listing(machine.database)] == ["sweep:mender"])
    assert machine.world.writes == {"a": 1, "b": 1, "c": 1}
