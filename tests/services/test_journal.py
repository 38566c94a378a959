"""The journal on MariaDB and PostgreSQL: the same contract as on SQLite."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing

import pytest
from sqlalchemy import Connection, event, text

from consumer.journal import claiming, controls, deliveries, hinting, migrations, schema, watermarks
from consumer.journal.database import Database, open_engine
from consumer.journal.errors import WrongJournal
from consumer.journal.work import Hint, Priority
from handlers.base import Key, Watermark
from tests.functional.journal.contract import JournalContract
from tests.servers.mariadb import MariaDB
from tests.servers.postgresql import PostgreSQL


def _upgraded(url: str) -> Iterator[Database]:
    database = Database(open_engine(url))
    migrations.upgrade(database)
    yield database
    database.close()


class _OneDatabase(JournalContract):
    """The contract, on one database for all tests; each begins with the rows of a new journal."""

    @pytest.fixture
    def journal(self, url: str) -> Iterator[Database]:
        database = Database(open_engine(url))
        with database.engine.begin() as connection:
            _empty(connection)
        yield database
        database.close()


def _empty(connection: Connection) -> None:
    """Make the tables new, which also resets counters and statistics; keep the row of the newest migration."""
    tables = [table for table in schema.metadata.sorted_tables if table is not schema.compatibility]
    if connection.dialect.name == "postgresql":
        connection.execute(text(f"TRUNCATE {', '.join(table.name for table in tables)} RESTART IDENTITY"))
        return
    for table in tables:
        connection.execute(text(f"TRUNCATE {table.name}"))


def _ensure(journal: Database) -> None:
    controls.ensure(journal, ["discover_hosts", "sync_aggregates"])


def _subscribe(journal: Database) -> None:
    deliveries.subscribe(journal, {"chat": ["healed"]})


def _observe(journal: Database) -> None:
    watermarks.exchange(journal, Watermark("nova_api", "s"), None, lambda _connection, _last: None)


class Contended(_OneDatabase):
    """The contract on a server, where replicas write at once."""

    @pytest.mark.parametrize(
        ("act", "table"),
        [(_ensure, "task"), (_subscribe, "webhook"), (_observe, "watermark")],
        ids=["task", "webhook", "watermark"],
    )
    def test_another_replica_may_insert_the_same_rows_first(
        self, journal: Database, act: Callable[[Database], None], table: str
    ) -> None:
        """Two daemons start at once on a new journal."""
        with closing(Database(open_engine(journal.engine.url.render_as_string(hide_password=False)))) as rival:
            left = [rival]

            def overtake(_connection: object, _cursor: object, statement: str, *_more: object) -> None:
                if left and statement.startswith(f"INSERT INTO {table} "):
                    act(left.pop())

            event.listen(journal.engine, "before_cursor_execute", overtake)
            act(journal)
        assert left == []
        rows = journal.read(lambda connection: connection.execute(text(f"SELECT count(*) FROM {table}")).scalar_one())
        assert rows == (2 if table == "task" else 1)


class TestMariaDB(Contended):
    """The contract, on MariaDB."""

    @pytest.fixture(scope="class")
    def url(self, mariadb: MariaDB) -> Iterator[str]:
        yield from _one(mariadb)


class TestPostgreSQL(Contended):
    """The contract, on PostgreSQL."""

    @pytest.fixture(scope="class")
    def url(self, postgresql: PostgreSQL) -> Iterator[str]:
        yield from _one(postgresql)


def _one(server: MariaDB | PostgreSQL) -> Iterator[str]:
    server.start()
    server.create_database("journal_contract")
    url = server.url("journal_contract")
    for _ in _upgraded(url):
        yield url
    server.drop_database("journal_contract")


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
