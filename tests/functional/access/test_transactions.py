"""How a transaction on a service's database ends, and what the next one on its connection sees."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from handlers.access import database as module
from handlers.access.database import Database

ended: list[str] = []


class Recording(sqlite3.Connection):
    """Records how its transactions end, as a server would see it."""

    def commit(self) -> None:
        ended.append("commit")
        super().commit()

    def rollback(self) -> None:
        ended.append("rollback")
        super().rollback()


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    monkeypatch.setattr(module, "_TIMEOUTS", {"sqlite+pysqlite": {"factory": Recording}})
    made = Database("nova_api", f"sqlite:///{tmp_path}/one.db")
    made.run(lambda connection: connection.execute(sa.text("CREATE TABLE written (number INTEGER)")))
    ended.clear()
    yield made
    made.close()


def numbers(connection: Connection) -> list[int]:
    return list(connection.scalars(sa.text("SELECT number FROM written ORDER BY number")))


def writing(number: int) -> Callable[[Connection], object]:
    return lambda connection: connection.execute(sa.text(f"INSERT INTO written VALUES ({number})"))


def test_one_statement_ends_a_transaction(database: Database) -> None:
    for number in (1, 2):
        database.run(writing(number))
    assert ended == ["commit", "commit"]
    assert database.run(numbers) == [1, 2]


def test_nothing_of_a_failed_transaction_stays_on_its_connection(database: Database) -> None:
    database.run(writing(1))

    def fails(connection: Connection) -> None:
        writing(2)(connection)
        raise LookupError

    with pytest.raises(LookupError):
        database.run(fails)
    database.run(writing(3))
    assert database.run(numbers) == [1, 3]


def test_a_transaction_without_a_commit_is_rolled_back(database: Database) -> None:
    """A connection that someone else takes from the pool after a commit, and returns with an open transaction."""
    database.run(writing(1))
    ended.clear()
    connection = database._engine.raw_connection()
    connection.cursor().execute("INSERT INTO written VALUES (2)")
    connection.close()
    assert ended == ["rollback"]
    assert database.run(numbers) == [1]
