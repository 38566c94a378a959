from __future__ import annotations

import threading
import time
from collections.abc import Callable

from consumer.journal import backlog
from consumer.journal.database import Database

#: Seconds between two counts: while there is room, because other replicas store too, and while there is none.
_RECOUNT, _RECOUNT_FULL = 60.0, 2.0


class Capacity:
    """Limits the rows that wait for an inspection, so that a flood of events stays in the broker.

    It counts the waiting rows once a minute (without room, every two seconds). To each count it adds the rows that this process
    stores later.

    :param most: the largest number of waiting rows; 0 for no limit
    """

    def __init__(self, database: Database, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._database = database
        self._most = most
        self._clock = clock
        self._lock = threading.Lock()
        self._room = 0
        self._counted_at = float("-inf")

    def has_room(self) -> bool:
        """Return whether further rows may be stored.

        :raises JournalUnavailable: the rows cannot be counted
        """
        if not self._most:
            return True
        with self._lock:
            age = self._clock() - self._counted_at
            if age >= (_RECOUNT if self._room > 0 else _RECOUNT_FULL):
                self._room = self._most - backlog.waiting(self._database)
                self._counted_at = self._clock()
            return self._room > 0

    def stored(self, rows: int) -> None:
        with self._lock:
            self._room -= rows
