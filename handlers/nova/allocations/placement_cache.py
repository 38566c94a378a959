"""Caches answers of Placement for up to two minutes, so that several readers cause one request.

An outdated answer does no harm: only first allocations rely on it, and Placement refuses them if an allocation exists.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Generic, Self, TypeVar

from cachetools import TTLCache

from handlers.base import Resources
from handlers.nova.placement import Allocation, ByConsumer, Placement, Provider

T = TypeVar("T")

#: seconds of a cached answer to an inspection: enough for the second inspection, also when there are many
TTL = 120.0
#: seconds for which another handler's sweep uses an answer: less than the minute for which an instance must be at rest, so
#: that an instance which arrived meanwhile is not suspected
SWEEP_TTL = 30.0
#: cached answers of each kind, at most
_ANSWERS = 10_000
#: providers with cached consumers, at most; a sweep of a larger fleet asks again about the others
_NODES = 250


class RecentPlacement:
    """Remembers recent answers of Placement. Thread-safe."""

    def __init__(self, placement: Placement) -> None:
        self._placement = placement
        self._allocations = _Cache(placement.allocation)
        self._trees = _Cache(placement.tree)
        self._offers = _Cache(placement.offers)
        self._lock = threading.Lock()
        #: by provider: the handler that asked, and the answer
        self._consumers: TTLCache[str, tuple[str, ByConsumer]] = TTLCache(_NODES, SWEEP_TTL)

    @classmethod
    def from_resources(cls, resources: Resources) -> Self:
        return cls(resources.get(Placement.from_resources))

    def allocation(self, consumer: str) -> Allocation:
        """Return a consumer's allocation; cache it only if it is empty."""
        return self._allocations.get(consumer, lambda allocation: not allocation.providers)

    def tree(self, provider: str) -> Mapping[str, Provider]:
        return self._trees.get(provider, bool)

    def offers(self, provider: str) -> Mapping[str, int]:
        return self._offers.get(provider, bool)

    def consumers_of(self, providers: Iterable[str], task: str) -> dict[str, ByConsumer]:
        """Return the consumers of each provider, with their resources, for a sweep.

        :param task: the name of the handler that sweeps; the cache gives it only answers to other handlers
        """
        asked = list(providers)
        with self._lock:
            known = {one: found for one in asked if (found := self._take(one, task)) is not None}
        answers = self._placement.consumers_of_each(one for one in asked if one not in known)
        with self._lock:
            for one, found in answers.items():
                # When full, keep old entries: sweeps go in order, and an evicted entry would be the next one needed.
                if one in self._consumers or self._consumers.currsize < _NODES:
                    self._consumers[one] = task, found
        return known | answers

    def _take(self, provider: str, task: str) -> ByConsumer | None:
        asker, found = self._consumers.get(provider, (task, None))
        if asker == task:
            return None
        self._consumers.pop(provider, None)
        return found


class _Cache(Generic[T]):
    def __init__(self, ask: Callable[[str], T]) -> None:
        self._ask = ask
        self._lock = threading.Lock()
        self._answers: TTLCache[str, T] = TTLCache(_ANSWERS, TTL)

    def get(self, name: str, keep: Callable[[T], bool]) -> T:
        with self._lock:
            known = self._answers.get(name)
        if known is not None:
            return known
        answer = self._ask(name)
        if keep(answer):
            with self._lock:
                self._answers[name] = answer
        return answer
