"""Checks that heals can rely on a database: stackmend knows the schema, and the server accepts writes.

A later release can add a column that every write must set, so stackmend does not write to an unknown schema. A server that
refuses writes copies another server, to which the service writes. The copy can be minutes late, and old rows prove nothing.
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

#: by dialect: the query that is true on a server that refuses writes
READ_ONLY = {
    "mysql": "SELECT @@GLOBAL.read_only",
    "mariadb": "SELECT @@GLOBAL.read_only",
    "postgresql": "SELECT pg_is_in_recovery()",
}

_VERSION = sa.table("alembic_version", sa.column("version_num"))


class KnownSchemas:
    """The schemas that stackmend may write to. Thread-safe.

    :param revisions: values of ``alembic_version``
    :param releases: the releases with these revisions, for error messages: ``Nova 25 (Yoga) to 34``
    """

    def __init__(self, revisions: frozenset[str], releases: str) -> None:
        self._revisions = revisions
        self._releases = releases
        self._read_at: dict[str, float] = {}

    def require(self, databases: Iterable[Database]) -> None:
        """Check databases before a heal that relies on them.

        :raises Refused: stackmend does not know a schema, or a server refuses writes
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
        """Yield sentences for the log: why handlers cannot inspect or heal with this database.

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
        found, read_only = database.run(lambda connection: (revisions(connection), is_read_only(connection)))
        if read_only:
            return (
                f"the server of {database.name} refuses writes, so it may be a replica that is late, and an older state proves "
                "nothing: let the URL name the server to which the service writes"
            )
        if found and found <= self._revisions:
            return ""
        return (
            f"{database.name} is at the schema {', '.join(sorted(found)) or 'unknown'}. stackmend knows those of "
            f"{self._releases}; with any other schema it reports and changes nothing: install a "
            "stackmend that knows this one, or correct the database's URL"
        )


def revisions(connection: Connection) -> frozenset[str]:
    return frozenset(connection.execute(sa.select(_VERSION.c.version_num)).scalars())


def is_read_only(connection: Connection) -> bool:
    query = READ_ONLY.get(connection.dialect.name)
    return query is not None and str(connection.exec_driver_sql(query).scalar()) not in {"0", "OFF", "False"}


def lacking(connection: Connection, wanted: sa.MetaData) -> list[str]:
    """Return the ``wanted`` tables and columns that a database lacks or hides, such as ``column services.host``."""
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
