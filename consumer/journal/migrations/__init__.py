"""The journal's schema over time, with alembic. ``upgrade`` and ``check`` are all that others call.

Migrations only add (columns with defaults, tables, indexes) between two releases, so that replicas of the old and the new
program can share a journal while they are restarted one by one.
"""

from __future__ import annotations

import logging
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy import Connection

from consumer.journal.database import Database, WrongJournal

#: the newest revision below ``versions``
HEAD = "0001"

# Each run of the program would say that it looked.
logging.getLogger("alembic").setLevel(logging.WARNING)


def head() -> str:
    """Return the revision that this program needs."""
    return HEAD


def current(database: Database) -> str | None:
    """Return the revision of the database, None for an empty one."""
    return database.transact(_revision)


def _revision(connection: Connection) -> str | None:
    """Read it where alembic keeps it, without alembic: most runs have nothing to upgrade, and it is slow to import."""
    if not sa.inspect(connection).has_table("alembic_version"):
        return None
    revision: str | None = connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()
    return revision


def upgrade(database: Database) -> tuple[str | None, str]:
    """Bring the schema up to date; return the revision before and after."""
    before = current(database)
    if before != head():
        database.transact(_upgrade)
    return before, head()


def _upgrade(connection: Connection) -> None:
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def check(database: Database) -> None:
    """Make sure of the schema; an SQLite file, the embedded default, is upgraded on the way.

    :raises WrongJournal: when it is not the one that this program needs
    """
    if database.engine.dialect.name == "sqlite":
        upgrade(database)
    revision = current(database)
    if revision != head():
        raise WrongJournal(
            f"the journal's schema is at {revision or 'nothing'} and this program needs {head()}: run 'stackmend db upgrade'"
        )
