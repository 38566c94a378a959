"""Decides whether a consumer may hold what it holds in Placement. Pure: facts in, a verdict out.

A consumer of Nova's is an instance, or a migration (which holds the source while its instance holds the destination).
The rows of :func:`decide` are tried in order; whatever is not proved wrong is kept or reported, never taken.

What is to be taken or reported is :mod:`~handlers.nova.allocations.audit_allocations`'s; what is to be moved, and cannot be moved,
:mod:`~handlers.nova.allocations.audit_migrations`'s. So nothing is found by both.

=====================================================  ==========================================================
what is known                                          verdict
=====================================================  ==========================================================
holds nothing                                          keep
consumer type of somebody else                         keep
build request, or mapping without cell                 keep: being scheduled
no row anywhere, archived as deleted                   take all
no row anywhere                                        report: perhaps not Nova's
all rows deleted, one of them visible                  take all, when it settled
all rows deleted, all hidden                           report: the visible one may live
a live hidden row                                      keep: cross-cell resize
live in two cells                                      report
task state, or about to be deleted                     wait
migration in progress                                  wait
waits for confirm or revert                            keep: both sides are rightful
a terminal migration, instance holds its own node      take all, when it settled
a terminal migration otherwise                         move to the instance, when it settled, or why not
in cell0, mapped there                                 take all, when it settled
no host: building                                      keep
no host: shelved and offloaded                         take all, when it settled
no host otherwise                                      report
holds its node, and nothing of another compute node    keep
holds its node and one that a migration has left       take that other one's tree, when it settled
holds nothing of its node                              report: healing comes first
=====================================================  ==========================================================
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from handlers.nova.placement import Allocation, Held
from handlers.nova.records import Instance, InstanceMapping, Migration
from handlers.nova.verdicts import BUSY, DELETED_SETTLE, MOVED_SETTLE, Keep, Report, Wait

#: what Placement says of a consumer of Nova's: today always the first, or nothing from an old Placement
NOVA_TYPES = frozenset({None, "unknown", "INSTANCE", "MIGRATION"})


@dataclass(frozen=True, slots=True)
class Located:
    """An instance's row and the cell it stands in."""

    instance: Instance
    cell_id: int
    in_cell0: bool = False


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known about a consumer. For a migration, all but the allocation is about its instance.

    :param building: there is a build request
    :param rows: its rows in all cells, deleted and hidden ones too
    :param migration: the consumer itself, when it is a migration
    :param migrations: all migrations of the instance, deleted ones too
    :param archived: it was archived as a deleted instance, or as a migration of one
    :param home: root provider of the node where the instance lives
    :param roots: the root of each provider in the allocation
    :param nodes: host and node of those roots that are compute nodes, deleted ones too
    :param own: what the instance itself holds, when the consumer is a migration; ``roots`` and ``nodes`` know it, too
    """

    allocation: Allocation
    building: bool = False
    mapping: InstanceMapping | None = None
    rows: tuple[Located, ...] = ()
    migration: Migration | None = None
    migrations: tuple[Migration, ...] = ()
    archived: bool = False
    home: str | None = None
    roots: Mapping[str, str] = field(default_factory=dict)
    nodes: Mapping[str, tuple[str | None, str | None]] = field(default_factory=dict)
    own: Held = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Take:
    """Wrong: only ``keep`` may stay, which may be nothing."""

    problem: str
    summary: str
    keep: Held = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Move:
    """Right, but under the wrong name: a migration that has ended holds what its instance lacks.

    :param refusal: why the instance cannot be given exactly that; empty when it can
    """

    problem: str
    summary: str
    refusal: str


Verdict = Keep | Wait | Report | Take | Move


def decide(facts: Facts) -> Verdict:
    """Return the verdict; see the module."""
    early = _not_judged(facts)
    if early is not None:
        return early
    if not facts.rows:
        return _nowhere(facts)
    live = [row for row in facts.rows if not row.instance.deleted]
    if not live:
        return _deleted(facts)
    if any(row.instance.hidden for row in live):
        return Keep("a cross-cell resize is under way: both copies of the instance count")
    if len(live) > 1:
        return Report("instance-in-several-cells", "the instance lives in several cells", "delete the wrong copy first")
    return _unless_young(facts, _busy(facts, live[0].instance) or _live(facts, live[0]))


def _not_judged(facts: Facts) -> Verdict | None:
    if not facts.allocation.providers:
        return Keep("holds nothing")
    if facts.allocation.consumer_type not in NOVA_TYPES:
        return Keep(f"is a {facts.allocation.consumer_type}, which is not Nova's")
    if facts.building:
        return Keep("has a build request: it is being scheduled")
    if facts.mapping is not None and facts.mapping.cell_id is None:
        return Keep("is mapped to no cell yet: it is being scheduled")
    return None


def _nowhere(facts: Facts) -> Verdict:
    if facts.archived:
        return Take("instance-archived", "a deleted, archived instance still holds resources")
    return Report(
        "unknown-consumer",
        "a consumer that Nova does not know holds resources of a compute node",
        "Nova has no trace of it, not even archived; it may belong to another service, or was purged: check, then "
        "openstack resource provider allocation delete",
    )


def _deleted(facts: Facts) -> Verdict:
    if all(row.instance.hidden for row in facts.rows):
        return Report(
            "only-hidden-copies",
            "only hidden, deleted copies of the instance are left, and something is held for it",
            "a hidden copy does not prove that the instance was deleted",
        )
    settle = DELETED_SETTLE if facts.migration is None else MOVED_SETTLE
    age = min(row.instance.age for row in facts.rows)
    if age < settle:
        return Wait("was deleted only just now", settle - age)
    what = "an instance" if facts.migration is None else "a migration of an instance"
    return Take("instance-deleted", f"{what} that is deleted still holds resources")


def _busy(facts: Facts, instance: Instance) -> Verdict | None:
    if instance.task_state is not None:
        return Wait(f"the instance is {instance.task_state}", BUSY)
    if instance.vm_state == "deleted":
        return Wait("the instance is being deleted: its row follows", BUSY)
    moves = [move for move in facts.migrations if not move.deleted and not move.terminal]
    running = [move for move in moves if move.status != "finished"]
    if running:
        return Wait(f"a migration of the instance is {running[0].status}", BUSY)
    if moves or instance.vm_state == "resized":
        return Keep("a resize waits to be confirmed or reverted: both sides count")
    return None


def _live(facts: Facts, row: Located) -> Verdict:
    instance = row.instance
    if facts.migration is not None:
        return _after_migration(facts, facts.migration, row)
    if instance.host is None and instance.vm_state == "building":
        return Keep("is being built")
    mapped_here = _mapped_here(facts, row)
    if instance.host is None or row.in_cell0:
        return _homeless(instance, row.in_cell0, mapped_here)
    if facts.home is None:
        return Report(
            "node-unknown", f"the instance's node {instance.node} has no compute node", "see its nova-compute"
        )
    return _placed(facts, instance, facts.home, mapped_here)


def _mapped_here(facts: Facts, row: Located) -> bool:
    return facts.mapping is not None and facts.mapping.cell_id == row.cell_id


def _after_migration(facts: Facts, migration: Migration, row: Located) -> Verdict:
    own = {facts.roots.get(provider, provider) for provider in facts.own}
    if migration.terminal and facts.home is not None and facts.home in own:
        return Take("migration-leftover", f"a migration that is {migration.status} still holds resources")
    return Move(
        "migration-holds-the-allocation",
        f"a migration that is {migration.status} holds resources, and its instance holds none of its own node",
        _immovable(facts, migration, row),
    )


def _immovable(facts: Facts, migration: Migration, row: Located) -> str:
    """Return why what a migration holds is not what its instance should hold; empty when it is."""
    here = (row.instance.host, row.instance.node)
    if not migration.terminal:
        return "the migration's row is deleted, though it did not end and its instance lives"
    if facts.home is None:
        return "the node where the instance lives has not one compute node"
    if not _mapped_here(facts, row):
        return "the instance is not mapped to the cell it lives in: heal_instance_mappings and map_instances come first"
    if here != migration.source:
        return "the instance is not where the migration began: heal_allocations gives it what it needs where it is"
    if migration.within_node:
        return "it was a resize within one node: heal_allocations gives the instance what its flavor says now"
    return _unexplained(facts, facts.home)


def _unexplained(facts: Facts, home: str) -> str:
    """Return what a migration holds besides the instance's node, or the instance besides where it was to go."""
    held = {facts.roots.get(provider, provider) for provider in facts.allocation.providers}
    if home not in held:
        return "it holds nothing of the node where the instance lives"
    if any(root in facts.nodes for root in held - {home}):
        return "it also holds resources of another compute node"
    ended = {place for move in facts.migrations if move.terminal for place in (move.source, move.dest)}
    own = {facts.roots.get(provider, provider) for provider in facts.own}
    if any(facts.nodes.get(root) not in ended for root in own - held):
        return "the instance holds resources that no migration explains, and moving would take them away"
    return ""


