"""Finds the instances that have an allocation in Placement, by few requests for many instances."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterable

from handlers.nova.placement import Placement

#: seconds for which inspections of different instances share a list
SHARED = 4.0
#: up to this many instances are asked for one by one
_FEW = 10
#: up to this many providers per instance, the consumers of all providers are listed
_PROVIDERS = 4


class Holders:
    """Asks Placement for each instance's allocation or, for many instances, lists the consumers of each provider.

    One thread at a time makes a list. Threads that waited use this list if it is young enough. No list serves an instance
    twice, so two inspections of an instance never rely on one list. Thread-safe.

    :param clock: returns monotonic seconds
    """

    def __init__(self, placement: Placement, clock: Callable[[], float] = time.monotonic) -> None:
        self._placement = placement
        self._clock = clock
        self._lock = threading.Lock()
        self._began = float("-inf")
        self._consumers: frozenset[str] = frozenset()
        self._served: set[str] = set()

    def among(self, instances: Collection[str], age: float) -> frozenset[str]:
        """Return the instances that have an allocation.

        :param age: the greatest age of a list in seconds; 0 right before a write
        :raises Unavailable: Placement does not answer
        """
        since = self._clock() - age
        if len(instances) > _FEW:
            with self._lock:
                if self._serves(instances, since) or self._list(len(instances)):
                    self._served.update(instances)
                    return frozenset(one for one in instances if one.lower() in self._consumers)
        found = self._placement.allocations(instances) if instances else {}
        return frozenset(one for one, allocation in found.items() if allocation.providers)

    def _serves(self, instances: Collection[str], since: float) -> bool:
        return self._began >= since and self._served.isdisjoint(instances)

    def _list(self, instances: int) -> bool:
        began = self._clock()
        providers = self._placement.providers()
        if len(providers) > _PROVIDERS * instances:
            return False
        self._consumers = _lower(self._placement.consumers_of_each(providers).values())
        self._began = began
        self._served.clear()
        return True


def _lower(consumers: Iterable[Collection[str]]) -> frozenset[str]:
    return frozenset(one.lower() for some in consumers for one in some)
