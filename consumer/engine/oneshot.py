"""The same looks and heals for a command that ends: ``stackmend sweep``, ``inspect`` and ``heal``.

Claims are kept in memory instead of in the journal; what they mean is decided by the same functions. An audit opens no
journal and writes nowhere. A heal opens and closes lines of the history and takes from the same hourly budget as the
daemon. A daemon that works on the same key at the same time does no harm: every heal is compare-and-set. Outside a task's
window everything is looked at and nothing healed; nobody waits here for it to open.
"""

from __future__ import annotations

import heapq
import logging
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from typing import TypeVar

from consumer.conf.engine import EngineSettings
from consumer.engine.look import Clean, Heal, Report, Wait, after_error, decide
from consumer.engine.sweeps import listed, unbelievable
from consumer.engine.task import Task
from consumer.journal import history
from consumer.journal.database import Database
from consumer.journal.history import Closing, Line, NotPermitted, Origin
from consumer.journal.work import Claim, Later, Priority
from consumer.text import reason_of
from handlers.base import Conflict, Finding, Healed, InFlight, Json, Key, Refused, Unavailable

LOG = logging.getLogger(__name__)

T = TypeVar("T")

#: Tries of one object; a person waits for the command.
_ATTEMPTS, _BACKOFF, _BACKOFF_MAX = 3, 0.5, 3.0


@dataclass(frozen=True, slots=True)
class Result:
    """What came of one finding, or of one key that could not be judged.

    :param action: ``found``, ``refused``, ``healed``, ``failed``, ``held`` (by the budget or the window), ``in flight``,
        ``unavailable``, ``stopped`` (too many to believe)
    :param change: what was changed, or why not
    """

    handler: str
    key: str
    problem: str
    action: str
    summary: str
    change: str = ""
    undo: str = ""
    evidence: Json = field(default_factory=dict)

    @property
    def is_drift(self) -> bool:
        """Whether drift remains."""
        return self.action in ("found", "refused", "failed", "held", "stopped")

    @property
    def is_error(self) -> bool:
        """Whether the question could not be answered."""
        return self.action in ("unavailable", "stopped")


class _TooMany(Exception):
    """More objects look wrong than can be believed."""


#: Told after each step: the task, how many keys are done, how many there are.
Progress = Callable[[str, int, int], None]


def no_progress(_task: str, _done: int, _total: int) -> None:
    """Show nothing."""


@dataclass(slots=True)
class _Turn:
    """A key that is still looked at."""

    claim: Claim
    due: float


