"""Counts the objects that the heals of one sweep could change. If they are too many, the sweep heals nothing."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field

from consumer.conf.engine import EngineSettings
from handlers.base import Handler, Key, Refused


@dataclass
class Breaker:
    """Counts the suspects of one sweep.

    Many suspects may be drift that no heal changes, such as consumers of a foreign service. So, beyond the limit, the breaker
    inspects suspects and counts only objects that a heal could change.

    :param limit: the largest plausible number of objects
    :param refused: keys that do not count, because no mode heals their known drift
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
        """Yield the keys of a sweep until the breaker trips; the key that trips it is the last."""
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
    """Inspect a key; return how many objects a heal could change, or the key's weight if the inspection fails or must wait."""
    try:
        findings = handler.inspect(key)
        healable = handler.healable_problems
        return sum(finding.weight for finding in findings if finding.healable and finding.problem in healable)
    except Refused:
        return 0
    except Exception:
        return key.weight


def plausible(settings: EngineSettings, population: int) -> int:
    """Return the largest plausible number of suspects: ``breaker_count``, or more if ``breaker_percent`` allows more."""
    return max(settings.breaker_count, population * settings.breaker_percent // 100)
