"""Placement as it answered a moment ago, so that what is asked by several in the same seconds is asked once.

**Looks** at many instances are repeated within seconds. What is kept for them cannot mislead a write: that an instance holds
nothing is proved by the write itself, which says that there is no such consumer; and of what a node lacks Placement gives
nothing. At worst a write is refused, and the next look asks again.

**Sweeps** of different tasks go over the same compute nodes one after another. What was held when the one asked is good
enough for the next: a sweep only suspects, and was itself never true of one moment. The same task's next sweep asks anew.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Generic, Self, TypeVar

from cachetools import TTLCache

from handlers.base import Resources
from handlers.nova.placement import Allocation, Holders, Placement, Provider

T = TypeVar("T")

#: seconds for which an answer is believed: a finding is seen twice within them, also where there are many and little time
TTL = 120.0
#: seconds for which another task's sweep need not ask again; less than the minute for which an instance has to be at rest
#: before anything is expected of it, so that nobody is suspected who only came meanwhile
SWEEP_TTL = 30.0
#: answers of each kind that are kept at most
_ANSWERS = 10_000
#: nodes whose holdings are kept at most, with all that live on them; in a larger fleet the others are asked again
_NODES = 250


class RecentPlacement:
    """Reads; safe to share between threads."""

    def __init__(self, placement: Placement) -> None:
        self._placement = placement
        self._allocations = _Answers(placement.allocation)
        self._trees = _Answers(placement.tree)
        self._offers = _Answers(placement.offers)
        self._lock = threading.Lock()
        #: by provider: whose sweep has asked, and what it was told
        self._held: TTLCache[str, tuple[str, Holders]] = TTLCache(_NODES, SWEEP_TTL)

    @classmethod
    def from_resources(cls, resources: Resources) -> Self:
        """Make it on the shared client."""
        return cls(resources.get(Placement.from_resources))

    def allocation(self, consumer: str) -> Allocation:
        """Return what a consumer holds; only that it holds nothing may be an earlier answer."""
        return self._allocations.of(consumer, lambda allocation: not allocation.providers)

    def tree(self, provider: str) -> Mapping[str, Provider]:
        """Return the tree that a provider belongs to, itself included."""
        return self._trees.of(provider, bool)

    def offers(self, provider: str) -> frozenset[str]:
        """Return the resource classes of which a provider has an inventory."""
        return self._offers.of(provider, bool)

    def held_of(self, providers: Iterable[str], task: str) -> dict[str, Holders]:
        """Return what each consumer holds of each provider, for a sweep.

        :param task: whose sweep it is; it is told what another task's has just asked, not again what it has asked itself
        :raises Unavailable: when one was not answered
        """
        asked = list(providers)
        with self._lock:
            known = {one: held for one in asked if (held := self._take(one, task)) is not None}
        answers = self._placement.held_of(one for one in asked if one not in known)
        with self._lock:
            for one, held in answers.items():
                # A full memory keeps what it has: sweeps go over the nodes in turn, and what made room would be missed next.
                if one in self._held or self._held.currsize < _NODES:
                    self._held[one] = task, held
        return known | answers

    def _take(self, provider: str, task: str) -> Holders | None:
        """Return what another task's sweep was told, which then is kept no longer."""
        asker, held = self._held.get(provider, (task, None))
        if asker == task:
            return None
        self._held.pop(provider, None)
        return held


class _Answers(Generic[T]):
    """The answers to one question, each for a while.

    :param ask: gets an answer
    """

    def __init__(self, ask: Callable[[str], T]) -> None:
        self._ask = ask
        self._lock = threading.Lock()
        self._known: TTLCache[str, T] = TTLCache(_ANSWERS, TTL)

    def of(self, name: str, keep: Callable[[T], bool]) -> T:
        """Return the answer about this; ``keep`` tells of one whether it may be given again."""
        with self._lock:
            known = self._known.get(name)
        if known is not None:
            return known
        answer = self._ask(name)
        if keep(answer):
            with self._lock:
                self._known[name] = answer
        return answer
