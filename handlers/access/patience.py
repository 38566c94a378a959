"""Limits how long a connection waits for its database: seconds for the handshake and a ping, longer for a statement.

The drivers' options do not suffice: PyMySQL's ``connect_timeout`` omits the handshake, and psycopg limits no statement.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from functools import cache
from time import monotonic
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Engine

#: sets the seconds for which a driver's connection waits for an answer
_Set = Callable[[Any, float], None]


def _set_pymysql(connection: Any, seconds: float) -> None:
    connection._read_timeout = seconds


def _set_psycopg(connection: Any, seconds: float) -> None:
    connection.patience = seconds


_SETTERS: dict[str, _Set] = {"mysql+pymysql": _set_pymysql, "postgresql+psycopg": _set_psycopg}


def apply(engine: Engine, short: float, long: float) -> None:
    """Let an engine's connections wait ``long`` seconds for a statement.

    For a ping and for SQLAlchemy's first queries, they wait ``short`` seconds.

    A driver other than PyMySQL and psycopg 3 keeps its own timeouts.
    """
    set_patience = _SETTERS.get(f"{engine.dialect.name}+{engine.dialect.driver}")
    if set_patience is None:
        return
    if engine.dialect.driver == "psycopg":
        sa.event.listen(engine, "do_connect", _connect_psycopg)

    def connect(connection: Any, _record: Any) -> None:
        set_patience(connection, short)

    def checkout(connection: Any, _record: Any, _proxy: Any) -> None:
        set_patience(connection, long)

    def returned(connection: Any, _record: Any) -> None:
        if connection is not None:
            set_patience(connection, short)

    sa.event.listen(engine, "connect", connect, insert=True)
    sa.event.listen(engine, "checkout", checkout)
    sa.event.listen(engine, "checkin", returned)  # codespell:ignore checkin


def _connect_psycopg(_dialect: Any, _record: Any, arguments: Any, named: Any) -> Any:
    return _patient_psycopg().connect(*arguments, **named)


@cache
def _patient_psycopg() -> Any:
    # psycopg is optional
    import psycopg

    class PatientConnection(psycopg.Connection[Any]):
        patience = float("inf")

        def wait(self, gen: Any, *arguments: Any, **named: Any) -> Any:
            return super().wait(self._bounded(gen), *arguments, **named)

        def _bounded(self, generator: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
            ready, end = None, monotonic() + self.patience
            while True:
                try:
                    wanted = generator.send(ready)
                except StopIteration as stop:
                    return stop.value
                ready = yield wanted
                if ready:
                    end = monotonic() + self.patience
                elif monotonic() > end:
                    self.close()
                    raise psycopg.OperationalError(f"the server was silent for {self.patience:g} s")

    return PatientConnection
