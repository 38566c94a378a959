"""Runs functions in a service's database, and translates the database's errors.

Failures of the database become :class:`~handlers.base.Unavailable` with the driver's reason, without the password. A missing
table or column counts as a failure, because the URL can be wrong. After a deadlock or lock timeout, or if a Galera node is not
ready, :meth:`Database.run` repeats its function for about ten seconds. So the function must be idempotent. All times are naive
UTC.
"""

from __future__ import annotations

import importlib.util
import re
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any, TypeVar

import sqlalchemy as sa
import tenacity
from sqlalchemy import event, exc
from sqlalchemy.engine import URL, Connection, Engine, make_url
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.pool import ConnectionPoolEntry, PoolResetState
from sqlalchemy.sql.functions import FunctionElement

from handlers.access import galera, patience
from handlers.access.backoff import Backoff
from handlers.access.service_files import ConfigError
from handlers.access.sql_text import Writing, as_typed
from handlers.base import Unavailable, irregular_in

T = TypeVar("T")

#: seconds to connect, handshake included, and to answer a ping
CONNECT_TIMEOUT = 5
#: seconds for one statement
READ_TIMEOUT = 60
#: seconds for which a client waits for a statement, so that the server ends it first
_PATIENCE = READ_TIMEOUT + 5

#: lets the server end a statement itself: without it, a statement goes on after its client has gone. MariaDB reads the first
#: comment, MySQL the second
_MYSQL_LIMIT = (
    f"SET SESSION /*M! max_statement_time = {READ_TIMEOUT} */ /*!50708 max_execution_time = {READ_TIMEOUT}000 */"
)
_POSTGRESQL: Mapping[str, Any] = {
    "connect_timeout": CONNECT_TIMEOUT,
    "options": f"-c statement_timeout={READ_TIMEOUT * 1000}",
    # A server whose host or network is gone ends no statement itself.
    "tcp_user_timeout": 30_000,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
}

_TIMEOUTS: Mapping[str, Mapping[str, Any]] = {
    "mysql+pymysql": {
        "connect_timeout": CONNECT_TIMEOUT,
        "read_timeout": CONNECT_TIMEOUT,
        "write_timeout": _PATIENCE,
        "init_command": _MYSQL_LIMIT,
    },
    "mysql+mysqldb": {
        "connect_timeout": CONNECT_TIMEOUT,
        "read_timeout": _PATIENCE,
        "init_command": _MYSQL_LIMIT,
    },
    "postgresql+psycopg": _POSTGRESQL,
    "postgresql+psycopg2": _POSTGRESQL,
    "sqlite+pysqlite": {"timeout": CONNECT_TIMEOUT},
}

# the pool's own reset would send a ROLLBACK after each COMMIT: one statement more for each proof
_POOL = {"pool_pre_ping": True, "pool_recycle": 300, "pool_timeout": 10, "pool_reset_on_return": None}
#: marks a connection whose transaction is committed, and that has begun no other
_COMMITTED = "stackmend_committed"

# the options of TLS in the query of a URL, for errors: names of files and modes, never sslpassword
_TLS_QUERY = (
    *("ssl_ca", "ssl_capath", "ssl_cert", "ssl_key", "ssl_verify_cert", "ssl_verify_identity"),
    *("sslmode", "sslrootcert", "sslcert", "sslkey"),
)
_TLS_TO_WRITE = {"mysql": "?ssl_ca=FILE", "postgresql": "?sslmode=verify-full&sslrootcert=FILE"}
_OF_TLS = re.compile(r"\bssl|\btls|certificate|insecure transport|no encryption", re.IGNORECASE)

# a lost race for a lock: the whole transaction may run again
_DEADLOCK_ERRNOS = frozenset({1205, 1213})
_DEADLOCK_SQLSTATES = frozenset({"40001", "40P01", "55P03"})
# the schema is another one, or this user may not use it
_SCHEMA_ERRNOS = frozenset({1054, 1142, 1143, 1146})
_SCHEMA_SQLSTATES = frozenset({"42P01", "42703", "42501"})


class utcnow(FunctionElement[datetime]):  # noqa: N801 - it reads as the SQL function that it is
    """The database's time as SQL, in naive UTC."""

    type = sa.DateTime()
    inherit_cache = True


@compiles(utcnow, "mysql", "mariadb")
def _mysql_utcnow(element: utcnow, compiler: Any, **kwargs: Any) -> str:
    return "UTC_TIMESTAMP()"


@compiles(utcnow, "postgresql")
def _postgresql_utcnow(element: utcnow, compiler: Any, **kwargs: Any) -> str:
    return "timezone('utc', CURRENT_TIMESTAMP)"


