"""Remembers an answer, so that many clients burden the journal no more than one client."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")

#: Seconds for which an answer is remembered, or this many times what it took to make.
AGE, SHARE = 5.0, 10.0


class Cached(Generic[T]):
    """Calls a function and remembers the result for a while. Other callers wait meanwhile."""

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
