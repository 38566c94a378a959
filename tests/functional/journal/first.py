"""A journal of revision 0001, and a program of that revision: today's code with the tables of 0001."""

from __future__ import annotations

import importlib
import os
import socket
import sys
from types import ModuleType

from sqlalchemy import insert, text

from consumer.journal import migrations
from consumer.journal.database import Database, now

FIRST = "0001"


def tables() -> ModuleType:
    """Return the migration, which has the tables."""
    return importlib.import_module("consumer.journal.migrations.versions.0001_journal")


def make_journal(database: Database) -> None:
    """Make the schema of revision 0001 in an empty database."""
    with database.engine.begin() as connection:
        tables().metadata.create_all(connection)
        connection.execute(text("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY)"))
        connection.execute(text("INSERT INTO alembic_version VALUES ('0001')"))


def become_first() -> None:
    """Give this process the tables of revision 0001. Call it before anything imports them."""
    assert "consumer.journal.history" not in sys.modules
    from consumer.journal import schema

    for name, table in tables().metadata.tables.items():
        setattr(schema, name, table)
    migrations.HEAD = migrations.OLDEST = FIRST


def register_first(database: Database, name: str) -> None:
    """Register a replica as programs of revision 0001 do."""
    replica = tables().replica

    def write(connection: object) -> None:
        clock = now(connection)  # type: ignore[arg-type]
        process = {"id": name, "host": socket.gethostname(), "pid": os.getpid(), "version": "0.1.0"}
        connection.execute(insert(replica).values(**process, started_at=clock, beat_at=clock))  # type: ignore[attr-defined]

    database.transact(write)
