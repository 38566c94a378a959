"""Dead letters: messages that gave an error instead of hints, limited in number, size and age."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, RowMapping, delete, func, select

from consumer.journal.acts import Also, nothing
from consumer.journal.database import Database, clean, now
from consumer.journal.schema import dead_event


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A dead letter, to be stored.

    :param body: the first received bytes
    :param size: bytes received
    """

    broker: str
    exchange: str
    routing_key: str
    reason: str
    size: int
    body: bytes

    def row(self, clock: float) -> dict[str, Any]:
        return {
            "at": clock,
            "broker": clean(self.broker, 255),
            "exchange": clean(self.exchange, 255),
            "routing_key": clean(self.routing_key, 255),
            "reason": clean(self.reason, 500),
            "size": self.size,
            "stored": len(self.body),
            "body": self.body,
        }


@dataclass(frozen=True, slots=True)
class StoredLetter:
    """A stored dead letter.

    :param size: bytes received; if fewer are stored, the rest is lost, and ``stackmend dead replay`` fails
    """

    id: int
    at: float
    broker: str
    exchange: str
    routing_key: str
    reason: str
    size: int
    body: bytes

    @property
    def whole(self) -> bool:
        return len(self.body) == self.size


_SUMMARY = [column for column in dead_event.c if column.name not in ("body", "stored")]


def listing(database: Database, limit: int = 1000) -> list[StoredLetter]:
    """Return the newest ``limit`` dead letters, oldest first, without bodies."""
    query = select(*_SUMMARY).order_by(dead_event.c.id.desc()).limit(limit)
    rows = database.transact(lambda connection: connection.execute(query).mappings().all())
    return [_stored(row, b"") for row in reversed(rows)]


def find(database: Database, ids: Collection[int]) -> list[StoredLetter]:
    query = select(dead_event).where(dead_event.c.id.in_(ids)).order_by(dead_event.c.id)
    rows = database.transact(lambda connection: connection.execute(query).mappings().all())
    return [_stored(row, bytes(row["body"])) for row in rows]


def ids(database: Database) -> list[int]:
    query = select(dead_event.c.id).order_by(dead_event.c.id)
    return database.transact(lambda connection: list(connection.execute(query).scalars()))


def _stored(row: RowMapping, body: bytes) -> StoredLetter:
    return StoredLetter(body=body, **{column.name: row[column.name] for column in _SUMMARY})


def drop(database: Database, chosen: Collection[int], also: Also = nothing) -> int:
    def forget(connection: Connection) -> int:
        also(connection)
        return connection.execute(delete(dead_event).where(dead_event.c.id.in_(chosen))).rowcount

    return database.transact(forget)


def count(database: Database) -> int:
    query = select(func.count()).select_from(dead_event)
    return database.transact(lambda connection: int(connection.execute(query).scalar_one()))


#: Letters that one transaction deletes: their bodies are large.
_CHUNK = 200


def expire(database: Database, older_than: float, keep: int, keep_bytes: int) -> int:
    """Delete up to 200 dead letters: those older than ``older_than`` seconds, then those beyond ``keep`` letters, or beyond
    ``keep_bytes`` for all bodies. Return how many.

    Call this function until it returns 0.
    """

    def forget(connection: Connection) -> int:
        old = select(dead_event.c.id).where(dead_event.c.at < now(connection) - older_than).limit(_CHUNK)
        gone = list(connection.execute(old).scalars()) or _surplus(connection, keep, keep_bytes)
        return connection.execute(delete(dead_event).where(dead_event.c.id.in_(gone))).rowcount if gone else 0

    return database.transact(forget)


def _surplus(connection: Connection, keep: int, keep_bytes: int) -> list[int]:
    rows, stored = connection.execute(
        select(func.count(), func.coalesce(func.sum(dead_event.c.stored), 0)).select_from(dead_event)
    ).one()
    gone = []
    oldest = select(dead_event.c.id, dead_event.c.stored).order_by(dead_event.c.id).limit(_CHUNK)
    for letter, size in connection.execute(oldest) if rows > keep or stored > keep_bytes else ():
        if rows <= keep and stored <= keep_bytes:
            break
        gone.append(letter)
        rows, stored = rows - 1, stored - size
    return gone
