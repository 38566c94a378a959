"""What must go on while others work: leases, the sign of life, retention, lines that nobody closed."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Collection

from consumer.conf.engine import EngineSettings
from consumer.conf.journal import JournalSettings
from consumer.engine.dispatcher import Dispatcher
from consumer.engine.meter import Meter
from consumer.journal import dead, history, replicas, work
from consumer.journal.database import Database, JournalUnavailable
from consumer.journal.work import Hint, Priority

LOG = logging.getLogger(__name__)
DAY = 86400.0
#: Seconds between two rounds of retention, and the silence after which a replica is forgotten.
_TIDY_EVERY, _FORGET_AFTER = 60.0, 120.0
#: Seconds after which an open line of a one-shot command is taken for abandoned.
_ABANDONED_AFTER = 120.0


class Upkeep:
    """The thread that beats.

    :param handlers: names of the handlers that run here
    """

    def __init__(
        self,
        database: Database,
        dispatcher: Dispatcher,
        engine: EngineSettings,
        journal: JournalSettings,
        replica: str,
        handlers: Collection[str],
        meter: Meter,
    ) -> None:
        self._database = database
        self._dispatcher = dispatcher
        self._engine = engine
        self._journal = journal
        self._replica = replica
        self._handlers = frozenset(handlers)
        self._meter = meter
        self._stop = threading.Event()
        self._tidied = float("-inf")
        self._thread = threading.Thread(target=self._run, name="upkeep", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread."""
        self._stop.set()
        self._thread.join(5)

    def _run(self) -> None:
        while not self._stop.wait(self._engine.lease_seconds / 4):
            self._meter.beat("upkeep")
            try:
                self._beat()
            except JournalUnavailable as outage:
                LOG.debug("no beat: %s", outage)
            except Exception:
                LOG.exception("a fault in stackmend's upkeep")

    def _beat(self) -> None:
        work.extend(self._database, self._dispatcher.held, self._engine.lease_seconds)
        replicas.beat(self._database, self._replica, _FORGET_AFTER)
        if time.monotonic() - self._tidied > _TIDY_EVERY:
            self._tidied = time.monotonic()
            self._tidy()

    def _tidy(self) -> None:
        history.expire(self._database, self._journal.history_days * DAY)
        forgotten = dead.expire(self._database, self._journal.dead_days * DAY, self._journal.dead_keep)
        if forgotten:
            LOG.warning("forgot %d messages that could not be understood ([journal] dead_days, dead_keep)", forgotten)
        for orphan in history.orphans(self._database, _ABANDONED_AFTER):
            if orphan.handler in self._handlers:
                work.adopt(
                    self._database, Hint(orphan.handler, orphan.key, Priority.OPERATOR, "resume"), orphan.line_id
                )
