"""Records when each notification format last arrived from each broker: ``versioned``, or legacy (``unversioned``)."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, select

from consumer.journal.database import Database, now, upsert
from consumer.journal.schema import notification_format


@dataclass(frozen=True, slots=True)
class ArrivedFormat:
    """:param ago: seconds since the last recorded arrival"""

    broker: str
    format: str
    ago: float


def record(database: Database, broker: str, written: str) -> None:
    statement = upsert(
        database.engine.dialect.name, notification_format, ["broker", "format"], lambda new: {"at": new.at}
    )

    def write(connection: Connection) -> None:
        connection.execute(statement, [{"broker": broker, "format": written, "at": now(connection)}])

    database.transact(write)


def listing(database: Database) -> list[ArrivedFormat]:
    def read(connection: Connection) -> list[ArrivedFormat]:
        clock = now(connection)
        rows = connection.execute(select(notification_format).order_by(notification_format.c.at.desc())).mappings()
        return [ArrivedFormat(row["broker"], row["format"], max(0.0, clock - row["at"])) for row in rows]

    return database.transact(read)
