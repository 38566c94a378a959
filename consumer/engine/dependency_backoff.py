"""Back-off of whole handlers while a dependency is down.

Without it, a thousand keys would hammer Placement during an outage. So no thread claims the handler's rows until the back-off
ends. Then one row is the probe. The first answer ends the back-off for all rows, and no row loses an attempt.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

#: Seconds of the first back-off and of the longest; it doubles. An operator who has repaired Placement waits for it.
FIRST, LAST = 0.5, 5.0


@dataclass(frozen=True, slots=True)
class _Pause:
    until: float
    seconds: float


class DependencyBackoff:
    """The back-offs of this process only, because another replica may reach the dependency."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._pauses: dict[str, _Pause] = {}
        self._lock = threading.Lock()

    def down(self, handler: str) -> float:
        """Record that the dependency is down; return the seconds that the handler waits."""
        with self._lock:
            before = self._pauses.get(handler)
            now = self._clock()
            if before and before.until > now:
                return before.until - now
            seconds = min(LAST, before.seconds * 2) if before else FIRST
            self._pauses[handler] = _Pause(now + seconds, seconds)
            return seconds

    def up(self, handler: str) -> bool:
        """Record an answer; return whether the answer ended a back-off."""
        if handler not in self._pauses:
            return False
        with self._lock:
            return self._pauses.pop(handler, None) is not None

    def allowance(self, handler: str, free: int) -> int:
        """Return how many rows may be claimed now: none during the back-off, then one as a probe, otherwise ``free``."""
        with self._lock:
            pause = self._pauses.get(handler)
            if pause is None:
                return free
            return 0 if pause.until > self._clock() else min(1, free)