@compiles(utcnow, "sqlite")
def _sqlite_utcnow(element: utcnow, compiler: Any, **kwargs: Any) -> str:
    # SQLite compares times as text, so the text has SQLAlchemy's form.
    return "strftime('%Y-%m-%d %H:%M:%S.000000', 'now')"


@compiles(utcnow)
def _default_utcnow(element: utcnow, compiler: Any, **kwargs: Any) -> str:
    return "CURRENT_TIMESTAMP"


# SQLAlchemy begins some clauses on a new line
_BEFORE_CLAUSE = re.compile(r"\s*\n(?=FROM\b|WHERE\b)")

_MARGIN = "stackmend_clock_margin"


def seconds_since(connection: Connection, now: datetime, *times: datetime | None) -> float:
    """Return the seconds since the latest of ``times``; infinity if all are None.

    The result is reduced by the known difference between the database's clock and the clocks that wrote ``times``. It is
    at least 0.

    :param now: the time by the database's clock
    """
    known = [time for time in times if time is not None]
    if not known:
        return float("inf")
    return max(0.0, (now - max(known)).total_seconds() - _margin(connection))


def time_before(connection: Connection, now: datetime, seconds: float) -> datetime:
    """Return ``now`` minus ``seconds``, and minus the known difference of clocks. Rows from before this time are old enough."""
    return now - timedelta(seconds=seconds + _margin(connection))


def _margin(connection: Connection) -> float:
    return float(connection.get_execution_options().get(_MARGIN, 0.0))


class Database:
    """One database of a service. Thread-safe.

    :param name: the name in errors: ``nova_api``, ``cell:cell1``
    :param url: an SQLAlchemy URL with secrets
    :raises ConfigError: the URL is wrong, or its driver is not installed
    """

    #: seconds by which this database's clock and the clocks that wrote its times differ; they are subtracted from ages
    clock_margin = 0.0

    def __init__(self, name: str, url: str) -> None:
        self.name = name
        self.url = url
        self._password, self._engine = _engine(name, url)
        self._backoff = Backoff()

    def run(self, work: Callable[[Connection], T]) -> T:
        """Run ``work`` in its own transaction, and return its result.

        :raises Unavailable: the database does not answer, or answers with an operational error. After a timeout, all calls fail
            at once for some seconds
        :raises sqlalchemy.exc.IntegrityError: a write violated a constraint; the database rolled the transaction back
        """
        if refusal := self._backoff.refusal():
            raise Unavailable(self.name, refusal)
        began = time.monotonic()
        try:
            done = self._retried(work)
        except exc.IntegrityError:
            raise
        except exc.TimeoutError as error:
            raise Unavailable(self.name, "no connection became free in time") from error
        except exc.DBAPIError as error:
            raised = self._unavailable(error)
            if isinstance(raised, Unavailable) and _is_silence(error):
                self._backoff.failed(raised.reason, time.monotonic() - began)
            raise raised from error
        except OSError as error:  # drivers raise it for files of TLS that cannot be read
            raise Unavailable(self.name, f"{error.strerror or error}; {_tls_advice(self._engine.url)}") from error
        self._backoff.answered()
        return done

    def _retried(self, work: Callable[[Connection], T]) -> T:
        for attempt in tenacity.Retrying(
            retry=tenacity.retry_if_exception(_is_deadlock),
            wait=tenacity.wait_random_exponential(multiplier=0.05, max=1),
            stop=tenacity.stop_after_delay(10),
            reraise=True,
        ):
            with attempt, self._engine.connect() as connection:
                with connection.begin():
                    done = work(connection.execution_options(**{_MARGIN: self.clock_margin}))
                connection.info[_COMMITTED] = True
                return done
        raise AssertionError("tenacity returns or raises")

    def _unavailable(self, error: exc.DBAPIError) -> Exception:
        reason = " ".join(str(error.orig).split())
        if self._password:
            reason = reason.replace(self._password, "***")
        if _OF_TLS.search(reason):
            reason = f"{reason}; {_tls_advice(self._engine.url)}"
        if _is_schema(error):
            return Unavailable(
                self.name, f"{reason}; is its URL that of another database, or does the user lack rights?"
            )
        if isinstance(error, (exc.OperationalError, exc.InterfaceError, exc.InternalError)):
            return Unavailable(self.name, reason)
        return error

    def typed(self, statement: Writing) -> str:
        return as_typed(self._engine.dialect, statement)

    def plan(self, statements: Iterable[Writing]) -> str:
        texts = map(self.typed, statements)
        return "\n".join(f"{self.name}: {_BEFORE_CLAUSE.sub(' ', text)}" for text in texts)

    def close(self) -> None:
        self._engine.dispose()


