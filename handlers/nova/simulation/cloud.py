"""A simulated Nova: it writes the rows of Nova's services into SQLite files of one folder.

Rows and allocations change in Nova's order, so that a test can stop half way. A running server has one port, bound to the
server's host. The simulation has no quotas, archives nothing, and makes none of Nova's checks.
"""

from __future__ import annotations

from handlers.nova.simulation.aggregates import Aggregates
from handlers.nova.simulation.hosts import Hosts
from handlers.nova.simulation.moves import Moves


class NovaSimulation(Hosts, Moves, Aggregates):
    """One simulated cloud; call :meth:`start` first and :meth:`stop` last."""
