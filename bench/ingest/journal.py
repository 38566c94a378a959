"""The journal that stackmend fills: made before a drain, looked at and emptied after it."""

from __future__ import annotations

from sqlalchemy import Connection, delete, func, select

from bench.ingest.stackmend import Instances
from bench.report import Failed
from consumer.journal import migrations
from consumer.journal.database import Database, open_engine
from consumer.journal.errors import JournalError
from consumer.journal.schema import dead_event, work


class Journal:
    """A database for nothing else than this benchmark.

    :param url: as in ``[journal] connection``
    :raises Failed: when it cannot be used, or holds what is not this benchmark's
    """

    def __init__(self, url: str) -> None:
        self.url = url
        try:
            self._database = Database(open_engine(url))
            migrations.upgrade(self._database)
            self.clear()
            foreign = self._database.transact(_rows)
        except JournalError as error:
            raise Failed(f"the journal cannot be used: {error}") from error
        if foreign:
            raise Failed(f"the journal is in use: it holds {foreign} rows; give the benchmark an empty database")

    def clear(self) -> None:
        """Forget the keys of a drain; the rest of the database is not touched."""
        mine = delete(work).where(work.c.handler == Instances.name)
        self._database.transact(lambda connection: connection.execute(mine))

    def check(self, instances: frozenset[str]) -> None:
        """Make sure that it holds exactly the keys of these instances.

        :raises Failed: when it does not
        """
        expected = {(Instances.name, f"instance:{instance}") for instance in instances}
        query = select(work.c.handler, work.c.key)
        found = self._database.transact(lambda connection: [(row[0], row[1]) for row in connection.execute(query)])
        if len(found) != len(expected) or set(found) != expected:
            missing, more = len(expected - set(found)), len(set(found) - expected)
            raise Failed(
                f"the journal has {len(found)} rows: {missing} keys are missing and {more} should not be there"
            )
        if dead := self._database.transact(_rows) - len(found):
            raise Failed(f"the journal has {dead} messages that could not be read")

    def close(self) -> None:
        """Close the connections."""
        self._database.close()


def _rows(connection: Connection) -> int:
    tables = (work, dead_event)
    return sum(connection.execute(select(func.count()).select_from(table)).scalar_one() for table in tables)
