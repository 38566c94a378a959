"""Chooses the nested and sharing providers whose consumers a sweep reads.

A compute node can have dozens of nested providers. So a sweep reads only as many as there are compute nodes, but at least
:data:`FLOOR`.
"""

from __future__ import annotations

from collections.abc import Collection

from handlers.nova.placement import Placement
from handlers.nova.turns import Turns

#: providers of a sweep in a small fleet
FLOOR = 100


class Nested:
    """Chooses providers, so that successive sweeps read all of them. Thread-safe."""

    def __init__(self, placement: Placement) -> None:
        self._placement = placement
        self._turns = Turns()

    def due(self, roots: Collection[str]) -> dict[str, str]:
        """Return the providers to read in this sweep, each with its root provider.

        :param roots: the root providers of compute nodes, which the result never contains
        """
        sharing = set(self._placement.sharing_providers())
        found = {
            one.uuid: one.root
            for one in self._placement.providers().values()
            if one.uuid not in roots and (one.root in roots or one.uuid in sharing)
        }
        return {uuid: found[uuid] for uuid in self._turns.take(found, max(FLOOR, len(roots)))}
