"""Each handler's state, shared by all replicas: paused, stopped by the breaker, last sweep."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from sqlalchemy import Connection, insert, select, update

from consumer.journal.database import Database, now
from consumer.journal.schema import task


@dataclass(frozen=True, slots=True)
class Control:
    """One handler's state.

    :param paused: by an operator
    :param broken: the breaker stopped it until an operator resumes it
    :param swept_at: start of the last complete sweep; None for never
    """

    name: str
    paused: bool = False
    broken: bool = False
    reason: str = ""
    since: float | None = None
    swept_at: float | None = None
    sweep_seconds: float | None = None
    sweep_found: int | None = None
    sweep_population: int | None = None

    @property
    def stopped(self) -> bool:
        return self.paused or self.broken


def lock(connection: Connection, name: str) -> Control:
    """Lock a handler's row until the transaction ends; return its state.

    So replicas ask a handler's gates one after the other.
    """
    connection.execute(update(task).where(task.c.name == name).values(serial=task.c.serial + 1))
    row = connection.execute(select(task.c.paused, task.c.broken, task.c.reason).where(task.c.name == name)).first()
    return Control(name) if row is None else Control(name, row.paused, row.broken, row.reason or "")


def ensure(database: Database, names: Collection[str]) -> None:
    """Create missing rows."""
    database.transact(lambda connection: _ensure(connection, names))


def _ensure(connection: Connection, names: Collection[str]) -> None:
    there = set(connection.execute(select(task.c.name)).scalars())
    for name in sorted(set(names) - there):
        connection.execute(insert(task).values(name=name, paused=False, broken=False, serial=0))


def read(database: Database) -> dict[str, Control]:
    fields = [column for column in task.c if column.name != "serial"]

    def load(connection: Connection) -> dict[str, Control]:
        rows = connection.execute(select(*fields)).mappings()
        return {row["name"]: Control(**{**row, "reason": row["reason"] or ""}) for row in rows}

    return database.transact(load)


def pause(database: Database, names: Collection[str], reason: str) -> int:
    """Stop handlers on every replica, within seconds; return their number."""
    return _set(database, names, paused=True, reason=reason)


def resume(database: Database, names: Collection[str]) -> int:
    """Let paused and stopped handlers run again; return their number."""
    return _set(database, names, paused=False, broken=False, reason="")


def break_off(connection: Connection, names: Collection[str], reason: str) -> None:
    """Stop handlers, also those without a row, until an operator resumes them."""
    _ensure(connection, names)
    _write(connection, names, reason, broken=True)


def _set(database: Database, names: Collection[str], *, reason: str, **flags: bool) -> int:
    return database.transact(lambda connection: _write(connection, names, reason, **flags))


def _write(connection: Connection, names: Collection[str], reason: str, **flags: bool) -> int:
    values = {**flags, "reason": reason, "since": now(connection)}
    return connection.execute(update(task).where(task.c.name.in_(names)).values(values)).rowcount


def swept(database: Database, name: str, began: float, found: int, population: int) -> None:
    """Record a complete sweep."""

    def write(connection: Connection) -> None:
        took = now(connection) - began
        values = {"swept_at": began, "sweep_seconds": took, "sweep_found": found, "sweep_population": population}
        connection.execute(update(task).where(task.c.name == name).values(values))

    database.transact(write)
