"""The journal's clock is set back by a day: its rows have times that come a day too late."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import Connection, insert, select, update

from consumer.conf.journal import JournalSettings
from consumer.engine import upkeep
from consumer.engine.clocks import SetBack
from consumer.engine.upkeep import Upkeep
from consumer.journal import backlog, claiming, deliveries, hinting, history
from consumer.journal.database import Database, now
from consumer.journal.history import Line, Origin, Outcome
from consumer.journal.schema import delivery, webhook, work
from consumer.journal.work import SWEEP, Hint, Priority
from handlers.base import Key, Mode
from tests.functional.engine.machine import Machine, hint
from tests.waiting import eventually

DAY = 86400.0


def set_back(database: Database) -> None:
    """Give the rows the times that they have after the clock was set back by a day."""

    def shift(connection: Connection) -> None:
        times = (work.c.not_before, work.c.seen_at, work.c.first_hint_at, work.c.last_hint_at)
        connection.execute(update(work).values({time: time + DAY for time in times}))
        connection.execute(update(delivery).values(not_before=delivery.c.not_before + DAY))

    database.transact(shift)


@pytest.fixture
def restarted(machine: Machine) -> Iterator[Upkeep]:
    made = Upkeep(machine.engine(), JournalSettings(""))
    yield made
    made.stop()


def test_a_sweep_is_due_after_the_clock_was_set_back(machine: Machine, restarted: Upkeep) -> None:
    hinting.enqueue(machine.database, [Hint("mender", Key(SWEEP, "mender"), Priority.TIMER, "start", after=60.0)])
    set_back(machine.database)
    machine.world.things = {"a": 1}
    machine.start()
    restarted.start()
    eventually(lambda: machine.world.drifted() == set())


def test_the_second_inspection_follows_the_first_though_the_clock_was_set_back(
    machine: Machine, restarted: Upkeep
) -> None:
    machine.world.things = {"a": 1}
    machine.enqueue(hint("a", "careful_mender"))
    (first,) = claiming.claim(machine.database, "r1", ["careful_mender"], 1, 30.0)
    machine.worker().work(first)
    set_back(machine.database)
    machine.start()
    restarted.start()
    eventually(lambda: machine.world.drifted() == set())


def test_reported_drift_is_inspected_again_though_the_clock_was_set_back(machine: Machine, restarted: Upkeep) -> None:
    machine.world.things = {"a": 1}
    machine.mode = Mode.AUDIT
    machine.start()
    machine.enqueue(hint("a"))
    eventually(lambda: [row.state for row in backlog.listing(machine.database)] == ["reported"])
    set_back(machine.database)
    machine.world.things = {"a": 0}
    restarted.start()

    def reported() -> list[str]:
        machine.enqueue(Hint("mender", Key(SWEEP, "mender"), Priority.OPERATOR, "operator"))
        return [row.key for row in backlog.listing(machine.database) if row.key == "thing:a"]

    eventually(lambda: reported() == [])


def test_messages_are_sent_though_the_clock_was_set_back(machine: Machine, restarted: Upkeep) -> None:
    machine.database.transact(
        lambda connection: connection.execute(insert(webhook).values(sink="chat", outcome="found"))
    )
    line = Line("mender", Key("thing", "a"), Outcome.FOUND, "broken", "a is broken", Origin("sweep", "r1"))
    history.append(machine.database, [line])
    hinting.enqueue(machine.database, [hint("a")])
    set_back(machine.database)
    assert deliveries.claim(machine.database, "chat", 30.0) is None
    restarted.start()
    eventually(lambda: deliveries.claim(machine.database, "chat", 30.0) is not None)


def test_a_clock_that_is_set_back_while_the_daemon_runs_is_noticed(
    machine: Machine, restarted: Upkeep, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock falls behind the time that passes for the process."""
    monkeypatch.setattr(upkeep, "_EVERY", 0.05)
    hinting.enqueue(machine.database, [Hint("mender", Key("thing", "a"), Priority.EVENT, "thing.broken", after=3000.0)])
    restarted.start()
    monkeypatch.setattr(upkeep, "database_now", lambda connection: now(connection) - 3600.0)
    waits = select(work.c.not_before)
    eventually(
        lambda: machine.database.transact(lambda connection: connection.execute(waits).scalar_one() <= now(connection))
    )


def test_rows_wait_for_their_time_while_the_clock_is_right(machine: Machine) -> None:
    right = Upkeep(machine.engine(), JournalSettings(""))
    hinting.enqueue(machine.database, [Hint("mender", Key("thing", "a"), Priority.EVENT, "thing.broken", after=3000.0)])
    right._tidy()
    right._tidy()
    assert claiming.claim(machine.database, "r1", ["mender"], 1, 30.0) == []


def test_only_a_large_step_back_counts() -> None:
    clock = SetBack()
    rounds = [(1000.0, 0.0), (1060.0, 60.0), (1090.0, 120.0), (1150.0, 180.0)]
    assert [clock.noticed(now, passed, 0.0) for now, passed in rounds] == [False] * 4
    assert [clock.noticed(now, passed, 0.0) for now, passed in [(610.0, 240.0), (670.0, 300.0), (730.0, 360.0)]] == [
        True,
        True,
        False,
    ], "a second round catches what was at work in the first"
    assert SetBack().noticed(1000.0, 0.0, 86400.0), "rows are ahead of the clock at the start"
