"""The connection to Octavia's database, and whether anything may be written there."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Self, TypeVar

from sqlalchemy.engine import Connection

from handlers.base import Refused, Resources
from handlers.database import Database
from handlers.octavia import options, queries, revisions

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

    def permit_changes(self) -> None:
        """Make sure that anything may be changed for what this database says; every heal begins with it.

        :raises Refused: when it has a schema that this release does not know
        :raises Unavailable: when it does not answer
        """
        now = time.monotonic()
        if self._permitted_at is not None and now - self._permitted_at < PERMIT_TTL:
            return
        found = self.run(queries.revisions)
        if not found or not found <= revisions.KNOWN:
            raise Refused(
                f"Octavia's database is at the schema {', '.join(sorted(found)) or 'unknown'}; this release knows those of "
                "Octavia 10 (Yoga) to 19, and in another it looks but changes nothing"
            )
        self._permitted_at = now

    def close(self) -> None:
        """Close idle connections."""
        self._database.close()
