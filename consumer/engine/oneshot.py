"""Reconciles keys for the commands ``stackmend sweep``, ``inspect`` and ``heal``, without the daemon.

Claims are in memory. In mode audit, a command writes nothing and needs no journal. A daemon may work on the same key at the
same time, because a heal writes only while its evidence is true.
"""

from __future__ import annotations

import heapq
import logging
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from enum import StrEnum
from graphlib import TopologicalSorter
from typing import TypeVar

from consumer.conf.engine import EngineSettings
from consumer.engine import reconciler, trace
from consumer.engine.breaker import Breaker, plausible
from consumer.engine.dependency_backoff import DependencyBackoff
from consumer.engine.gates import Bound
from consumer.engine.holds import Board
from consumer.engine.reconciler import Reconciled, Reconciler
from consumer.engine.stores import MemoryStore
from consumer.engine.sweeps import listed
from consumer.engine.task import Task
from consumer.journal.database import Database
from consumer.journal.work import Claim, Later, Priority
from handlers.base import Finding, Healed, Json, Key, Unavailable

LOG = logging.getLogger(__name__)

T = TypeVar("T")

#: Attempts for one key, and seconds of back-off between them; a person waits for the command.
_ATTEMPTS, _BACKOFF, _BACKOFF_MAX = 3, 0.5, 3.0


class Action(StrEnum):
    FOUND = "found"
    REFUSED = "refused"
    HEALED = "healed"
    FAILED = "failed"
    #: by the budget, the window, a hold, a pause or the breaker
    DEFERRED = "deferred"
    #: waits for approval
    ASKED = "asked"
    DENIED = "denied"
    EXEMPT = "exempt"
    IN_FLIGHT = "in flight"
    UNAVAILABLE = "unavailable"
    #: more suspects than is plausible
    STOPPED = "stopped"


#: Drift remains after these.
_DRIFT = frozenset(
    {
        Action.FOUND,
        Action.REFUSED,
        Action.FAILED,
        Action.DEFERRED,
        Action.STOPPED,
        Action.ASKED,
        Action.DENIED,
    }
)
#: There is no verdict after these.
_ERROR = frozenset({Action.UNAVAILABLE, Action.STOPPED})


@dataclass(frozen=True, slots=True)
class Result:
    """One line of a one-shot command's output, about a finding. Without a finding, it is about a key or a sweep.

    :param change: the change that the heal made, or the reason why nothing was healed
    """

    handler: str
    key: str
    problem: str
    action: Action
    summary: str
    change: str = ""
    undo: str = ""
    evidence: Json = field(default_factory=dict)
    plan: str = ""

    @property
    def is_drift(self) -> bool:
        return self.action in _DRIFT

    @property
    def is_error(self) -> bool:
        return self.action in _ERROR


class _TooMany(Exception):
    """A sweep lists more suspects than is plausible."""


#: Called after each step: the task, the number of finished keys, the number of keys.
Progress = Callable[[str, int, int], None]


def no_progress(_task: str, _done: int, _total: int) -> None:
    pass


@dataclass(frozen=True, slots=True)
class _Turn:
    claim: Claim
    due: float


def in_order(tasks: Sequence[Task]) -> list[Task]:
    """Order tasks so that each comes after the tasks whose heals it relies on (:attr:`handlers.base.Handler.follows`)."""
    by_name = {task.name: task for task in tasks}
    graph = {task.name: [name for name in task.handler.follows if name in by_name] for task in tasks}
    return [by_name[name] for name in TopologicalSorter(graph).static_order()]


