"""Engines of the journal, its clock, and which errors mean "not now".

The only file that knows dialects. SQLite is the embedded default: write-ahead log, full durability, and a write lock
taken when a transaction begins, for two transactions that both read before they write would otherwise deadlock.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import tenacity
from sqlalchemy import (
    ColumnElement,
    Connection,
    Double,
    Engine,
    Executable,
    Table,
    case,
    create_engine,
    event,
    literal_column,
    select,
)
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.compiler import compiles

LOG = logging.getLogger(__name__)
T = TypeVar("T")


class JournalError(Exception):
    """Root of the journal's errors."""


class JournalUnavailable(JournalError):
    """The journal's database does not answer, or not in time; nothing was committed, or it is not known whether."""


class WrongJournal(JournalError):
    """The connection URL is wrong, a driver is missing or the schema is not the one this program needs."""


class db_now(ColumnElement[float]):  # noqa: N801 - reads as the SQL function that it is
    """The database's clock: seconds since the epoch, with a fraction."""

    type = Double()
    inherit_cache = True


@compiles(db_now, "sqlite")
def _sqlite_now(_element: db_now, _compiler: Any, **_kw: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(db_now, "mysql")
@compiles(db_now, "mariadb")
def _mysql_now(_element: db_now, _compiler: Any, **_kw: Any) -> str:
    return "(UNIX_TIMESTAMP(NOW(6)) + 0e0)"


@compiles(db_now, "postgresql")
def _postgresql_now(_element: db_now, _compiler: Any, **_kw: Any) -> str:
    return "CAST(EXTRACT(EPOCH FROM clock_timestamp()) AS DOUBLE PRECISION)"


def now(connection: Connection) -> float:
    """Return the database's clock."""
    return float(connection.execute(select(db_now())).scalar_one())


def open_engine(url: str, pool_size: int = 10) -> Engine:
    """Make the engine of a journal; connects to nothing yet.

    :param url: an SQLAlchemy URL; ``postgresql://`` means psycopg 3, ``mysql://`` means PyMySQL
    :param pool_size: connections kept; as many as threads that use it
    :raises WrongJournal: when the URL is malformed or its driver is not installed
    """
    try:
        parsed = _with_driver(make_url(url))
        engine = create_engine(parsed, **_engine_arguments(parsed, pool_size))
    except (ArgumentError, NoSuchModuleError, ValueError) as error:
        raise WrongJournal(
            "[journal] connection is not a database URL; write for example "
            "sqlite:////var/lib/stackmend/journal.sqlite or mysql+pymysql://user:password@host/stackmend"
        ) from error
    except ModuleNotFoundError as error:
        raise WrongJournal(
            f"[journal] connection needs the Python module {error.name}; "
            "install stackmend[mysql] or stackmend[postgresql]"
        ) from error
    if parsed.get_backend_name() == "sqlite":
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_immediate)
    return engine


def _with_driver(url: URL) -> URL:
    default = {"postgresql": "postgresql+psycopg", "mysql": "mysql+pymysql", "mariadb": "mariadb+pymysql"}
    return url.set(drivername=default.get(url.drivername, url.drivername))


def _engine_arguments(url: URL, pool_size: int) -> dict[str, Any]:
    backend = url.get_backend_name()
    if backend == "sqlite":
        return {"connect_args": {"timeout": 30, "isolation_level": None}}
    common = {"pool_pre_ping": True, "pool_size": pool_size, "max_overflow": 5, "pool_timeout": 10}
    if backend in ("mysql", "mariadb"):
        # Without UTC, UNIX_TIMESTAMP repeats an hour when the session's zone leaves daylight saving time.
        session = "SET time_zone = '+00:00'"
        timeouts = {"connect_timeout": 5, "read_timeout": 30, "write_timeout": 30}
        connect = {"init_command": session, **timeouts}
        return {**common, "isolation_level": "READ COMMITTED", "connect_args": connect}
    if backend == "postgresql":
        return {**common, "connect_args": {"connect_timeout": 5, "options": "-c statement_timeout=30000"}}
    raise ValueError(backend)


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.execute("PRAGMA busy_timeout=30000")
    cursor.close()


