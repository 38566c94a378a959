"""Nova's side of a small cloud: what nova-api, nova-conductor, nova-scheduler and nova-compute write, row by row.

Writes ``nova_api.db``, ``cell0.db``, ``cell1.db`` ... and ``placement.db`` in one folder, nothing else. Rows and
allocations change in Nova's order, so a test can stop half way; every method names the Nova module that does it. What
Nova would publish is kept until :meth:`NovaSimulation.take`.

Left out on purpose: quotas, networks, volumes, shadow tables, and every check that Nova makes before it acts.
"""

from __future__ import annotations

from handlers.nova.simulation.aggregates import Aggregates
from handlers.nova.simulation.hosts import Hosts
from handlers.nova.simulation.moves import Moves


class NovaSimulation(Hosts, Moves, Aggregates):
    """One cloud. Call :meth:`start` first and :meth:`stop` last."""
