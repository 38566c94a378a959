"""Reads the holds every ``[engine] hold_seconds``. When a hold ends, and at the start, rows that wait for holds become due."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from consumer.engine.gates.hold import ON_HOLD
from consumer.engine.holds.board import Board
from consumer.journal import hinting
from consumer.journal.database import Database
from consumer.journal.errors import JournalError

LOG = logging.getLogger(__name__)

#: Seconds that a start waits for the first reading.
_FIRST = 10.0


class Reader:
    """:param wake: makes the dispatcher look for due rows at once"""

    def __init__(self, board: Board, database: Database, wake: Callable[[], None]) -> None:
        self._board = board
        self._database = database
        self._wake = wake
        self._stop = threading.Event()
        self._first = threading.Event()
        self._due = True
        self._thread = threading.Thread(target=self._run, name="holds", daemon=True)

    def start(self) -> None:
        """If sources exist, start the thread; wait up to 10 seconds for its first reading. Until then, every heal waits."""
        if self._board.sources:
            self._thread.start()
            self._first.wait(_FIRST)

    def stop(self) -> None:
        self._stop.set()  # a reading that waits for a silent source ends with the process
        if self._thread.is_alive():
            self._thread.join(1)

    def _run(self) -> None:
        while True:
            try:
                self._read()
            except JournalError as outage:
                LOG.debug("the heals of lifted holds wait for their own time: %s", outage)
            except Exception:
                LOG.exception("a bug in the reading of holds")
            self._first.set()
            if self._stop.wait(self._board.every):
                return

    def _read(self) -> None:
        new, lifted = self._board.refresh()
        for one in new:
            LOG.log(logging.INFO if one.readable else logging.WARNING, "heals wait: %s", one)
        for one in lifted:
            LOG.info("a hold is lifted: %s", one)
        # After a start, holds of an earlier process may have been lifted.
        self._due = self._due or bool(lifted)
        if self._due:
            hinting.make_due(self._database, ON_HOLD)
            self._due = False
            self._wake()