def _begin_immediate(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")


#: Deadlock, lock wait timeout (MariaDB, Galera's certification failure included); serialisation failure, deadlock.
_RETRY_MYSQL = frozenset({1213, 1205, 1020})
_RETRY_POSTGRESQL = frozenset({"40001", "40P01"})


def is_retriable(error: BaseException) -> bool:
    """Tell whether the same transaction may succeed at once: a deadlock, a lost certification, a locked file."""
    if not isinstance(error, DBAPIError) or error.orig is None:
        return False
    code = error.orig.args[0] if error.orig.args else None
    state = getattr(error.orig, "sqlstate", None)
    return code in _RETRY_MYSQL or state in _RETRY_POSTGRESQL or "database is locked" in str(error.orig)


def is_outage(error: BaseException) -> bool:
    """Tell whether the error means that the server is away, not that the statement is wrong."""
    if isinstance(error, PoolTimeout):
        return True
    if not isinstance(error, DBAPIError):
        return False
    kind = type(error).__name__
    return error.connection_invalidated or is_retriable(error) or kind in ("OperationalError", "InterfaceError")


@contextmanager
def _outages_translated(url: URL) -> Iterator[None]:
    try:
        yield
    except (PoolTimeout, DBAPIError) as error:
        if is_outage(error):
            text = _without_password(str(getattr(error, "orig", None) or type(error).__name__), url)
            raise JournalUnavailable(
                f"the journal's database does not answer: {text}; see [journal] connection"
            ) from None
        raise
    except OSError as error:  # the drivers' own, for files of TLS that cannot be read
        text = f"{error.strerror or error}: see the files of TLS in [journal] connection"
        raise JournalUnavailable(f"the journal's database was not reached: {text}") from None


def _without_password(text: str, url: URL) -> str:
    """Return a driver's text on one line; it names hosts and users, and must not name more."""
    return " ".join(text.replace(url.password, "***").split() if url.password else text.split())[:400]


class Database:
    """Transactions on the journal: deadlocks are tried again, outages become :class:`JournalUnavailable`."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def transact(self, action: Callable[[Connection], T]) -> T:
        """Run ``action`` in one transaction and commit; on a deadlock once more from the start, up to 10 seconds.

        :param action: may run several times; must have no effect outside the database
        :raises JournalUnavailable: when the database does not answer
        """
        retry = tenacity.Retrying(
            retry=tenacity.retry_if_exception(is_retriable),
            wait=tenacity.wait_random_exponential(multiplier=0.02, max=1),
            stop=tenacity.stop_after_delay(10),
            reraise=True,
        )
        with _outages_translated(self.engine.url):
            result: T = retry(self._once, action)
            return result

    def _once(self, action: Callable[[Connection], T]) -> T:
        with self.engine.begin() as connection:
            return action(connection)

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()


def upsert(dialect: str, table: Table, unique: Sequence[str], change: Callable[[Any], Mapping[str, Any]]) -> Executable:
    """Build "insert, or change the row that is there" for executemany.

    :param unique: the columns of the unique key
    :param change: from the columns of the row that was to be inserted, what to set on the one that is there. It may
        refer to the table's columns and use no bound values: PyMySQL joins the rows of an executemany into one
        statement only when the part after VALUES holds none
    """
    if dialect in ("mysql", "mariadb"):
        into = mysql.insert(table)
        # A list keeps the order of assignment, which MariaDB heeds; a dict would be put in the order of the columns.
        return into.on_duplicate_key_update(list(change(into.inserted).items()))
    insert = postgresql.insert if dialect == "postgresql" else sqlite.insert
    statement = insert(table)
    return statement.on_conflict_do_update(index_elements=list(unique), set_=dict(change(statement.excluded)))


def literal(value: str | int) -> ColumnElement[Any]:
    """Return a constant of our own as SQL text, where a bound value must not stand; never for data."""
    return literal_column(f"'{value}'" if isinstance(value, str) else str(value))


def greatest(left: Any, right: Any) -> ColumnElement[Any]:
    """Return the larger of two, as CASE: SQLite calls it max, the others greatest."""
    return case((left > right, left), else_=right)


def least(left: Any, right: Any) -> ColumnElement[Any]:
    """Return the smaller of two."""
    return case((left < right, left), else_=right)


def clean(text: str, length: int) -> str:
    """Make text of unknown origin one that every database takes: PostgreSQL refuses NUL, none takes lone surrogates."""
    return text.encode("utf-8", "replace").decode().replace("\0", "?")[:length]
