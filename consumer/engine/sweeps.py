"""Runs sweeps, which find drift that no event reported. One replica claims a handler's timer and runs the sweep.

A sweep stores a hint of low priority for each suspect; workers inspect the suspects later. If the mode allows heals, the
breaker first counts the suspects. If they are too many, the breaker stops the handler, and the sweep stores no hint. If a
dependency does not answer, the sweep is incomplete. Once the dependency answers, another sweep follows. If the handler can,
this sweep lists only the missing keys, and the breaker counts only these.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, takewhile
from typing import NoReturn

from sqlalchemy import Connection

from consumer.conf.engine import EngineSettings
from consumer.engine import trace
from consumer.engine.breaker import Breaker, plausible
from consumer.engine.decisions import after_error
from consumer.engine.task import Task
from consumer.journal import controls, hinting, history, settling
from consumer.journal.controls import Control
from consumer.journal.database import Database, now
from consumer.journal.history import Outcome
from consumer.journal.work import SWEEP, Claim, Disposition, Done, Hint, Later, Priority
from consumer.text import plural, reason_of
from consumer.tracing import Span, Tracer
from handlers.base import Incomplete, Key, Unavailable

LOG = logging.getLogger(__name__)
_CHUNK = 500
#: Number of keys that the breaker's reason names.
_EXAMPLES = 3
#: Sweeps in a row with few suspects that resume a handler after its breaker stopped it. One alone may have read a database
#: during its restore.
CALM_SWEEPS = 2


#: The source of a hint begins with this word if it requests a sweep because events may be lost.
GAP = "bus"
#: Seconds between two such sweeps of a handler, unless its interval is shorter: a broker may come and go every few seconds.
_GAP_PAUSE = 300.0


def listed(keys: Iterable[Key], down: list[Unavailable]) -> Iterator[Key]:
    """Yield the keys of a sweep. If a dependency does not answer, append its error to ``down`` and end."""
    try:
        yield from keys
    except Unavailable as error:
        down.append(error)


def _wait_after_gap(task: Task, claim: Claim, control: Control) -> float:
    """Return the seconds that a sweep for perhaps lost events waits, because another was recent; 0 or less for no wait."""
    if not claim.hint.startswith(f"{GAP}:") or control.swept_at is None:
        return 0.0
    return control.swept_at + min(_GAP_PAUSE, task.settings.interval or _GAP_PAUSE) - claim.now


def _is_repetition(task: Task, claim: Claim, control: Control) -> bool:
    """Return whether this sweep repeats an incomplete sweep. Regular sweeps and an operator's sweeps are no repetitions."""
    if not control.missing or control.missed_at is None or claim.waits == 0:
        return False
    return not task.settings.interval or claim.now < control.missed_at + task.settings.interval


@dataclass(frozen=True, slots=True)
class _Listing:
    """The suspects of one sweep. After a dependency did not answer, a further listing completes the sweep.

    :param began: when the first listing began
    :param found: number of suspects in earlier listings
    """

    keys: Iterator[Key]
    began: float
    found: int = 0
    down: tuple[Incomplete, ...] = ()


