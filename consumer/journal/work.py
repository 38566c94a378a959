"""The work table: stores hints, gives claims to workers, and settles the claims.

A hint inserts a row or increments its ``generation``. While a worker works on a row, the row has a lease (``token`` and
``lease_until``). If the generation has changed when the worker settles, a hint arrived meanwhile, and the row stays for another
inspection. So many hints cause one inspection, only one worker at a time works on a key, and no hint is lost.

A claim is a SELECT of due rows without a lease, then an UPDATE whose WHERE repeats this condition. So only one replica gets a
row. Every later write has the token in its WHERE, so a worker that lost its lease changes nothing (:class:`LeaseLost`).
"""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum, StrEnum
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
    case,
    delete,
    insert,
    null,
    or_,
    select,
    union_all,
    update,
)

from consumer.journal import history
from consumer.journal.database import Database, JournalError, clean, greatest, least, literal, now, upsert
from consumer.journal.dead import DeadLetter
from consumer.journal.schema import dead_event, work
from handlers.base import Key

#: The kind of the keys of timers.
SWEEP = "sweep"

#: More rows than this in one statement gain nothing and make long transactions.
_CHUNK = 500


class LeaseLost(JournalError):
    """This claim's lease ended, and another replica claimed the row. The result of this claim is not stored."""


class State(StrEnum):
    PENDING = "pending"
    REPORTED = "reported"
    PARKED = "parked"


class Priority(IntEnum):
    """The urgency of a hint; the highest number first. A sweep must never delay an event."""

    SWEEP = 10
    #: an event that a service sends at intervals for each object, changed or not
    PERIODIC = 20
    TIMER = 50
    OPERATOR = 90
    EVENT = 100


#: Priorities that claims treat alike, the more urgent first.
_LEVELS = ((Priority.EVENT, Priority.OPERATOR, Priority.TIMER), (Priority.PERIODIC, Priority.SWEEP))


@dataclass(frozen=True, slots=True)
class Kind:
    """The properties of a row that decide whether a worker is free for it (:mod:`consumer.engine.shares`)."""

    handler: str
    priority: int
    is_sweep: bool


#: Returns whether a further row may be claimed, and counts it.
Admit = Callable[[Kind], bool]


def _admit_all() -> Admit:
    return lambda _kind: True


@dataclass(frozen=True, slots=True)
class Hint:
    """A request to inspect a key.

    :param source: an event type, ``sweep``, ``start``, ``operator`` ...
    :param after: seconds before the first inspection
    :param source_id: the id of the notification
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
    """A row that this process works on until its lease ends.

    :param attempts: failed inspections or heals since the last event
    :param waits: times in a row that the work was put off: in flight, a conflict, no answer, the same refusal
    :param watched: seconds spent waiting for an object in flight, since the last event or result
    :param fingerprint: of an earlier inspection's findings, first seen at ``seen_at``
    :param reported: the fingerprint of the findings that the history already has
    :param healing_id: the open history entry of an interrupted heal
    :param first_hint_at: time of the first hint since the row was created, reported or parked
    :param now: the time of the claim. All times are seconds since the epoch, by the journal's clock
    :param error: why the last inspection or heal did not end the work
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
    error: str = ""

    @property
    def kind(self) -> Kind:
        return Kind(self.handler, self.priority, self.key.kind == SWEEP)


@dataclass(frozen=True, slots=True)
class Done:
    """Delete the row, because no work is left for its key."""


@dataclass(frozen=True, slots=True)
class Later:
    """Inspect the key again after ``after`` seconds.

    :param fresh: whether the fingerprint is new
    :param watched: seconds to add to the claim's ``watched``
    :param healing_id: the history entry that stays open, because its heal may have written
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
    """Keep the row in state *reported*: the mode, a gate or a refusal forbids the heal.

    :param after: seconds for which a sweep does not make the row due
    :param waits: heals in a row that were refused for the same reason
    :param refused: whether every finding is one that no mode heals
    """

    fingerprint: str
    error: str = ""
    refused: bool = False
    after: float = 0.0
    waits: int = 0


@dataclass(frozen=True, slots=True)
class Parked:
    """Keep the row in state *parked*: the work failed too often. Only an operator, an event or another finding ends this."""

    error: str
    attempts: int
    fingerprint: str | None = None


Disposition = Done | Later | Reported | Parked


def enqueue(database: Database, hints: Iterable[Hint], dead: Sequence[DeadLetter] = ()) -> int:
    """Store hints and dead letters in one transaction; return the number of work rows written.

    :raises JournalUnavailable: the journal does not answer
    """
    folded = _fold(hints)

    def store(connection: Connection) -> None:
        clock = now(connection)
        put(connection, folded, clock)
        if dead:
            connection.execute(insert(dead_event), [letter.row(clock) for letter in dead])

    if folded or dead:
        database.transact(store)
    return len(folded)


def put(connection: Connection, hints: Iterable[Hint], clock: float) -> None:
    """Store hints in the caller's transaction."""
    folded = _fold(hints)
    statement = _enqueue_statement(connection.dialect.name)
    for start in range(0, len(folded), _CHUNK):
        connection.execute(statement, [_row(hint, clock) for hint in folded[start : start + _CHUNK]])