class OneShot:
    """Reconciles keys in threads until each has a result.

    :param database: the journal; None if no task heals
    :param patience: seconds for which a key that is in flight, or that met a conflict or fault, is inspected again
    :param selected: returns whether the command works on a finding
    :param most: the number of objects that the command may heal; None for no limit
    """

    def __init__(
        self,
        database: Database | None,
        settings: EngineSettings,
        replica: str,
        progress: Progress = no_progress,
        patience: float = 60.0,
        operator: str = "",
        selected: Callable[[Finding], bool] = lambda _finding: True,
        most: int | None = None,
        board: Board | None = None,
    ) -> None:
        bounds = {"max_attempts": _ATTEMPTS, "backoff_seconds": _BACKOFF, "backoff_max_seconds": _BACKOFF_MAX}
        self._settings = replace(settings, patience_seconds=patience, **bounds)  # type: ignore[arg-type]
        self._backoff = DependencyBackoff()
        self._reconciler = Reconciler(
            self._settings, replica, backoff=self._backoff, operator=operator, selected=selected
        )
        self._store = MemoryStore(database, [] if most is None else [Bound(most)], board)
        self._progress = progress

    def sweep(self, tasks: Sequence[Task]) -> list[Result]:
        """Sweep one task after the other (:func:`in_order`); reconcile the suspects of each before the next sweep."""
        return [result for task in in_order(tasks) for result in self._sweep(task)]

    def examine_all(self, tasks: Sequence[Task], keys: Sequence[Key]) -> list[Result]:
        """In one task after the other (:func:`in_order`), reconcile the keys whose kind the task takes."""
        return [
            result
            for task in in_order(tasks)
            for result in self.examine(task, [key for key in keys if key.kind in task.handler.kinds], "operator")
        ]

    def _sweep(self, task: Task) -> list[Result]:
        trace.begin()
        self._progress(task.name, 0, 0)
        down: list[Unavailable] = []
        try:
            results = self.examine(task, self._believable(task, listed(task.handler.sweep(), down)), "sweep")
        except Unavailable as error:
            return [_unanswered(task, error)]
        except _TooMany as wrong:
            advice = "run it with --audit; if the findings are right, raise [engine] breaker_count"
            results = [Result(task.name, "", "breaker", Action.STOPPED, str(wrong), advice)]
        return results + [_unanswered(task, error) for error in down]

    def _believable(self, task: Task, keys: Iterable[Key]) -> Iterator[Key]:
        """Yield the keys of a sweep while their number is plausible.

        :raises _TooMany: the task's mode heals, and the keys so far stand for more objects than the breaker allows
        """
        if not task.heals:
            yield from keys
            return
        population = task.handler.population()
        breaker = Breaker(task.handler, plausible(self._settings, population))
        for key in breaker.through(keys):
            if breaker.trips:
                raise _TooMany(f"more than {breaker.limit} of {population} objects look wrong; nothing was healed")
            yield key

    def examine(self, task: Task, keys: Iterable[Key], source: str) -> list[Result]:
        """Reconcile keys; return the results in the order of the keys. No heal begins before ``keys`` ends.

        :param keys: can be a sweep that still runs; an error of the sweep ends this call
        :param source: ``sweep`` or ``operator``
        """
        turns: list[tuple[float, int, _Turn]] = []
        results: list[tuple[int, Result]] = []
        finished = total = 0
        running: dict[Future[tuple[_Turn | None, list[Result]]], int] = {}
        with self._store.at_work(), ThreadPoolExecutor(self._settings.workers, thread_name_prefix="inspect") as pool:
            try:
                for total, key in enumerate(keys, start=1):
                    turn = _Turn(_first_claim(task, key, source), 0.0)
                    if task.handler.confirm_after:
                        # The first inspection heals nothing where a second one must confirm it, so it need not wait.
                        running[pool.submit(self._turn, task, turn)] = total
                    else:
                        turns.append((0.0, total, turn))
                while turns or running:
                    while turns and turns[0][0] <= time.time():
                        _at, number, turn = heapq.heappop(turns)
                        running[pool.submit(self._turn, task, turn)] = number
                    for inspection in _ended(running, turns[0][0] if turns else None):
                        number = running.pop(inspection)
                        again, found = inspection.result()
                        results += [(number, result) for result in found]
                        finished += again is None
                        if again is not None:
                            heapq.heappush(turns, (again.due, number, again))
                        self._progress(task.name, finished, total)
            finally:
                for inspection in running:
                    inspection.cancel()
        return [result for _, result in sorted(results, key=lambda one: one[0])]

    def _turn(self, task: Task, turn: _Turn) -> tuple[_Turn | None, list[Result]]:
        claim = replace(turn.claim, now=time.time())
        done = self._reconciler.reconcile(task, claim, self._store)
        again = self._again(task, claim, done)
        if again is not None and done.result is not reconciler.Result.HEALED:
            return again, []
        if again is None and isinstance(done.end, Later) and done.end.healing_id is not None:
            self._store.leave(done.end.healing_id)
        return again, _results(task, claim, done)

    def _again(self, task: Task, claim: Claim, done: Reconciled) -> _Turn | None:
        if not isinstance(done.end, Later) or done.result is reconciler.Result.DEFERRED:
            return None
        if done.result is reconciler.Result.UNAVAILABLE and done.end.healing_id is None:
            return None
        later = replace(done.end, after=max(done.end.after, self._backoff.left(task.name)))
        patient = time.time() + later.after - claim.first_hint_at <= self._settings.patience_seconds
        confirming = done.result is reconciler.Result.WAITS and done.end.fingerprint is not None
        healed = done.result is reconciler.Result.HEALED
        return _next_turn(claim, later) if healed or confirming or patient else None


