"""Stores the last watermark of each cloud database, for all replicas."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from sqlalchemy import Connection, delete, insert, select

from consumer.journal.database import Database, now
from consumer.journal.schema import watermark
from handlers.base import Ids, Rising, Watermark

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Observation:
    """A stored watermark.

    :param at: when it was stored, in seconds since the epoch, by the journal's clock
    """

    watermark: Watermark
    at: float


def listing(database: Database) -> list[Observation]:
    query = select(watermark).order_by(watermark.c.database)
    rows = database.transact(lambda connection: connection.execute(query).all())
    return [Observation(_read(row.body), row.at) for row in rows]


def exchange(
    database: Database, seen: Watermark, last: Observation | None, compare: Callable[[Connection, Observation], T]
) -> T | None:
    """Store ``seen`` in place of ``last``; return ``compare(connection, last)``, or None if ``last`` is None.

    If another replica has replaced ``last`` meanwhile, change nothing and return None.

    :param last: the stored watermark, read before ``seen``; None if none was stored
    :param compare: compares ``last`` with ``seen``, and writes the consequences in the same transaction
    """

    def swap(connection: Connection) -> T | None:
        mine = watermark.c.database == seen.database
        row = connection.execute(select(watermark).where(mine)).first()
        before = None if row is None else Observation(_read(row.body), row.at)
        if before != last:
            return None
        connection.execute(delete(watermark).where(mine))
        body = json.dumps(asdict(seen), sort_keys=True)
        connection.execute(insert(watermark).values(database=seen.database, at=now(connection), body=body))
        return None if before is None else compare(connection, before)

    return database.transact(swap)


def _read(body: str) -> Watermark:
    values: dict[str, Any] = json.loads(body)
    rising = tuple(Rising(**one) for one in values["rising"])
    ids = tuple(Ids(**one) for one in values.get("ids", ()))
    return Watermark(values["database"], values["server"], rising, values["anchors"], ids)
