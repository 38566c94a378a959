"""Upgrades of a journal on MariaDB and PostgreSQL."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from consumer.journal import history, migrations
from consumer.journal.database import Database, open_engine
from consumer.journal.errors import JournalUnavailable
from consumer.journal.history import Outcome
from tests.functional.journal.contract import line
from tests.functional.journal.upgrades import UpgradeContract, reopened, url


class ServerContract(UpgradeContract):
    """The contract, and what only a server has: limits on the time of a statement, and several upgrades at once."""

    def test_an_upgrade_has_no_limit_on_the_time_of_a_statement(self, old: Database) -> None:
        limited, patient = reopened(old, 1), reopened(old, None)
        with old.engine.connect() as reader, ThreadPoolExecutor(1) as threads:
            # ALTER TABLE waits for this transaction.
            reader.execute(text("SELECT * FROM replica"))
            with pytest.raises(JournalUnavailable):
                migrations.upgrade(limited)
            assert migrations.schema_of(limited).revision == "0001"
            upgrading = threads.submit(migrations.upgrade, patient)
            with pytest.raises(TimeoutError):
                upgrading.result(3)
            reader.rollback()
            assert upgrading.result(120) == ("0001", migrations.HEAD)
        for database in (limited, patient):
            database.close()

    def test_upgrades_on_several_hosts_at_once_end_well(self, empty: Database) -> None:
        # Processes, because alembic keeps the connection of an upgrade in a global of its module.
        with ProcessPoolExecutor(3, mp_context=multiprocessing.get_context("spawn")) as hosts:
            assert list(hosts.map(_upgrade, [url(empty)] * 3)) == [migrations.HEAD] * 3
        migrations.check(empty)


def _upgrade(journal: str) -> str:
    database = Database(open_engine(journal, statement_seconds=None))
    try:
        return migrations.upgrade(database)[1]
    finally:
        database.close()


class TestMariaDB(ServerContract):
    """The contract, on MariaDB."""

    @pytest.fixture
    def empty(self, mariadb_url: str) -> Iterator[Database]:
        database = Database(open_engine(mariadb_url))
        yield database
        database.close()


class TestPostgreSQL(ServerContract):
    """The contract, on PostgreSQL."""

    @pytest.fixture
    def empty(self, postgresql_url: str) -> Iterator[Database]:
        database = Database(open_engine(postgresql_url))
        yield database
        database.close()

    def test_an_index_that_an_interrupted_build_left_invalid_is_built_again(self, old: Database) -> None:
        history.append(old, [line("a", Outcome.FOUND), line("b", Outcome.FOUND)])
        with old.engine.connect() as connection:
            commits = connection.execution_options(isolation_level="AUTOCOMMIT")
            with pytest.raises(DBAPIError):
                commits.execute(text("CREATE UNIQUE INDEX CONCURRENTLY history_handler_idx ON history (handler)"))
        valid = text(
            "SELECT indisvalid, pg_get_indexdef(indexrelid) FROM pg_index WHERE indexrelid = 'history_handler_idx'::regclass"
        )
        with old.engine.connect() as connection:
            assert connection.execute(valid).one()[0] is False
        migrations.upgrade(old)
        with old.engine.connect() as connection:
            done, definition = connection.execute(valid).one()
        assert done
        assert definition.endswith("(handler, id)")
