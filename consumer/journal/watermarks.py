"""The last watermark of each cloud database, shared by all replicas."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from sqlalchemy import Connection, delete, insert, select

from consumer.journal.database import Database, now
from consumer.journal.schema import watermark
from handlers.base import Rising, Watermark

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Observation:
    """A watermark, and when it was read.

    :param at: seconds since the epoch, by the journal's clock
    """

    watermark: Watermark
    at: float


def listing(database: Database) -> list[Observation]:
    query = select(watermark).order_by(watermark.c.database)
    rows = database.transact(lambda connection: connection.execute(query).all())
    return [Observation(_read(row.body), row.at) for row in rows]


def exchange(
    database: Database, seen: Watermark, at: float, compare: Callable[[Connection, Observation], T]
) -> T | None:
    """Store a watermark; return the result of ``compare``, or None if the database had no watermark before.

    If another replica has stored a later watermark, store and compare nothing: the older one would look like a fall.

    :param at: when reading the watermark began, by the journal's clock
    :param compare: gets the watermark before; writes the consequences in the same transaction, so that none is lost
    """

    def swap(connection: Connection) -> T | None:
        mine = watermark.c.database == seen.database
        row = connection.execute(select(watermark).where(mine)).first()
        if row is not None and row.at >= at:
            return None
        connection.execute(delete(watermark).where(mine))
        body = json.dumps(asdict(seen), sort_keys=True)
        connection.execute(insert(watermark).values(database=seen.database, at=at, body=body))
        return None if row is None else compare(connection, Observation(_read(row.body), row.at))

    return database.transact(swap)


def clock(database: Database) -> float:
    return database.transact(now)


def _read(body: str) -> Watermark:
    values: dict[str, Any] = json.loads(body)
    rising = tuple(Rising(**one) for one in values["rising"])
    return Watermark(values["database"], values["server"], rising, values["anchors"])
