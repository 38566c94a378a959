from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace

from consumer.engine.decisions import after_error, repeats
from consumer.engine.engine import Engine
from consumer.engine.reconciler import Reconciler
from consumer.engine.stores import JournalStore
from consumer.engine.sweeps import Sweeper
from consumer.engine.task import Task
from consumer.journal.errors import JournalError, JournalUnavailable
from consumer.journal.history import Outcome, Presumed
from consumer.journal.settling import settle
from consumer.journal.work import SWEEP, Claim, Later, LeaseLost
from handlers.base import Unavailable

LOG = logging.getLogger(__name__)


class Worker:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._store = JournalStore(engine.database, engine.tasks, engine.holds)
        self._reconciler = Reconciler(
            engine.settings,
            engine.replica,
            backoff=engine.backoff,
            announcer=engine.announcer,
            meter=engine.meter,
            tracer=engine.tracer,
        )
        self._sweeper = Sweeper(engine.database, engine.settings, engine.replica, engine.tracer)

    def work(self, claim: Claim, step: Callable[[], None] = lambda: None) -> None:
        """Run a sweep if the claim is of a timer; otherwise reconcile the claim's key. This raises no error.

        If the journal does not answer at the end, the claim ends with its lease.

        :param step: called before each step of a long heal
        """
        task = self._engine.tasks[claim.handler]
        try:
            if claim.key.kind == SWEEP:
                self._sweep(task, claim)
            else:
                self._reconciler.reconcile(task, self._engine.clocks.corrected(claim), self._store, step)
        except LeaseLost as lost:
            LOG.warning("%s", lost)
        except JournalUnavailable as outage:
            LOG.warning(
                "%s %s: if the result is not recorded, the key is inspected again: %s", claim.handler, claim.key, outage
            )
        except Exception as error:
            LOG.exception("%s %s: a bug in stackmend", claim.handler, claim.key)
            self._settle_fault(claim, error)

    def _settle_fault(self, claim: Claim, error: Exception) -> None:
        settings = self._engine.settings
        # Only the error's type: its text may contain the value that the journal refused.
        end = after_error(claim, RuntimeError(type(error).__name__), settings)
        lines: list[Presumed] = []
        if isinstance(end, Later):
            end = replace(end, healing_id=claim.healing_id)
        elif claim.key.kind == SWEEP:
            end = Later(settings.backoff_max_seconds)  # a parked timer would end all sweeps of the handler
        elif claim.healing_id is not None:
            lines = [Presumed(claim.healing_id, Outcome.FAILED, error="a bug in stackmend; see its log")]
        try:
            settle(self._engine.database, claim, end, lines)
        except JournalError as unsettled:
            LOG.warning("%s %s: not settled: %s", claim.handler, claim.key, unsettled)

    def _sweep(self, task: Task, claim: Claim) -> None:
        try:
            end = self._sweeper.sweep(task, claim)
        except Unavailable as error:
            level = logging.DEBUG if repeats(claim, error) else logging.WARNING
            LOG.log(level, "%s: the sweep is incomplete and will be repeated: %s", task.name, error)
            end = self._reconciler.after_error(task, claim, error)
        else:
            self._reconciler.answered(task)
        settle(self._engine.database, claim, end)