def _fold(hints: Iterable[Hint]) -> list[Hint]:
    """Return the most urgent hint for each row, because one statement must not write a row twice."""
    folded: dict[tuple[str, Key], Hint] = {}
    for hint in hints:
        place = (hint.handler, hint.key)
        other = folded.get(place)
        if other is None or (hint.priority, -hint.after) > (other.priority, -other.after):
            folded[place] = hint
    # All processes write rows in the same order, so that they do not deadlock.
    return sorted(folded.values(), key=lambda hint: (hint.handler, str(hint.key)))


def _row(hint: Hint, clock: float) -> dict[str, Any]:
    return {
        "handler": hint.handler,
        "key": str(hint.key),
        "state": State.PENDING,
        "priority": int(hint.priority),
        "generation": 1,
        "not_before": clock + hint.after,
        "attempts": 0,
        "waits": 0,
        "watched": 0.0,
        "refused": False,
        "hint": clean(hint.source, 128),
        "hint_id": clean(hint.source_id, 64),
        "hinted_at": hint.sent_at,
        "first_hint_at": clock,
        "last_hint_at": clock,
    }


@cache  # building the statement takes longer than running it
def _enqueue_statement(dialect: str) -> Any:

    def change(new: Any) -> Mapping[str, Any]:
        # MariaDB assigns from left to right, and later expressions see the new values. So work.state and work.priority, which
        # other columns read, come last.
        urgent = new["priority"] > literal(int(Priority.TIMER))
        settled = work.c.state != literal(State.PENDING.value)
        return {
            "generation": work.c.generation + literal(1),
            "not_before": case(
                (urgent, least(work.c.not_before, new["not_before"])),
                (settled, greatest(work.c.not_before, new["not_before"])),
                else_=work.c.not_before,
            ),
            "attempts": case((urgent, literal(0)), else_=work.c.attempts),
            "waits": case((urgent, literal(0)), else_=work.c.waits),
            "watched": case((urgent, literal(0)), else_=work.c.watched),
            "hint": case((urgent, new["hint"]), else_=work.c.hint),
            "hint_id": case((urgent, new["hint_id"]), else_=work.c.hint_id),
            "hinted_at": case((urgent, new["hinted_at"]), else_=work.c.hinted_at),
            "first_hint_at": case(
                (work.c.state != literal(State.PENDING.value), new["first_hint_at"]), else_=work.c.first_hint_at
            ),
            "last_hint_at": new["last_hint_at"],
            "priority": greatest(work.c.priority, new["priority"]),
            "state": literal(State.PENDING.value),
        }

    return upsert(dialect, work, ("handler", "key"), change)


def claim(
    database: Database,
    owner: str,
    handlers: Collection[str],
    limit: int,
    lease: float,
    keys: Collection[Key] = (),
    admit: Callable[[], Admit] = _admit_all,
) -> list[Claim]:
    """Claim up to ``limit`` due rows of these handlers: events and timers before suspects of sweeps.

    If more rows are due, the handlers take turns, in random order. Each handler's most urgent rows come first; among equals,
    those that have been due longest.

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
    """Claim up to ``limit`` of these handlers' due rows whose heal was interrupted; parameters as for :func:`claim`."""
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
    return _readable(connection, rows.all(), clock)


def _is_free(clock: float) -> ColumnElement[bool]:
    return and_(work.c.state == State.PENDING, work.c.not_before <= clock, _unleased(clock))


def _unleased(clock: Any) -> ColumnElement[bool]:
    return or_(work.c.lease_until.is_(None), work.c.lease_until < clock)


@cache  # building the statement takes longer than running it
def due_rows(handlers: tuple[str, ...], level: tuple[Priority, ...], by_key: bool) -> Executable:
    """Build the statement that reads each handler's first due rows of each priority."""
    clock: ColumnElement[float] = bindparam("clock", type_=Double())
    conditions = [work.c.state == literal(State.PENDING.value), work.c.not_before <= clock, _unleased(clock)]
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
    """Return the ids of up to ``limit`` rows that ``admit`` accepts: the first row of each handler, then the second ..."""
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


def _readable(connection: Connection, rows: Sequence[RowMapping], clock: float) -> list[Claim]:
    """Return the claims of rows with valid keys; park the other rows, which would make every claim fail."""
    unreadable = [row["id"] for row in rows if not history.is_key(row["key"])]
    if unreadable:
        parked = {**_FREE, "state": State.PARKED, "error": "the key cannot be read"}
        connection.execute(update(work).where(work.c.id.in_(unreadable)).values(parked))
    return [_claim(row, clock) for row in rows if row["id"] not in unreadable]


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
        error=row["error"] or "",
    )


