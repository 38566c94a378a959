"""Windows in the running machine: what closes amid a queue, a look, a sweep or a long heal stops there and goes on later."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import update

from consumer import conf as configuration
from consumer.conf.window import Window
from consumer.engine import task as tasks
from consumer.engine.oneshot import OneShot
from consumer.engine.task import Task
from consumer.journal import backlog, controls, history, schema
from consumer.journal.work import SWEEP, Hint, Priority
from handlers.base import Finding, Handler, Healed, InFlight, Key, Mode, Resources
from tests.doubles import Mender
from tests.functional.engine.machine import SETTINGS, Machine, hint
from tests.waiting import eventually

BERLIN = ZoneInfo("Europe/Berlin")
#: A window, a moment inside and one outside of it.
NIGHTS, OPEN, CLOSED = "22:00-06:00", "2026-11-23T23:00", "2026-11-24T06:00"


@dataclass
class Clock:
    """A wall clock that a test sets."""

    text: str
    zone: ZoneInfo = BERLIN
    fold: int = 0

    def __call__(self) -> datetime:
        return datetime.fromisoformat(self.text).replace(tzinfo=self.zone, fold=self.fold)


class Batch(Mender):
    """Mends everything under one key, thing by thing."""

    name: ClassVar[str] = "batch"

    def inspect(self, key: Key) -> Iterator[Finding]:
        if broken := sorted(self.world.drifted()):
            yield Finding(key, "broken", f"{len(broken)} are broken", {"broken": broken})

    def heal_while(self, finding: Finding, go_on: Callable[[], bool]) -> Healed:
        mended = []
        for name in finding.evidence["broken"]:
            if not go_on():
                break
            self.heal(Finding(Key("thing", name), "broken", "", {"generation": self.world.things[name]}))
            mended.append(name)
        return Healed(f"mended {len(mended)}", undo="break them", complete=mended == finding.evidence["broken"])


class Catalogue(Mender):
    """Tells when a key of a sweep is asked for."""

    name: ClassVar[str] = "catalogue"
    on_key: Callable[[str], None] = staticmethod(lambda _name: None)

    def sweep(self) -> Iterator[Key]:
        for name in sorted(self.world.drifted()):
            self.on_key(name)
            yield Key("thing", name)


@dataclass
class Windowed(Machine):
    """A replica with these handlers besides."""

    catalogue: list[Catalogue] = field(default_factory=list)

    def handlers(self) -> list[Handler]:
        return [*super().handlers(), Batch(self.world), *self.catalogue]


@pytest.fixture
def clock() -> Clock:
    return Clock(OPEN)


@pytest.fixture
def windowed(machine: Machine, clock: Clock) -> Iterator[Windowed]:
    """One worker, so that work has an order."""
    made = Windowed(machine.database, machine.world, window=Window.parse(NIGHTS), clock=clock)
    made.with_settings(workers=1)
    made.catalogue.append(Catalogue(machine.world))
    yield made
    made.stop()


def timer(name: str) -> Hint:
    return Hint(name, Key(SWEEP, name), Priority.OPERATOR, "start")


def untouched(machine: Machine, rows: int) -> bool:
    """Whether so many rows wait, and no worker has one."""
    left = backlog.listing(machine.database)
    return len(left) == rows and not [row for row in left if row.owner]


def quiet(machine: Machine, rows: int) -> None:
    """See that so many rows wait, and that they still do when everything had its turn several times."""
    eventually(lambda: untouched(machine, rows))
    for _ in range(10):
        threading.Event().wait(SETTINGS.poll_seconds)
        assert untouched(machine, rows)


def test_a_window_that_closes_amid_a_queue_stops_it(windowed: Windowed, clock: Clock) -> None:
    world = windowed.world
    world.things = {f"{number:02}": 1 for number in range(20)}

    def close(_finding: Finding) -> None:
        if len(world.writes) == 2:
            clock.text = CLOSED

    world.before_heal = close
    windowed.start()
    windowed.enqueue(*(hint(name) for name in world.things))
    quiet(windowed, 17)
    assert len(world.writes) == 3, "what was begun is finished, and nothing begun after it"
    assert [entry.outcome for entry in history.listing(windowed.database)] == ["healed"] * 3
    assert {row.attempts for row in backlog.listing(windowed.database)} == {0}
    clock.text = OPEN
    world.before_heal = lambda _finding: None
    eventually(lambda: backlog.listing(windowed.database) == [])
    assert world.writes == dict.fromkeys(world.things, 1)
    assert [entry.outcome for entry in history.listing(windowed.database)] == ["healed"] * 20


def test_a_window_that_closes_between_look_and_heal(windowed: Windowed, clock: Clock) -> None:
    windowed.world.things = {"a": 1}

    def close(_key: Key) -> None:
        clock.text = CLOSED

    windowed.world.before_look = close
    windowed.start()
    windowed.enqueue(hint("a"))
    eventually(lambda: "is closed" in backlog.listing(windowed.database)[0].error)
    quiet(windowed, 1)
    assert windowed.world.writes == {}
    assert history.listing(windowed.database) == []
    windowed.world.before_look = lambda _key: None
    clock.text = OPEN
    eventually(lambda: backlog.listing(windowed.database) == [])
    assert windowed.world.writes == {"a": 1}
    assert [entry.outcome for entry in history.listing(windowed.database)] == ["healed"]


def test_a_closed_window_is_no_time_for_which_an_object_was_watched(windowed: Windowed, clock: Clock) -> None:
    """Else one that is in flight when the window opens would be left to a next sweep, which need not come."""
    answers = iter([InFlight("being migrated", 0.05)] * 3)

    def ask(_key: Key) -> None:
        for error in answers:
            raise error

    windowed.world.things = {"a": 1}
    windowed.world.before_look = ask
    clock.text = CLOSED
    windowed.start()
    windowed.enqueue(hint("a"))
    quiet(windowed, 1)
    night = schema.work.c.first_hint_at - 2 * windowed.settings.patience_seconds
    windowed.database.transact(lambda connection: connection.execute(update(schema.work).values(first_hint_at=night)))
    clock.text = OPEN
    eventually(lambda: backlog.listing(windowed.database) == [])
    assert windowed.world.writes == {"a": 1}


def test_an_object_that_stays_in_flight_is_left_to_the_next_sweep(windowed: Windowed) -> None:
    def ask(_key: Key) -> None:
        raise InFlight("being migrated", 0.05)

    windowed.world.things = {"a": 1}
    windowed.world.before_look = ask
    windowed.with_settings(patience_seconds=0.2)
    windowed.start()
    windowed.enqueue(hint("a"))
    eventually(lambda: backlog.listing(windowed.database) == [])
    assert windowed.world.writes == {}


@pytest.mark.parametrize("mode", [Mode.HEAL, Mode.AUDIT])
def test_a_window_that_closes_amid_a_sweep(windowed: Windowed, clock: Clock, mode: Mode) -> None:
    windowed.mode = mode
    windowed.world.things = {"a": 1, "b": 1, "c": 1}
    [catalogue] = windowed.catalogue

    def close(name: str) -> None:
        if name == "b":
            clock.text = CLOSED

    catalogue.on_key = close
    windowed.start()
    windowed.enqueue(timer("catalogue"))
    eventually(lambda: {row.key for row in backlog.listing(windowed.database)} == {"sweep:catalogue", "thing:a"})
    quiet(windowed, 2)
    assert windowed.world.writes == {}
    assert history.listing(windowed.database) == []
    assert controls.read(windowed.database)["catalogue"].swept_at is None, "a sweep that was cut short is none"
    catalogue.on_key = lambda _name: None
    clock.text = OPEN
    eventually(lambda: controls.read(windowed.database)["catalogue"].swept_at is not None)
    outcome = {"heal": "healed", "audit": "found"}[mode]
    eventually(lambda: [entry.outcome for entry in history.listing(windowed.database)] == [outcome] * 3)
    assert windowed.world.writes == ({"a": 1, "b": 1, "c": 1} if mode == "heal" else {})


def test_a_long_heal_ends_between_two_steps_and_goes_on(windowed: Windowed, clock: Clock) -> None:
    world = windowed.world
    world.things = {f"{number}": 1 for number in range(9)}

    def close(_finding: Finding) -> None:
        if len(world.writes) == 4:
            clock.text = CLOSED

    world.after_heal = close
    windowed.start()
    windowed.enqueue(hint("all", "batch"))
    eventually(lambda: len(world.writes) == 4)
    quiet(windowed, 1)
    assert len(world.writes) == 4
    [entry] = history.listing(windowed.database)
    assert (entry.outcome, entry.action) == ("healed", "mended 4")
    clock.text = OPEN
    world.after_heal = lambda _finding: None
    eventually(lambda: backlog.listing(windowed.database) == [])
    assert world.writes == dict.fromkeys(world.things, 1)
    assert [entry.action for entry in history.listing(windowed.database)] == ["mended 4", "mended 5"]


@pytest.mark.parametrize(
    ("window", "closed", "opened"),
    [
        ("Sat 23:00-01:00", "2026-11-21T22:59:59", "2026-11-21T23:00"),
        ("Sat 23:00-01:00", "2026-11-22T01:00", "2026-11-22T00:59"),  # Sunday, in the night of Saturday
        ("Sat 23:00-01:00", "2026-11-21T00:30", "2026-11-22T00:30"),
        ("Sun 02:00-03:00", "2026-03-29T03:00", "2026-04-05T02:00"),  # the night without that hour
        ("Sun 02:00-03:00", "2026-10-25T03:00", "2026-10-25T02:30"),
    ],
)
def test_nothing_outside_and_all_inside(
    windowed: Windowed, clock: Clock, window: str, closed: str, opened: str
) -> None:
    windowed.window = Window.parse(window)
    windowed.world.things = {"a": 1}
    clock.text = closed
    windowed.start()
    windowed.enqueue(hint("a"))
    quiet(windowed, 1)
    assert windowed.world.writes == {}
    clock.text = opened
    eventually(lambda: windowed.world.writes == {"a": 1})


def test_the_hour_that_comes_twice_is_open_twice(windowed: Windowed, clock: Clock) -> None:
    windowed.window = Window.parse("Sun 02:00-03:00")
    clock.text = "2026-10-25T02:59"
    windowed.world.things = {"first": 1}
    windowed.start()
    windowed.enqueue(hint("first"))
    eventually(lambda: windowed.world.writes == {"first": 1})
    windowed.world.things["second"] = 1
    clock.fold = 1
    windowed.enqueue(hint("second"))
    eventually(lambda: windowed.world.writes == {"first": 1, "second": 1})


@pytest.mark.parametrize(
    ("evening", "hours"),
    [
        ("2026-03-28T23:00", 3),  # 02:00 is 03:00
        ("2026-03-21T23:00", 4),
        ("2026-10-24T23:00", 5),  # 02:00 to 03:00 comes twice
    ],
)
def test_the_next_sweep_is_due_when_the_window_opens(
    windowed: Windowed, clock: Clock, evening: str, hours: int
) -> None:
    windowed.window = Window.parse("Sat 22:00-23:30; Sun 03:00-04:00")
    clock.text = evening
    windowed.start()
    windowed.enqueue(timer("mender"))
    eventually(lambda: controls.read(windowed.database)["mender"].swept_at is not None)
    eventually(lambda: untouched(windowed, 1))
    [row] = backlog.listing(windowed.database)
    assert hours * 3600 - 600 < row.due_in <= hours * 3600


@pytest.mark.parametrize(
    ("zone", "is_open"), [("UTC", False), ("Europe/Berlin", True), ("America/New_York", False), ("Asia/Kolkata", False)]
)
def test_the_zone_is_the_configured_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, machine: Machine, zone: str, is_open: bool
) -> None:
    file = tmp_path / "stackmend.conf"
    file.write_text(f"[engine]\ntimezone = {zone}\n[audit]\nmender_window = 22:00-22:30\n")
    loaded = configuration.load([Mender], [str(file)], [])

    class Frozen(datetime):
        """Always the same moment."""

        @classmethod
        def now(cls, tz: object = None) -> datetime:  # type: ignore[override]
            return datetime(2026, 11, 23, 21, 15, tzinfo=UTC).astimezone(tz)  # type: ignore[arg-type]

    monkeypatch.setattr(tasks, "datetime", Frozen)
    [task] = tasks.make(loaded, Resources(loaded), [Mender])
    assert task.is_open is is_open


def test_a_one_shot_sweep_stops_healing_when_its_window_closes(windowed: Windowed, clock: Clock) -> None:
    world = windowed.world
    world.things = {"a": 1, "b": 1, "c": 1}

    def close(_finding: Finding) -> None:
        clock.text = CLOSED

    world.after_heal = close
    task: Task = windowed.tasks()["mender"]
    results = OneShot(windowed.database, windowed.settings, "cli").sweep([task])
    assert sorted(result.action for result in results) == ["deferred", "deferred", "healed"]
    assert {result.change for result in results if result.action == "deferred"} == {
        f"the window of mender ({NIGHTS}) is closed"
    }
    assert len(world.drifted()) == 2
    assert [entry.outcome for entry in history.listing(windowed.database)] == ["healed"]
