"""Claims due rows for idle worker threads, and nothing more than idle threads can take.

Woken by a condition at once when this process stored hints; other replicas' hints and rows that become due are found by a
poll. Only tasks that may run now are claimed: not paused, not stopped by the breaker, window open, not held.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Mapping

from consumer.conf.engine import EngineSettings
from consumer.engine.holds import Holds
from consumer.engine.meter import Meter
from consumer.engine.task import Task
from consumer.engine.worker import Worker
from consumer.journal import controls, work
from consumer.journal.database import Database, JournalUnavailable
from consumer.journal.work import Claim

LOG = logging.getLogger(__name__)
#: Seconds for which what operators paused and the breaker stopped is remembered.
_CONTROLS_AGE = 1.0
#: Seconds to wait for the journal's database when it does not answer.
_OUTAGE_WAIT = 1.0


class Dispatcher:
    """The claiming thread and the worker threads of one process."""

    def __init__(
        self,
        database: Database,
        tasks: Mapping[str, Task],
        settings: EngineSettings,
        replica: str,
        holds: Holds,
        worker: Worker,
        meter: Meter,
    ) -> None:
        self._database = database
        self._tasks = tasks
        self._settings = settings
        self._replica = replica
        self._holds = holds
        self._worker = worker
        self._meter = meter
        self._changed = threading.Condition()
        self._woken = False
        self._stopping = False
        self._held: set[Claim] = set()
        self._todo: queue.Queue[Claim | None] = queue.Queue()
        self._controls: dict[str, controls.Control] = {}
        self._controls_at = float("-inf")
        self._threads = [
            threading.Thread(target=self._work, name=f"worker-{number}", daemon=True)
            for number in range(settings.workers)
        ]
        self._claimer = threading.Thread(target=self._claim_all, name="dispatcher", daemon=True)

    def start(self) -> None:
        """Start all threads."""
        for thread in [*self._threads, self._claimer]:
            thread.start()

    def wake(self) -> None:
        """There may be new work: look at once."""
        with self._changed:
            self._woken = True
            self._changed.notify()

    @property
    def held(self) -> frozenset[Claim]:
        """The claims that threads work on now; their leases must be extended."""
        with self._changed:
            return frozenset(self._held)

    def stop(self, timeout: float) -> bool:
        """Claim nothing more, give back what has not begun, let what runs finish; return whether all did in time.

        :param timeout: seconds; what still runs then is cut off with the process and found by the next to look
        """
        deadline = time.monotonic() + timeout
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._claimer.join(timeout)
        waiting = self._drain()
        self._give_back(waiting)
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

    def _give_back(self, claims: list[Claim]) -> None:
        if not claims:
            return
        try:
            work.release(self._database, claims)
        except JournalUnavailable as outage:
            LOG.warning("%d claimed rows come free when their leases end: %s", len(claims), outage)

    def _claim_all(self) -> None:
        while not self._stopping:
            self._meter.beat("dispatcher")
            try:
                full = self._claim_once()
            except JournalUnavailable as outage:
                LOG.warning("%s; trying again every %g s", outage, _OUTAGE_WAIT)
                self._sleep(_OUTAGE_WAIT)
                continue
            except Exception:
                LOG.exception("a fault in stackmend's dispatcher")
                self._sleep(_OUTAGE_WAIT)
                continue
            if not full:
                self._sleep(self._settings.poll_seconds)

    def _claim_once(self) -> bool:
        """Claim for all idle threads; return whether there may be more to claim now."""
        with self._changed:
            free = self._settings.workers - len(self._held)
        if free <= 0:
            return False
        claims = self._claim(free)
        with self._changed:
            self._held.update(claims)
        for claim in claims:
            self._todo.put(claim)
        return len(claims) >= free

    def _claim(self, free: int) -> list[Claim]:
        allowance = {name: self._holds.allowance(name, free) for name in self._runnable()}
        lease = self._settings.lease_seconds
        open_names = [name for name, allowed in allowance.items() if allowed == free]
        claims = work.claim(self._database, self._replica, open_names, free, lease)
        probing = [name for name, allowed in allowance.items() if 0 < allowed < free]
        for name in probing[: free - len(claims)]:
            claims += work.claim(self._database, self._replica, [name], 1, lease)
        return claims

    def _runnable(self) -> list[str]:
        if time.monotonic() - self._controls_at > _CONTROLS_AGE:
            self._controls = controls.read(self._database)
            self._controls_at = time.monotonic()
        return [name for name, task in self._tasks.items() if task.runs and not self._stopped(name) and task.is_open]

    def _stopped(self, name: str) -> bool:
        control = self._controls.get(name)
        return control is not None and control.stopped

    def _sleep(self, seconds: float) -> None:
        with self._changed:
            if not self._woken and not self._stopping:
                self._changed.wait(seconds)
            self._woken = False

    def _work(self) -> None:
        while (claim := self._todo.get()) is not None:
            try:
                self._worker.work(claim)
            finally:
                with self._changed:
                    self._held.discard(claim)
                    self._woken = True
                    self._changed.notify()
