"""Shares the workers between services, and between events and background work. Pure.

A worker that waits for a silent dependency, sweeps or archives cannot take an event. So each service keeps workers that other
services do not take, and each service keeps workers for its events. Background work is a sweep, or an inspection after a sweep
or after a periodic event.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from consumer.journal.work import Admit, Kind, Priority

#: The part of the workers that is reserved for the events of one service: one in eight.
_PART = 8


@dataclass(frozen=True, slots=True)
class Shares:
    """The limits of one replica.

    :param services: the service of each handler
    """

    workers: int
    services: Mapping[str, str]

    def admit(self, running: Iterable[Kind]) -> Admit:
        """Return a function that admits rows as long as workers are free for them."""
        services = len(set(self.services.values()))
        reserve = max(1, self.workers // _PART)
        limits = {
            "sweeps": max(1, self.workers // 2),
            "background": max(1, self.workers - reserve * services),
            **{
                f"service {service}": max(1, self.workers - reserve * (services - 1))
                for service in self.services.values()
            },
        }
        busy: Counter[str] = Counter()

        def shares(kind: Kind) -> list[str]:
            names = [f"service {self.services[kind.handler]}"]
            if kind.is_sweep:
                names.append("sweeps")
            if kind.is_sweep or kind.priority <= Priority.PERIODIC:
                names.append("background")
            return names

        def admit(kind: Kind) -> bool:
            names = shares(kind)
            if any(busy[name] >= limits[name] for name in names):
                return False
            busy.update(names)
            return True

        for kind in running:
            busy.update(shares(kind))
        return admit
