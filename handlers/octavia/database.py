"""The connection to Octavia's database, and whether anything may be written there."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Self, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from handlers.access.database import Database
from handlers.base import Refused, Resources
from handlers.checks.schemas import lacking
from handlers.octavia import options, queries, revisions, tables

T = TypeVar("T")

NAME = "octavia_database"

#: seconds for which the schema is believed to be the same
PERMIT_TTL = 60.0


class OctaviaDatabase:
    """Octavia's database; safe to share between threads.

    :param url: an SQLAlchemy URL, with its secrets
    """

    def __init__(self, url: str) -> None:
        self._database = Database(NAME, url)
        self._permitted_at: float | None = None

    @classmethod
    def from_resources(cls, resources: Resources) -> Self:
        """Make it from the options ``[octavia]``.

        :raises ConfigError: when no URL of Octavia's database is known
        """
        return cls(options.database_url(resources.conf))

    def run(self, work: Callable[[Connection], T]) -> T:
        """Return ``work(connection)``, run in a transaction of its own; it may run more than once.

        :raises Unavailable: when the database does not answer as it should
        """
        return self._database.run(work)

    def require_known_schema(self) -> None:
        """Make sure that anything may be changed for what this database says; every heal begins with it.

        :raises Refused: when it has a schema that this release does not know
        :raises Unavailable: when it does not answer
        """
        now = time.monotonic()
        if self._permitted_at is not None and now - self._permitted_at < PERMIT_TTL:
            return
        found = self.run(queries.revisions)
        if strange := _strange(found):
            raise Refused(strange)
        self._permitted_at = now

    def warnings(self) -> Iterator[str]:
        """Yield why nothing will be changed for what this database says, and what it lacks.

        :raises Unavailable: when it does not answer
        """
        wanted = sa.MetaData()
        for table in tables.octavia.sorted_tables:
            if table is not tables.amphora_member_port:  # only since Octavia 16; looked for before it is used
                table.to_metadata(wanted)
        if missing := self.run(partial(lacking, wanted=wanted)):
            yield (
                f"Octavia's database has no {', '.join(missing)}; tasks that need it cannot look: is its URL that of another "
                "database, or the user short of rights?"
            )
        found = self.run(queries.revisions)
        if strange := _strange(found):
            yield strange

    def close(self) -> None:
        """Close idle connections."""
        self._database.close()


def _strange(found: frozenset[str]) -> str:
    """Say that the schema is not known here; nothing when it is."""
    if found and found <= revisions.KNOWN:
        return ""
    return (
        f"Octavia's database is at the schema {', '.join(sorted(found)) or 'unknown'}; this release knows those of Octavia 10 "
        "(Yoga) to 19, and in another it looks but changes nothing"
    )
