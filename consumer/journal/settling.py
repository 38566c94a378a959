"""Begins the heals of claims, and settles claims.

Every write to a row has the claim's token in its WHERE. So a worker whose claim has ended writes nothing
(:class:`LeaseLost`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, and_, delete, null, select, update

from consumer.journal import claiming, history
from consumer.journal.database import Database, least, now
from consumer.journal.schema import work
from consumer.journal.work import FREE, Claim, Disposition, Done, Later, LeaseLost, Parked, Reported, State


def settle(
    database: Database,
    held: Claim,
    end: Disposition,
    lines: Sequence[history.Line | history.Closing] = (),
    also: Callable[[Connection], None] = lambda _connection: None,
) -> None:
    """Settle a claimed row as ``end`` demands, and write history entries, in one transaction.

    If a hint arrived since the claim, the row becomes due instead.

    :raises LeaseLost: the claim has ended, or the row was dropped; nothing is written
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
            again = {**FREE, "not_before": least(work.c.not_before, clock), "seen_at": null(), "fingerprint": null()}
            changed = connection.execute(update(work).where(mine).values(again)).rowcount
        if not changed:
            raise LeaseLost(f"{held.handler} {held.key}: taken over by another replica")
        history.write(connection, lines, clock)
        also(connection)

    database.transact(write)


def _settled(end: Later | Reported | Parked, clock: float) -> Mapping[str, Any]:
    if isinstance(end, Later):
        values = {
            **FREE,
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
            **FREE,
            **marks,
            **pause,
            "state": State.REPORTED,
            "attempts": 0,
            "watched": 0.0,
            "error": end.error or None,
        }
    parked = {"state": State.PARKED, "attempts": end.attempts, "watched": 0.0, "error": end.error}
    return {**FREE, **parked, "fingerprint": end.fingerprint}


def begin_healing(
    database: Database, held: Claim, line: history.Line, ask: history.Ask
) -> int | history.Deferred | history.Withheld:
    """Call ``ask``, which asks the gates. If they allow the heal, open its history entry, and store the entry's id in the row.

    This also extends the claim's lease.

    :return: the entry's id, or a gate's objection
    :raises LeaseLost: as :func:`settle`
    """

    def begin(connection: Connection) -> int | history.Deferred | history.Withheld:
        clock = now(connection)
        answer = ask(connection, clock)
        if not isinstance(answer, history.Allowed):
            return answer
        line_id = history.begun(connection, line.approved_by(answer.operator), clock, held.healing_id)
        if not claiming.renew(connection, held, healing_id=line_id):
            raise LeaseLost(f"{held.handler} {held.key}: taken over by another replica")
        return line_id

    return database.transact(begin)


def refused(database: Database, handler: str) -> frozenset[str]:
    """Return the handler's keys that were last reported with ``refused`` (:class:`~.work.Reported`)."""
    mine = and_(work.c.handler == handler, work.c.refused.is_(True))
    rows = database.transact(lambda connection: connection.execute(select(work.c.key).where(mine)).scalars().all())
    return frozenset(rows)
