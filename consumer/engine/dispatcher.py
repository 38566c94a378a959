"""Claims due rows for idle worker threads, never more rows than there are idle threads.

New events and finished work wake the claiming thread. Every ``[engine] poll_seconds``, the thread also looks for hints of other
replicas and for rows that have become due. It claims a task's rows only while the window is open, the task is not stopped, and
no back-off runs. Window and stop do not apply to interrupted heals, because the gates decide about them. A stop by the breaker
does not apply to sweeps, because they can end the stop.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial

from consumer.engine.engine import Engine
from consumer.engine.shares import Shares
from consumer.engine.worker import Worker
from consumer.journal import claiming, controls
from consumer.journal.errors import JournalUnavailable
from consumer.journal.work import Claim
from handlers.base import Key

LOG = logging.getLogger(__name__)
#: Seconds between two reads of pauses and open breakers from the journal.
_CONTROLS_AGE = 1.0
#: Seconds between two attempts while the journal's database does not answer.
_OUTAGE_WAIT = 1.0

#: Claims up to so many due rows of these handlers, beside the running claims.
Take = Callable[[Sequence[str], int, Sequence[Claim]], list[Claim]]


class Dispatcher:
    def __init__(self, engine: Engine, worker: Worker) -> None:
        self._engine = engine
        self._worker = worker
        self._changed = threading.Condition()
        self._woken = False
        self._stopping = False
        #: monotonic time of each claim's beginning or last step
        self._claims: dict[Claim, float] = {}
        self._todo: queue.Queue[Claim | None] = queue.Queue()
        services = {name: task.handler.service for name, task in engine.tasks.items()}
        self._shares = Shares(engine.settings.workers, services)
        self._controls: dict[str, controls.Control] = {}
        self._controls_at = float("-inf")
        self._threads = [
            threading.Thread(target=self._work, name=f"worker-{number}", daemon=True)
            for number in range(engine.settings.workers)
        ]
        self._claimer = threading.Thread(target=self._claim_all, name="dispatcher", daemon=True)

    def start(self) -> None:
        for thread in [*self._threads, self._claimer]:
            thread.start()

    def wake(self) -> None:
        """Make the claiming thread look for due rows at once."""
        with self._changed:
            self._woken = True
            self._changed.notify()

    def ages(self) -> dict[Claim, float]:
        """Return the seconds since each claim began, or since the last step of the claim's heal."""
        with self._changed:
            now = time.monotonic()
            return {claim: now - since for claim, since in self._claims.items()}

    def step(self, claim: Claim) -> None:
        """Record that a running claim's heal makes a step."""
        with self._changed:
            if claim in self._claims:
                self._claims[claim] = time.monotonic()

    def stop(self, timeout: float) -> bool:
        """Stop claiming; release claims that no worker has begun. Return whether all workers end within ``timeout`` seconds."""
        deadline = time.monotonic() + timeout
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._claimer.join(timeout)
        waiting = self._drain()
        self._release(waiting)
        for _thread in self._threads:
            self._todo.put(None)
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _drain(self) -> list[Claim]:
        waiting: list[Claim] = []
        while True:
            try:
                claim = self._todo.get_nowait()
            except queue.Empty:
                return waiting
            if claim is not None:
                waiting.append(claim)

    def _release(self, claims: list[Claim]) -> None:
        if not claims:
            return
        try:
            claiming.release(self._engine.database, claims)
        except JournalUnavailable as outage:
            LOG.warning("%d claimed rows become free when their leases end: %s", len(claims), outage)

    def _claim_all(self) -> None:
        while not self._stopping:
            self._engine.meter.beat("dispatcher")
            try:
                full = self._claim_once()
            except JournalUnavailable as outage:
                LOG.warning("%s; trying again every %g s", outage, _OUTAGE_WAIT)
                self._sleep(_OUTAGE_WAIT)
                continue
            except Exception:
                LOG.exception("a bug in stackmend's dispatcher")
                self._sleep(_OUTAGE_WAIT)
                continue
            if not full:
                self._sleep(self._engine.settings.poll_seconds)

    def _claim_once(self) -> bool:
        with self._changed:
            free = self._engine.settings.workers - len(self._claims)
        if free <= 0:
            return False
        claims = self._claim(free)
        with self._changed:
            self._claims.update(dict.fromkeys(claims, time.monotonic()))
        for claim in claims:
            self._todo.put(claim)
        return len(claims) >= free

    def _claim(self, free: int) -> list[Claim]:
        with self._changed:
            running = list(self._claims)
        runnable = self._runnable()
        claims = self._within_backoff(runnable, free, running, self._take)
        recovering = [name for name in self._may_run() if self._control(name).recovers]
        timers = partial(self._take, keys=[self._engine.tasks[name].timer for name in recovering])
        claims += self._within_backoff(recovering, free - len(claims), [*running, *claims], timers)
        # A heal that must not stop halfway goes on, whatever stops its handler. The gates defer the others.
        stopped = [name for name, task in self._engine.tasks.items() if task.runs and name not in runnable]
        return claims + self._within_backoff(stopped, free - len(claims), [*running, *claims], self._take_interrupted)

    def _within_backoff(self, names: Sequence[str], free: int, running: Sequence[Claim], take: Take) -> list[Claim]:
        # One more than is free: so an allowance of 1 always means a probe.
        allowance = {name: self._engine.backoff.allowance(name, free + 1) for name in names}
        claims = take([name for name, allowed in allowance.items() if allowed > 1], free, running)
        busy = {claim.handler for claim in running}
        for name in [name for name, allowed in allowance.items() if allowed == 1 and name not in busy]:
            claims += take([name], min(1, free - len(claims)), [*running, *claims])
        return claims

    def _take(
        self, names: Sequence[str], limit: int, running: Sequence[Claim], keys: Sequence[Key] = ()
    ) -> list[Claim]:
        admit = partial(self._shares.admit, [claim.kind for claim in running])
        lease = self._engine.settings.lease_seconds
        return claiming.claim(self._engine.database, self._engine.replica, names, limit, lease, keys, admit)

    def _take_interrupted(self, names: Sequence[str], limit: int, _running: Sequence[Claim]) -> list[Claim]:
        lease = self._engine.settings.lease_seconds
        return claiming.claim_interrupted(self._engine.database, self._engine.replica, names, limit, lease)

    def _runnable(self) -> list[str]:
        if time.monotonic() - self._controls_at > _CONTROLS_AGE:
            self._controls = controls.read(self._engine.database)
            self._controls_at = time.monotonic()
        return [name for name in self._may_run() if not self._control(name).stopped]

    def _may_run(self) -> list[str]:
        return [name for name, task in self._engine.tasks.items() if task.runs and task.is_open]

    def _control(self, name: str) -> controls.Control:
        return self._controls.get(name, controls.Control(name))

    def _sleep(self, seconds: float) -> None:
        with self._changed:
            if not self._woken and not self._stopping:
                self._changed.wait(seconds)
            self._woken = False

    def _work(self) -> None:
        while (claim := self._todo.get()) is not None:
            try:
                self._worker.work(claim, partial(self.step, claim))
            finally:
                with self._changed:
                    self._claims.pop(claim, None)
                    self._woken = True
                    self._changed.notify()
