"""Moves the resources of an ended migration back to its instance.

**What drifts.** During a move, the migration has the source's resources in Placement, and the instance those of the
destination. After a failed or reverted move, the migration can keep the source's resources, which the instance should have.

**Why Nova lets it.** Nova returns the resources in the roll-back. If Placement is down then, Nova only logs the failure.

**What is read.** First the instance's allocation, then build request, mapping and rows in every cell. Of the last five
migrations, the handler reads the allocations of those that ended. Flavor and image follow, then the instance's ports. If one
cell or Neutron does not answer, the handler decides nothing.

**What is changed.** One ``POST /allocations`` at both generations replaces the instance's allocation with that of the
migration, even on a full node.

**Why a race does no harm.** The migration failed, was cancelled or reverted, and none succeeded since. The instance is at rest
on the node where the migration began, mapped to its one cell, unchanged for a minute. Neutron binds all its ports there.
The amounts are those of the flavor. If the scheduler, a move or Nova's late roll-back allocates meanwhile, a generation
changes, and the request fails. If our request is first, Nova's roll-back finds nothing to move and continues.

**What is not changed.** After a successful move, ``audit_allocations`` takes the migration's resources. stackmend only reports:

- a live migration in ``error``: it does not prove where the guest runs
- a deleted migration that did not end
- amounts that differ from the flavor
- resources of the instance that no migration explains
- several migrations with resources

**Undo.** The history has the exact ``openstack resource provider allocation set`` or ``delete`` for both consumers.

Sources: ``nova/scheduler/client/report.py`` (move_allocations), ``nova/conductor/tasks/migrate.py``
(revert_allocation_for_migration), ``nova/conductor/tasks/live_migrate.py``, ``nova/compute/manager.py`` (_revert_allocation).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Self

from handlers.access.neutron import Network
from handlers.access.roles import PLACEMENT, PORTS
from handlers.base import Finding, Healed, Json, Key, Mode, Resources, Roles, Trigger
from handlers.nova import concerns, keys, queries
from handlers.nova.allocations.consumers import Move, Problem
from handlers.nova.allocations.excess_facts import Judge
from handlers.nova.archived_consumers import Archive
from handlers.nova.base import PlacementHandler
from handlers.nova.cells import Cell
from handlers.nova.database import NovaDatabases
from handlers.nova.nodes import live_instances, require_own_placement
from handlers.nova.placement import Allocation, Placement, moving, plain
from handlers.nova.verdicts import Wait, soonest

#: seconds from a notification to the first inspection: a change of the last minute is not judged
_ROLLED_BACK = 60.0

_HINTS = (
    "compute_task.migrate_server.error",
    "instance.resize.error",
    "instance.resize_revert.end",
    "instance.live_migration_rollback.end",
    "instance.live_migration_abort.end",
)


@dataclass(frozen=True, slots=True)
class Swap:
    """The allocations of a migration and of its instance, with the verdict on the migration."""

    migration: Allocation
    instance: Allocation
    verdict: Move
    concerns: frozenset[str]

    @property
    def undo(self) -> str:
        empty = f"openstack resource provider allocation delete {self.instance.consumer}"
        return "\n".join([self.instance.command() if self.instance.providers else empty, self.migration.command()])

    def to_json(self) -> Json:
        return {
            "instance": self.instance.consumer,
            "instance_generation": self.instance.generation,
            "instance_allocations": plain(self.instance.providers),
            "migration": self.migration.consumer,
            "migration_generation": self.migration.generation,
            "migration_allocations": plain(self.migration.providers),
            "project_id": self.migration.project_id,
            "user_id": self.migration.user_id,
        }


class AuditMigrations(PlacementHandler):
    name = "audit_migrations"
    title = "Move back to their instances the resources that ended migrations still hold in Placement"
    kinds = ("instance",)
    healable_problems = frozenset({Problem.MISPLACED})
    concerned_kinds = concerns.KINDS
    triggers = tuple(Trigger(event, keys.instance, after=_ROLLED_BACK) for event in _HINTS)
    default_mode = Mode.AUDIT
    default_interval = 3600
    confirm_after = 5.0
    requires = ("placement", "nova_api")
    cost = (
        "One query per cell, and one request to Placement per compute node where instances live from which a migration "
        "began, and one to Neutron per instance to heal; an hour is fine for thousands."
    )
    roles = Roles((PLACEMENT, PORTS))

    def __init__(self, databases: NovaDatabases, placement: Placement, network: Network) -> None:
        super().__init__(databases, placement)
        self._judge = Judge(databases, placement, Archive(databases), network)

    @classmethod
    def from_resources(cls, resources: Resources) -> Self:
        return cls(
            resources.get(NovaDatabases.from_resources),
            resources.get(Placement.from_resources),
            resources.get(Network.from_resources),
        )

    def inspect(self, key: Key) -> Iterable[Finding]:
        swaps = self._swaps(key.id)
        return [_finding(key, swap, among=len(swaps)) for swap in swaps]

    def sweep(self) -> Iterator[Key]:
        return self.sweep_cells(self._databases.host_cells())

    def sweep_cells(self, cells: Collection[Cell]) -> Iterator[Key]:
        found, down = self._databases.run_in_available(cells, queries.stayed)
        for nodes in found.values():
            for node, moves in nodes.items():
                holders = self._placement.holders(node)
                yield from (Key("instance", one) for one in sorted({moves[held] for held in holders & set(moves)}))
        if down is not None:
            raise down

    def population(self) -> int:
        return live_instances(self._databases)

    def heal(self, finding: Finding) -> Healed:
        self._databases.require_known_schema()
        require_own_placement(self._databases, self._placement)
        proved = self.prove_again(finding).evidence
        owner = proved["project_id"], proved["user_id"]
        migration, instance = (
            Allocation(proved[one], proved[f"{one}_allocations"], *owner, proved[f"{one}_generation"])
            for one in ("migration", "instance")
        )
        self._placement.move_allocation(migration, instance)
        return Healed(
            f"moved the resources of migration {migration.consumer} to its instance {instance.consumer}",
            before={"migration": plain(migration.providers), "instance": plain(instance.providers)},
            after={"migration": {}, "instance": plain(migration.providers)},
            undo=finding.undo,
        )

    def _swaps(self, instance: str) -> list[Swap]:
        look = self._judge.look([instance])
        own, *moves = self._judge.judge(look, instance)
        waits = [one.verdict for one in moves if isinstance(one.verdict, Wait)]
        if waits:
            raise soonest(waits)
        return [
            Swap(one.allocation, own.allocation, one.verdict, self._judge.concerns(look, one))
            for one in moves
            if isinstance(one.verdict, Move)
        ]


def _finding(key: Key, swap: Swap, among: int) -> Finding:
    refusal = swap.verdict.refusal
    if among > 1 and not refusal:
        refusal = f"{among} migrations of the instance hold resources: nothing proves which of them is right"
    summary = f"{swap.verdict.summary} (instance {swap.instance.consumer}, migration {swap.migration.consumer})"
    undo, plan = ("", "") if refusal else (swap.undo, str(moving(swap.migration, swap.instance)))
    problem, evidence = str(swap.verdict.problem), swap.to_json()
    return Finding(key, problem, summary, evidence, not refusal, refusal, undo=undo, plan=plan, concerns=swap.concerns)
