"""Dependencies that are down: their handlers wait as one, not key by key.

When every look of a handler needs Placement and Placement is down, a thousand keys that each try and back off would
hammer it and wake long after it is back. So the handler is held instead: nothing of it is claimed until the hold ends;
then one row probes. The first look that gets an answer ends the hold for all, with no attempt burnt.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

#: Seconds of the first hold; it doubles up to the last: an operator who has brought Placement back wants to see work go on.
FIRST, LAST = 0.5, 5.0


@dataclass(frozen=True, slots=True)
class Hold:
    """A handler that waits for a dependency."""

    until: float
    seconds: float


class Holds:
    """The holds of this process; another replica may see the dependency up."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._held: dict[str, Hold] = {}
        self._lock = threading.Lock()

    def down(self, handler: str) -> float:
        """A look found the dependency down: hold the handler; return for how many seconds."""
        with self._lock:
            before = self._held.get(handler)
            now = self._clock()
            if before and before.until > now:
                return before.until - now
            seconds = min(LAST, before.seconds * 2) if before else FIRST
            self._held[handler] = Hold(now + seconds, seconds)
            return seconds

    def up(self, handler: str) -> bool:
        """A look got an answer: end the hold; return whether there was one."""
        if handler not in self._held:
            return False
        with self._lock:
            return self._held.pop(handler, None) is not None

    def allowance(self, handler: str, free: int) -> int:
        """Return how many rows of the handler may be claimed now: none while held, one to probe, else ``free``."""
        with self._lock:
            held = self._held.get(handler)
            if held is None:
                return free
            return 0 if held.until > self._clock() else min(1, free)