def extend(database: Database, claims: Iterable[Claim], lease: float) -> None:
    """Extend the leases of these claims; skip rows that another replica took over."""
    tokens = sorted({(held.id, held.token) for held in claims})
    if not tokens:
        return
    where = and_(work.c.id == bindparam("row_id"), work.c.token == bindparam("row_token"))

    def prolong(connection: Connection) -> None:
        until = now(connection) + lease
        rows = [{"row_id": row, "row_token": token, "until": until} for row, token in tokens]
        connection.execute(update(work).where(where).values(lease_until=bindparam("until")), rows)

    database.transact(prolong)


def is_held(connection: Connection, held: Claim) -> bool:
    mine = and_(work.c.id == held.id, work.c.token == held.token, work.c.lease_until >= now(connection))
    return connection.execute(select(work.c.id).where(mine)).first() is not None


def settle(
    database: Database,
    held: Claim,
    end: Disposition,
    lines: Sequence[history.Line | history.Closing] = (),
    also: Callable[[Connection], None] = lambda _connection: None,
) -> None:
    """Settle a claimed row as ``end`` demands, and write history entries, in one transaction.

    If a hint arrived since the claim, the row becomes due instead.

    :param also: another write for this transaction
    :raises LeaseLost: another replica has claimed the row; nothing is written
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
        also(connection)

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
        pause = {"not_before": clock + end.after, "waits": end.waits, "refused": end.refused}
        return {
            **_FREE,
            **marks,
            **pause,
            "state": State.REPORTED,
            "attempts": 0,
            "watched": 0.0,
            "error": end.error or None,
        }
    parked = {"state": State.PARKED, "attempts": end.attempts, "watched": 0.0, "error": end.error}
    return {**_FREE, **parked, "fingerprint": end.fingerprint}


def release(database: Database, claims: Iterable[Claim]) -> None:
    """End claims whose work has not begun."""

    def free(connection: Connection) -> None:
        for held in claims:
            mine = and_(work.c.id == held.id, work.c.token == held.token)
            connection.execute(update(work).where(mine).values(owner=None, token=None, lease_until=None))

    database.transact(free)


def free_all(database: Database) -> None:
    """End every lease. Call this only as the journal's sole user: all other owners are dead."""
    values = {"owner": None, "token": None, "lease_until": None}
    database.transact(lambda connection: connection.execute(update(work).values(**values)))


def begin_healing(
    database: Database, held: Claim, line: history.Line, ask: history.Ask
) -> int | history.Deferred | history.Withheld:
    """Ask all gates; then open a heal's history entry, or use the claim's open entry, and store its id in the row.

    :return: the entry's id, or a gate's objection
    :raises LeaseLost: another replica has claimed the row; nothing is written
    """

    def begin(connection: Connection) -> int | history.Deferred | history.Withheld:
        clock = now(connection)
        answer = ask(connection, clock)
        if not isinstance(answer, history.Allowed):
            return answer
        line_id = held.healing_id or history.write(connection, [line.approved_by(answer.operator)], clock)[0]
        mine = and_(work.c.id == held.id, work.c.token == held.token)
        if not connection.execute(update(work).where(mine).values(healing_id=line_id)).rowcount:
            raise LeaseLost(f"{held.handler} {held.key}: taken over by another replica")
        return line_id

    return database.transact(begin)


def revisit_reported(database: Database, handler: str, before: float) -> int:
    """Make those reported rows due that a sweep did not list; return their number.

    :param before: when the sweep began
    """

    def wake(connection: Connection) -> int:
        clock = now(connection)
        stale = and_(work.c.handler == handler, work.c.state == State.REPORTED, work.c.last_hint_at < before)
        due = greatest(work.c.not_before, clock)
        values = {"state": State.PENDING, "not_before": due, "generation": work.c.generation + 1}
        return connection.execute(update(work).where(stale).values(values)).rowcount

    return database.transact(wake)


def make_due(database: Database, error: str) -> int:
    """Make those waiting rows due whose column ``error`` begins with this text; return their number."""

    def wake(connection: Connection) -> int:
        clock = now(connection)
        waiting = and_(work.c.state == State.PENDING, work.c.not_before > clock)
        rows = update(work).where(waiting, work.c.error.startswith(error, autoescape=True))
        return connection.execute(rows.values(not_before=clock)).rowcount

    return database.transact(wake)


def refused(database: Database, handler: str) -> frozenset[str]:
    """Return the handler's keys whose last inspection gave only findings that no mode heals."""
    mine = and_(work.c.handler == handler, work.c.refused.is_(True))
    rows = database.transact(lambda connection: connection.execute(select(work.c.key).where(mine)).scalars().all())
    return frozenset(rows)


def adopt(database: Database, hint: Hint, line_id: int) -> None:
    """Request an inspection of a key whose heal a dead process began. The inspection closes the heal's history entry."""
    enqueue(database, [hint])
    free = and_(work.c.handler == hint.handler, work.c.key == str(hint.key), work.c.healing_id.is_(None))
    database.transact(lambda connection: connection.execute(update(work).where(free).values(healing_id=line_id)))
