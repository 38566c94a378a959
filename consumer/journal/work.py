"""The work table: hints in, claims out.

The mechanism is that of a work queue with two marks per key, kept in one row. *Wanted* is the row itself: a hint inserts
it, or bumps ``generation`` of the row that is there. *Being worked on* is the lease: ``token`` and ``lease_until``. A
worker remembers the generation it claimed; when it settles, a generation that has moved on means that somebody hinted
meanwhile, and the row stays to be looked at once more. So bursts collapse, one key is never worked on twice at a time,
and no hint is lost.

Claiming is one UPDATE whose WHERE repeats what the SELECT before it saw; of two replicas one gets the rows. SELECT ...
FOR UPDATE is not used: Galera does not replicate its locks. Every later write of the worker names its token, so one whose
lease was taken over changes nothing (:class:`LeaseLost`).
"""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import cache
from typing import Any

from sqlalchemy import Connection, RowMapping, and_, bindparam, case, delete, insert, null, or_, select, update

from consumer.journal import history
from consumer.journal.database import Database, JournalError, clean, greatest, least, literal, now, upsert
from consumer.journal.dead import DeadLetter
from consumer.journal.schema import dead_event, work
from handlers.base import Key

#: More rows than this in one statement gain nothing and make long transactions.
_CHUNK = 500


class LeaseLost(JournalError):
    """Another replica has taken the row over; what this one found no longer counts."""


class Priority(IntEnum):
    """Who asks. A sweep must never delay an event."""

    SWEEP = 10
    TIMER = 50
    OPERATOR = 90
    EVENT = 100


@dataclass(frozen=True, slots=True)
class Hint:
    """A reason to look at a key.

    :param source: the event's type, ``sweep``, ``start``, ``operator`` ...
    :param after: seconds to wait before the first look
    :param source_id: the notification's message id
    :param sent_at: when the notification was sent, seconds since the epoch
    """

    handler: str
    key: Key
    priority: Priority
    source: str
    after: float = 0.0
    source_id: str = ""
    sent_at: float | None = None


@dataclass(frozen=True, slots=True)
class Claim:
    """A row held by this process until its lease ends.

    :param attempts: failed looks or heals since the last event
    :param waits: looks in a row that found the object in flight
    :param watched: seconds for which it was looked at again and again; a time in which nobody may look does not count
    :param fingerprint: of the findings of an earlier look, with ``seen_at`` the time when it was first seen
    :param reported: the fingerprint for which the history already has its lines
    :param healing_id: the history line of a heal that was begun and never closed
    :param first_hint_at: since when somebody has wanted this look; ``now`` is the time of the claim
    """

    id: int
    token: str
    handler: str
    key: Key
    generation: int
    priority: int
    attempts: int
    waits: int
    watched: float
    fingerprint: str | None
    seen_at: float | None
    reported: str | None
    healing_id: int | None
    hint: str
    hint_id: str
    hinted_at: float | None
    first_hint_at: float
    now: float


@dataclass(frozen=True, slots=True)
class Done:
    """Nothing is wrong any more: the row goes."""


@dataclass(frozen=True, slots=True)
class Later:
    """Look again after some seconds.

    :param fresh: the fingerprint was seen now, for the first time
    :param watched: how much of it counts as watching
    :param healing_id: the history's line that stays open: whether the heal took effect is not known
    """

    after: float
    attempts: int = 0
    waits: int = 0
    fingerprint: str | None = None
    fresh: bool = False
    error: str = ""
    healing_id: int | None = None
    watched: float = 0.0


@dataclass(frozen=True, slots=True)
class Reported:
    """The drift stays: mode or refusal. The row stays with it, until a look finds nothing."""

    fingerprint: str
    error: str = ""


@dataclass(frozen=True, slots=True)
class Parked:
    """Given up, until an operator, an event or a changed finding re-arms it."""

    error: str
    attempts: int
    fingerprint: str | None = None


Disposition = Done | Later | Reported | Parked


def enqueue(database: Database, hints: Iterable[Hint], dead: Sequence[DeadLetter] = ()) -> int:
    """Store hints and undecodable messages in one transaction; return how many rows of work they are.

    :raises JournalUnavailable: nothing is stored
    """
    folded = sorted(_fold(hints).values(), key=lambda hint: (hint.handler, str(hint.key)))

    def store(connection: Connection) -> None:
        clock = now(connection)
        statement = _enqueue_statement(connection.dialect.name)
        for start in range(0, len(folded), _CHUNK):
            connection.execute(statement, [_row(hint, clock) for hint in folded[start : start + _CHUNK]])
        if dead:
            connection.execute(insert(dead_event), [letter.row(clock) for letter in dead])

    if folded or dead:
        database.transact(store)
    return len(folded)


