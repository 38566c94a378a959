"""SQLAlchemy engine, clock, transactions and errors of the journal.

On SQLite, a transaction that can write takes the write lock when it begins. Otherwise two transactions that read before they
write could deadlock.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, TypeVar

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
from sqlalchemy.dialects import mysql, sqlite
from sqlalchemy.engine import URL, ExceptionContext, make_url
from sqlalchemy.exc import ArgumentError, DatabaseError, DataError, DBAPIError, IntegrityError, NoSuchModuleError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.compiler import compiles

from consumer.journal.errors import JournalUnavailable, ValuesRefused, WrongJournal
from handlers.base import irregular_in

if TYPE_CHECKING:
    from sqlalchemy.dialects import postgresql

LOG = logging.getLogger(__name__)
T = TypeVar("T")


class db_now(ColumnElement[float]):  # noqa: N801 - an SQL function
    """The SQL expression for the database's clock: seconds since the epoch, with a fraction."""

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
    return float(connection.execute(select(db_now())).scalar_one())


#: Seconds after which a statement on a server fails.
_STATEMENT_SECONDS = 30


def open_engine(url: str, pool_size: int = 10, statement_seconds: int | None = _STATEMENT_SECONDS) -> Engine:
    """Return an SQLAlchemy engine for the journal, without connecting.

    :param url: an SQLAlchemy URL; ``postgresql://`` means psycopg 3, ``mysql://`` means PyMySQL
    :param statement_seconds: seconds after which a statement fails, except on SQLite; None for no limit, as an upgrade needs
    """
    try:
        parsed = _with_driver(make_url(url))
        _check_login(parsed)
        if special := irregular_in(parsed.query):
            raise WrongJournal(f"[journal] connection cannot be used: {special}")
        engine = create_engine(parsed, **_engine_arguments(parsed, pool_size, statement_seconds))
    except (ArgumentError, NoSuchModuleError, ValueError):
        raise WrongJournal(
            "[journal] connection is not a database URL; examples: "
            "sqlite:////var/lib/stackmend/journal.sqlite, mysql+pymysql://user:password@host/stackmend; "
            "encode the characters @ : / ? # % of user and password as %nn"
        ) from None  # the errors of libraries quote parts of the URL
    except ModuleNotFoundError as error:
        raise WrongJournal(
            f"[journal] connection needs the Python module {error.name}; "
            "install stackmend[mysql] or stackmend[postgresql]"
        ) from error
    if parsed.get_backend_name() == "sqlite":
        event.listen(engine, "do_connect", _create_private)
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_immediate)
    if parsed.get_backend_name() in ("mysql", "mariadb"):
        event.listen(engine, "connect", _read_latest)
        event.listen(engine, "handle_error", _leave_unready_node)
    if parsed.get_backend_name() == "postgresql":
        event.listen(engine, "handle_error", _leave_standby)
    return engine


def _check_login(url: URL) -> None:
    """Raise ArgumentError if the URL's host or database contains the rest of a password with an unescaped ``@`` or ``/``."""
    rest = (url.host or "") + ("" if url.username or url.get_backend_name() == "sqlite" else url.database or "")
    if "@" in rest:
        raise ArgumentError("the user or password contains unescaped characters")


def encoding(connection: Connection) -> str:
    """Return why the database cannot store every Unicode character; an empty string if it can."""
    dialect = connection.dialect.name
    if dialect == "postgresql":
        server = connection.exec_driver_sql("SHOW server_encoding").scalar_one()
        return "" if server == "UTF8" else f"the database has the encoding {server} instead of UTF8"
    if dialect not in ("mysql", "mariadb"):
        return ""
    narrow = connection.exec_driver_sql(
        "SELECT table_name, column_name, character_set_name FROM information_schema.columns "
        "WHERE table_schema = DATABASE() AND character_set_name <> 'utf8mb4' AND table_name <> 'alembic_version'"
    ).first()
    return f"the column {narrow[0]}.{narrow[1]} has the character set {narrow[2]} instead of utf8mb4" if narrow else ""


def _with_driver(url: URL) -> URL:
    default = {"postgresql": "postgresql+psycopg", "mysql": "mysql+pymysql", "mariadb": "mariadb+pymysql"}
    # The connection sets its character set itself.
    return url.set(drivername=default.get(url.drivername, url.drivername)).difference_update_query(["charset"])