def _homeless(instance: Instance, in_cell0: bool, mapped_here: bool) -> Verdict:
    if mapped_here and in_cell0 and instance.host is None:
        return Take("instance-in-cell0", "an instance that was never scheduled holds resources")
    if mapped_here and not in_cell0 and instance.vm_state == "shelved_offloaded":
        return Take("instance-offloaded", "an instance that is shelved and offloaded holds resources")
    return Report(
        "instance-without-host",
        f"an instance without host, {instance.vm_state}, holds resources",
        "its state does not tell whether a host will be found for it",
    )


def _placed(facts: Facts, instance: Instance, home: str, mapped_here: bool) -> Verdict:
    held = {provider: facts.roots.get(provider, provider) for provider in facts.allocation.providers}
    strays = {root for root in held.values() if root != home and root in facts.nodes}
    if home not in held.values():
        return Report(
            "nothing-at-home",
            f"the instance holds nothing of its node {instance.node}, but of other providers",
            "it needs an allocation on its node first, which audit_migrations or heal_allocations gives it",
        )
    if not strays:
        return Keep("holds its node")
    left = {place for move in facts.migrations if move.terminal for place in (move.source, move.dest)}
    left.discard((instance.host, instance.node))
    where = ", ".join(sorted(str(facts.nodes[root][1]) for root in strays))
    if mapped_here and all(facts.nodes[root] in left for root in strays):
        keep = {provider: facts.allocation.providers[provider] for provider, root in held.items() if root not in strays}
        return Take("left-on-another-node", f"the instance, on {instance.node}, still holds resources of {where}", keep)
    return Report(
        "on-several-nodes",
        f"the instance, on {instance.node}, also holds resources of {where}",
        "no migration that has ended explains it",
    )


def _unless_young(facts: Facts, verdict: Verdict) -> Verdict:
    """Leave what changed a moment ago alone: Nova may not have finished."""
    if isinstance(verdict, (Keep, Wait)):
        return verdict
    age = min([row.instance.age for row in facts.rows] + [move.age for move in facts.migrations])
    return Wait("changed only just now", MOVED_SETTLE - age) if age < MOVED_SETTLE else verdict
