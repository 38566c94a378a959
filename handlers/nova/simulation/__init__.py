"""A small Nova in one process: SQLite databases, the real Placement service, and notifications.

For tests and for ``stackmend demo``. :class:`NovaSimulation` changes rows and allocations in Nova's order, and can stop or
fail where Nova can; it knows no handler. It needs the extra ``stackmend[demo]`` (openstack-placement).
"""

from handlers.nova.simulation.bus import notification
from handlers.nova.simulation.cloud import NovaSimulation
from handlers.nova.simulation.placement import PlacementMissing, PlacementServer, Reply
from handlers.nova.simulation.records import Flavor

__all__ = ["Flavor", "NovaSimulation", "PlacementMissing", "PlacementServer", "Reply", "notification"]
