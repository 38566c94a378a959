from __future__ import annotations

import threading
import time
from collections.abc import Callable

#: A failure that took fewer seconds than this costs its caller nothing, and is not remembered.
SLOW = 1.0
#: Seconds between a slow failure and the next question to the server.
PAUSE = 10.0


class Backoff:
    """Remembers that a database did not answer, so that calls fail at once until the back-off ends. Thread-safe."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._reason = ""
        self._until = 0.0

    def refusal(self) -> str:
        """Return why the caller must not use the database now; empty if the caller may use it.

        When a back-off ends, the next caller may use the database. For all others, a new back-off begins.
        """
        with self._lock:
            now = self._clock()
            if not self._reason:
                return ""
            if now >= self._until:
                self._until = now + PAUSE
                return ""
            return f"{self._reason}; asking again in {self._until - now:.0f} s"

    def failed(self, reason: str, seconds: float) -> None:
        """Begin a back-off if the caller waited :data:`SLOW` seconds or more for the failure."""
        with self._lock:
            if seconds >= SLOW:
                self._reason, self._until = reason, self._clock() + PAUSE

    def answered(self) -> None:
        if self._reason:
            with self._lock:
                self._reason = ""
