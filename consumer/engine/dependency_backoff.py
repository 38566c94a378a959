"""Lets a handler wait (its back-off) while a dependency that all its inspections need is down.

Until the back-off ends, the dispatcher claims no row of the handler. After its end, a worker works on one row as a probe. If
the dependency answers, work on all rows goes on. If not, the next back-off begins.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

#: Seconds of the first and of the longest back-off; each is twice the one before. The longest is short, because an operator
#: who has repaired Placement waits for it.
FIRST, LAST = 0.5, 5.0


@dataclass(frozen=True, slots=True)
class _Pause:
    until: float
    seconds: float


class DependencyBackoff:
    """The back-offs of all handlers in this process."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._pauses: dict[str, _Pause] = {}
        self._lock = threading.Lock()

    def down(self, handler: str) -> float:
        """Record that a dependency of the handler is down; return for how many seconds the handler waits."""
        with self._lock:
            before = self._pauses.get(handler)
            now = self._clock()
            if before and before.until > now:
                return before.until - now
            seconds = min(LAST, before.seconds * 2) if before else FIRST
            self._pauses[handler] = _Pause(now + seconds, seconds)
            return seconds

    def up(self, handler: str) -> bool:
        """Record that the handler's dependencies answer; return whether this ended a back-off."""
        if handler not in self._pauses:
            return False
        with self._lock:
            return self._pauses.pop(handler, None) is not None

    def left(self, handler: str) -> float:
        """Return the seconds until the handler's back-off ends; 0 without one."""
        with self._lock:
            pause = self._pauses.get(handler)
            return max(0.0, pause.until - self._clock()) if pause else 0.0

    def allowance(self, handler: str, free: int) -> int:
        """Return how many rows of the handler may be claimed now; ``free`` without a back-off."""
        with self._lock:
            pause = self._pauses.get(handler)
            if pause is None:
                return free
            return 0 if pause.until > self._clock() else min(1, free)
