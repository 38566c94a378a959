from __future__ import annotations

import random
import threading
from bisect import bisect_left
from collections.abc import Iterable


class Turns:
    """Chooses the ids that each sweep reads, so that successive sweeps of one process read all ids. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        #: the first id of the next sweep. Each process begins at a random id, so that many short processes read all ids
        self._next = f"{random.getrandbits(32):08x}"

    def take(self, ids: Iterable[str], size: int) -> list[str]:
        """Return up to ``size`` of the sorted ids, from where the last call ended. After the last id, the first one follows."""
        ordered = sorted(ids)
        if len(ordered) <= size:
            return ordered
        with self._lock:
            start = bisect_left(ordered, self._next) % len(ordered)
            chosen = (ordered + ordered)[start : start + size]
            self._next = (ordered + ordered)[start + size]
        return chosen
