"""Sweeps: what no notification told. A handler's timer is a row of the journal that one replica claims like other work.

A sweep enqueues at low priority what looks wrong; workers prove it. In heal mode it first measures: when more is wrong
than can be believed (a wrong database URL, a restored backup) nothing is enqueued, the handler stops and says so, until an
operator resumes it. A sweep that fails is an error, never "everything is gone". One whose window closes before it is through
has not been, and begins again when the window opens; what it had listed waits for that, too.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Iterable, Iterator
from itertools import islice, takewhile

from consumer.conf.engine import EngineSettings
from consumer.engine.look import after_error
from consumer.engine.task import Task
from consumer.journal import controls, history, work
from consumer.journal.database import Database
from consumer.journal.work import Claim, Disposition, Done, Hint, Later, Priority
from consumer.text import reason_of
from handlers.base import Key, Unavailable

LOG = logging.getLogger(__name__)
_CHUNK = 500


def listed(keys: Iterable[Key], down: list[Unavailable]) -> Iterator[Key]:
    """Yield what a sweep yields; put into ``down`` what ended it early."""
    try:
        yield from keys
    except Unavailable as error:
        down.append(error)


def unbelievable(count: int, percent: int, population: int) -> int:
    """Return the largest number of wrong objects that is still believed.

    :param count: this many are always believed
    :param percent: of the population, likewise
    """
    return max(count, population * percent // 100)


class Sweeper:
    """Runs sweeps for the worker."""

    def __init__(self, database: Database, settings: EngineSettings, replica: str) -> None:
        self._database = database
        self._settings = settings
        self._replica = replica

    def sweep(self, task: Task, claim: Claim) -> Disposition:
        """Run one sweep to its end; return when the next is due, :class:`Done` where no timer was asked for.

        :raises Unavailable: when a listing did not answer; what it had listed before is looked at all the same
        """
        try:
            through = self._run(task, claim.now)
        except Unavailable:
            raise
        except Exception as error:
            LOG.exception("%s: sweep failed", task.name)
            end = after_error(claim, error, self._settings)
            return end if isinstance(end, Later) else Later(self._settings.backoff_max_seconds, error=reason_of(error))
        if not through:
            LOG.info("%s: the window closed amid a sweep, which begins again when it opens", task.name)
            return Later(0.0)
        return Later(self._pause(task)) if task.settings.interval else Done()

    def _run(self, task: Task, began: float) -> bool:
        """Sweep; return whether it came to its end."""
        population = task.handler.population()
        down: list[Unavailable] = []
        keys: Iterable[Key] = takewhile(lambda _key: task.is_open, listed(task.handler.sweep(), down))
        if task.heals:
            limit = unbelievable(self._settings.breaker_count, self._settings.breaker_percent, population)
            keys = list(islice(keys, limit + 1))
            if len(keys) > limit:
                self._break_off(task, limit, population)
                return True
        found = self._enqueue(task, keys)
        if down:
            raise down[0]
        if not task.is_open:
            return False
        work.revisit_reported(self._database, task.name, began)
        controls.swept(self._database, task.name, began, found, population)
        LOG.info("%s: sweep of %d objects found %d to look at", task.name, population, found)
        return True

    def _enqueue(self, task: Task, keys: Iterable[Key]) -> int:
        found = 0
        for chunk in _chunks(keys):
            found += work.enqueue(self._database, [Hint(task.name, key, Priority.SWEEP, "sweep") for key in chunk])
        return found

    def _break_off(self, task: Task, limit: int, population: int) -> None:
        reason = (
            f"a sweep found more than {limit} of {population} objects wrong; nothing was healed. Look with "
            f"'stackmend sweep {task.name} --audit'; if it is right: 'stackmend handler resume {task.name}' and a larger "
            "[engine] breaker_count"
        )
        controls.break_off(self._database, task.name, reason)
        LOG.critical("%s: stopped: %s", task.name, reason)
        origin = history.Origin("sweep", self._replica)
        line = history.Line(task.name, task.timer, "stopped", "breaker", reason, origin)
        history.append(self._database, [line])

    def _pause(self, task: Task) -> float:
        pause = task.settings.interval * random.uniform(0.9, 1.1)
        return pause + task.until_open(pause)


def _chunks(keys: Iterable[Key]) -> Iterator[tuple[Key, ...]]:
    rest = iter(keys)
    return iter(lambda: tuple(islice(rest, _CHUNK)), ())
