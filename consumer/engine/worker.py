"""Works on claims: a sweep's timer, or a key to reconcile."""

from __future__ import annotations

import logging

from consumer.engine.engine import Engine
from consumer.engine.reconciler import Reconciler
from consumer.engine.stores import JournalStore
from consumer.engine.sweeps import Sweeper
from consumer.engine.task import Task
from consumer.journal.database import JournalUnavailable
from consumer.journal.work import SWEEP, Claim, LeaseLost, settle
from handlers.base import Unavailable

LOG = logging.getLogger(__name__)


class Worker:
    """Works on claims; without state, so that all worker threads share it."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._store = JournalStore(engine.database)
        self._reconciler = Reconciler(
            engine.settings, engine.replica, backoff=engine.backoff, announcer=engine.announcer, meter=engine.meter
        )
        self._sweeper = Sweeper(engine.database, engine.settings, engine.replica)

    def work(self, claim: Claim) -> None:
        """Work on a claim; raise nothing. A row that cannot be settled becomes free when its lease ends."""
        task = self._engine.tasks[claim.handler]
        try:
            if claim.key.kind == SWEEP:
                self._sweep(task, claim)
            else:
                self._reconciler.reconcile(task, claim, self._store)
        except LeaseLost as lost:
            LOG.warning("%s", lost)
        except JournalUnavailable as outage:
            LOG.warning(
                "%s %s: the result is not recorded; the key is inspected again: %s", claim.handler, claim.key, outage
            )
        except Exception:
            LOG.exception("%s %s: a bug in stackmend", claim.handler, claim.key)

    def _sweep(self, task: Task, claim: Claim) -> None:
        try:
            end = self._sweeper.sweep(task, claim)
        except Unavailable as error:
            LOG.warning("%s: the sweep is incomplete and will be repeated: %s", task.name, error)
            end = self._reconciler.after_error(task, claim, error)
        else:
            self._reconciler.answered(task)
        settle(self._engine.database, claim, end)
