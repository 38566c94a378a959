"""Connections to ``nova_api`` and to the database of every cell, and what may go wrong with them.

A :class:`Database` runs a piece of work in one transaction. Whatever keeps it from answering becomes
:class:`~handlers.base.Unavailable` with the database's name and the driver's reason, never with credentials; so does a
table or column that is not there (a URL of the wrong database), because nothing can be proved there. Deadlocks and lock
timeouts are retried for at most ten seconds: every piece of work is idempotent (reads, or one guarded write).

:class:`NovaDatabases` finds the cells in ``cell_mappings`` and reads that list again every few seconds, so that a cell
added later is seen. Reading all cells is all or nothing: a cell that does not answer raises, it is never left out.
"""

from __future__ import annotations

import importlib.util
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Self, TypeVar

import sqlalchemy as sa
import tenacity
from sqlalchemy import exc
from sqlalchemy.engine import URL, Connection, Engine, make_url

from handlers.base import Refused, Resources, Unavailable
from handlers.nova import options, queries, revisions
from handlers.nova.cells import Cell, TemplateError, fill
from handlers.service_files import ConfigError

T = TypeVar("T")

API = "nova_api"

CONNECT_TIMEOUT = 5
READ_TIMEOUT = 60
#: seconds for which the list of cells is believed
CELLS_TTL = 5.0
#: seconds for which the schemas are believed to be the same
PERMIT_TTL = 60.0

_TIMEOUTS: Mapping[str, Mapping[str, Any]] = {
    "mysql+pymysql": {
        "connect_timeout": CONNECT_TIMEOUT,
        "read_timeout": READ_TIMEOUT,
        "write_timeout": READ_TIMEOUT,
    },
    "mysql+mysqldb": {"connect_timeout": CONNECT_TIMEOUT, "read_timeout": READ_TIMEOUT},
    "postgresql+psycopg": {
        "connect_timeout": CONNECT_TIMEOUT,
        "options": f"-c statement_timeout={READ_TIMEOUT * 1000}",
    },
    "postgresql+psycopg2": {
        "connect_timeout": CONNECT_TIMEOUT,
        "options": f"-c statement_timeout={READ_TIMEOUT * 1000}",
    },
    "sqlite+pysqlite": {"timeout": CONNECT_TIMEOUT},
}

# a lost race for a lock; the whole transaction may simply run again
_DEADLOCK_ERRNOS = frozenset({1205, 1213})
_DEADLOCK_SQLSTATES = frozenset({"40001", "40P01", "55P03"})
# the schema is not the one asked for, or this user may not use it
_SCHEMA_ERRNOS = frozenset({1054, 1142, 1143, 1146})
_SCHEMA_SQLSTATES = frozenset({"42P01", "42703", "42501"})


class Database:
    """One database under one name; safe to share between threads.

    :param name: how errors call it: ``nova_api``, ``cell:cell1``
    :param url: an SQLAlchemy URL, with its secrets
    :raises ConfigError: when the URL cannot be understood or its driver is not installed
    """

    def __init__(self, name: str, url: str) -> None:
        self.name = name
        self.url = url
        self._password, self._engine = _engine(name, url)

    def run(self, work: Callable[[Connection], T]) -> T:
        """Return ``work(connection)``, run in a transaction of its own; it may run more than once.

        :raises Unavailable: when the database does not answer as it should
        :raises sqlalchemy.exc.IntegrityError: when a write violated a key; nothing was written
        """
        try:
            for attempt in tenacity.Retrying(
                retry=tenacity.retry_if_exception(_is_deadlock),
                wait=tenacity.wait_random_exponential(multiplier=0.05, max=1),
                stop=tenacity.stop_after_delay(10),
                reraise=True,
            ):
                with attempt, self._engine.begin() as connection:
                    return work(connection)
        except exc.IntegrityError:
            raise
        except exc.TimeoutError as error:
            raise Unavailable(self.name, "no connection became free in time") from error
        except exc.DBAPIError as error:
            raise self._unavailable(error) from error
        raise AssertionError("tenacity returns or raises")

    def _unavailable(self, error: exc.DBAPIError) -> Exception:
        reason = " ".join(str(error.orig).split())
        if self._password:
            reason = reason.replace(self._password, "***")
        if _is_schema(error):
            return Unavailable(
                self.name, f"{reason}; is its URL that of another database, or the user short of rights?"
            )
        if isinstance(error, (exc.OperationalError, exc.InterfaceError, exc.InternalError)):
            return Unavailable(self.name, reason)
        return error

    def close(self) -> None:
        """Close its idle connections."""
        self._engine.dispose()


