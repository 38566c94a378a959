"""A small Nova in one process: its databases as SQLite files, the real Placement service, and the notifications.

For tests of handlers and for ``stackmend demo``. :class:`NovaSimulation` does to rows and allocations what Nova does, in
Nova's order, and can stop or fail where Nova can; nothing in it knows a handler. It needs the extra ``stackmend[demo]``
(openstack-placement), which is imported only when a server is made.
"""

from handlers.nova.simulation.bus import notification
from handlers.nova.simulation.cloud import NovaSimulation
from handlers.nova.simulation.placement import PlacementMissing, PlacementServer, Reply
from handlers.nova.simulation.records import Flavor

__all__ = ["Flavor", "NovaSimulation", "PlacementMissing", "PlacementServer", "Reply", "notification"]