class OneShot:
    """Looks at keys to the end, in threads.

    :param database: the journal; None where nothing may be healed
    :param patience: seconds for which objects in flight are watched
    """

    def __init__(
        self,
        database: Database | None,
        settings: EngineSettings,
        replica: str,
        progress: Progress = no_progress,
        patience: float = 60.0,
    ) -> None:
        self._database = database
        bounds = {"max_attempts": _ATTEMPTS, "backoff_seconds": _BACKOFF, "backoff_max_seconds": _BACKOFF_MAX}
        self._settings = replace(settings, patience_seconds=patience, **bounds)  # type: ignore[arg-type]
        self._replica = replica
        self._progress = progress

    def sweep(self, tasks: Sequence[Task]) -> list[Result]:
        """Sweep every task, and look at and heal what it lists."""
        return [result for task in tasks for result in self._sweep(task)]

    def _sweep(self, task: Task) -> list[Result]:
        self._progress(task.name, 0, 0)
        down: list[Unavailable] = []
        try:
            results = self.examine(task, self._believable(task, listed(task.handler.sweep(), down)), "sweep")
        except Unavailable as error:
            return [_unanswered(task, error)]
        except _TooMany as wrong:
            advice = "look with --audit; if it is right, raise [engine] breaker_count"
            results = [Result(task.name, "", "breaker", "stopped", str(wrong), advice)]
        return results + [_unanswered(task, error) for error in down]

    def _believable(self, task: Task, keys: Iterable[Key]) -> Iterator[Key]:
        """Yield what a sweep yields.

        :raises _TooMany: when it is more than can be believed by a task that heals
        """
        if not task.heals:
            yield from keys
            return
        population = task.handler.population()
        limit = unbelievable(self._settings.breaker_count, self._settings.breaker_percent, population)
        for number, key in enumerate(keys):
            if number == limit:
                raise _TooMany(f"more than {limit} of {population} objects look wrong; nothing was healed")
            yield key

    def examine(self, task: Task, keys: Iterable[Key], source: str) -> list[Result]:
        """Look at keys, and heal what is wrong if the task heals; nothing is healed before the last key is there.

        :param keys: may be those of a sweep that still lists; what it raises is raised
        :param source: who asks, for the history
        """
        turns: list[tuple[float, int, _Turn]] = []
        results: list[tuple[int, Result]] = []
        finished = total = 0
        running: dict[Future[tuple[_Turn | None, list[Result]]], int] = {}
        with ThreadPoolExecutor(self._settings.workers, thread_name_prefix="look") as pool:
            try:
                for total, key in enumerate(keys, start=1):
                    turn = _Turn(_first_claim(task, key, source), 0.0)
                    if task.handler.confirm_after:
                        # A finding that has to be seen twice is not healed by its first look, which need not wait.
                        running[pool.submit(self._look, task, turn)] = total
                    else:
                        turns.append((0.0, total, turn))
                while turns or running:
                    while turns and turns[0][0] <= time.time():
                        _at, number, turn = heapq.heappop(turns)
                        running[pool.submit(self._look, task, turn)] = number
                    for look in _ended(running, turns[0][0] if turns else None):
                        number = running.pop(look)
                        again, found = look.result()
                        results += [(number, result) for result in found]
                        finished += again is None
                        if again is not None:
                            heapq.heappush(turns, (again.due, number, again))
                        self._progress(task.name, finished, total)
            finally:
                for look in running:
                    look.cancel()
        return [result for _, result in sorted(results, key=lambda one: one[0])]

    def _look(self, task: Task, turn: _Turn) -> tuple[_Turn | None, list[Result]]:
        claim = replace(turn.claim, now=time.time())
        try:
            findings = tuple(task.handler.inspect(claim.key))
        except Exception as error:
            return self._failed(task, claim, error)
        decision = decide(
            claim,
            findings,
            heals=task.heals,
            confirm_after=task.handler.confirm_after,
            max_attempts=self._settings.max_attempts,
        )
        match decision:
            case Clean():
                return None, []
            case Wait(end=Later() as later):
                return _again(claim, later), []
            case Wait():
                return None, [_result(task, finding, "failed", "it could not be healed") for finding in findings]
            case Report(findings=reported):
                return None, [_result(task, finding, outcome, finding.refusal) for finding, outcome in reported]
            case Heal():
                return self._heal(task, claim, decision)

    def _heal(self, task: Task, claim: Claim, decision: Heal) -> tuple[_Turn | None, list[Result]]:
        finding = decision.finding
        assert self._database is not None, "a task that heals needs a journal"
        if not task.is_open:
            return None, [_result(task, finding, "held", f"outside its window ({task.settings.window})")]
        line = Line.of(task.name, finding, "healing", Origin(claim.hint, self._replica))
        try:
            line_id = history.open_unclaimed(self._database, line, task.settings.heals_per_hour)
        except NotPermitted as denied:
            return None, [_result(task, finding, "held", str(denied))]
        try:
            healed = task.handler.heal_while(finding, lambda: task.is_open)
        except Exception as error:
            outcome = "conflict" if isinstance(error, Conflict | InFlight) else "failed"
            history.close(self._database, Closing(line_id, outcome, error=reason_of(error)))
            again, results = self._failed(task, replace(claim, fingerprint=decision.fingerprint), error)
            return again, [_result(task, finding, "failed", result.summary) for result in results]
        history.close(self._database, Closing(line_id, "healed", healed))
        again = _again(claim, Later(0.0)) if decision.more or not healed.complete else None
        return again, [_result(task, finding, "healed", healed.action, healed)]

    def _failed(self, task: Task, claim: Claim, error: Exception) -> tuple[_Turn | None, list[Result]]:
        name, key = task.name, str(claim.key)
        if isinstance(error, Unavailable):
            return None, [Result(name, key, "unavailable", "unavailable", reason_of(error))]
        end = after_error(claim, error, self._settings)
        if isinstance(end, Later) and time.time() + end.after - claim.first_hint_at <= self._settings.patience_seconds:
            return _again(claim, end), []
        if isinstance(error, InFlight):
            return None, [Result(name, key, "in-flight", "in flight", reason_of(error))]
        if not isinstance(error, Conflict):
            LOG.debug("%s %s", name, key, exc_info=error)
        action = "refused" if isinstance(error, Refused) else "failed"
        return None, [Result(name, key, action, action, reason_of(error))]


def _unanswered(task: Task, error: Unavailable) -> Result:
    return Result(task.name, "", "unavailable", "unavailable", f"the sweep could not be completed: {error}")


def _ended(running: Collection[Future[T]], due: float | None) -> Collection[Future[T]]:
    """Wait until a look has ended or the next one is due, and return those that have ended."""
    timeout = None if due is None else max(0.0, due - time.time())
    if not running:
        time.sleep(timeout or 0.0)
    return wait(running, timeout, FIRST_COMPLETED).done


def _first_claim(task: Task, key: Key, source: str) -> Claim:
    now = time.time()
    return Claim(
        id=0,
        token="",
        handler=task.name,
        key=key,
        generation=0,
        priority=Priority.OPERATOR,
        attempts=0,
        waits=0,
        watched=0.0,
        fingerprint=None,
        seen_at=None,
        reported=None,
        healing_id=None,
        hint=source,
        hint_id="",
        hinted_at=None,
        first_hint_at=now,
        now=now,
    )


def _again(claim: Claim, later: Later) -> _Turn:
    seen = claim.now if later.fresh else claim.seen_at
    # two looks lie apart from the beginning of the one to that of the other
    since = claim.now if later.fresh else time.time()
    counts = replace(claim, attempts=later.attempts, waits=later.waits, watched=claim.watched + later.watched)
    return _Turn(replace(counts, fingerprint=later.fingerprint, seen_at=seen), since + later.after)


def _result(task: Task, finding: Finding, action: str, change: str, healed: Healed | None = None) -> Result:
    undo = healed.undo if healed else ""
    evidence = finding.evidence
    return Result(task.name, str(finding.key), finding.problem, action, finding.summary, change, undo, evidence)
