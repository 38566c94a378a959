"""A small Nova in one process, for tests and ``stackmend demo``: SQLite databases, the real Placement service, notifications.

It needs the extra ``stackmend[demo]`` (openstack-placement).

cloud       the class NovaSimulation, with the operations of hosts, servers, moves, aggregates, devices and volumes
changes     single writes, without notifications
world       databases, Placement, Neutron, Cinder and notifications
store       reads and writes rows
report      Nova's client of Placement
placement, neutron, cinder  the other services
json_server a server of JSON over HTTP
bus         notifications from captured ones
records     flavors and compute nodes
"""

from handlers.nova.simulation.bus import notification
from handlers.nova.simulation.cloud import NovaSimulation
from handlers.nova.simulation.placement import PlacementMissing, PlacementServer, Reply
from handlers.nova.simulation.records import Flavor

__all__ = ["Flavor", "NovaSimulation", "PlacementMissing", "PlacementServer", "Reply", "notification"]