def _engine_arguments(url: URL, pool_size: int, seconds: int | None) -> dict[str, Any]:
    backend = url.get_backend_name()
    if backend == "sqlite":
        return {"connect_args": {"timeout": 30, "isolation_level": None}}
    common = {"pool_pre_ping": True, "pool_size": pool_size, "max_overflow": 5, "pool_timeout": 10}
    if backend in ("mysql", "mariadb"):
        # In a zone with daylight saving, UNIX_TIMESTAMP repeats an hour every autumn.
        session = "SET time_zone = '+00:00'"
        timeouts = {"connect_timeout": 5, "read_timeout": seconds, "write_timeout": seconds}
        # Override the URL: many URLs of OpenStack have charset=utf8, which lacks characters beyond the basic plane.
        connect = {"init_command": session, "charset": "utf8mb4", **timeouts}
        return {**common, "isolation_level": "READ COMMITTED", "connect_args": connect}
    if backend == "postgresql":
        # The server's timeout does not help when the server is gone.
        alive = {"tcp_user_timeout": 30_000, "keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3}
        limit = f"-c statement_timeout={(seconds or 0) * 1000}"
        return {**common, "connect_args": {"connect_timeout": 5, "options": limit, **alive}}
    raise ValueError(backend)


def _create_private(_dialect: Any, _record: Any, arguments: Sequence[Any], _named: Any) -> None:
    """Create a missing SQLite file that only its owner can read, because dead letters can contain secrets."""
    path = str(arguments[0]) if arguments else ""
    if path and path != ":memory:" and not path.startswith("file:"):
        with suppress(OSError):  # it exists, or connecting gives the error
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.execute("PRAGMA busy_timeout=30000")
    cursor.close()


def _read_latest(connection: Any, _record: Any) -> None:
    """On Galera, let each read wait until the node has applied the writes of all other nodes."""
    with connection.cursor() as cursor:
        cursor.execute("SHOW VARIABLES LIKE 'wsrep_on'")
        if ("wsrep_on", "ON") in cursor.fetchall():
            cursor.execute("SET SESSION wsrep_sync_wait = 1")


#: Galera: the node has left the majority, or does not have the state yet, and refuses the statement.
_UNREADY = 1047


def _leave_unready_node(context: ExceptionContext) -> None:
    """Drop the connection to a Galera node that refuses statements: a new connection can reach another node."""
    if context.original_exception.args[:1] == (_UNREADY,):
        context.is_disconnect = True


#: PostgreSQL: a standby, which is not promoted yet or never will be, refuses to write.
_STANDBY = "25006"


def _leave_standby(context: ExceptionContext) -> None:
    """Drop the connection to a PostgreSQL server that only reads: a new connection can reach the primary."""
    if getattr(context.original_exception, "sqlstate", None) == _STANDBY:
        context.is_disconnect = True


#: The execution option of a transaction that only reads.
_READS = "stackmend_reads"


def _begin_immediate(connection: Connection) -> None:
    reads = connection.get_execution_options().get(_READS, False)
    connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")


#: MariaDB: deadlock (also Galera's certification failure), lock wait timeout, changed row, refusing node.
#: PostgreSQL: serialisation failure, deadlock.
_RETRY_MYSQL = frozenset({1213, 1205, 1020, _UNREADY})
_RETRY_POSTGRESQL = frozenset({"40001", "40P01"})


def is_retriable(error: BaseException) -> bool:
    """Return whether nothing was committed and a retry can succeed, for example after a deadlock."""
    if not isinstance(error, DBAPIError) or error.orig is None:
        return False
    code = error.orig.args[0] if error.orig.args else None
    state = getattr(error.orig, "sqlstate", None)
    return code in _RETRY_MYSQL or state in _RETRY_POSTGRESQL or "database is locked" in str(error.orig)


#: A unique key refused a row: in MariaDB, in PostgreSQL.
_DUPLICATES = frozenset({1062, "23505"})


def _is_overtaken(error: BaseException) -> bool:
    """Return whether another replica inserted a row first, after the transaction had looked for it."""
    if not isinstance(error, IntegrityError) or error.orig is None:
        return False
    code = error.orig.args[0] if error.orig.args else None
    return not _DUPLICATES.isdisjoint((code, getattr(error.orig, "sqlstate", None)))


def is_outage(error: BaseException) -> bool:
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
                f"the journal's database does not answer: {text}; check [journal] connection"
            ) from None
        if isinstance(error, DataError | IntegrityError):
            raise ValuesRefused(_without_password(str(error.orig), url)) from error
        if url.get_backend_name() == "sqlite" and type(error) is DatabaseError:
            raise WrongJournal(
                f"the journal's file {url.database} is damaged or is no SQLite database: {error.orig}; restore it from a "
                "backup. Without a backup, move it away: stackmend then begins a journal without history and exemptions"
            ) from None
        raise
    except OSError as error:  # raised by drivers for unreadable TLS files
        text = f"{error.strerror or error}; check the TLS files in [journal] connection"
        raise JournalUnavailable(f"cannot connect to the journal's database: {text}") from None


