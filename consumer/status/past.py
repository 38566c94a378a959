from __future__ import annotations

from consumer.journal import hours
from consumer.journal.database import Database, now
from consumer.journal.hours import HOUR, Hour

#: The number of hours, including the present one.
HOURS = 24
#: Seconds after the end of an hour until every transaction that began in it has ended.
_GRACE = 120.0


class Past:
    """Counts the history entries of 24 hours; reads an hour with final numbers once. Only one thread may use it at a time."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._over: dict[float, Hour] = {}

    def read(self) -> tuple[Hour, ...]:
        """Return the present hour and the 23 hours before, oldest first.

        :raises JournalError: the journal does not answer
        """
        clock = self._database.read(now)
        present = clock // HOUR * HOUR
        found = tuple(self._hour(present - back * HOUR) for back in reversed(range(HOURS)))
        self._over = {hour.begin: hour for hour in found if hour.settled and hour.begin + HOUR + _GRACE < clock}
        return found

    def _hour(self, begin: float) -> Hour:
        # A transaction for each hour, so that none is long.
        return self._over.get(begin) or self._database.read(lambda connection: hours.read(connection, begin))
