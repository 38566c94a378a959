"""Whether stackmend knows a database's schema, and which tables and columns the schema lacks.

A later release may add a column that every write must set, so stackmend does not write to an unknown schema.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from functools import partial

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from handlers.access.database import Database
from handlers.base import Refused

#: seconds for which a known schema is not read again
TTL = 60.0

_VERSION = sa.table("alembic_version", sa.column("version_num"))


class KnownSchemas:
    """The schemas that stackmend may write to. Thread-safe.

    :param revisions: values of ``alembic_version``
    :param releases: their releases, for error messages: ``Nova 25 (Yoga) to 34``
    """

    def __init__(self, revisions: frozenset[str], releases: str) -> None:
        self._revisions = revisions
        self._releases = releases
        self._read_at: dict[str, float] = {}

    def require(self, databases: Iterable[Database]) -> None:
        """Check the schemas of databases before a write.

        :raises Refused: stackmend does not know a schema
        :raises Unavailable: a database does not answer
        """
        for database in databases:
            now = time.monotonic()
            if now - self._read_at.get(database.url, -TTL) < TTL:
                continue
            if objection := self._objection(database):
                raise Refused(objection)
            self._read_at[database.url] = now

    def warnings(self, database: Database, wanted: sa.MetaData) -> Iterator[str]:
        """Yield the reasons why handlers cannot inspect or heal with this database.

        :raises Unavailable: the database does not answer
        """
        if missing := database.run(partial(lacking, wanted=wanted)):
            yield (
                f"{database.name} has no {', '.join(missing)}, so that handlers that need it cannot inspect. Is its URL that "
                "of another database, or does the user lack rights?"
            )
        if objection := self._objection(database):
            yield objection

    def _objection(self, database: Database) -> str:
        found = database.run(revisions)
        if found and found <= self._revisions:
            return ""
        return (
            f"{database.name} is at the schema {', '.join(sorted(found)) or 'unknown'}. stackmend knows those of "
            f"{self._releases}; with any other schema it reports and changes nothing: install a "
            "stackmend that knows this one, or correct the database's URL"
        )


def revisions(connection: Connection) -> frozenset[str]:
    return frozenset(connection.execute(sa.select(_VERSION.c.version_num)).scalars())


def lacking(connection: Connection, wanted: sa.MetaData) -> list[str]:
    """Return the tables and columns that a database lacks or hides: ``table instances``, ``column services.host``."""
    inspector = sa.inspect(connection)
    names = set(inspector.get_table_names())
    found: list[str] = []
    for table in sorted(wanted.tables.values(), key=lambda table: table.name):
        if table.name not in names:
            found.append(f"table {table.name}")
            continue
        columns = {column["name"] for column in inspector.get_columns(table.name)}
        found += [f"column {table.name}.{column.name}" for column in table.columns if column.name not in columns]
    return found