class NovaDatabases:
    """``nova_api`` and the cells.

    :param api_url: the URL of ``nova_api``
    :param cell_base: fills the templates of ``database_connection``
    :param transport_base: fills the templates of ``transport_url``
    """

    def __init__(self, api_url: str, cell_base: str | None = None, transport_base: str | None = None) -> None:
        self.api = Database(API, api_url)
        self._cell_base = cell_base
        self._transport_base = transport_base
        self._lock = threading.Lock()
        self._rows: tuple[Cell, ...] = ()
        self._read_at: float | None = None
        self._databases: dict[str, Database] = {}
        self._permitted: dict[str, float] = {}

    @classmethod
    def from_resources(cls, resources: Resources) -> Self:
        """Make it from the options ``[nova]``.

        :raises ConfigError: when no URL of ``nova_api`` is known
        """
        conf = resources.conf
        return cls(options.api_database_url(conf), options.cell_database_url(conf), options.transport_url(conf))

    def cells(self) -> tuple[Cell, ...]:
        """Return every cell, cell0 and disabled ones too, with URLs as they stand in ``cell_mappings``.

        :raises Unavailable: when ``nova_api`` does not answer or lists no cell, which cannot be right
        """
        with self._lock:
            if self._read_at is not None and time.monotonic() - self._read_at < CELLS_TTL:
                return self._rows
        rows = tuple(self.api.run(queries.cells))
        if not rows:
            raise Unavailable(API, "cell_mappings is empty; is this the URL of nova_api?")
        with self._lock:
            self._rows, self._read_at = rows, time.monotonic()
        return rows

    def permit_changes(self, cells: Iterable[Cell] | None = None) -> None:
        """Make sure that anything may be changed for what these databases say; every heal begins with it.

        :param cells: the cells that the heal rests on, besides nova_api; all of them if not given
        :raises Refused: when one has a schema that this release does not know
        :raises Unavailable: when one does not answer
        """
        now = time.monotonic()
        for database in (self.api, *(self.database(cell) for cell in (self.cells() if cells is None else cells))):
            if now - self._permitted.get(database.url, -PERMIT_TTL) >= PERMIT_TTL:
                _permit(database)
                self._permitted[database.url] = now

    def host_cells(self) -> tuple[Cell, ...]:
        """Return the cells that can have hosts: all but cell0."""
        return tuple(cell for cell in self.cells() if not cell.is_cell0)

    def database(self, cell: Cell) -> Database:
        """Return the database of a cell; it is connected to on first use.

        :raises Unavailable: when its URL cannot be used
        """
        try:
            url = fill(cell.database_url, self._cell_base, "[nova] database_connection")
            with self._lock:
                known = self._databases.get(cell.uuid)
                if known is None or known.url != url:
                    self._databases[cell.uuid] = Database(cell.label, url)
                    if known is not None:
                        known.close()
                return self._databases[cell.uuid]
        except (TemplateError, ConfigError) as error:
            raise Unavailable(cell.label, str(error)) from error

    def transport(self, cell: Cell) -> str:
        """Return the URL of a cell's broker, its template filled.

        :raises Unavailable: when it cannot be filled
        """
        try:
            return fill(cell.transport_url, self._transport_base, "[nova] transport_url")
        except TemplateError as error:
            raise Unavailable(cell.label, str(error)) from error

    def run_in(self, cells: Iterable[Cell], work: Callable[[Connection], T]) -> dict[Cell, T]:
        """Run the same work in each of these cells.

        :raises Unavailable: when any of them does not answer: a part of the truth is not handed out
        """
        return {cell: self.database(cell).run(work) for cell in cells}

    def run_where_possible(
        self, cells: Iterable[Cell], work: Callable[[Connection], T]
    ) -> tuple[dict[Cell, T], Unavailable | None]:
        """Run the same work in each of these cells; return what those say that answer, and why another one does not.

        For lists of suspects and for counts only: what is missing here is not known, it is not absent.
        """
        found: dict[Cell, T] = {}
        down: Unavailable | None = None
        for cell in cells:
            try:
                found[cell] = self.database(cell).run(work)
            except Unavailable as error:
                down = error
        return found, down

    def close(self) -> None:
        """Close all idle connections."""
        with self._lock:
            for database in (self.api, *self._databases.values()):
                database.close()


def _permit(database: Database) -> None:
    found = database.run(queries.revisions)
    if not found or not found <= revisions.KNOWN:
        raise Refused(
            f"{database.name} is at the schema {', '.join(sorted(found)) or 'unknown'}; this release knows those of Nova 25 "
            "(Yoga) to 34, and in another it looks but changes nothing"
        )


def _engine(name: str, text: str) -> tuple[str, Engine]:
    try:
        url = _with_driver(make_url(text))
        engine = sa.create_engine(url, pool_pre_ping=True, pool_recycle=300, pool_timeout=10, **_arguments(url))
    except (exc.ArgumentError, ValueError):
        raise ConfigError(f"the URL of {name} is not a database URL; write mysql+pymysql://user:pw@host/db") from None
    except ImportError as error:
        raise ConfigError(
            f"the driver of {name} is not installed ({error.name}); pip install 'stackmend[mysql,postgresql]'"
        ) from None
    return str(url.password or ""), engine


def _with_driver(url: URL) -> URL:
    """Let a plain ``postgresql://`` mean psycopg 3 where psycopg2 is not installed; others stay as they are."""
    plain = url.drivername in {"postgresql", "postgresql+psycopg2"}
    if plain and importlib.util.find_spec("psycopg2") is None:
        return url.set(drivername="postgresql+psycopg")
    return url


def _arguments(url: URL) -> dict[str, Any]:
    driver = f"{url.get_backend_name()}+{url.get_driver_name()}"
    timeouts = {name: value for name, value in _TIMEOUTS.get(driver, {}).items() if name not in url.query}
    return {"connect_args": timeouts}


def _errno(error: exc.DBAPIError) -> object:
    arguments = getattr(error.orig, "args", ())
    return arguments[0] if arguments else None


def _sqlstate(error: exc.DBAPIError) -> object:
    return getattr(error.orig, "sqlstate", None) or getattr(error.orig, "pgcode", None)


def _is_deadlock(error: BaseException) -> bool:
    if not isinstance(error, exc.DBAPIError) or error.connection_invalidated:
        return False
    errno = _errno(error)
    return (
        errno in _DEADLOCK_ERRNOS
        or _sqlstate(error) in _DEADLOCK_SQLSTATES
        or (isinstance(errno, str) and "database is locked" in errno)
    )


def _is_schema(error: exc.DBAPIError) -> bool:
    errno = _errno(error)
    return (
        errno in _SCHEMA_ERRNOS
        or _sqlstate(error) in _SCHEMA_SQLSTATES
        or (isinstance(errno, str) and errno.startswith(("no such table", "no such column")))
    )
