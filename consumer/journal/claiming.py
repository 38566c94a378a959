"""Gives claims on due rows to workers, and extends and releases the claims.

A claim is a SELECT of due rows without a lease, then an UPDATE with the same condition. So only one replica gets a row. The
lease of a dead replica stays in its row until another replica ends it (:mod:`consumer.engine.ended_leases`).
"""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import cache
from itertools import islice, zip_longest
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Double,
    Executable,
    Integer,
    RowMapping,
    and_,
    bindparam,
    select,
    union_all,
    update,
)

from consumer.journal import history
from consumer.journal.database import Database, literal, now
from consumer.journal.schema import work
from consumer.journal.work import FREE, SWEEP, Admit, Claim, Kind, Lease, Priority, State
from handlers.base import Key

#: Priorities that claims treat alike, the more urgent first.
_LEVELS = ((Priority.EVENT, Priority.OPERATOR, Priority.TIMER), (Priority.PERIODIC, Priority.SWEEP))

#: The columns of a row without a lease; its heal can be open.
_UNCLAIMED: Mapping[str, None] = {"owner": None, "token": None, "lease_until": None}
#: Reads all leases. Not with IS NOT NULL, for which SQLite does not use the index.
LEASES = select(work.c.id, work.c.token, work.c.lease_until).where(work.c.token > "")


def _admit_all() -> Admit:
    return lambda _kind: True


def claim(
    database: Database,
    owner: str,
    handlers: Collection[str],
    limit: int,
    lease: float,
    keys: Collection[Key] = (),
    admit: Callable[[], Admit] = _admit_all,
) -> list[Claim]:
    """Claim up to ``limit`` due rows of these handlers. Rows that only sweeps or periodic events requested come last.

    If more rows are due, the handlers take turns, in random order. A handler's most urgent rows come first; of equally urgent
    rows, those that have been due longest.

    :param lease: seconds until the claim ends, unless extended
    :param keys: claim only rows of these keys; empty for all
    :param admit: returns a function that decides for each row whether a worker is free for it
    """
    if not handlers or limit <= 0:
        return []

    def take(connection: Connection) -> list[Claim]:
        clock = now(connection)
        bounds: dict[str, Any] = {"clock": clock, "most": limit}
        if keys:
            bounds["keys"] = [str(key) for key in keys]
        ids: list[int] = []
        admitted = admit()
        for level in _LEVELS:
            if len(ids) < limit:
                due = connection.execute(due_rows(tuple(handlers), level, bool(keys)), bounds)
                ids += _in_turns(due.all(), limit - len(ids), admitted)
        return _take(connection, ids, owner, lease, clock)

    return database.transact(take)


def claim_interrupted(
    database: Database, owner: str, handlers: Collection[str], limit: int, lease: float
) -> list[Claim]:
    """Claim, for ``lease`` seconds, up to ``limit`` due rows of these handlers whose heal was interrupted."""
    if not handlers or limit <= 0:
        return []

    def take(connection: Connection) -> list[Claim]:
        clock = now(connection)
        begun = and_(work.c.healing_id.is_not(None), work.c.handler.in_(handlers), _is_free(clock))
        ids = connection.execute(select(work.c.id).where(begun).limit(limit)).scalars().all()
        return _take(connection, ids, owner, lease, clock)

    return database.transact(take)


def _take(connection: Connection, ids: Sequence[int], owner: str, lease: float, clock: float) -> list[Claim]:
    if not ids:
        return []
    token = uuid.uuid4().hex
    # Not SELECT ... FOR UPDATE, because Galera does not replicate row locks.
    mine = {"owner": owner, "token": token, "lease_until": clock + lease}
    connection.execute(update(work).where(work.c.id.in_(ids), _is_free(clock)).values(**mine))
    order = (work.c.priority.desc(), work.c.not_before, work.c.id)
    rows = connection.execute(select(work).where(work.c.token == token).order_by(*order)).mappings()
    return _readable(connection, rows.all(), clock, lease)


def _is_free(clock: float) -> ColumnElement[bool]:
    return and_(work.c.state == State.PENDING, work.c.not_before <= clock, work.c.token.is_(None))


@cache  # building the statement takes longer than running it
def due_rows(handlers: tuple[str, ...], level: tuple[Priority, ...], by_key: bool) -> Executable:
    """Build the statement that reads, for each handler and priority, the rows that have been due longest.

    Its bound values are ``most`` (rows for each handler and priority) and ``clock`` (the present time).

    :param by_key: whether to read only rows with the keys in a further bound value, ``keys``
    """
    clock: ColumnElement[float] = bindparam("clock", type_=Double())
    conditions = [work.c.state == literal(State.PENDING.value), work.c.not_before <= clock, work.c.token.is_(None)]
    if by_key:
        conditions.append(work.c.key.in_(bindparam("keys", expanding=True)))
    columns = (work.c.handler, work.c.priority, work.c.not_before, work.c.id, work.c.key)
    # In the order of the index: a single ORDER BY would sort all waiting rows.
    heads = [
        select(*columns)
        .where(work.c.handler == handler, work.c.priority == literal(int(priority)), *conditions)
        .order_by(work.c.not_before, work.c.id)
        .limit(bindparam("most", type_=Integer()))
        .subquery()
        for handler in handlers
        for priority in level
    ]
    return union_all(*(select(head) for head in heads))


