"""Counts the objects that the heals of one sweep could change. If the number is too large, none of these heals begins."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field

from consumer.conf.engine import EngineSettings
from handlers.base import Handler, Key, Refused


@dataclass
class Breaker:
    """Counts the objects of one sweep's suspects.

    While the count exceeds ``limit``, the breaker inspects the oldest suspect that is not inspected yet. Of this suspect, it
    then counts only the objects that heals could change.

    :param refused: keys that do not count, because their drift is known and no heal is possible
    """

    handler: Handler
    limit: int
    refused: Collection[str] = ()
    suspects: int = 0
    _uninspected: deque[Key] = field(default_factory=deque)

    @property
    def trips(self) -> bool:
        return self.suspects > self.limit

    def through(self, keys: Iterable[Key]) -> Iterator[Key]:
        for key in keys:
            self._count(key)
            yield key
            if self.trips:
                return

    def _count(self, key: Key) -> None:
        if str(key) in self.refused:
            return
        self.suspects += key.weight
        self._uninspected.append(key)
        while self.trips and self._uninspected:
            oldest = self._uninspected.popleft()
            self.suspects += objects_at_risk(self.handler, oldest) - oldest.weight


def objects_at_risk(handler: Handler, key: Key) -> int:
    """Inspect a key; return how many objects its heals could change: 0 after Refused, ``key.weight`` after another error."""
    try:
        findings = handler.inspect_suspect(key, math.inf)
        healable = handler.healable_problems
        return sum(finding.weight for finding in findings if finding.healable and finding.problem in healable)
    except Refused:
        return 0
    except Exception:
        return key.weight


def plausible(settings: EngineSettings, population: int) -> int:
    return max(settings.breaker_count, population * settings.breaker_percent // 100)
