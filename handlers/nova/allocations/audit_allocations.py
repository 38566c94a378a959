"""Takes back the resources that deleted, moved or offloaded instances still hold in Placement.

**What drifts.** A consumer (an instance, or a migration) holds resources of a compute node without right. The scheduler
counts them as used; the node cannot be deleted.

**Why Nova lets it.** Nova releases an allocation after it changed its own database, in another service, without a
transaction over both: what fails in between (Placement or the compute host down, a lost message, a crash) is logged and
forgotten. nova-compute cleans up after deleted instances of its own node once a minute while it runs, but never what was
archived meanwhile; what an evacuation left is there until the dead host runs again, or its service is deleted.

**What is read.** For one consumer: what it holds; then build request and mapping; then in every cell, cell0 included, the
rows of instance and migrations, deleted ones too; only when nobody knows it, the shadow tables. Which verdict follows
from what is the table in :mod:`handlers.nova.allocations.excess_rules`. When one cell does not answer there is no verdict at all:
``nova-manage placement audit`` takes such a cell's instances for deleted, all of them.

**What is changed.** ``PUT /allocations/{consumer}`` with the consumer's generation, and with nothing or with what may
stay. Of a live instance only the tree of a compute node that a migration has left is taken; shared storage and devices
stay. ``DELETE``, which knows no generation, is never sent.

**Why this cannot take a rightful allocation.** The allocation is read first, at generation g; the databases after it; the
write says g.

- Whoever claims, moves or doubles an allocation (build, migrate, evacuate, unshelve) writes the consumer, and that changes
  g. If it happens after our read, our write fails. If it happened before, the databases that we read later must explain
  it: nova-api writes build request and mapping, task state or migration *before* the scheduler claims.
- If our write is first, the claim that read g before fails and is repeated by Nova, on the new state.
- A deleted instance never gets resources again; ``soft-delete``, from which it can return, is no deletion.
- A replica of the database that lags is caught by looking twice, five seconds apart, with the same result.

What Nova is just releasing itself is left to it: 10 s after a deletion, 60 s after any other change, by the database's
clock (:data:`~handlers.nova.verdicts.MOVED_SETTLE`). Short enough that what was deleted while Placement was down is
healed within seconds of its return; for a deletion nova-compute's own release is forced, so meeting it hurts nobody.

**What is not changed.** Consumers that Nova has no trace of (another service's, or purged), and whatever else is strange
but not proved. They are reported. What a migration that has ended holds while its instance lacks its own is not too much, but
under the wrong name: ``audit_migrations`` moves it back, and only that one reports it. What is too much is taken here, also
what an evacuation left of the lost host, whether its service still exists, was deleted or was archived.

**Undo.** The exact ``openstack resource provider allocation set`` is in the history.

Sources: ``nova/cmd/manage.py`` (audit), ``nova/scheduler/client/report.py``, ``nova/compute/manager.py``
(_complete_deletion, _delete_allocation_after_move), ``placement/objects/allocation.py`` (replace_all).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Self

from handlers.access.roles import PLACEMENT
from handlers.base import (
    Conflict,
    Finding,
    Healed,
    InFlight,
    Key,
    Mode,
    Refused,
    Resources,
    Roles,
    Trigger,
    Unavailable,
)
from handlers.nova import keys, queries
from handlers.nova.allocations.excess_facts import Judge
from handlers.nova.allocations.excess_rules import Take
from handlers.nova.allocations.placement_cache import RecentPlacement
from handlers.nova.archived_consumers import Archive
from handlers.nova.base import PlacementHandler
from handlers.nova.cells import Cell
from handlers.nova.database import NovaDatabases
from handlers.nova.nodes import in_groups, live_instances, live_nodes, looked_at
from handlers.nova.placement import Allocation, Held, HoldersOf, Placement
from handlers.nova.records import ComputeNode
from handlers.nova.verdicts import Report, Wait

#: seconds from a notification to the first look: Nova sends most of them just before it releases, so that by then there
#: is usually nothing to find
_RELEASING = 2.0
#: seconds from the beginning of a deletion: by then its end was usually told too, and there is one look for both. Where it
#: was not, nova-compute died in between; it deletes the row when it starts again, and tells nobody if Placement is down
#: (``_complete_partial_deletion``)
_DELETING = 30.0

_HINTS = (
    "instance.delete.end",
    "instance.create.error",
    "compute_task.build_instances.error",
    "compute_task.migrate_server.error",
    "instance.shelve_offload.end",
    "instance.rebuild.end",
    "instance.rebuild.error",
    "instance.resize_confirm.end",
    "instance.resize_revert.end",
    "instance.resize.error",
    "instance.live_migration_post.end",
    "instance.live_migration_post_dest.end",
    "instance.live_migration_rollback.end",
    "instance.live_migration_rollback_dest.end",
    "instance.live_migration_abort.end",
)


class AuditAllocations(PlacementHandler):
    """See the module."""

    name = "audit_allocations"
    title = "Take back resources that deleted, moved or offloaded instances still hold in Placement"
    kinds = ("consumer", "host")
    healable_problems = frozenset(
        {
            "instance-deleted",
            "instance-archived",
            "migration-leftover",
            "instance-in-cell0",
            "instance-offloaded",
            "left-on-another-node",
        }
    )
    triggers = (
        *(Trigger(event, keys.consumer, after=_RELEASING) for event in _HINTS),
        Trigger("instance.delete.start", keys.consumer, after=_DELETING),
        Trigger("service.delete", keys.compute_host, after=10.0),
    )
    default_mode = Mode.AUDIT
    default_interval = 600
    confirm_after = 5.0
    requires = ("placement", "nova_api")
    cost = (
        "One request to Placement per compute node and a query per ten, and for consumers that no cell knows one scan of the "
        "shadow tables per sweep; ten minutes is fine for hundreds of nodes, an hour for thousands."
    )
    roles = Roles((PLACEMENT,))

    def __init__(self, databases: NovaDatabases, placement: Placement, recent: RecentPlacement) -> None:
        super().__init__(databases, placement)
        self._lately_held = partial(recent.held_of, task=self.name)
        self._archive = Archive(databases)
        self._judge = Judge(databases, placement, self._archive)

    @classmethod
    def from_resources(cls, resources: Resources) -> Self:
        """Make it on the shared databases and session."""
        return cls(
            resources.get(NovaDatabases.from_resources),
            resources.get(Placement.from_resources),
            resources.get(RecentPlacement.from_resources),
        )

    def inspect(self, key: Key) -> Iterable[Finding]:
        """Judge a consumer and its migrations, or all that hold something of a host's nodes; see the evidence."""
        consumers = self._suspects_of_host(key.id) if key.kind == "host" else [key.id]
        findings: list[Finding] = []
        waits: list[Wait] = []
        for consumer in consumers:
            for allocation, verdict in self._judge.judge(consumer):
                if isinstance(verdict, Wait):
                    waits.append(verdict)
                elif isinstance(verdict, (Take, Report)):
                    findings.append(_finding(key, allocation, verdict))
        if waits and not findings:
            soonest = min(waits, key=lambda wait: wait.after)
            raise InFlight(soonest.reason, soonest.after)
        return findings

    def sweep(self) -> Iterator[Key]:
        """Yield whoever holds something of a compute node without clearly belonging there."""
        nodes, down = live_nodes(self._databases)
        providers = self._placement.compute_providers()
        if nodes and not providers:
            raise Unavailable("placement", f"lists no compute node's provider, while the cells have {len(nodes)} nodes")
        batch: set[str] = set()
        groups = in_groups(nodes[provider] for provider in providers if provider in nodes)
        for _, look in looked_at(lambda group: self._suspects(*group, self._lately_held), groups):
            batch |= look.result()
            if len(batch) >= queries.CHUNK:
                yield from self._keys(batch, down)
                batch.clear()
        for provider in providers if down is None else ():
            if provider not in nodes:
                batch |= self._not_building(self._placement.holders(provider))
        yield from self._keys(batch, down)
        if down is not None:
            raise down

    def population(self) -> int:
        """How many live instances there are in the cells that answer."""
        return live_instances(self._databases)

    def heal(self, finding: Finding) -> Healed:
        """Prove again, then replace the allocation at the generation of the evidence.

        What is held was read before, the databases are read now, and the write says the generation of then: when anything was
        claimed or released since, it fails.
        """
        if not finding.healable:
            raise Refused(finding.refusal)
        self._databases.require_known_schema()
        held = _held(finding.evidence)
        for allocation, verdict in self._judge.judge(held.consumer, held):
            if isinstance(verdict, Take) and _same(finding, _finding(finding.key, allocation, verdict)):
                return self._replace(allocation, verdict.keep)
        raise Conflict(f"consumer {finding.evidence['consumer']} is not as it was")

    def _replace(self, allocation: Allocation, keep: Held) -> Healed:
        self._placement.replace_allocation(allocation, keep)
        taken = sorted(set(allocation.providers) - set(keep))
        return Healed(
            f"took from consumer {allocation.consumer} what it held of {', '.join(taken)}",
            before={"allocations": _plain(allocation.providers), "generation": allocation.generation},
            after={"allocations": _plain(keep)},
            undo=allocation.undo(),
        )

    def _suspects(self, cell: Cell, nodes: Sequence[ComputeNode], held_of: HoldersOf) -> set[str]:
        """Return who holds something of one of these nodes of a cell and is not clearly in the right there."""
        holders = {node: frozenset(held) for node, held in held_of(node.uuid for node in nodes).items()}
        everybody = frozenset[str]().union(*holders.values())
        if not everybody:
            return set()
        rightful = self._databases.database(cell).run(lambda connection: queries.rightful(connection, nodes, everybody))
        return self._not_building(uuid for node, some in holders.items() for uuid in some - rightful[node])

    def _not_building(self, consumers: Iterable[str]) -> set[str]:
        suspects = set(consumers)
        if not suspects:
            return suspects
        return suspects - self._databases.api.run(lambda connection: queries.building(connection, suspects))

    def _suspects_of_host(self, host: str) -> list[str]:
        cells = self._databases.host_cells()
        found = self._databases.run_in_all(
            cells, lambda connection: queries.compute_nodes(connection, {"host": host}, deleted=True)
        )
        suspects: set[str] = set()
        for cell, nodes in found.items():
            for node in nodes:
                suspects |= self._not_building(self._placement.holders(node.uuid)) if node.deleted else set()
                suspects |= self._suspects(cell, [node], self._placement.held_of) if not node.deleted else set()
        return sorted(suspects)

    def _keys(self, suspects: set[str], down: Unavailable | None) -> list[Key]:
        """Return the keys, after one scan of the archive for all that no cell has; alone, each would cost one."""
        if suspects and down is None:
            found = self._databases.run_in_all(
                self._databases.cells(), lambda connection: queries.known_consumers(connection, suspects)
            )
            self._archive.among(suspects.difference(*found.values()))
        return [Key("consumer", suspect) for suspect in sorted(suspects)]


