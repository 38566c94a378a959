"""The facts about a consumer of resources in Placement, and the verdicts on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from handlers.nova.allocations import moves
from handlers.nova.allocations.entitlement import Unbuildable
from handlers.nova.allocations.moves import Place
from handlers.nova.placement import Allocation, Held
from handlers.nova.records import Instance, InstanceMapping, Migration
from handlers.nova.verdicts import Keep, Report, Wait

#: consumer types of Nova: today always the first, or none from an old Placement
NOVA_TYPES = frozenset({None, "unknown", "INSTANCE", "MIGRATION"})


class Problem(StrEnum):
    ARCHIVED = "instance-archived"
    UNKNOWN = "unknown-consumer"
    ONLY_HIDDEN = "only-hidden-copies"
    DELETED = "instance-deleted"
    LEFTOVER = "migration-leftover"
    UNPROVED = "migration-unproved"
    MISPLACED = "migration-holds-the-allocation"
    IN_CELL0 = "instance-in-cell0"
    OFFLOADED = "instance-offloaded"
    NO_HOST = "instance-without-host"
    NO_NODE = "node-unknown"
    LEFT_BEHIND = "left-on-another-node"
    SEVERAL_NODES = "on-several-nodes"


@dataclass(frozen=True, slots=True)
class Located:
    """An instance's row in one cell, with its concerns."""

    instance: Instance
    cell_id: int
    in_cell0: bool = False
    concerns: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class InstanceFacts:
    """The facts about an instance, and its allocation or that of one of its migrations.

    :param rows: the instance's rows in all cells, including deleted and hidden ones
    :param migrations: the instance's migrations, youngest first, including deleted ones
    :param here: host and node of the instance
    :param roots: the root provider of each provider of the allocation
    :param nodes: host and node of each root provider that is a compute node, deleted or not
    """

    allocation: Allocation
    building: bool = False
    mapping: InstanceMapping | None = None
    rows: tuple[Located, ...] = ()
    migrations: tuple[Migration, ...] = ()
    here: Place = (None, None)
    roots: Mapping[str, str] = field(default_factory=dict)
    nodes: Mapping[str, Place] = field(default_factory=dict)

    @property
    def live(self) -> tuple[Located, ...]:
        return tuple(row for row in self.rows if not row.instance.deleted)

    @property
    def row(self) -> Located:
        """The instance's first live row; IndexError without one."""
        return self.live[0]

    @property
    def instance(self) -> Instance:
        return self.row.instance

    @property
    def age(self) -> float:
        return min([row.instance.age for row in self.rows] + [move.age for move in self.migrations])


@dataclass(frozen=True, slots=True)
class Facts(InstanceFacts):
    """The facts about a consumer. If the consumer is a migration, *the instance* is the migration's instance.

    :param archived: whether the consumer is an archived instance or the migration of one
    :param home: the compute node with the instance's host and node; None unless exactly one matches
    :param own: the instance's resources, if the consumer is a migration; ``roots`` has their providers too
    :param wanted: the instance's entitlement by flavor and image; None if not read
    """

    migration: Migration | None = None
    archived: bool = False
    home: str | None = None
    own: Held = field(default_factory=dict)
    wanted: Mapping[str, int] | Unbuildable | None = None

    @property
    def is_mapped(self) -> bool:
        return self.mapping is not None and self.mapping.cell_id == self.row.cell_id

    @property
    def is_mapped_elsewhere(self) -> bool:
        """Whether a mapping without ``queued_for_delete`` names no cell, or a cell where the instance has no row."""
        mapping = self.mapping
        return mapping is not None and not mapping.queued and mapping.cell_id not in {row.cell_id for row in self.rows}

    @property
    def moving(self) -> tuple[Migration, ...]:
        """The open migrations, including those in ``finished``, which wait until the user confirms the resize."""
        return tuple(move for move in self.migrations if not move.deleted and not move.terminal)

    @property
    def strays(self) -> frozenset[str]:
        return frozenset(root for root in self.roots_of(self.allocation.providers) if root in self.nodes) - {self.home}

    @property
    def is_at_home(self) -> bool:
        held = self.allocation.providers if self.migration is None else self.own
        return self.home is not None and self.home in self.roots_of(held)

    @property
    def strays_are_left(self) -> bool:
        left = moves.left_places(self.migrations, self.here)
        return all(self.nodes[root] in left for root in self.strays)

    @property
    def stray_names(self) -> str:
        return ", ".join(sorted(str(self.nodes[root][1]) for root in self.strays))

    def roots_of(self, held: Held) -> set[str]:
        return {self.roots.get(provider, provider) for provider in held}


@dataclass(frozen=True, slots=True)
class Take:
    """The verdict to take all resources from the consumer except ``keep``."""

    problem: Problem
    summary: str
    keep: Held = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TakeIfWitnessed:
    """The verdict to take all resources from the consumer if an operator is the second witness.

    :param refusal: why stackmend alone does not take the resources
    """

    problem: Problem
    summary: str
    refusal: str


@dataclass(frozen=True, slots=True)
class Move:
    """The verdict that an ended or deleted migration has resources, but its instance has none of the node where it lives.

    :param refusal: why stackmend only reports this; empty if it may move the resources to the instance
    """

    problem: Problem
    summary: str
    refusal: str


Verdict = Keep | Wait | Report | Take | TakeIfWitnessed | Move
