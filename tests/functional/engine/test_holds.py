"""Holds from outside: covered heals wait and give the reason, all others go on, and a lifted hold lets the heals begin."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from consumer.conf.holds import HoldSettings
from consumer.engine.engine import Engine
from consumer.engine.holds import sources
from consumer.engine.holds.reader import Reader
from consumer.engine.oneshot import Action, OneShot
from consumer.journal import asks, backlog, history
from handlers.base import Finding, Healed, Mode, Resources
from tests.doubles import Mender
from tests.functional.engine.machine import Machine, hint
from tests.waiting import eventually


@pytest.fixture
def hold(tmp_path: Path) -> Path:
    return tmp_path / "hold"


@pytest.fixture
def held(machine: Machine, hold: Path) -> Iterator[Machine]:
    """A replica that reads the file ``hold`` all the time."""
    board = sources.board(HoldSettings(hold_file=str(hold), hold_seconds=0.05), Resources(None), ())  # type: ignore[arg-type]
    made = Machine.engine

    def engine() -> Engine:
        found = made(machine)
        return Engine(found.database, found.tasks, found.settings, found.replica, meter=found.meter, holds=board)

    machine.engine = engine  # type: ignore[method-assign]
    machine.world.things = {"a": 1, "b": 1}

    def wake() -> None:
        for dispatcher, _leases in machine.running:
            dispatcher.wake()

    reader = Reader(board, machine.database, wake)
    reader.start()
    yield machine
    reader.stop()


def errors(machine: Machine) -> dict[str, str]:
    return {row.key: row.error for row in backlog.listing(machine.database)}


def test_a_heal_on_hold_waits_with_its_reason_and_others_go_on(held: Machine, hold: Path) -> None:
    hold.write_text("host:shelf-a memory test")
    eventually(lambda: held.engine().holds.standing() != ())
    held.start()
    held.enqueue(hint("a"), hint("b"))
    eventually(lambda: held.world.drifted() == {"a"})
    eventually(lambda: "thing:a" in errors(held) and errors(held)["thing:a"] != "")
    assert errors(held) == {"thing:a": "on hold: host:shelf-a: memory test ([engine] hold_file)"}
    assert [entry.key for entry in history.listing(held.database)] == ["thing:b"]


def test_a_lifted_hold_lets_the_heals_begin_at_once(held: Machine, hold: Path) -> None:
    hold.write_text("")
    eventually(lambda: held.engine().holds.standing() != ())
    held.start()
    held.enqueue(hint("a"), hint("b"))
    eventually(lambda: len([error for error in errors(held).values() if error.startswith("on hold: all: ")]) == 2)
    hold.unlink()
    eventually(lambda: held.world.drifted() == set())


def test_an_unreadable_source_holds_every_heal(held: Machine, hold: Path) -> None:
    hold.mkdir()
    eventually(lambda: held.engine().holds.standing() != ())
    held.start()
    held.enqueue(hint("a"))
    eventually(lambda: "cannot be read" in errors(held).get("thing:a", ""))
    assert held.world.writes == {}


def test_a_hold_is_logged_once(held: Machine, hold: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    hold.write_text("host:shelf-a memory test")
    eventually(lambda: held.engine().holds.standing() != ())
    held.start()
    for _ in range(3):
        held.enqueue(hint("a"))
        held.at_rest()
    hold.unlink()
    eventually(lambda: held.world.drifted() == {"b"})
    text = "host:shelf-a: memory test ([engine] hold_file)"
    assert [line for line in caplog.messages if text in line] == [
        f"heals wait: {text}",
        f"mender thing:a: the heal is deferred: on hold: {text}",
        f"a hold is lifted: {text}",
    ]


def test_a_hold_leaves_the_approval_for_later(held: Machine, hold: Path) -> None:
    held.mode = Mode.ASK
    hold.write_text("all upgrade")
    eventually(lambda: held.engine().holds.standing() != ())
    held.start()
    held.enqueue(hint("a"))
    eventually(lambda: len(asks.listing(held.database)) == 1)
    eventually(held.idle)
    asks.approve(held.database, [one.id for one in asks.listing(held.database)], "alice")
    eventually(lambda: errors(held).get("thing:a", "").startswith("on hold: "))
    hold.unlink()
    eventually(lambda: held.world.drifted() == {"b"})
    assert history.listing(held.database)[-1].operator == "alice"


def test_a_long_heal_makes_no_further_step_on_hold(held: Machine, hold: Path) -> None:
    steps: list[bool] = []

    class Long(Mender):
        def heal_while(self, finding: Finding, go_on: object) -> Healed:
            assert callable(go_on)
            steps.append(go_on())
            hold.write_text("host:shelf-a stop")
            eventually(lambda: held.engine().holds.standing() != ())
            steps.append(go_on())
            return self.heal(finding)

    held.handlers = lambda: [Long(held.world)]  # type: ignore[method-assign]
    held.start()
    held.enqueue(hint("a"))
    eventually(lambda: held.world.drifted() == {"b"})
    assert steps == [True, False]


def test_a_one_shot_sweep_reads_the_holds_itself(machine: Machine, hold: Path) -> None:
    machine.world.things = {"a": 1, "b": 1}
    hold.write_text("host:shelf-a memory test")
    board = sources.board(HoldSettings(hold_file=str(hold)), Resources(None), ())  # type: ignore[arg-type]
    task = machine.tasks()["mender"]
    results = OneShot(machine.database, machine.settings, "cli", board=board).sweep([task])
    assert {one.key: one.action for one in results} == {"thing:a": Action.DEFERRED, "thing:b": Action.HEALED}
    assert machine.world.drifted() == {"a"}