def _without_password(text: str, url: URL) -> str:
    return " ".join(text.replace(url.password, "***").split() if url.password else text.split())[:400]


class Database:
    """Runs transactions on the journal. During an outage, each transaction raises :class:`JournalUnavailable`."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def transact(self, action: Callable[[Connection], T]) -> T:
        """Run ``action`` in its own transaction; return its result.

        If a retry can succeed, as after a deadlock or after another replica's insert of a row, retry for up to 10 s.

        :param action: can run several times, so it must have no effect outside the database
        """
        retry = tenacity.Retrying(
            retry=tenacity.retry_if_exception(lambda error: is_retriable(error) or _is_overtaken(error)),
            wait=tenacity.wait_random_exponential(multiplier=0.02, max=1),
            stop=tenacity.stop_after_delay(10),
            reraise=True,
        )
        with _outages_translated(self.engine.url):
            result: T = retry(self._once, action)
            return result

    def read(self, action: Callable[[Connection], T]) -> T:
        """Run ``action``, which only reads; return its result. On SQLite, this does not lock out writers."""
        with _outages_translated(self.engine.url), self.engine.connect() as connection:
            reading = connection.execution_options(**{_READS: True})
            with reading.begin():
                return action(reading)

    def step_by_step(self, action: Callable[[Connection], T]) -> T:
        """Run ``action`` with a commit after each statement, without retries; on SQLite, in one transaction.

        This is for DDL, which MariaDB commits in any case. PostgreSQL builds an index without blocking writers only outside a
        transaction.
        """
        if self.engine.dialect.name == "sqlite":
            return self.transact(action)
        with _outages_translated(self.engine.url), self.engine.connect() as connection:
            return action(connection.execution_options(isolation_level="AUTOCOMMIT"))

    def _once(self, action: Callable[[Connection], T]) -> T:
        with self.engine.begin() as connection:
            return action(connection)

    def close(self) -> None:
        self.engine.dispose()


def upsert(dialect: str, table: Table, unique: Sequence[str], change: Callable[[Any], Mapping[str, Any]]) -> Executable:
    """Build a statement for executemany that inserts each row or, if a row has the same unique key, updates that row.

    :param unique: the columns of the unique key
    :param change: gets the new row's columns; returns the existing row's new values, as SQL expressions without bound values
    """
    if dialect in ("mysql", "mariadb"):
        # With a bound value after VALUES, PyMySQL would not join the rows of an executemany.
        into = mysql.insert(table)
        # MariaDB assigns in order; SQLAlchemy keeps the order of a list, and sorts a dict by column.
        return into.on_duplicate_key_update(list(change(into.inserted).items()))
    statement = _postgresql_insert(table) if dialect == "postgresql" else sqlite.insert(table)
    return statement.on_conflict_do_update(index_elements=list(unique), set_=dict(change(statement.excluded)))


def _postgresql_insert(table: Table) -> postgresql.Insert:
    # The import of this dialect takes half as long as that of SQLAlchemy itself.
    from sqlalchemy.dialects import postgresql

    return postgresql.insert(table)


def literal(value: str | int) -> ColumnElement[Any]:
    """Return a constant as SQL text, instead of a bound value. Never use it for data: it escapes nothing."""
    return literal_column(f"'{value}'" if isinstance(value, str) else str(value))


def greatest(left: Any, right: Any) -> ColumnElement[Any]:
    # SQLite's function GREATEST has another name.
    return case((left > right, left), else_=right)


def least(left: Any, right: Any) -> ColumnElement[Any]:
    return case((left < right, left), else_=right)


def clean(text: str, length: int) -> str:
    """Cut a text to ``length`` characters, and make it :func:`storable`."""
    return storable(text)[:length]


def storable(text: str) -> str:
    """Replace NUL (PostgreSQL refuses it) and lone surrogates (every database does) in a text."""
    return text.encode("utf-8", "replace").decode().replace("\0", "?")
