"""Lists, retries and drops rows of the work table, for operators."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum

from sqlalchemy import ColumnElement, Connection, RowMapping, and_, case, delete, func, not_, or_, select, update

from consumer.journal.acts import Also, nothing
from consumer.journal.database import Database, now
from consumer.journal.schema import work
from consumer.journal.work import SWEEP, Priority
from handlers.base import Key

#: The largest difference, in seconds, between the clocks of two database nodes that these functions allow for.
_SKEW = 60.0


class Standing(StrEnum):
    """The state of a row, as operators see it: *running* while a worker has the row's lease, otherwise the stored state."""

    PENDING = "pending"
    RUNNING = "running"
    REPORTED = "reported"
    PARKED = "parked"


@dataclass(frozen=True, slots=True)
class WorkRow:
    """A row of the work table, as operators see it.

    :param due_in: seconds until the row is due; 0 for a due row
    """

    id: int
    handler: str
    key: str
    state: Standing
    priority: int
    attempts: int
    due_in: float
    owner: str
    hint: str
    first_hint_age: float
    error: str


@dataclass(frozen=True, slots=True)
class Depth:
    """The number of one handler's rows in one state, without timers.

    :param oldest: seconds since the earliest first hint of these rows
    """

    handler: str
    state: Standing
    rows: int
    oldest: float


def depths(database: Database) -> list[Depth]:
    def read(connection: Connection) -> list[Depth]:
        clock = now(connection)
        leased = _leased(clock)
        state = case((leased, Standing.RUNNING.value), else_=work.c.state).label("standing")
        query = (
            select(work.c.handler, state, func.count().label("rows"), func.min(work.c.first_hint_at).label("first"))
            .where(work.c.key.not_like("sweep:%"))
            .group_by(work.c.handler, state)
        )
        rows = connection.execute(query)
        return [Depth(row.handler, Standing(row.standing), row.rows, max(0.0, clock - row.first)) for row in rows]

    return database.read(read)


@dataclass(frozen=True, slots=True)
class Glance:
    """The numbers of one handler's rows without its timer, each up to a limit, and the handler's most urgent rows.

    :param waiting: the number of rows that wait for an inspection or are inspected now
    :param reports: the most urgent of the *reported* rows
    :param failures: the most urgent of the *parked* rows
    """

    waiting: int = 0
    reported: int = 0
    parked: int = 0
    reports: tuple[WorkRow, ...] = ()
    failures: tuple[WorkRow, ...] = ()


def glance(connection: Connection, handler: str, count: int, read: int) -> Glance:
    """Count a handler's rows in each state, and read its most urgent *reported* and *parked* rows.

    :param count, read: the largest numbers of rows to count and to read, for each state
    """
    clock = now(connection)
    reports = _newest(connection, handler, Standing.REPORTED, read, clock)
    failures = _newest(connection, handler, Standing.PARKED, read, clock)
    return Glance(
        _count(connection, handler, Standing.PENDING, count),
        _count(connection, handler, Standing.REPORTED, count) if reports else 0,
        _count(connection, handler, Standing.PARKED, count) if failures else 0,
        reports,
        failures,
    )


def _count(connection: Connection, handler: str, state: Standing, most: int) -> int:
    mine = (work.c.handler == handler, work.c.state == state.value, work.c.key != str(Key(SWEEP, handler)))
    some = select(work.c.id).where(*mine).limit(most).subquery()
    return int(connection.execute(select(func.count()).select_from(some)).scalar_one())


def _newest(connection: Connection, handler: str, state: Standing, limit: int, clock: float) -> tuple[WorkRow, ...]:
    mine = (work.c.handler == handler, work.c.state == state.value, work.c.key != str(Key(SWEEP, handler)))
    order = (work.c.priority.desc(), work.c.not_before.desc(), work.c.id.desc())
    rows = connection.execute(select(work).where(*mine).order_by(*order).limit(limit)).mappings()
    return tuple(_work_row(row, clock) for row in rows)


def waiting(database: Database) -> int:
    """Return the number of rows that are due now or later, including timers."""
    query = select(func.count()).select_from(work).where(work.c.state == Standing.PENDING.value)
    return database.read(lambda connection: connection.execute(query).scalar_one())


def listing(
    database: Database, handler: str | None = None, state: Standing | None = None, limit: int = 1000
) -> list[WorkRow]:

    def read(connection: Connection) -> list[WorkRow]:
        clock = now(connection)
        query = select(work).order_by(work.c.priority.desc(), work.c.not_before, work.c.id).limit(limit)
        if handler:
            query = query.where(work.c.handler == handler)
        leased = _leased(clock)
        if state is Standing.RUNNING:
            query = query.where(leased)
        elif state is not None:
            query = query.where(work.c.state == state)
        return [_work_row(row, clock) for row in connection.execute(query).mappings()]

    return database.transact(read)


def find(database: Database, ids: Collection[int]) -> list[WorkRow]:
    def read(connection: Connection) -> list[WorkRow]:
        clock = now(connection)
        return [_work_row(row, clock) for row in connection.execute(select(work).where(work.c.id.in_(ids))).mappings()]

    return database.transact(read)


def _work_row(row: RowMapping, clock: float) -> WorkRow:
    running = row["lease_until"] is not None and row["lease_until"] >= clock - _SKEW
    return WorkRow(
        id=row["id"],
        handler=row["handler"],
        key=row["key"],
        state=Standing.RUNNING if running else Standing(row["state"]),
        priority=row["priority"],
        attempts=row["attempts"],
        due_in=max(0.0, row["not_before"] - clock),
        owner=row["owner"] or "",
        hint=row["hint"],
        first_hint_age=max(0.0, clock - row["first_hint_at"]),
        error=row["error"] or "",
    )


def retry(database: Database, ids: Collection[int], also: Also = nothing) -> int:
    """Make these rows due now, even *reported* and *parked* rows; return their number."""
    values = {
        "state": Standing.PENDING.value,
        "attempts": 0,
        "waits": 0,
        "watched": 0.0,
        "error": None,
        "fingerprint": None,
        # as of a new hint: so the inspection is no suspect's, and its lag does not count from an old event
        "hint": "operator",
        "hint_id": None,
        "hinted_at": None,
        "generation": work.c.generation + 1,
    }

    def rearm(connection: Connection) -> int:
        also(connection)
        due = {**values, "not_before": now(connection), "priority": int(Priority.OPERATOR)}
        return connection.execute(update(work).where(work.c.id.in_(ids)).values(due)).rowcount

    return database.transact(rearm)


def drop(database: Database, ids: Collection[int], also: Also = nothing) -> int:
    """Delete rows, except those with a running claim; return the number deleted. A later sweep can find the drift."""

    def forget(connection: Connection) -> int:
        also(connection)
        free = or_(work.c.lease_until.is_(None), not_(_leased(now(connection))))
        return connection.execute(delete(work).where(work.c.id.in_(ids), free)).rowcount

    return database.transact(forget)


def _leased(clock: float) -> ColumnElement[bool]:
    return and_(work.c.lease_until.is_not(None), work.c.lease_until >= clock - _SKEW)