class Sweeper:
    def __init__(
        self, database: Database, settings: EngineSettings, replica: str, tracer: Tracer | None = None
    ) -> None:
        self._tracer = tracer or Tracer()
        self._database = database
        self._settings = settings
        self._replica = replica

    def sweep(self, task: Task, claim: Claim) -> Disposition:
        """Run one sweep. Return how to settle the timer's row: usually, in how many seconds the next sweep is due.

        :raises Unavailable: a dependency did not answer; hints for the keys listed before the error are stored
        """
        request_id = trace.begin()
        control = controls.read(self._database).get(task.name, controls.Control(task.name))
        if (wait := _wait_after_gap(task, claim, control)) > 0:
            return Later(wait)
        try:
            with self._tracer.sweep(claim, request_id) as span:
                through = self._run(task, _listing(task, claim, control), control, span)
        except Unavailable:
            raise
        except Exception as error:
            LOG.exception("%s: the sweep failed", task.name)
            end = after_error(claim, error, self._settings)
            return end if isinstance(end, Later) else Later(self._settings.backoff_max_seconds, error=reason_of(error))
        if not through:
            LOG.info("%s: the window closed during a sweep; the sweep begins again when it opens", task.name)
            return Later(0.0)
        return Later(self._pause(task)) if task.settings.interval else Done()

    def _run(self, task: Task, listing: _Listing, last: Control, span: Span) -> bool:
        down: list[Unavailable] = [*listing.down]
        try:
            population = task.handler.population()
        except Unavailable as error:
            self._miss(task, listing, 0, [*down, error])
        keys: Iterable[Key] = takewhile(lambda _key: task.is_open, listed(listing.keys, down))
        if task.heals:
            limit = plausible(self._settings, population)
            breaker = Breaker(task.handler, limit, settling.refused(self._database, task.name))
            keys = list(breaker.through(keys))
            if breaker.trips:
                self._break_off(task, keys, limit, population)
                span.ended(Outcome.STOPPED)
                return True
            if not down and not self._may_go_on(task):
                return True
        found = self._enqueue(task, keys)
        span.listed(found)
        if down:
            self._miss(task, listing, found, down)
        if not task.is_open:
            return False
        hinting.revisit_reported(self._database, task.name, listing.began)
        found += listing.found
        controls.swept(self._database, task.name, listing.began, found, population)
        level = logging.INFO if found and found != last.sweep_found else logging.DEBUG
        LOG.log(level, "%s: a sweep of %d objects lists %s", task.name, population, plural(found, "suspect"))
        return True

    def _miss(self, task: Task, listing: _Listing, found: int, down: Sequence[Unavailable]) -> NoReturn:
        missing = frozenset[str]().union(*(Incomplete(error).missing for error in down))
        listed = all(isinstance(error, Incomplete) for error in down)
        found += listing.found
        controls.missed(self._database, task.name, listing.began, found, missing, only_missing=listed)
        raise down[0]

    def _enqueue(self, task: Task, keys: Iterable[Key]) -> int:
        found = 0
        for chunk in _chunks(keys):
            found += hinting.enqueue(self._database, [_suspect(task, key) for key in chunk])
        return found

    def _break_off(self, task: Task, keys: Sequence[Key], limit: int, population: int) -> None:
        examples = ", ".join(str(key) for key in keys[:_EXAMPLES])
        reason = (
            f"a sweep lists more than {limit} of {population} objects as wrong, for example {examples}; nothing was healed. "
            f"See them with 'stackmend sweep {task.name} --audit'; if they are right: 'stackmend handler resume {task.name}' "
            f"and a larger [engine] breaker_count. Otherwise {CALM_SWEEPS} sweeps that list fewer resume it"
        )
        origin = history.Origin("sweep", self._replica, request_id=trace.current())
        line = history.Line(task.name, task.timer, Outcome.STOPPED, "breaker", reason, origin)

        def stop(connection: Connection) -> bool:
            tripped = controls.trip(connection, task.name, reason)
            history.write(connection, [line] if tripped else [], now(connection))
            return tripped

        if self._database.transact(stop):
            LOG.critical("%s: stopped: %s", task.name, reason)

    def _may_go_on(self, task: Task) -> bool:
        """If the breaker stopped the handler, count a sweep with few suspects. Return False if the handler stays stopped."""
        before = controls.read(self._database).get(task.name)
        if before is None or not before.broken:
            return True
        after = self._database.transact(lambda connection: controls.calmed(connection, task.name, CALM_SWEEPS))
        if not after.stopped:
            LOG.warning("%s: resumed: %d sweeps in a row listed few suspects", task.name, CALM_SWEEPS)
        return not after.stopped

    def _pause(self, task: Task) -> float:
        pause = task.settings.interval * random.uniform(0.9, 1.1)
        return pause + task.until_open(pause)


def _listing(task: Task, claim: Claim, control: Control) -> _Listing:
    """Return the listing of a sweep. To repeat an incomplete sweep, list only its missing keys, if the handler can.

    Missing keys are those whose dependency did not answer, and answers again.

    :raises Unavailable: all dependencies that did not answer are still down
    """
    if not _is_repetition(task, claim, control):
        return _Listing(task.handler.sweep(), claim.now)
    down: list[Incomplete] = []
    for dependency in sorted(control.missing):
        try:
            task.handler.require(dependency)
        except Unavailable as error:
            down.append(Incomplete(Unavailable(dependency, error.reason)))
    back = control.missing.difference(*(error.missing for error in down))
    if not back:
        raise down[0]
    rest = task.handler.sweep_rest(back) if control.only_missing else None
    if rest is None:
        return _Listing(task.handler.sweep(), claim.now)
    return _Listing(rest, control.missed_at or claim.now, control.sweep_found or 0, tuple(down))


def _suspect(task: Task, key: Key) -> Hint:
    return Hint(task.name, key, Priority.SWEEP, SWEEP, source_id=trace.current())


def _chunks(keys: Iterable[Key]) -> Iterator[tuple[Key, ...]]:
    rest = iter(keys)
    return iter(lambda: tuple(islice(rest, _CHUNK)), ())
