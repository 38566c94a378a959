"""A whole daemon: a hold from outside, its end, the heal, and the message about it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from consumer import conf as configuration
from consumer import plugins
from consumer.conf import holds
from consumer.conf.tasks import TaskSettings
from consumer.conf.window import Window
from consumer.engine.holds import sources
from consumer.engine.meter import Meter
from consumer.engine.service import Service
from consumer.engine.task import Task
from consumer.engine.webhooks import sender
from consumer.journal import hinting, history
from consumer.journal.database import Database
from consumer.journal.errors import JournalUnavailable
from handlers.base import Mode, Resources
from tests.doubles import Mender, World
from tests.functional.engine.machine import hint
from tests.receiver import Receiver
from tests.waiting import eventually


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as made:
        yield made


@pytest.fixture
def hold(tmp_path: Path) -> Path:
    return tmp_path / "hold"


@pytest.fixture
def daemon(
    journal: Database, world: World, receiver: Receiver, hold: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Service]:
    monkeypatch.setattr(sender, "_EVERY", 0.05)
    file = tmp_path / "stackmend.conf"
    file.write_text(
        f"[engine]\nhold_file = {hold}\nhold_seconds = 1\npoll_seconds = 0.05\n"
        f"[webhooks]\nenabled = chat\n[webhook_chat]\nurl = {receiver.url}\nevents = healed, act\n"
    )
    conf = configuration.load(plugins.handlers(), [str(file)])
    resources = Resources(conf)
    task = Task(Mender(world), TaskSettings(Mode.HEAL, 3600, Window(), 0), lambda: datetime.now(UTC))
    board = sources.board(holds.settings(conf), resources, ())
    made = Service(conf, journal, resources, [task], [], Meter(), board=board)
    yield made
    made.stop()


def test_a_daemon_waits_for_the_end_of_a_hold_and_reports_the_heal(
    daemon: Service, journal: Database, world: World, receiver: Receiver, hold: Path
) -> None:
    hold.write_text("upgrading nova")
    daemon.start()
    world.things = {"a": 1}
    hinting.enqueue(journal, [hint("a")])
    eventually(lambda: _error(journal) == "on hold: all: upgrading nova ([engine] hold_file)")
    assert world.writes == {}
    hold.unlink()
    eventually(lambda: receiver.events == [("healed", "thing:a")])
    [healed] = [entry for entry in history.listing(journal) if entry.outcome == "healed"]
    assert healed.request_id.startswith("req-")
    assert receiver.received[0].json["request_id"] == healed.request_id


@pytest.mark.parametrize("before", [3600, 0])
def test_a_new_interval_counts_at_once(daemon: Service, journal: Database, world: World, before: int) -> None:
    settings = replace(daemon.tasks["mender"].settings, interval=before)
    daemon.adopt({"mender": settings})
    daemon.start()
    eventually(lambda: _has_swept(journal, before))
    world.things = {"a": 1}
    assert daemon.adopt({"mender": replace(settings, interval=1)}) == [f"mender: interval {before or 'none'} -> 1"]
    eventually(lambda: world.writes == {"a": 1})
    world.things = {"b": 1}
    eventually(lambda: world.writes == {"a": 1, "b": 1})


def test_regular_sweeps_end_at_once(daemon: Service, journal: Database) -> None:
    daemon.start()
    eventually(lambda: _has_swept(journal, 3600))
    daemon.adopt({"mender": replace(daemon.tasks["mender"].settings, interval=0)})
    eventually(lambda: _timers(journal) == [])


def test_new_settings_count_while_the_journal_is_away(
    daemon: Service, journal: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_arguments: object) -> None:
        raise JournalUnavailable("the journal does not answer")

    daemon.start()
    monkeypatch.setattr(hinting, "enqueue", away)
    settings = replace(daemon.tasks["mender"].settings, interval=7)
    assert daemon.adopt({"mender": settings}) == [
        "mender: interval 3600 -> 7",
        "a new interval begins after the next sweep: the journal does not answer",
    ]
    assert daemon.tasks["mender"].settings == settings


def _timers(journal: Database) -> list[tuple[object, ...]]:
    with journal.engine.connect() as connection:
        rows = connection.exec_driver_sql(
            "SELECT owner, not_before > first_hint_at FROM work WHERE key = 'sweep:mender'"
        )
        return [tuple(row) for row in rows]


def _has_swept(journal: Database, interval: int) -> bool:
    """Return whether the sweep at the start has ended, and the next regular one waits."""
    return _timers(journal) == ([(None, 1)] if interval else [])


def _error(journal: Database) -> str:
    with journal.engine.connect() as connection:
        return str(connection.exec_driver_sql("SELECT error FROM work WHERE key = 'thing:a'").scalar())
