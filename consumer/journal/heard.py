"""When notifications that some handler wants last arrived, by broker and format: what there is to go by where no file of
their publishers can be read.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, select

from consumer.journal.database import Database, now, upsert
from consumer.journal.schema import heard


@dataclass(frozen=True, slots=True)
class Heard:
    """What arrives from a broker.

    :param format: see :class:`handlers.base.Event`
    :param ago: seconds since it was last noted
    """

    broker: str
    format: str
    ago: float


def note(database: Database, broker: str, written: str) -> None:
    """Write down that a notification of this format has arrived."""
    statement = upsert(database.engine.dialect.name, heard, ["broker", "format"], lambda new: {"at": new.at})

    def write(connection: Connection) -> None:
        connection.execute(statement, [{"broker": broker, "format": written, "at": now(connection)}])

    database.transact(write)


def listing(database: Database) -> list[Heard]:
    """Return what has arrived, the newest first."""

    def read(connection: Connection) -> list[Heard]:
        clock = now(connection)
        rows = connection.execute(select(heard).order_by(heard.c.at.desc())).mappings()
        return [Heard(row["broker"], row["format"], max(0.0, clock - row["at"])) for row in rows]

    return database.transact(read)
