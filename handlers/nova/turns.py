from __future__ import annotations

import random
import threading
from bisect import bisect_left
from collections.abc import Iterable


class Turns:
    """Chooses the ids that each sweep reads; successive sweeps of one process cover all. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        #: the first id of the next sweep; a process begins anywhere, so that short-lived ones cover all in time
        self._next = f"{random.getrandbits(32):08x}"

    def take(self, ids: Iterable[str], size: int) -> list[str]:
        """Return up to ``size`` ids in order, from where the last call ended; start again after the last id."""
        ordered = sorted(ids)
        if len(ordered) <= size:
            return ordered
        with self._lock:
            start = bisect_left(ordered, self._next) % len(ordered)
            chosen = (ordered + ordered)[start : start + size]
            self._next = (ordered + ordered)[start + size]
        return chosen
