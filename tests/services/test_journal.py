"""The journal on MariaDB and PostgreSQL: the same contract as on SQLite."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from consumer.journal import migrations
from consumer.journal.database import Database, open_engine
from tests.functional.journal.contract import JournalContract


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
