"""The daemons that share the journal, and the file lock that lets only one daemon use an SQLite journal."""

from __future__ import annotations

import fcntl
import os
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection, delete, insert, select, update

from consumer.journal.database import Database, clean, now
from consumer.journal.errors import JournalError
from consumer.journal.schema import replica


class AlreadyRunning(JournalError):
    """Another daemon uses this SQLite journal."""


@dataclass(frozen=True, slots=True)
class Replica:
    """:param revision: the revision of the journal's schema that the process needs; None means 0001"""

    id: str
    host: str
    pid: int
    version: str
    started_at: float
    beat_at: float
    revision: str | None


def new_id() -> str:
    """Return an id for this process, at most 64 characters: host, pid, random."""
    return f"{socket.gethostname()[:40]}-{os.getpid()}-{uuid.uuid4().hex[:6]}"


@contextmanager
def sole_user(database: Database) -> Iterator[bool]:
    """Lock an SQLite journal for this daemon, and yield True. Yield False for other databases.

    :raises AlreadyRunning: another daemon has the lock
    """
    path = database.engine.url.database
    if database.engine.dialect.name != "sqlite" or not path or path == ":memory:":
        yield database.engine.dialect.name == "sqlite"
        return
    with Path(f"{path}.lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise AlreadyRunning(
                f"another stackmend uses the journal {path}, and SQLite serves one replica: stop the other one, "
                "or set [journal] connection to MariaDB or PostgreSQL"
            ) from None
        yield True


def register(database: Database, name: str, version: str, revision: str) -> None:
    def write(connection: Connection) -> None:
        clock = now(connection)
        host, pid = socket.gethostname()[:255], os.getpid()
        process = {"id": name, "host": host, "pid": pid, "version": clean(version, 32), "revision": revision}
        connection.execute(delete(replica).where(replica.c.id == name))
        connection.execute(insert(replica).values(**process, started_at=clock, beat_at=clock))

    database.transact(write)


def beat(database: Database, name: str, forget_after: float) -> None:
    """Record that this daemon is alive. Remove daemons that recorded nothing for ``forget_after`` seconds."""

    def write(connection: Connection) -> None:
        clock = now(connection)
        connection.execute(update(replica).where(replica.c.id == name).values(beat_at=clock))
        connection.execute(delete(replica).where(replica.c.beat_at < clock - forget_after))

    database.transact(write)


def unregister(database: Database, name: str) -> None:
    database.transact(lambda connection: connection.execute(delete(replica).where(replica.c.id == name)))


def listing(database: Database) -> list[Replica]:
    query = select(replica).order_by(replica.c.started_at)
    rows = database.transact(lambda connection: connection.execute(query).mappings().all())
    return [Replica(**row) for row in rows]
