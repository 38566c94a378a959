"""The messages that wait for sinks: one row for each sink and outcome of a history entry.

A sink gets its messages in order: only its first row can be claimed. The lease of a dead process stays in its row until a
daemon ends it (:mod:`consumer.engine.ended_leases`).
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, and_, delete, func, insert, or_, select, update

from consumer.journal.database import Database, clean, now
from consumer.journal.history import Entry, entry_of
from consumer.journal.schema import delivery, history, webhook
from consumer.journal.work import Lease

#: Rows that one transaction deletes.
_CHUNK = 1000
#: Seconds after the end of a lease from which on any process takes the message: without a daemon, no process ends leases. The
#: clocks of database nodes differ by less.
_ABANDONED = 3600.0


@dataclass(frozen=True, slots=True)
class Delivery:
    """A message that this process has claimed, to send it.

    :param outcome: the history entry's outcome when the message was added
    :param entry: None if the history entry was deleted meanwhile
    """

    id: int
    token: str
    sink: str
    outcome: str
    attempts: int
    entry: Entry | None


@dataclass(frozen=True, slots=True)
class Waiting:
    """The number of messages that wait for one sink.

    :param oldest: the age of the first message, in seconds
    :param error: why the last attempt at the first message failed
    """

    sink: str
    messages: int
    oldest: float
    error: str


def subscribe(database: Database, sinks: Mapping[str, Sequence[str]]) -> None:
    """Replace the stored sinks; delete the messages of removed sinks.

    :param sinks: for each sink's name, the outcomes about which it gets messages
    """

    def replace(connection: Connection) -> None:
        wanted = {(sink, outcome) for sink, outcomes in sinks.items() for outcome in outcomes}
        there = {(row.sink, row.outcome) for row in connection.execute(select(webhook))}
        for sink, outcome in sorted(there - wanted):
            connection.execute(delete(webhook).where(webhook.c.sink == sink, webhook.c.outcome == outcome))
        for sink, outcome in sorted(wanted - there):
            connection.execute(insert(webhook).values(sink=sink, outcome=outcome))
        connection.execute(delete(delivery).where(delivery.c.sink.not_in(list(sinks))))

    database.transact(replace)


def claim(database: Database, sink: str, lease: float) -> Delivery | None:
    """Claim the first message of a sink. Return None without a message, or if it is not due, or another process sends it.

    :param lease: seconds until the claim ends
    """

    def take(connection: Connection) -> Delivery | None:
        clock = now(connection)
        first = select(func.min(delivery.c.id)).where(delivery.c.sink == sink).scalar_subquery()
        free = or_(delivery.c.token.is_(None), delivery.c.lease_until < clock - _ABANDONED)
        due = and_(delivery.c.not_before <= clock, free)
        row = connection.execute(select(delivery).where(delivery.c.id == first, due)).first()
        if row is None:
            return None
        token = uuid.uuid4().hex
        mine = update(delivery).where(delivery.c.id == row.id, due).values(token=token, lease_until=clock + lease)
        if not connection.execute(mine).rowcount:
            return None
        line = connection.execute(select(history).where(history.c.id == row.line_id)).mappings().first()
        entry = entry_of(line) if line else None
        return Delivery(row.id, token, sink, row.outcome, row.attempts, entry)

    # A transaction would lock out other writers of SQLite, and mostly nothing waits.
    there = select(delivery.c.id).where(delivery.c.sink == sink).limit(1)
    waits = database.read(lambda connection: connection.execute(there).first())
    return database.transact(take) if waits else None


def leases(database: Database, sink: str) -> list[Lease]:
    def read(connection: Connection) -> list[Lease]:
        clock = now(connection)
        c = delivery.c
        rows = connection.execute(select(c.id, c.token, c.lease_until).where(c.sink == sink, c.token.is_not(None)))
        return [Lease(row.id, row.token, row.lease_until, row.lease_until < clock) for row in rows]

    return database.read(read)


def end(database: Database, ended: Iterable[Lease]) -> int:
    """Let other processes claim the messages of these leases; return their number."""

    def free(connection: Connection) -> int:
        places = [and_(delivery.c.id == one.id, delivery.c.token == one.token) for one in ended]
        unclaimed = update(delivery).values(token=None, lease_until=None)
        return sum(connection.execute(unclaimed.where(place)).rowcount for place in places)

    return database.transact(free)


def done(database: Database, held: Delivery) -> None:
    mine = and_(delivery.c.id == held.id, delivery.c.token == held.token)
    database.transact(lambda connection: connection.execute(delete(delivery).where(mine)))


def again(database: Database, held: Delivery, after: float, error: str) -> None:
    """End the claim of a message after a failed attempt; the message is due again in ``after`` seconds."""
    mine = and_(delivery.c.id == held.id, delivery.c.token == held.token)

    def write(connection: Connection) -> None:
        free = {"token": None, "lease_until": None, "attempts": held.attempts + 1, "error": clean(error, 1000)}
        connection.execute(update(delivery).where(mine).values(not_before=now(connection) + after, **free))

    database.transact(write)


def waiting(database: Database) -> list[Waiting]:
    def read(connection: Connection) -> list[Waiting]:
        clock = now(connection)
        counted = select(delivery.c.sink, func.count(), func.min(delivery.c.at), func.min(delivery.c.id))
        rows = connection.execute(counted.group_by(delivery.c.sink).order_by(delivery.c.sink)).all()
        heads = select(delivery.c.id, delivery.c.error).where(delivery.c.id.in_([row[3] for row in rows]))
        errors = {row.id: row.error for row in connection.execute(heads)}
        return [Waiting(row[0], row[1], max(0.0, clock - row[2]), errors.get(row[3]) or "") for row in rows]

    return database.transact(read)


def expire(database: Database, sink: str, older_than: float, keep: int) -> int:
    """Delete a sink's messages older than ``older_than`` seconds, and its oldest ones beyond ``keep``. Return how many: up to
    1,000 of each.

    Call this function until it returns 0.
    """

    def forget(connection: Connection) -> int:
        mine = delivery.c.sink == sink
        rows = connection.execute(select(func.count()).select_from(delivery).where(mine)).scalar_one()
        surplus = min(_CHUNK, max(0, rows - keep))
        first = select(delivery.c.id).where(mine).order_by(delivery.c.id)
        old = first.where(delivery.c.at < now(connection) - older_than).limit(_CHUNK)
        gone = set(connection.execute(old).scalars())
        gone |= set(connection.execute(first.limit(surplus)).scalars()) if surplus else set()
        return connection.execute(delete(delivery).where(delivery.c.id.in_(gone))).rowcount if gone else 0

    return database.transact(forget)