def _fold(hints: Iterable[Hint]) -> dict[tuple[str, Key], Hint]:
    """Keep one hint per row, the most urgent: one statement must not meet a row twice."""
    folded: dict[tuple[str, Key], Hint] = {}
    for hint in hints:
        place = (hint.handler, hint.key)
        other = folded.get(place)
        if other is None or (hint.priority, -hint.after) > (other.priority, -other.after):
            folded[place] = hint
    return folded


def _row(hint: Hint, clock: float) -> dict[str, Any]:
    return {
        "handler": hint.handler,
        "key": str(hint.key),
        "state": "pending",
        "priority": int(hint.priority),
        "generation": 1,
        "not_before": clock + hint.after,
        "attempts": 0,
        "waits": 0,
        "watched": 0.0,
        "hint": clean(hint.source, 128),
        "hint_id": clean(hint.source_id, 64),
        "hinted_at": hint.sent_at,
        "first_hint_at": clock,
        "last_hint_at": clock,
    }


@cache
def _enqueue_statement(dialect: str) -> Any:
    """Build the statement once: that costs more than running it."""

    def change(new: Any) -> Mapping[str, Any]:
        # MariaDB assigns from left to right and reads what it has assigned: state and the hint's columns look at
        # work.state and work.priority, so these two are assigned after them.
        urgent = new["priority"] > literal(int(Priority.TIMER))
        news = or_(urgent, work.c.state != literal("pending"))
        return {
            "generation": work.c.generation + literal(1),
            "not_before": case((news, least(work.c.not_before, new["not_before"])), else_=work.c.not_before),
            "attempts": case((urgent, literal(0)), else_=work.c.attempts),
            "waits": case((urgent, literal(0)), else_=work.c.waits),
            "watched": case((urgent, literal(0)), else_=work.c.watched),
            "hint": case((urgent, new["hint"]), else_=work.c.hint),
            "hint_id": case((urgent, new["hint_id"]), else_=work.c.hint_id),
            "hinted_at": case((urgent, new["hinted_at"]), else_=work.c.hinted_at),
            "first_hint_at": case(
                (work.c.state != literal("pending"), new["first_hint_at"]), else_=work.c.first_hint_at
            ),
            "last_hint_at": new["last_hint_at"],
            "priority": greatest(work.c.priority, new["priority"]),
            "state": literal("pending"),
        }

    return upsert(dialect, work, ("handler", "key"), change)


def claim(database: Database, owner: str, handlers: Collection[str], limit: int, lease: float) -> list[Claim]:
    """Take up to ``limit`` due rows of these handlers, events first, then the longest due.

    :param owner: this replica
    :param lease: seconds for which the rows are ours unless extended
    """
    if not handlers or limit <= 0:
        return []
    token = uuid.uuid4().hex

    def take(connection: Connection) -> list[Claim]:
        clock = now(connection)
        free = and_(
            work.c.state == "pending",
            work.c.not_before <= clock,
            or_(work.c.lease_until.is_(None), work.c.lease_until < clock),
        )
        order = (work.c.priority.desc(), work.c.not_before, work.c.id)
        due = select(work.c.id).where(free, work.c.handler.in_(handlers)).order_by(*order).limit(limit)
        ids = list(connection.execute(due).scalars())
        if not ids:
            return []
        mine = {"owner": owner, "token": token, "lease_until": clock + lease}
        connection.execute(update(work).where(work.c.id.in_(ids), free).values(**mine))
        rows = connection.execute(select(work).where(work.c.token == token).order_by(*order)).mappings()
        return [_claim(row, clock) for row in rows]

    return database.transact(take)


def _claim(row: RowMapping, clock: float) -> Claim:
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
    )


def extend(database: Database, claims: Iterable[Claim], lease: float) -> None:
    """Prolong the leases of rows that are being worked on; rows that somebody else took are left to him."""
    tokens = sorted({(held.id, held.token) for held in claims})
    if not tokens:
        return
    where = and_(work.c.id == bindparam("row_id"), work.c.token == bindparam("row_token"))

    def prolong(connection: Connection) -> None:
        until = now(connection) + lease
        rows = [{"row_id": row, "row_token": token, "until": until} for row, token in tokens]
        connection.execute(update(work).where(where).values(lease_until=bindparam("until")), rows)

    database.transact(prolong)


