"""Stores hints in the work table, and makes rows due."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any

from sqlalchemy import Connection, and_, case, func, insert, null, or_, select, update

from consumer.journal.database import Database, clean, greatest, least, literal, now, upsert
from consumer.journal.dead import DeadLetter
from consumer.journal.schema import dead_event, delivery, work
from consumer.journal.work import Hint, Priority, State
from handlers.base import Key

#: More rows than this in one statement gain nothing and make long transactions.
_CHUNK = 500


def enqueue(database: Database, hints: Iterable[Hint], dead: Sequence[DeadLetter] = ()) -> int:
    """Store hints and dead letters in one transaction; return the number of work rows written."""
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
    folded = _fold(hints)
    statement = _enqueue_statement(connection.dialect.name)
    for start in range(0, len(folded), _CHUNK):
        connection.execute(statement, [_row(hint, clock) for hint in folded[start : start + _CHUNK]])


def _fold(hints: Iterable[Hint]) -> list[Hint]:
    """Return the most urgent hint for each handler and key, because one statement must not write a row twice."""
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


def revisit_reported(database: Database, handler: str, before: float) -> int:
    """Let a handler's *reported* rows become due after their pauses, if they got no hint since ``before``; return their number.

    :param before: when the handler's last sweep began
    """

    def wake(connection: Connection) -> int:
        clock = now(connection)
        stale = and_(work.c.handler == handler, work.c.state == State.REPORTED, work.c.last_hint_at < before)
        due = greatest(work.c.not_before, clock)
        values = {"state": State.PENDING, "not_before": due, "generation": work.c.generation + 1}
        return connection.execute(update(work).where(stale).values(values)).rowcount

    return database.transact(wake)


def make_due(database: Database, error: str) -> int:
    """Make waiting rows due if their column ``error`` begins with the given text; return the number of rows."""

    def wake(connection: Connection) -> int:
        clock = now(connection)
        waiting = and_(work.c.state == State.PENDING, work.c.not_before > clock)
        rows = update(work).where(waiting, work.c.error.startswith(error, autoescape=True))
        return connection.execute(rows.values(not_before=clock)).rowcount

    return database.transact(wake)


def ahead(connection: Connection, clock: float) -> float:
    """Return the seconds by which the newest hint is later than ``clock``; 0 or less if none is later."""
    newest = connection.execute(select(func.max(work.c.last_hint_at))).scalar()
    return 0.0 if newest is None else newest - clock


def hasten(connection: Connection, clock: float) -> int:
    """End the pauses of all rows and messages, after the clock was set back; return their number.

    A first inspection that seems to be in the future no longer counts: its age is unknown.
    """
    late = or_(work.c.not_before > clock, work.c.last_hint_at > clock, work.c.seen_at > clock)
    values = {
        "not_before": least(work.c.not_before, clock),
        "last_hint_at": least(work.c.last_hint_at, clock),
        "seen_at": case((work.c.seen_at > clock, null()), else_=work.c.seen_at),
    }
    rows = connection.execute(update(work).where(late).values(values)).rowcount
    waiting = update(delivery).where(delivery.c.not_before > clock).values(not_before=clock)
    return rows + connection.execute(waiting).rowcount


def adopt(database: Database, hint: Hint, line_id: int) -> None:
    """Request an inspection of a key after a process died during its heal, so that the heal's history entry is closed."""
    enqueue(database, [hint])
    free = and_(work.c.handler == hint.handler, work.c.key == str(hint.key), work.c.healing_id.is_(None))
    database.transact(lambda connection: connection.execute(update(work).where(free).values(healing_id=line_id)))
