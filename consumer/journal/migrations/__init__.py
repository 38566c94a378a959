"""The journal's schema over time, with alembic.

Between two releases, migrations only add (columns with defaults, tables, indexes). So replicas of both releases can share a
journal during a rolling restart.
"""

from __future__ import annotations

import logging
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy import Connection

from consumer.journal.database import Database, WrongJournal, encoding

#: the newest revision in ``versions``
HEAD = "0001"

# Otherwise each run logs alembic's context.
logging.getLogger("alembic").setLevel(logging.WARNING)


def head() -> str:
    return HEAD


def current(database: Database) -> str | None:
    """Return the schema's revision in the database; None if the database is empty."""
    return database.transact(_revision)


def _revision(connection: Connection) -> str | None:
    if not sa.inspect(connection).has_table("alembic_version"):
        return None
    revision: str | None = connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()
    return revision


def upgrade(database: Database) -> tuple[str | None, str]:
    """Upgrade the schema; return the revisions before and after."""
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
    """Check the schema's revision; upgrade an SQLite file first.

    :raises WrongJournal: the revision is not the one that this program needs
    """
    if database.engine.dialect.name == "sqlite":
        upgrade(database)
    revision = current(database)
    if revision != head():
        raise WrongJournal(
            f"the journal's schema has revision {revision or 'none'}, and this program needs {head()}: "
            "run 'stackmend db upgrade'"
        )
    if reason := database.transact(encoding):
        raise WrongJournal(
            f"the journal cannot store every host name: {reason}. Convert it, or make a new database for it"
        )
