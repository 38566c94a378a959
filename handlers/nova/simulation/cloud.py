"""The Nova of a small cloud: the writes of nova-api, nova-conductor, nova-scheduler and nova-compute, row by row.

It writes ``nova_api.db``, ``cell0.db``, ``cell1.db`` ... and ``placement.db`` in one folder. Rows and allocations change in
Nova's order, so that a test can stop half way; each method names the Nova module. Notifications wait for
:meth:`NovaSimulation.take`. Left out: quotas, networks, volumes, shadow tables, and the checks that Nova makes first.
"""

from __future__ import annotations

from handlers.nova.simulation.aggregates import Aggregates
from handlers.nova.simulation.hosts import Hosts
from handlers.nova.simulation.moves import Moves


class NovaSimulation(Hosts, Moves, Aggregates):
    """One cloud; call :meth:`start` first and :meth:`stop` last."""
