"""Gives instances back what a migration that has ended still holds for them in Placement.

**What drifts.** While an instance is moved, its migration holds the resources of the source in Placement, and the instance
those of the destination. When the move fails or is reverted, the instance stays on its source, and what the migration holds
has to become the instance's again. Where that did not happen, the instance holds nothing of its own node: what it uses is
counted for a consumer of which nobody knows, which the next move, the next resize and the deletion of the instance pass by.

**Why Nova lets it.** The move back is one of the last things a roll-back does, when often the cause of the failure is still
there: with Placement down it is logged and forgotten, by the conductor (no valid host, scheduler not answering) as by
nova-compute (a resize that is reverted, a live migration that fails or is aborted). Nothing does it again later.

**What is read.** What the instance holds; then build request, mapping, and in every cell its row and its migrations; then
what those of its last five migrations hold that have ended. Which verdict follows from what is the table in
:mod:`handlers.nova.allocations.excess_rules`. When one cell does not answer there is no verdict at all.

**What is changed.** One ``POST /allocations`` takes everything from the migration and gives exactly that to the instance, in
place of what it holds of the destination: both or neither, with both generations, as Nova's own roll-back does it. The amounts
stay what they were, devices and shared storage with them, so it works on a full node, too.

**Why it cannot hurt.** Only for an instance at rest, on the very node where the migration began, mapped to the one cell in
which it lives: no task, no other migration in progress or waiting to be confirmed, nothing changed for a minute by the
database's clock (Nova writes some statuses before it moves the allocation), seen twice five seconds apart. Whoever claims or
moves meanwhile, Nova's own late roll-back included, changes a generation, and the request fails as a whole; where ours is
first, Nova finds that nothing is left to be moved, and goes on.

**What is not changed.** What a migration holds when its instance also holds its own node is too much, and so is what an
instance still holds of a host that it left, by evacuation or any other way: those are taken, not moved, and that is
``audit_allocations``. Here it is only reported, with the reason, when the instance lives elsewhere than where the migration
began, or was only resized within its node (then ``heal_allocations`` gives it what its flavor says), when the instance holds
what no migration explains, and when several migrations hold something of its node.

**Undo.** The exact ``openstack resource provider allocation set`` of both consumers is in the history.

Sources: ``nova/scheduler/client/report.py`` (move_allocations), ``nova/conductor/tasks/migrate.py``
(revert_allocation_for_migration), ``nova/conductor/tasks/live_migrate.py``, ``nova/compute/manager.py`` (_revert_allocation).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from handlers.access.roles import PLACEMENT
from handlers.base import Conflict, Finding, Healed, InFlight, Key, Mode, Refused, Roles, Trigger
from handlers.nova import keys, queries
from handlers.nova.allocations.excess_facts import Judge
from handlers.nova.allocations.excess_rules import Move
from handlers.nova.archived_consumers import Archive
from handlers.nova.base import PlacementHandler
from handlers.nova.database import NovaDatabases
from handlers.nova.nodes import live_instances
from handlers.nova.placement import Allocation, Held, Placement
from handlers.nova.verdicts import Wait

#: seconds from a notification to the first look: nothing is judged that changed during the last minute, so an earlier one
#: would be for nothing
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
    """What is to be moved: all that a migration holds, to an instance, in place of what that holds."""

    migration: Allocation
    instance: Allocation
    verdict: Move


class AuditMigrations(PlacementHandler):
    """See the module."""

    name = "audit_migrations"
    title = "Move back to their instances what ended migrations still hold for them in Placement"
    kinds = ("instance",)
    healable_problems = frozenset({"migration-holds-the-allocation"})
    triggers = tuple(Trigger(event, keys.instance, after=_ROLLED_BACK) for event in _HINTS)
    default_mode = Mode.AUDIT
    default_interval = 3600
    confirm_after = 5.0
    requires = ("placement", "nova_api")
    cost = (
        "One query per cell, and one request to Placement per compute node where instances live from which a migration "
        "began; an hour is fine for thousands."
    )
    roles = Roles((PLACEMENT,))

    def __init__(self, databases: NovaDatabases, placement: Placement) -> None:
        super().__init__(databases, placement)
        self._judge = Judge(databases, placement, Archive(databases))

    def inspect(self, key: Key) -> Iterable[Finding]:
        """Judge what the last migrations of an instance hold."""
        swaps = self._swaps(key.id)
        return [_finding(key, swap, among=len(swaps)) for swap in swaps]

    def sweep(self) -> Iterator[Key]:
        """Yield the instances at rest where an ended migration began that still holds something of that node."""
        found, down = self._databases.run_in_available(self._databases.host_cells(), queries.stayed)
        for nodes in found.values():
            for node, moves in nodes.items():
                holders = self._placement.holders(node)
                yield from (Key("instance", one) for one in sorted({moves[held] for held in holders & set(moves)}))
        if down is not None:
            raise down

    def population(self) -> int:
        """How many live instances there are in the cells that answer."""
        return live_instances(self._databases)

    def heal(self, finding: Finding) -> Healed:
        """Prove again, then move the whole allocation at both generations of the evidence."""
        if not finding.healable:
            raise Refused(finding.refusal)
        self._databases.require_known_schema()
        swaps = self._swaps(finding.key.id)
        for swap in swaps:
            now = _finding(finding.key, swap, among=len(swaps))
            if (now.problem, now.evidence, now.healable) == (finding.problem, finding.evidence, True):
                return self._move(swap)
        raise Conflict(f"{finding.key} is not as it was")

    def _move(self, swap: Swap) -> Healed:
        self._placement.move_allocation(swap.migration, swap.instance)
        before, instance = swap.instance, swap.instance.consumer
        empty = f"openstack resource provider allocation delete {instance}"
        return Healed(
            f"moved to instance {instance} what its migration {swap.migration.consumer} held",
            before={"migration": _plain(swap.migration.providers), "instance": _plain(before.providers)},
            after={"migration": {}, "instance": _plain(swap.migration.providers)},
            undo="\n".join([before.undo() if before.providers else empty, swap.migration.undo()]),
        )

    def _swaps(self, instance: str) -> list[Swap]:
        """Return what is to be moved.

        :raises InFlight: when that cannot be said yet of something that a migration holds
        """
        (own, _), *moves = self._judge.judge(instance)
        swaps = [Swap(held, own, verdict) for held, verdict in moves if isinstance(verdict, Move)]
        waits = [verdict for _, verdict in moves if isinstance(verdict, Wait)]
        if waits:
            soonest = min(waits, key=lambda wait: wait.after)
            raise InFlight(soonest.reason, soonest.after)
        return swaps


def _finding(key: Key, swap: Swap, among: int) -> Finding:
    held, own, verdict = swap.migration, swap.instance, swap.verdict
    evidence = {
        "instance": own.consumer,
        "instance_generation": own.generation,
        "instance_allocations": _plain(own.providers),
        "migration": held.consumer,
        "migration_generation": held.generation,
        "migration_allocations": _plain(held.providers),
        "project_id": held.project_id,
        "user_id": held.user_id,
    }
    refusal = verdict.refusal
    if among > 1 and not refusal:
        refusal = f"{among} migrations of the instance hold something: which of it is right is for a person to say"
    summary = f"{verdict.summary} (instance {own.consumer}, migration {held.consumer})"
    return Finding(key, verdict.problem, summary, evidence, not refusal, refusal)


def _plain(held: Held) -> dict[str, dict[str, int]]:
    return {provider: dict(resources) for provider, resources in held.items()}
