"""Renews the open history entries of a one-shot command, so that no daemon takes its heals for abandoned.

A thread of the command renews its entries. After ``kill -9`` of the command, the renewals end. Then a daemon's upkeep requests
an inspection.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from consumer.journal import history
from consumer.journal.database import Database
from consumer.journal.errors import JournalUnavailable

LOG = logging.getLogger(__name__)

#: Seconds between two renewals.
EVERY = 20.0
#: Seconds without a renewal after which an entry counts as abandoned.
ABANDONED_AFTER = 120.0


class OpenLines:
    def __init__(self, database: Database) -> None:
        self._database = database
        self._ids: set[int] = set()
        self._lock = threading.Lock()

    def add(self, line_id: int) -> None:
        with self._lock:
            self._ids.add(line_id)

    def discard(self, line_id: int) -> None:
        with self._lock:
            self._ids.discard(line_id)

    @contextmanager
    def renewed(self) -> Iterator[None]:
        stop = threading.Event()
        thread = threading.Thread(target=self._run, args=(stop,), name="open-lines", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join(1)

    def _run(self, stop: threading.Event) -> None:
        while not stop.wait(EVERY):
            with self._lock:
                ids = sorted(self._ids)
            try:
                history.renew(self._database, ids)
            except JournalUnavailable as outage:
                LOG.debug("open history entries are not renewed: %s", outage)
            except Exception:
                LOG.exception("a bug in stackmend's renewal of history entries")