def _engine(name: str, text: str) -> tuple[str, Engine]:
    try:
        url = _with_driver(make_url(text))
        _check_login(url)
        if special := irregular_in(url.query):
            raise ConfigError(f"the URL of {name} cannot be used: {special}")
        engine = sa.create_engine(url, **_POOL, **_arguments(url))
        short, long = _seconds(url, "connect_timeout", CONNECT_TIMEOUT), _seconds(url, "read_timeout", _PATIENCE)
        event.listen(engine, "reset", _reset)
        patience.apply(engine, short, long)
        if url.get_backend_name() in {"mysql", "mariadb"}:
            galera.prepare(engine)
    except (exc.ArgumentError, ValueError):
        raise ConfigError(
            f"the URL of {name} is not a database URL; write mysql+pymysql://user:pw@host/db, and encode the characters "
            "@ : / ? # % of user and password as %nn"
        ) from None
    except ImportError as error:
        raise ConfigError(
            f"the driver of {name} is not installed ({error.name}); pip install 'stackmend[mysql,postgresql]'"
        ) from None
    return str(url.password or ""), engine


def _reset(connection: Any, record: ConnectionPoolEntry, _state: PoolResetState) -> None:
    """Roll back a connection that returns to the pool, unless :meth:`Database.run` has just committed its transaction."""
    if not record.info.pop(_COMMITTED, False):
        connection.rollback()


def _check_login(url: URL) -> None:
    """Raise ArgumentError if an unescaped ``@`` or ``/`` put a part of the password into the URL's host or database."""
    rest = (url.host or "") + ("" if url.username or url.get_backend_name() == "sqlite" else url.database or "")
    if "@" in rest:
        raise exc.ArgumentError("the user or password contains unescaped characters")


def _with_driver(url: URL) -> URL:
    """Return the URL with psycopg 3 where psycopg2 is missing, and without DevStack's ``plugin=dbcounter``."""
    url = url.difference_update_query(["plugin"])
    plain = url.drivername in {"postgresql", "postgresql+psycopg2"}
    if plain and importlib.util.find_spec("psycopg2") is None:
        return url.set(drivername="postgresql+psycopg")
    return url


def _arguments(url: URL) -> dict[str, Any]:
    driver = f"{url.get_backend_name()}+{url.get_driver_name()}"
    arguments = {name: value for name, value in _TIMEOUTS.get(driver, {}).items() if name not in url.query}
    if driver == "mysql+pymysql":
        # connect_timeout ends before the handshake; a URL's read_timeout counts from the first statement.
        arguments["read_timeout"] = _seconds(url, "connect_timeout", CONNECT_TIMEOUT)
    if driver == "mysql+pymysql" and not {"ssl_verify_cert", "ssl_verify_identity"}.isdisjoint(url.query):
        # SQLAlchemy passes ssl_ca in a form that PyMySQL ignores beside one of these options.
        arguments |= {name: url.query[name] for name in ("ssl_ca", "ssl_cert", "ssl_key") if name in url.query}
    return {"connect_args": arguments}


def _seconds(url: URL, name: str, default: int) -> int:
    given = url.query.get(name)
    return int(given) if isinstance(given, str) else default


def _tls_advice(url: URL) -> str:
    given = ", ".join(f"{name} = {url.query[name]}" for name in _TLS_QUERY if name in url.query)
    write = _TLS_TO_WRITE.get(url.get_backend_name(), "")
    return f"the TLS options of its URL: {given or 'none'}; {write} names the file of the authority that signed the certificate"


def _errno(error: exc.DBAPIError) -> object:
    arguments = getattr(error.orig, "args", ())
    return arguments[0] if arguments else None


def _sqlstate(error: exc.DBAPIError) -> object:
    return getattr(error.orig, "sqlstate", None) or getattr(error.orig, "pgcode", None)


def _is_deadlock(error: BaseException) -> bool:
    """Return whether the transaction lost a lock, or its Galera node is not ready: then a retry can succeed at once."""
    if not isinstance(error, exc.DBAPIError):
        return False
    errno = _errno(error)
    if errno == galera.UNREADY:
        return True
    if error.connection_invalidated:
        return False
    return (
        errno in _DEADLOCK_ERRNOS
        or _sqlstate(error) in _DEADLOCK_SQLSTATES
        or (isinstance(errno, str) and "database is locked" in errno)
    )


def _is_silence(error: exc.DBAPIError) -> bool:
    return error.statement is None or error.connection_invalidated


def _is_schema(error: exc.DBAPIError) -> bool:
    errno = _errno(error)
    return (
        errno in _SCHEMA_ERRNOS
        or _sqlstate(error) in _SCHEMA_SQLSTATES
        or (isinstance(errno, str) and errno.startswith(("no such table", "no such column")))
    )