def _same(one: Finding, other: Finding) -> bool:
    return one.problem == other.problem and one.evidence == other.evidence


def _plain(held: Held) -> dict[str, dict[str, int]]:
    return {provider: dict(resources) for provider, resources in held.items()}


def _evidence(allocation: Allocation, verdict: Take | Report) -> dict[str, Any]:
    evidence: dict[str, Any] = {
        "consumer": allocation.consumer,
        "consumer_type": allocation.consumer_type,
        "generation": allocation.generation,
        "project_id": allocation.project_id,
        "user_id": allocation.user_id,
        "allocations": _plain(allocation.providers),
    }
    if isinstance(verdict, Take):
        evidence["keep"] = _plain(verdict.keep)
    return evidence


def _held(evidence: Mapping[str, Any]) -> Allocation:
    """Return what :func:`_evidence` told of."""
    return Allocation(
        evidence["consumer"],
        evidence["allocations"],
        evidence["project_id"],
        evidence["user_id"],
        evidence["generation"],
        evidence["consumer_type"],
    )


def _finding(key: Key, allocation: Allocation, verdict: Take | Report) -> Finding:
    refusal = verdict.refusal if isinstance(verdict, Report) else ""
    summary = f"{verdict.summary} (consumer {allocation.consumer})"
    return Finding(key, verdict.problem, summary, _evidence(allocation, verdict), not refusal, refusal)
