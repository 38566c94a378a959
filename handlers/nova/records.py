"""Rows of Nova's databases as Python objects. Ages are in seconds, by the database's clock."""

from __future__ import annotations

from dataclasses import dataclass

#: statuses after which a migration does nothing more; ``finished`` is not one: it may wait for days to be confirmed
TERMINAL = frozenset({"confirmed", "reverted", "error", "failed", "completed", "cancelled", "done"})


@dataclass(frozen=True, slots=True)
class Instance:
    """A row of ``instances``, deleted or not.

    :param hidden: whether Nova hides this copy of the instance, during a cross-cell resize
    :param age: seconds since the row's last change
    """

    uuid: str
    project_id: str | None
    user_id: str | None
    host: str | None
    node: str | None
    vm_state: str | None
    task_state: str | None
    deleted: bool
    hidden: bool
    age: float


@dataclass(frozen=True, slots=True)
class Migration:
    """A row of ``migrations``, deleted or not. Nova deletes an instance's migrations with the instance.

    :param source: host and node
    :param age: seconds since the row's last change
    """

    uuid: str | None
    instance_uuid: str | None
    status: str | None
    kind: str | None
    source: tuple[str | None, str | None]
    dest: tuple[str | None, str | None]
    deleted: bool
    age: float

    @property
    def terminal(self) -> bool:
        return self.status in TERMINAL

    @property
    def within_node(self) -> bool:
        """Whether source and destination are the same node, or the same host if Nova has not chosen the node yet."""
        return self.dest in {self.source, (self.source[0], None)}


@dataclass(frozen=True, slots=True)
class ComputeNode:
    """A row of ``compute_nodes``. The node's root provider in Placement has the same uuid.

    :param age: seconds since Nova made the row
    :param ironic: whether the node is a machine of Ironic, which can move from one nova-compute to another
    """

    id: int
    uuid: str
    host: str
    node: str
    mapped: bool
    deleted: bool
    age: float
    ironic: bool = False


@dataclass(frozen=True, slots=True)
class Service:
    """A nova-compute service that is not deleted, whether up or down.

    :param age: seconds since Nova made the row
    """

    host: str
    age: float


@dataclass(frozen=True, slots=True)
class HostMapping:
    host: str
    cell_id: int


@dataclass(frozen=True, slots=True)
class InstanceMapping:
    """A row of ``instance_mappings``. ``cell_id`` is None while Nova schedules the instance.

    :param queued: the column ``queued_for_delete``
    :param user_id: None if a Nova before Stein made the row
    """

    instance_uuid: str
    cell_id: int | None
    queued: bool = False
    project_id: str | None = None
    user_id: str | None = None

    def names_owner(self, project_id: str | None, user_id: str | None) -> bool:
        return self.project_id == project_id and self.user_id in {None, user_id}


@dataclass(frozen=True, slots=True)
class Aggregate:
    uuid: str
    name: str
    hosts: frozenset[str]
