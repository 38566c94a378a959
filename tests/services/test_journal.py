"""The journal on MariaDB and PostgreSQL: the same contract as on SQLite."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import text

from consumer.journal import claiming, hinting, migrations
from consumer.journal.database import Database, WrongJournal, open_engine
from consumer.journal.work import Hint, Priority
from handlers.base import Key
from tests.functional.journal.contract import JournalContract
from tests.servers.postgresql import PostgreSQL


def _upgraded(url: str) -> Iterator[Database]:
    database = Database(open_engine(url))
    migrations.upgrade(database)
    yield database
    database.close()


class TestMariaDB(JournalContract):
    """The contract, on MariaDB."""

    @pytest.fixture
    def journal(self, mariadb_url: str) -> Iterator[Database]:
        yield from _upgraded(mariadb_url)


class TestPostgreSQL(JournalContract):
    """The contract, on PostgreSQL."""

    @pytest.fixture
    def journal(self, postgresql_url: str) -> Iterator[Database]:
        yield from _upgraded(postgresql_url)


def test_a_host_with_an_emoji_is_stored_whatever_the_urls_charset(mariadb_url: str) -> None:
    separator = "&" if "?" in mariadb_url else "?"
    for journal in _upgraded(f"{mariadb_url}{separator}charset=utf8"):
        key = Key("host", "compute-\N{PILE OF POO}")
        hinting.enqueue(journal, [Hint("discover_hosts", key, Priority.EVENT, "service.create")])
        (claim,) = claiming.claim(journal, "r", ["discover_hosts"], 1, 30.0)
        assert claim.key == key


def test_a_journal_with_a_narrow_character_set_is_refused(mariadb_url: str) -> None:
    for journal in _upgraded(mariadb_url):
        narrow = text("ALTER TABLE work CONVERT TO CHARACTER SET utf8mb3")
        with journal.engine.begin() as connection:
            connection.execute(narrow)
        with pytest.raises(WrongJournal, match="utf8mb4"):
            migrations.check(journal)


def test_a_postgresql_database_that_is_not_utf8_is_refused(postgresql: PostgreSQL) -> None:
    postgresql.execute("CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
    for journal in _upgraded(postgresql.url("latin")):
        with pytest.raises(WrongJournal, match="UTF8"):
            migrations.check(journal)
    postgresql.drop_database("latin")
