from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Self, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from handlers.access.database import Database
from handlers.access.schemas import KnownSchemas
from handlers.access.sql_text import Writing
from handlers.base import Resources
from handlers.octavia import options, revisions, tables

T = TypeVar("T")

NAME = "octavia_database"


class OctaviaDatabase:
    """Octavia's database. Thread-safe.

    :param exempt_by_tag: whether tags of load balancers exempt them from heals (:mod:`handlers.octavia.exempt_tags`)
    """

    def __init__(self, url: str, *, exempt_by_tag: bool = False) -> None:
        self.exempt_by_tag = exempt_by_tag
        self._database = Database(NAME, url)
        self._schemas = KnownSchemas(revisions.KNOWN, "Octavia 10 (Yoga) to 19")

    @classmethod
    def from_resources(cls, resources: Resources) -> Self:
        """:raises ConfigError: neither ``[octavia]`` nor ``octavia.conf`` has the URL of Octavia's database"""
        conf = resources.conf
        return cls(options.database_url(conf), exempt_by_tag=conf[options.GROUP].exempt_by_tag)

    def run(self, work: Callable[[Connection], T]) -> T:
        """Call ``work`` in a transaction, and return its result. ``work`` can run more than once.

        :raises Unavailable: the database does not answer, or answers with an error
        """
        return self._database.run(work)

    def plan(self, statements: Iterable[Writing]) -> list[str]:
        return self._database.plan(statements).splitlines()

    def typed(self, statement: Writing) -> str:
        """Return a statement as SQL that an operator can type: one line without ``;``, so that an undo can join several
        statements.
        """
        return " ".join(self._database.typed(statement).split()).removesuffix(";")

    def require_known_schema(self) -> None:
        """:raises Refused: stackmend does not know the database's schema, or the server refuses writes
        :raises Unavailable: the database does not answer
        """
        self._schemas.require([self._database])

    def warnings(self) -> Iterator[str]:
        """Yield a sentence for each reason why handlers cannot inspect or heal with this database.

        :raises Unavailable: the database does not answer
        """
        wanted = sa.MetaData()
        for table in tables.octavia.sorted_tables:
            if table is not tables.amphora_member_port:  # since Octavia 16 only
                table.to_metadata(wanted)
        yield from self._schemas.warnings(self._database, wanted)

    def close(self) -> None:
        self._database.close()
