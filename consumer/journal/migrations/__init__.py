"""The journal's schema over time, with alembic.

Revisions are rising numbers. Each migration but the first names the oldest revision whose programs may use the migrated
journal:

- A migration that only adds (nullable columns, tables, indexes) names the same revision as the migration before. Replicas of
  both releases then share the journal, and an operator can go back a release without a change of the schema.
- Any other migration names a newer revision. The journal then refuses older programs. While an older program runs, the upgrade
  is refused.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import sqlalchemy as sa
import tenacity
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from consumer.journal.database import Database, encoding, now
from consumer.journal.errors import JournalError, WrongJournal
from consumer.journal.schema import compatibility, replica

#: the newest revision in ``versions``
HEAD = "0002"
#: the oldest revision whose programs may use a journal of revision ``HEAD``
OLDEST = "0001"
#: The revision of programs that do not store theirs.
_FIRST = "0001"

#: Seconds since its last sign of life for which a replica counts as running.
_ALIVE = 60.0
#: PostgreSQL: the advisory lock of an upgrade; seconds between two attempts to get it.
_LOCK, _AGAIN = 0x737461636B6D656E, 0.5

# Otherwise each run logs alembic's context.
logging.getLogger("alembic").setLevel(logging.WARNING)


class ReplicasTooOld(JournalError):
    """The programs of some running replicas are too old for the journal after the upgrade."""


class Fit(Enum):
    """Whether a program may use a journal."""

    SAME = "same"
    #: the journal is empty or older: an upgrade is due
    DUE = "due"
    #: the journal is newer, and permits programs of this revision
    NEWER = "newer"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Schema:
    """The schema of a journal.

    :param revision: None if the database is empty
    :param oldest: the oldest revision whose programs may use the journal; None if no migration named one
    """

    revision: str | None
    oldest: str | None

    def fit(self, program: str) -> Fit:
        # An interrupted upgrade has stored the new limit, but not the new revision.
        if self.oldest is not None and program < self.oldest:
            return Fit.REFUSED
        if self.revision is None or self.revision < program:
            return Fit.DUE
        if self.revision == program:
            return Fit.SAME
        return Fit.REFUSED if self.oldest is None else Fit.NEWER

    def refusal(self, program: str) -> str:
        return (
            f"the journal's schema has revision {self.revision}, which needs programs of revision "
            f"{self.oldest or self.revision} or newer, and this program has {program}: install the newer release of stackmend"
        )


#: MariaDB: the table, column, index or row exists already; another statement is changing the table.
_RACES = frozenset({1050, 1060, 1061, 1062, 1684})


def _is_race(error: BaseException) -> bool:
    """Return whether a statement on MariaDB failed because another process upgrades the journal too."""
    from alembic.util import CommandError

    if isinstance(error, DBAPIError) and error.orig is not None:
        return error.orig.args[:1] in {(code,) for code in _RACES}
    return isinstance(error, CommandError)


#: Repeats work beside another process that upgrades the journal: the steps that are done do nothing.
_BESIDE_ANOTHER = tenacity.Retrying(
    retry=tenacity.retry_if_exception(_is_race),
    wait=tenacity.wait_random(0, 1),
    stop=tenacity.stop_after_attempt(5),
    reraise=True,
)


def head() -> str:
    return HEAD


def schema_of(database: Database) -> Schema:
    """Return the schema of a journal. This does not create an SQLite file."""
    path = database.engine.url.database
    if database.engine.dialect.name == "sqlite" and path and path != ":memory:" and not Path(path).exists():
        return Schema(None, None)
    return database.read(lambda connection: _BESIDE_ANOTHER(_schema, connection))


def _schema(connection: Connection) -> Schema:
    tables = sa.inspect(connection)
    if not tables.has_table("alembic_version"):
        return Schema(None, None)
    revision = connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()
    if not tables.has_table(compatibility.name):
        return Schema(revision, None)
    return Schema(revision, connection.execute(sa.select(sa.func.max(compatibility.c.oldest))).scalar())


def current(database: Database) -> str | None:
    return schema_of(database).revision


def upgrade(database: Database) -> tuple[str | None, str]:
    """Upgrade the journal's schema, if an upgrade is due; return the revisions before and after.

    Except on SQLite, the engine must not limit the time of a statement.

    :raises WrongJournal: the journal is newer and refuses this program
    :raises ReplicasTooOld: a running replica is too old for the upgraded journal
    """
    before = schema_of(database)
    match before.fit(head()):
        case Fit.REFUSED:
            raise WrongJournal(before.refusal(head()))
        case Fit.DUE:
            if before.revision is not None:
                database.read(lambda connection: _BESIDE_ANOTHER(_check_replicas, connection))
            # Inside, because the outer function translates the errors of a race.
            database.step_by_step(lambda connection: _BESIDE_ANOTHER(_upgrade, connection))
            return before.revision, head()
        case Fit.SAME | Fit.NEWER:
            return before.revision, before.revision or head()


def _check_replicas(connection: Connection) -> None:
    named = "revision" in {column["name"] for column in sa.inspect(connection).get_columns(replica.name)}
    revision = sa.func.coalesce(replica.c.revision, _FIRST) if named else sa.literal(_FIRST)
    alive = sa.select(replica.c.id).where(replica.c.beat_at > now(connection) - _ALIVE, revision < OLDEST)
    if old := connection.execute(alive.order_by(replica.c.id)).scalars().all():
        raise ReplicasTooOld(
            f"these replicas cannot use the journal after the upgrade: {', '.join(old)}; stop them, then run 'stackmend db "
            "upgrade' again"
        )


def _upgrade(connection: Connection) -> None:
    from alembic import command
    from alembic.config import Config

    if connection.dialect.name in ("mysql", "mariadb") and connection.dialect.is_mariadb:  # type: ignore[attr-defined]
        connection.exec_driver_sql("SET SESSION max_statement_time = 0")  # the server may have a limit of its own

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.attributes["connection"] = connection
    with _alone(connection):
        command.upgrade(config, "head")


@contextmanager
def _alone(connection: Connection) -> Iterator[None]:
    """On PostgreSQL, wait until no other process upgrades the journal; then lock out other upgrades.

    If this process is killed, PostgreSQL finishes the running statement, then ends the lock. MariaDB needs no such lock,
    because each statement locks its table.
    """
    if connection.dialect.name != "postgresql":
        yield
        return
    # Not pg_advisory_lock: CREATE INDEX CONCURRENTLY would wait for the waiting statement's snapshot.
    while not connection.execute(sa.select(sa.func.pg_try_advisory_lock(_LOCK))).scalar():
        time.sleep(_AGAIN)
    try:
        yield
    finally:
        with suppress(DBAPIError):  # the connection is lost, and the lock with it
            connection.execute(sa.select(sa.func.pg_advisory_unlock(_LOCK)))


def check(database: Database) -> None:
    """Check that this program may use the journal; upgrade an SQLite file first.

    :raises WrongJournal: an upgrade is due; the journal refuses this program; the journal cannot store every character
    """
    if database.engine.dialect.name == "sqlite":
        upgrade(database)
    schema = schema_of(database)
    match schema.fit(head()):
        case Fit.REFUSED:
            raise WrongJournal(schema.refusal(head()))
        case Fit.DUE:
            raise WrongJournal(
                f"the journal's schema has revision {schema.revision or 'none'}, and this program needs {head()}: "
                "run 'stackmend db upgrade'"
            )
        case Fit.SAME | Fit.NEWER:
            pass
    if reason := database.transact(encoding):
        raise WrongJournal(
            f"the journal cannot store every host name: {reason}. Convert it, or make a new database for it"
        )
