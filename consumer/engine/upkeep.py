"""Deletes old records of the journal, in short transactions, and measures the clocks of its Galera nodes.

If the journal's clock was set back, upkeep corrects the times of what waits: otherwise no sweep would run until then.

If a one-shot command died during a heal, upkeep requests an inspection, so that the heal's history entry is closed.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from sqlalchemy import Connection

from consumer.conf.journal import JournalSettings
from consumer.engine.clocks import SetBack
from consumer.engine.engine import Engine
from consumer.engine.open_lines import ABANDONED_AFTER
from consumer.journal import asks, dead, hinting, history
from consumer.journal.database import now as database_now
from consumer.journal.errors import JournalUnavailable
from consumer.journal.node_clocks import node_clocks
from consumer.journal.work import Hint, Priority
from consumer.text import plural

LOG = logging.getLogger(__name__)
DAY = 86400.0
#: Seconds between two rounds, and between two transactions of a round.
_EVERY, _PAUSE = 60.0, 0.05


class Upkeep:
    def __init__(self, engine: Engine, journal: JournalSettings) -> None:
        self._engine = engine
        self._journal = journal
        self._set_back = SetBack()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="upkeep", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(5)

    def _run(self) -> None:
        while True:
            try:
                self._tidy()
            except JournalUnavailable as outage:
                LOG.debug("the deletion of old records waits: %s", outage)
            except Exception:
                LOG.exception("a bug in stackmend's upkeep")
            if self._stop.wait(_EVERY):
                return

    def _tidy(self) -> None:
        database, journal = self._engine.database, self._journal
        self._correct_times()
        self._adopt()
        self._engine.clocks.measured(node_clocks(database))
        self._in_chunks(lambda: history.expire(database, journal.history_days * DAY))
        self._in_chunks(lambda: asks.expire(database, journal.history_days * DAY))
        forgotten = self._in_chunks(
            lambda: dead.expire(database, journal.dead_days * DAY, journal.dead_keep, journal.dead_bytes)
        )
        if forgotten:
            LOG.warning("deleted %d dead letters ([journal] dead_days, dead_keep, dead_bytes)", forgotten)

    def _correct_times(self) -> None:
        """After the journal's clock was set back, end all pauses, which would last for the length of the step."""

        def read(connection: Connection) -> tuple[float, float]:
            clock = database_now(connection)
            return clock, hinting.ahead(connection, clock)

        database, passed = self._engine.database, time.monotonic()
        clock, ahead = database.read(read)
        if not self._set_back.noticed(clock, passed, ahead):
            return
        number = database.transact(lambda connection: hinting.hasten(connection, database_now(connection)))
        LOG.warning("the journal's clock was set back; ended the pauses of %s", plural(number, "row"))
        self._engine.meter.beat("upkeep")

    def _in_chunks(self, expire: Callable[[], int]) -> int:
        deleted = 0
        while more := expire():
            deleted += more
            self._engine.meter.beat("upkeep")
            if self._stop.wait(_PAUSE):
                break
        self._engine.meter.beat("upkeep")
        return deleted

    def _adopt(self) -> None:
        for orphan in history.orphans(self._engine.database, ABANDONED_AFTER):
            if orphan.handler in self._engine.tasks:
                hinting.adopt(
                    self._engine.database, Hint(orphan.handler, orphan.key, Priority.OPERATOR, "resume"), orphan.line_id
                )