def _in_turns(rows: Iterable[Any], limit: int, admit: Admit) -> list[int]:
    """Return the ids of up to ``limit`` rows that ``admit`` accepts: first one row of each handler, then a second row ..."""
    queues: dict[str, list[tuple[int, float, int, bool]]] = {}
    for handler, priority, not_before, row_id, key in rows:
        queues.setdefault(handler, []).append((-priority, not_before, row_id, key.startswith(f"{SWEEP}:")))
    turns = [[(handler, *place) for place in sorted(queue)] for handler, queue in queues.items()]
    random.shuffle(turns)
    places = (place for round_ in zip_longest(*turns) for place in round_ if place is not None)
    taken = (
        row_id for handler, urgency, _not_before, row_id, is_sweep in places if admit(Kind(handler, -urgency, is_sweep))
    )
    return list(islice(taken, limit))


def _readable(connection: Connection, rows: Sequence[RowMapping], clock: float, lease: float) -> list[Claim]:
    """Return the claims of rows with valid keys. Park rows with invalid keys, because they would make every claim fail."""
    unreadable = [row["id"] for row in rows if not history.is_key(row["key"])]
    if unreadable:
        parked = {**FREE, "state": State.PARKED, "error": "the key cannot be read"}
        connection.execute(update(work).where(work.c.id.in_(unreadable)).values(parked))
    return [_claim(row, clock, lease) for row in rows if row["id"] not in unreadable]


def _claim(row: RowMapping, clock: float, lease: float) -> Claim:
    return Claim(
        id=row["id"],
        token=row["token"],
        handler=row["handler"],
        key=Key.parse(row["key"]),
        generation=row["generation"],
        priority=row["priority"],
        attempts=row["attempts"],
        waits=row["waits"],
        watched=row["watched"],
        fingerprint=row["fingerprint"],
        seen_at=row["seen_at"],
        reported=row["reported"],
        healing_id=row["healing_id"],
        hint=row["hint"],
        hint_id=row["hint_id"] or "",
        hinted_at=row["hinted_at"],
        first_hint_at=row["first_hint_at"],
        now=clock,
        error=row["error"] or "",
        lease=lease,
    )


def extend(database: Database, claims: Iterable[Claim]) -> None:
    """Extend the leases of claims; skip rows whose claim has ended."""
    places = sorted((held.id, held.token, held.lease) for held in claims)
    if not places:
        return
    where = and_(work.c.id == bindparam("row_id"), work.c.token == bindparam("row_token"))

    def prolong(connection: Connection) -> None:
        clock = now(connection)
        rows = [{"row_id": row, "row_token": token, "until": clock + lease} for row, token, lease in places]
        connection.execute(update(work).where(where).values(lease_until=bindparam("until")), rows)

    database.transact(prolong)


def renew(connection: Connection, held: Claim, **values: int) -> bool:
    """Extend a claim's lease, and set other columns of its row; return False if the claim has ended.

    This writes even where a read would do: on Galera, the commit fails if another node has ended the lease.
    """
    mine = and_(work.c.id == held.id, work.c.token == held.token)
    until = now(connection) + held.lease
    return connection.execute(update(work).where(mine).values(lease_until=until, **values)).rowcount > 0


def leases(database: Database) -> list[Lease]:
    """Return the leases of all claimed rows, including leases that have ended."""

    def read(connection: Connection) -> list[Lease]:
        clock = now(connection)
        return [
            Lease(row.id, row.token, row.lease_until, row.lease_until < clock) for row in connection.execute(LEASES)
        ]

    return database.read(read)


def end(database: Database, ended: Iterable[Lease]) -> int:
    """Make the rows of these leases free, except rows whose lease was extended since; return the number of rows."""

    def free(connection: Connection) -> int:
        return sum(connection.execute(update(work).where(_unchanged(one)).values(_UNCLAIMED)).rowcount for one in ended)

    return database.transact(free)


def _unchanged(lease: Lease) -> ColumnElement[bool]:
    return and_(work.c.id == lease.id, work.c.token == lease.token, work.c.lease_until <= lease.until)


def release(database: Database, claims: Iterable[Claim]) -> None:
    """End claims whose work has not begun; the rows stay due."""

    def free(connection: Connection) -> None:
        for held in claims:
            mine = and_(work.c.id == held.id, work.c.token == held.token)
            connection.execute(update(work).where(mine).values(_UNCLAIMED))

    database.transact(free)


def free_all(database: Database) -> None:
    """End every lease. Only the sole daemon of a journal may call this, at its start: all owners of leases are then dead."""
    database.transact(lambda connection: connection.execute(update(work).values(_UNCLAIMED)))
