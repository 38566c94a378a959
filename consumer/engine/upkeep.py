"""Extends leases, shows this replica's sign of life, enforces retention and adopts open lines."""

from __future__ import annotations

import logging
import threading
import time

from consumer.conf.journal import JournalSettings
from consumer.engine.dispatcher import Dispatcher
from consumer.engine.engine import Engine
from consumer.journal import dead, history, replicas, work
from consumer.journal.database import JournalUnavailable
from consumer.journal.work import Hint, Priority

LOG = logging.getLogger(__name__)
DAY = 86400.0
#: Seconds between two rounds of retention, and the silence after which a replica is forgotten.
_TIDY_EVERY, _FORGET_AFTER = 60.0, 120.0
#: Seconds after which the open line of a one-shot command counts as abandoned.
_ABANDONED_AFTER = 120.0


class Upkeep:
    def __init__(self, engine: Engine, dispatcher: Dispatcher, journal: JournalSettings) -> None:
        self._engine = engine
        self._dispatcher = dispatcher
        self._journal = journal
        self._stop = threading.Event()
        self._tidied = float("-inf")
        self._thread = threading.Thread(target=self._run, name="upkeep", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(5)

    def _run(self) -> None:
        while not self._stop.wait(self._engine.settings.lease_seconds / 4):
            self._engine.meter.beat("upkeep")
            try:
                self._beat()
            except JournalUnavailable as outage:
                LOG.debug("leases are not extended: %s", outage)
            except Exception:
                LOG.exception("a bug in stackmend's upkeep")

    def _beat(self) -> None:
        work.extend(self._engine.database, self._dispatcher.claims, self._engine.settings.lease_seconds)
        replicas.beat(self._engine.database, self._engine.replica, _FORGET_AFTER)
        if time.monotonic() - self._tidied > _TIDY_EVERY:
            self._tidied = time.monotonic()
            self._tidy()

    def _tidy(self) -> None:
        history.expire(self._engine.database, self._journal.history_days * DAY)
        forgotten = dead.expire(self._engine.database, self._journal.dead_days * DAY, self._journal.dead_keep)
        if forgotten:
            LOG.warning("deleted %d dead letters ([journal] dead_days, dead_keep)", forgotten)
        for orphan in history.orphans(self._engine.database, _ABANDONED_AFTER):
            if orphan.handler in self._engine.tasks:
                work.adopt(
                    self._engine.database, Hint(orphan.handler, orphan.key, Priority.OPERATOR, "resume"), orphan.line_id
                )
