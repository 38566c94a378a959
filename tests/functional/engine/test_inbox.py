"""Batches that the journal refuses in part, for good."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from consumer.bus.source import Batch, NotStored, Received, UndecodableMessage
from consumer.engine.inbox import Inbox
from consumer.engine.router import Router
from consumer.journal import backlog, dead
from consumer.journal.database import Database
from handlers.base import Event
from tests import journals
from tests.doubles import Mender


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Database]:
    database = journals.fresh(tmp_path)
    yield database
    database.close()


def refuse(journal: Database, table: str, condition: str) -> None:
    """Make the database refuse rows, as one with a narrow character set does."""
    trigger = f"CREATE TRIGGER t_{table} BEFORE INSERT ON {table} WHEN {condition} BEGIN SELECT RAISE(ABORT, 'no'); END"
    journal.transact(lambda connection: connection.execute(text(trigger)))


def inbox(journal: Database) -> Inbox:
    return Inbox(journal, Router([Mender]), lambda: None, 1024)


def batch(*names: str) -> Batch:
    wanted = tuple(Received(Event("thing.broken", {"name": name}, id=name), name.encode()) for name in names)
    return Batch("nova", wanted, (UndecodableMessage("nova", "garbage", b"garbage", 7),), len(names) + 1)


def keys(journal: Database) -> list[str]:
    return sorted(row.key for row in backlog.listing(journal))


def test_a_refused_message_becomes_a_dead_letter_and_the_others_are_stored(journal: Database) -> None:
    refuse(journal, "work", "NEW.key LIKE '%bad%'")
    inbox(journal).store(batch("a", "b", "bad", "c", "d"))
    assert keys(journal) == ["thing:a", "thing:b", "thing:c", "thing:d"]
    letters = dead.find(journal, dead.ids(journal))
    assert sorted(letter.body for letter in letters) == [b"bad", b"garbage"]
    assert any("the journal refuses" in letter.reason for letter in letters)


def test_a_refused_dead_letter_is_stored_without_its_body(journal: Database) -> None:
    refuse(journal, "dead_event", "NEW.body = x'67617262616765'")
    inbox(journal).store(batch("a"))
    assert keys(journal) == ["thing:a"]
    (letter,) = dead.find(journal, dead.ids(journal))
    assert (letter.body, letter.size) == (b"", 7)


def test_a_journal_that_refuses_everything_acknowledges_nothing(journal: Database) -> None:
    refuse(journal, "work", "1")
    refuse(journal, "dead_event", "1")
    with pytest.raises(NotStored):
        inbox(journal).store(batch("a", "b"))


def test_a_full_journal_takes_no_further_events_and_the_bus_keeps_them(
    journal: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("consumer.engine.capacity._RECOUNT_FULL", 0.0)
    bounded = Inbox(journal, Router([Mender]), lambda: None, 1024, most_waiting=3)
    bounded.store(batch("a", "b", "c"))
    with pytest.raises(NotStored, match="3 objects wait"):
        bounded.store(batch("d"))
    assert keys(journal) == ["thing:a", "thing:b", "thing:c"]
    backlog.drop(journal, [row.id for row in backlog.listing(journal)])
    bounded.store(batch("d"))
    assert keys(journal) == ["thing:d"]


def test_a_full_journal_takes_dead_letters(journal: Database) -> None:
    bounded = Inbox(journal, Router([Mender]), lambda: None, 1024, most_waiting=1)
    bounded.store(batch("a"))
    bounded.store(batch())
    assert dead.count(journal) == 2