def _unanswered(task: Task, error: Unavailable) -> Result:
    return Result(task.name, "", "unavailable", Action.UNAVAILABLE, f"the sweep is incomplete: {error}")


def _ended(running: Collection[Future[T]], due: float | None) -> Collection[Future[T]]:
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


def _next_turn(claim: Claim, later: Later) -> _Turn:
    seen = claim.now if later.fresh else claim.seen_at
    # confirm_after counts from the beginning of one inspection to the beginning of the next
    since = claim.now if later.fresh else time.time()
    counts = replace(claim, attempts=later.attempts, waits=later.waits, watched=claim.watched + later.watched)
    marks = replace(counts, fingerprint=later.fingerprint, seen_at=seen, healing_id=later.healing_id, error=later.error)
    return _Turn(marks, since + later.after)


#: What a result of the reconciler is to the person who runs the command.
_ACTIONS = {
    reconciler.Result.FOUND: Action.FOUND,
    reconciler.Result.REFUSED: Action.REFUSED,
    reconciler.Result.WAITS: Action.IN_FLIGHT,
    reconciler.Result.DEFERRED: Action.DEFERRED,
    reconciler.Result.ASKED: Action.ASKED,
    reconciler.Result.DENIED: Action.DENIED,
    reconciler.Result.EXEMPT: Action.EXEMPT,
    reconciler.Result.UNAVAILABLE: Action.UNAVAILABLE,
    reconciler.Result.HEALED: Action.HEALED,
    reconciler.Result.FAILED: Action.FAILED,
    reconciler.Result.PARKED: Action.FAILED,
}


def _results(task: Task, claim: Claim, done: Reconciled) -> list[Result]:
    match done.result:
        case reconciler.Result.CLEAN:
            return []
        case reconciler.Result.FOUND | reconciler.Result.REFUSED if done.findings and not done.reason:
            return [_reported(task, finding) for finding in done.findings]
        case reconciler.Result.HEALED if done.findings:
            return [_of(task, finding, Action.HEALED, "", done.healed) for finding in done.findings]
    # A heal that met a conflict until the end wrote nothing. One without an answer may have written; then the history entry
    # stays open. Either way the command cannot claim that the drift is gone.
    unfinished = done.result in (reconciler.Result.WAITS, reconciler.Result.UNAVAILABLE)
    action = Action.FAILED if done.findings and unfinished else _ACTIONS[done.result]
    if not done.findings or action in _ERROR or action is Action.IN_FLIGHT:
        problem = "in-flight" if action is Action.IN_FLIGHT else str(action)
        return [Result(task.name, str(claim.key), problem, action, done.reason, done.reason)]
    reason = done.reason or "it could not be healed"
    return [_of(task, finding, action, reason) for finding in done.findings]


def _reported(task: Task, finding: Finding) -> Result:
    action = Action.FOUND if finding.healable else Action.REFUSED
    return _of(task, finding, action, finding.refusal)


def _of(task: Task, finding: Finding, action: Action, change: str, healed: Healed | None = None) -> Result:
    undo = (healed.undo if healed else "") or finding.undo
    change = healed.action if healed else change
    problem, plan = finding.problem, finding.plan if finding.healable or finding.approvable else ""
    return Result(task.name, str(finding.key), problem, action, finding.summary, change, undo, finding.evidence, plan)
