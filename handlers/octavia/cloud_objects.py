"""Servers, ports, images and groups as values, and the tags and metadata that stackmend gives them.

stackmend reads tags and metadata only from the cloud, never from the journal. Each ``age`` is the seconds since the object's
creation, by this host's clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

#: tag of a placeholder of the spare pool; its removal claims the placeholder (204 for one caller, 404 for others)
SPARE = "stackmend-spare"

#: tag of a server that is being preserved or is preserved
PRESERVED = "stackmend-preserved"

#: keys of a preserved server's metadata and of an image's properties
AMPHORA = "stackmend_amphora"
LOAD_BALANCER = "stackmend_load_balancer"
REASON = "stackmend_reason"
SINCE = "stackmend_since"
METHOD = "stackmend_method"
#: ``preserving`` until the load balancer has its amphorae again, then ``preserved``; ``released`` to an operator
STATE = "stackmend_state"
RELEASED = "released"
#: metadata of a marked server: the ends of its last two heartbeat leases, by the clock of Octavia's database
LEASE = "stackmend_lease"
#: metadata of a server and property of an image: ``spare_amphora_owner`` of the stackmend that made or preserved the object
OWNER = "stackmend_owner"

#: the name of an amphora's server begins with it (``octavia/controller/worker/v2/tasks/compute_tasks.py``)
AMPHORA_PREFIX = "amphora-"
#: the name of a preserved server begins with it, so that no tool takes it for an amphora
PRESERVED_PREFIX = "preserved-amphora-"
#: the name of a placeholder begins with it
SPARE_PREFIX = "octavia-spare-"

#: the states of a server in which Nova changes tags and metadata
DESCRIBABLE = frozenset({"ACTIVE", "SHUTOFF", "PAUSED", "SUSPENDED"})

#: the state of a deleted server that Nova keeps for ``reclaim_instance_interval``, and shows by its id only. Each further
#: deletion begins the interval anew (``nova/compute/api.py``, ``soft_delete``)
SOFT_DELETED = "SOFT_DELETED"
#: the task with which Nova restores a soft-deleted server; until its end, the server's state is SOFT_DELETED
_RESTORING = "restoring"


@dataclass(frozen=True, slots=True)
class Server:
    """A server, as Nova shows it to an administrator.

    :param host: None for a server on no host, such as an offloaded one
    :param host_up: whether the host's compute service answers; None when unknown
    :param image: None for a server that boots from a volume
    :param groups: ids of the server groups; Nova's listings leave them empty
    :param quiet: seconds since Nova last changed the server
    """

    id: str
    name: str
    project_id: str
    status: str
    task_state: str | None = None
    host: str | None = None
    host_up: bool | None = None
    zone: str | None = None
    flavor: str | None = None
    image: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    tags: frozenset[str] = frozenset()
    groups: tuple[str, ...] = ()
    locked: bool = False
    age: float = 0.0
    quiet: float = 0.0

    @property
    def is_soft_deleted(self) -> bool:
        """Whether Nova keeps a deleted server, and does not restore it now."""
        return self.status == SOFT_DELETED and self.task_state != _RESTORING


@dataclass(frozen=True, slots=True)
class Port:
    """A port, as Neutron shows it to an administrator.

    :param revision: Neutron's number for the port's state; a change succeeds only while Neutron's port has this number
    """

    id: str
    name: str
    project_id: str
    network_id: str
    device_id: str
    device_owner: str
    mac: str
    admin_up: bool
    revision: int
    address_pairs: tuple[str, ...] = ()
    security_groups: tuple[str, ...] = ()
    age: float = 0.0
    addresses: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Image:
    """An image, as Glance shows it.

    :param status: ``active`` when the image is complete
    """

    id: str
    name: str
    status: str
    owner: str
    protected: bool
    visibility: str
    tags: frozenset[str] = frozenset()
    properties: Mapping[str, str] = field(default_factory=dict)
    age: float = 0.0


@dataclass(frozen=True, slots=True)
class Group:
    """A server group or a security group of Octavia's project.

    :param tags: the tags of a security group that was read by its name; otherwise empty
    :param age: 0 except in a listing of security groups; Nova does not show the age of a server group
    """

    id: str
    name: str
    project_id: str
    members: tuple[str, ...] = ()
    tags: frozenset[str] = frozenset()
    age: float = 0.0
