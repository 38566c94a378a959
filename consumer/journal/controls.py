"""Stores each handler's state for all replicas: whether and why it is stopped, and its last sweep."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass, replace

from sqlalchemy import Connection, RowMapping, insert, select, update

from consumer.journal.acts import Also, nothing
from consumer.journal.database import Database, now
from consumer.journal.schema import task


@dataclass(frozen=True, slots=True)
class Control:
    """One handler's state.

    :param broken: whether the handler is stopped by the breaker, or because a database fell below its watermark
    :param calm_sweeps: sweeps in a row with few suspects since the breaker stopped the handler; None without such a stop
    :param swept_at: start of the last complete sweep
    :param missing: the dependencies that did not answer in the last sweep
    :param only_missing: whether the last sweep listed all suspects that do not need a dependency in ``missing``
    :param missed_at: start of the last sweep, if it was incomplete
    """

    name: str
    paused: bool = False
    broken: bool = False
    reason: str = ""
    calm_sweeps: int | None = None
    since: float | None = None
    swept_at: float | None = None
    sweep_seconds: float | None = None
    sweep_found: int | None = None
    sweep_population: int | None = None
    missing: frozenset[str] = frozenset()
    only_missing: bool = False
    missed_at: float | None = None

    @property
    def stopped(self) -> bool:
        return self.paused or self.broken

    @property
    def recovers(self) -> bool:
        return self.broken and not self.paused and self.calm_sweeps is not None


def lock(connection: Connection, name: str) -> Control:
    """Lock a handler's row of the table ``task`` until the transaction ends; return the handler's state."""
    connection.execute(update(task).where(task.c.name == name).values(serial=task.c.serial + 1))
    return state(connection, name)


def state(connection: Connection, name: str) -> Control:
    columns = (task.c.paused, task.c.broken, task.c.reason, task.c.calm_sweeps)
    row = connection.execute(select(*columns).where(task.c.name == name)).first()
    return Control(name) if row is None else Control(name, row.paused, row.broken, row.reason or "", row.calm_sweeps)


def queue_up(connection: Connection, name: str, earliest: float, step: float, latest: float) -> tuple[float, float]:
    """Choose when a heal that waits for its handler's budget may ask the gates again, and store this time.

    All times are seconds since the epoch.

    :param step: seconds to add to the time stored before
    :return: the time stored before (0.0 if none), and the new time, between ``earliest`` and ``latest``
    """
    last = connection.execute(select(task.c.deferred_until).where(task.c.name == name)).scalar() or 0.0
    place = min(max(earliest, last + step), latest)
    connection.execute(update(task).where(task.c.name == name).values(deferred_until=place))
    return last, place


def ensure(database: Database, names: Collection[str]) -> None:
    database.transact(lambda connection: _ensure(connection, names))


def _ensure(connection: Connection, names: Collection[str]) -> None:
    there = set(connection.execute(select(task.c.name)).scalars())
    for name in sorted(set(names) - there):
        connection.execute(insert(task).values(name=name, paused=False, broken=False, serial=0))


def read(database: Database) -> dict[str, Control]:
    fields = [column for column in task.c if column.name not in ("serial", "deferred_until")]

    def load(connection: Connection) -> dict[str, Control]:
        rows = connection.execute(select(*fields)).mappings()
        return {row["name"]: _control(row) for row in rows}

    return database.transact(load)


def _control(row: RowMapping) -> Control:
    missing = frozenset(json.loads(row["missing"] or "[]"))
    return Control(
        **{**row, "reason": row["reason"] or "", "missing": missing, "only_missing": bool(row["only_missing"])}
    )


def pause(database: Database, names: Collection[str], reason: str, also: Also = nothing) -> int:
    """Pause handlers; return the number of handlers."""
    return _set(database, names, also, paused=True, reason=reason)


def resume(database: Database, names: Collection[str], also: Also = nothing) -> int:
    """Let paused and stopped handlers run again; return the number of handlers."""
    return _set(database, names, also, paused=False, broken=False, calm_sweeps=None, reason="")


def break_off(connection: Connection, names: Collection[str], reason: str) -> None:
    """Stop these handlers, even if they have no row yet, until an operator resumes them."""
    _ensure(connection, names)
    _write(connection, names, reason, broken=True, calm_sweeps=None)


def trip(connection: Connection, name: str, reason: str) -> bool:
    """Stop a handler whose sweep lists too many suspects; count ``calm_sweeps`` from 0. Return False if it was ``broken``."""
    _ensure(connection, [name])
    before = lock(connection, name)
    if before.broken:
        if before.recovers:
            connection.execute(update(task).where(task.c.name == name).values(calm_sweeps=0))
        return False
    _write(connection, [name], reason, broken=True, calm_sweeps=0)
    return True


def calmed(connection: Connection, name: str, enough: int) -> Control:
    """Count a sweep with few suspects, if the breaker stopped the handler. After ``enough`` in a row, resume the handler.

    :return: the handler's new state
    """
    before = lock(connection, name)
    if not before.recovers:
        return before
    calm = (before.calm_sweeps or 0) + 1
    if calm < enough:
        connection.execute(update(task).where(task.c.name == name).values(calm_sweeps=calm))
        return replace(before, calm_sweeps=calm)
    _write(connection, [name], "", broken=False, calm_sweeps=None)
    return Control(name)


def _set(database: Database, names: Collection[str], also: Also, *, reason: str, **flags: bool | int | None) -> int:
    def write(connection: Connection) -> int:
        also(connection)
        return _write(connection, names, reason, **flags)

    return database.transact(write)


def _write(connection: Connection, names: Collection[str], reason: str, **flags: bool | int | None) -> int:
    values = {**flags, "reason": reason, "since": now(connection)}
    return connection.execute(update(task).where(task.c.name.in_(names)).values(values)).rowcount


def swept(database: Database, name: str, began: float, found: int, population: int) -> None:
    def write(connection: Connection) -> None:
        took = now(connection) - began
        values = {"swept_at": began, "sweep_seconds": took, "sweep_found": found, "sweep_population": population}
        complete = {"missing": None, "only_missing": None, "missed_at": None}
        connection.execute(update(task).where(task.c.name == name).values({**values, **complete}))

    database.transact(write)


def missed(
    database: Database, name: str, began: float, found: int, missing: Collection[str], *, only_missing: bool
) -> None:
    """Record an incomplete sweep in the handler's state (:class:`Control`)."""
    listed = json.dumps(sorted(missing))
    values = {"missing": listed, "only_missing": only_missing, "missed_at": began, "sweep_found": found}
    database.transact(lambda connection: connection.execute(update(task).where(task.c.name == name).values(values)))
