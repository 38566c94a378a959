"""Decides which leases have ended, although the clocks of Galera nodes can differ.

A node writes a lease's end by its own clock. By another node's clock, this end can seem past too early. So a lease counts as
ended only if the end also stayed unchanged for the length of a lease, by this process's monotonic clock.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from consumer.journal.work import Lease


@dataclass(frozen=True, slots=True)
class _Sighting:
    until: float
    since: float


class Sightings:
    """Remembers when this process first saw each lease with its present end.

    :param length: seconds for which a lease whose end has passed must also stay unchanged
    """

    def __init__(self, length: float) -> None:
        self._length = length
        self._seen: dict[tuple[int, str], _Sighting] = {}

    def ended(self, leases: Iterable[Lease], before: float, after: float) -> list[Lease]:
        """Return the leases that have ended.

        A lease whose end is not past never counts as ended: a replica with longer leases can extend it later.

        :param leases: all leases of the journal
        :param before, after: monotonic times before and after ``leases`` were read, in seconds
        """
        now = {(lease.id, lease.token): lease for lease in leases}
        self._seen = {place: self._sighting(place, lease, after) for place, lease in now.items()}
        return [
            lease for place, lease in now.items() if lease.over and before - self._seen[place].since >= self._length
        ]

    def _sighting(self, place: tuple[int, str], lease: Lease, after: float) -> _Sighting:
        known = self._seen.get(place)
        return known if known and known.until == lease.until else _Sighting(lease.until, after)
