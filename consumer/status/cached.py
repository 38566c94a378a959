from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")

#: Seconds for which an answer is cached; if longer, this many times the time that the call took.
AGE, SHARE = 5.0, 10.0


class Cached(Generic[T]):
    """Calls ``make`` and caches the result for a while, so that requests of many HTTP clients read the journal once."""

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._made: list[T] = []
        self._until = float("-inf")

    def __call__(self) -> T:
        with self._lock:
            began = time.monotonic()
            if began >= self._until:
                self._made = [self._make()]
                ended = time.monotonic()
                self._until = ended + max(AGE, SHARE * (ended - began)) if AGE else began
            return self._made[0]
