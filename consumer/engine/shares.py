"""Divides the worker threads between services, and between events and background work. No I/O.

With enough workers, some are reserved for each service (Nova, Octavia), and some for events. Background work is a sweep, or an
inspection that a sweep or a periodic event (sent at intervals, even without a change) requested.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from consumer.journal.work import Admit, Kind, Priority

#: One worker of this number is reserved for each service and its events.
_PART = 8


@dataclass(frozen=True, slots=True)
class Shares:
    """:param services: the service of each handler: ``nova``, ``octavia``"""

    workers: int
    services: Mapping[str, str]

    def admit(self, running: Iterable[Kind]) -> Admit:
        """Return a function that decides, for one row after the other, whether a worker is free for the row.

        :param running: the kinds of the rows on which workers work now
        """
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
