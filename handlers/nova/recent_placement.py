"""Placement as it answered a moment ago, for looks at many instances that are repeated within seconds.

What is kept cannot mislead a write: that an instance holds nothing is proved by the write itself, which says that there is no
such consumer; and of what a node lacks Placement gives nothing. At worst a write is refused, and the next look asks again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from itertools import takewhile
from typing import Generic, TypeVar

from handlers.nova.placement import Allocation, Placement, Provider

T = TypeVar("T")

#: seconds for which an answer is believed: a finding is seen twice within them, also where there are many and little time
TTL = 120.0


class RecentPlacement:
    """Reads; safe to share between threads."""

    def __init__(self, placement: Placement) -> None:
        self._allocations = _Answers(placement.allocation)
        self._trees = _Answers(placement.tree)
        self._offers = _Answers(placement.offers)

    def allocation(self, consumer: str) -> Allocation:
        """Return what a consumer holds; only that it holds nothing may be an earlier answer."""
        return self._allocations.of(consumer, lambda allocation: not allocation.providers)

    def tree(self, provider: str) -> Mapping[str, Provider]:
        """Return the tree that a provider belongs to, itself included."""
        return self._trees.of(provider, bool)

    def offers(self, provider: str) -> frozenset[str]:
        """Return the resource classes of which a provider has an inventory."""
        return self._offers.of(provider, bool)


class _Answers(Generic[T]):
    """The answers to one question, each for a while.

    :param ask: gets an answer
    """

    def __init__(self, ask: Callable[[str], T]) -> None:
        self._ask = ask
        self._lock = threading.Lock()
        self._known: dict[str, tuple[float, T]] = {}

    def of(self, name: str, keep: Callable[[T], bool]) -> T:
        """Return the answer about this; ``keep`` tells of one whether it may be given again."""
        now = time.monotonic()
        with self._lock:
            for old in list(takewhile(lambda known: now - self._known[known][0] > TTL, self._known)):
                del self._known[old]
            if name in self._known:
                return self._known[name][1]
        answer = self._ask(name)
        if keep(answer):
            with self._lock:
                self._known[name] = (now, answer)
        return answer