def settle(
    database: Database, held: Claim, end: Disposition, lines: Sequence[history.Line | history.Closing] = ()
) -> None:
    """Give a row back, with what came of it, and write the history's lines in the same transaction.

    :raises LeaseLost: when the row is no longer ours; nothing is written
    """

    def write(connection: Connection) -> None:
        clock = now(connection)
        mine = and_(work.c.id == held.id, work.c.token == held.token)
        unmoved = and_(mine, work.c.generation == held.generation)
        if isinstance(end, Done):
            changed = connection.execute(delete(work).where(unmoved)).rowcount
        else:
            changed = connection.execute(update(work).where(unmoved).values(_settled(end, clock))).rowcount
        if not changed:
            again = {**_FREE, "not_before": least(work.c.not_before, clock), "seen_at": null(), "fingerprint": null()}
            changed = connection.execute(update(work).where(mine).values(again)).rowcount
        if not changed:
            raise LeaseLost(f"{held.handler} {held.key}: taken over by another replica")
        history.write(connection, lines, clock)

    database.transact(write)


_FREE: Mapping[str, Any] = {"owner": None, "token": None, "lease_until": None, "healing_id": None}


def _settled(end: Later | Reported | Parked, clock: float) -> Mapping[str, Any]:
    if isinstance(end, Later):
        values = {
            **_FREE,
            "not_before": clock + end.after,
            "attempts": end.attempts,
            "waits": end.waits,
            "watched": work.c.watched + end.watched,
            "fingerprint": end.fingerprint,
            "error": end.error or None,
            "healing_id": end.healing_id,
        }
        return {**values, "seen_at": clock} if end.fresh else values
    if isinstance(end, Reported):
        marks = {"fingerprint": end.fingerprint, "reported": end.fingerprint}
        return {**_FREE, **marks, "state": "reported", "attempts": 0, "watched": 0.0, "error": end.error or None}
    parked = {"state": "parked", "attempts": end.attempts, "watched": 0.0, "error": end.error}
    return {**_FREE, **parked, "fingerprint": end.fingerprint}


def release(database: Database, claims: Iterable[Claim]) -> None:
    """Give rows back untouched: this process stops."""

    def free(connection: Connection) -> None:
        for held in claims:
            mine = and_(work.c.id == held.id, work.c.token == held.token)
            connection.execute(update(work).where(mine).values(owner=None, token=None, lease_until=None))

    database.transact(free)


def free_all(database: Database) -> None:
    """End every lease. Only for a process that holds the journal for itself: whoever held them is dead."""
    values = {"owner": None, "token": None, "lease_until": None}
    database.transact(lambda connection: connection.execute(update(work).values(**values)))


def begin_healing(database: Database, held: Claim, line: history.Line, per_hour: int) -> int:
    """Open the history's line of a heal, before anything is written to the cloud; return its id.

    :param per_hour: heals of this handler in any hour, over all replicas; 0 for no bound
    :raises NotPermitted: when the handler is stopped or its hour's heals are used up
    :raises LeaseLost: when the row is no longer ours
    """

    def begin(connection: Connection) -> int:
        clock = now(connection)
        history.permit(connection, held.handler, per_hour, clock)
        (line_id,) = history.write(connection, [line], clock)
        mine = and_(work.c.id == held.id, work.c.token == held.token)
        if not connection.execute(update(work).where(mine).values(healing_id=line_id)).rowcount:
            raise LeaseLost(f"{held.handler} {held.key}: taken over by another replica")
        return line_id

    return database.transact(begin)


def revisit_reported(database: Database, handler: str, before: float) -> int:
    """Make reported rows due that no hint has touched since ``before``: a whole sweep did not find them any more."""

    def wake(connection: Connection) -> int:
        clock = now(connection)
        stale = and_(work.c.handler == handler, work.c.state == "reported", work.c.last_hint_at < before)
        values = {"state": "pending", "not_before": clock, "generation": work.c.generation + 1}
        return connection.execute(update(work).where(stale).values(values)).rowcount

    return database.transact(wake)


def adopt(database: Database, hint: Hint, line_id: int) -> None:
    """Have a look taken at a key whose heal was begun by a process that is gone; that look closes the line."""
    enqueue(database, [hint])
    free = and_(work.c.handler == hint.handler, work.c.key == str(hint.key), work.c.healing_id.is_(None))
    database.transact(lambda connection: connection.execute(update(work).where(free).values(healing_id=line_id)))
