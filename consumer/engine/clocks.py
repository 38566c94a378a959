"""Keeps the difference between the clocks of the Galera nodes that serve the journal.

Two inspections must be some seconds apart. The journal has the first inspection's time by one node's clock. By a faster clock,
the second inspection would come too soon. So stackmend adds the difference of the clocks to the first time.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from consumer.journal.node_clocks import NodeClock
from consumer.journal.work import Claim


class Clocks:
    def __init__(self) -> None:
        self._ahead: dict[str, float] = {}

    @property
    def apart(self) -> float:
        """Seconds between the fastest and the slowest clock, 0.0 for a single clock. A silent node keeps its last value."""
        ahead = list(self._ahead.values())
        return max(ahead) - min(ahead) if ahead else 0.0

    def measured(self, nodes: Iterable[NodeClock]) -> None:
        self._ahead |= {one.node: one.ahead for one in nodes if one.ahead is not None}

    def corrected(self, claim: Claim) -> Claim:
        """Return the claim with :attr:`apart` added to its ``seen_at``, if it has one."""
        return claim if claim.seen_at is None else replace(claim, seen_at=claim.seen_at + self.apart)
