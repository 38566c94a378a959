"""The Nova of a small cloud: its services' writes, row by row, to SQLite files in one folder.

Rows and allocations change in Nova's order, so that a test can stop half way. Left out: quotas, networks, volumes, shadow
tables, and the checks that Nova makes first.
"""

from __future__ import annotations

from handlers.nova.simulation.aggregates import Aggregates
from handlers.nova.simulation.hosts import Hosts
from handlers.nova.simulation.moves import Moves


class NovaSimulation(Hosts, Moves, Aggregates):
    """One cloud; call :meth:`start` first and :meth:`stop` last."""
