"""Takes back the allocations that deleted or moved instances left in Placement.

**What drifts.** A consumer (an instance or a migration) has resources of a compute node, but no right to them. The scheduler
counts them as used, and Nova cannot delete the node.

**Why Nova lets it.** Nova changes its database, then releases the allocation. nova-compute repeats a failed release only for
a deleted instance, until its row is archived. It releases the allocation of an evacuated instance only when the former host
starts again.

**What is read.** First the allocation, then build request and mapping, then instance and migrations in every cell. If no cell
has the instance, the shadow tables follow. The ports of a moved instance come last. If one cell or Neutron does not answer, the
handler decides nothing.

**What is changed.** ``PUT /allocations/{consumer}`` removes all resources to which the consumer has no right. An instance
in cell0, by its row and mapping, loses all. Any other live instance loses only resources of compute nodes that it left: an
ended migration must prove the move, and Neutron must bind all of the instance's ports to its host.

**Why a race does no harm.** The handler reads the allocation at generation g, then the databases. The write names g.

- If Nova's scheduler allocates after our read, it changes g, and our write fails. An earlier allocation shows in the databases:
  Nova first writes build request, mapping, task state or migration.
- If our write comes between the scheduler's read of g and the scheduler's write, the build or migration fails. This can
  happen only within milliseconds, to a consumer that was deleted or at rest.
- A deleted instance never gets resources again. ``soft-delete`` is not a deletion.
- Two inspections, five seconds apart, must agree, because a replicated database can lag. Right
  before the write, the handler reads the facts again.
- Nova gets 10 s after an instance's deletion and 60 s after another change to release the resources itself.

**What is not changed.** Consumers unknown to Nova belong to another service or were purged. stackmend only reports them, unless
an operator, as the second witness, approves the finding by its id in mode ``ask``. stackmend only reports offloaded instances,
because only one row shows that no host runs them. It only reports an archived instance whose mapping lacks
``queued_for_delete``: the mapping's cell may have been restored. ``heal_allocations`` and ``audit_migrations`` inspect
instances without resources of their own node, ``heal_instance_mappings`` and ``map_instances`` those alive in several cells.

**Undo.** The history has the exact ``openstack resource provider allocation set``.

Sources: ``nova/cmd/manage.py`` (audit), ``nova/scheduler/client/report.py``, ``nova/scheduler/utils.py`` (claim_resources),
``nova/compute/manager.py`` (_complete_deletion, _delete_allocation_after_move), ``placement/objects/allocation.py``.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Self

from handlers.access.neutron import Network
from handlers.access.roles import PLACEMENT, PORTS
from handlers.base import Finding, Healed, Json, Key, Mode, Resources, Roles, Trigger, Unavailable
from handlers.nova import concerns, keys, queries
from handlers.nova.allocations import queries as instance_queries
from handlers.nova.allocations.consumers import Problem, Take, TakeIfWitnessed
from handlers.nova.allocations.excess_facts import Judge, Judged, Look
from handlers.nova.allocations.nested import Nested
from handlers.nova.allocations.placement_cache import RecentPlacement
from handlers.nova.allocations.shared_looks import CHUNK, SharedLooks
from handlers.nova.archived_consumers import Archive
from handlers.nova.base import PlacementHandler
from handlers.nova.cells import Cell
from handlers.nova.database import NovaDatabases
from handlers.nova.nodes import OwnPlacement, in_groups, live_instances, live_nodes, read_ahead
from handlers.nova.placement import Allocation, ConsumersOf, Held, Placement, plain, replacing
from handlers.nova.records import ComputeNode
from handlers.nova.verdicts import Report, Wait, findings_or_wait

#: seconds from a notification to the first inspection: Nova sends most of them just before it releases
_RELEASING = 2.0
#: seconds from the beginning of a deletion: its end usually came by then, and one inspection serves both. Where it did not,
#: nova-compute died in between; it deletes the row when it starts again, without a notification if Placement is down
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


@dataclass(frozen=True, slots=True)
class Evidence:
    """The evidence about one consumer.

    :param keep: the resources that the consumer keeps; None if no heal can correct the finding
    """

    allocation: Allocation
    keep: Held | None

    def to_json(self) -> Json:
        one = self.allocation
        stored: dict[str, object] = {
            "consumer": one.consumer,
            "consumer_type": one.consumer_type,
            "generation": one.generation,
            "project_id": one.project_id,
            "user_id": one.user_id,
            "allocations": plain(one.providers),
        }
        if self.keep is not None:
            stored["keep"] = plain(self.keep)
        return stored

    @staticmethod
    def allocation_of(stored: Json) -> Allocation:
        return Allocation(
            stored["consumer"],
            stored["allocations"],
            stored["project_id"],
            stored["user_id"],
            stored["generation"],
            stored["consumer_type"],
        )


class AuditAllocations(PlacementHandler):
    name = "audit_allocations"
    title = "Take back resources that deleted or moved instances still hold in Placement"
    kinds = ("consumer", "host")
    healable_problems = frozenset(
        {Problem.DELETED, Problem.ARCHIVED, Problem.LEFTOVER, Problem.IN_CELL0, Problem.LEFT_BEHIND}
    )
    triggers = (
        *(Trigger(event, keys.consumer, after=_RELEASING) for event in _HINTS),
        Trigger("instance.delete.start", keys.consumer, after=_DELETING),
        Trigger("service.delete", keys.compute_host, after=10.0),
    )
    witnessed_problems = frozenset({Problem.UNKNOWN})
    concerned_kinds = concerns.KINDS
    default_mode = Mode.AUDIT
    follows = ("heal_allocations", "audit_migrations")
    default_interval = 600
    confirm_after = 5.0
    requires = ("placement", "nova_api")
    cost = (
        "One request to Placement per compute node, as many for nested and sharing providers, and a query per 25 nodes; for "
        "each 500 suspects of which no cell knows some, one scan of the shadow tables. Each suspect costs three requests to "
        "Placement, and fifty share a query per database. Ten minutes is fine for hundreds of nodes, an hour for thousands. "
        "Neutron gets one request for each moved instance with resources of another node."
    )
    roles = Roles((PLACEMENT, PORTS))

    def __init__(
        self, databases: NovaDatabases, placement: Placement, recent: RecentPlacement, network: Network
    ) -> None:
        super().__init__(databases, placement)
        self._recent = partial(recent.consumers_of, task=self.name)
        self._archive = Archive(databases)
        self._nested = Nested(placement)
        self._judge = Judge(databases, placement, self._archive, network)
        self._looks = SharedLooks(self._judge.look)
        self._own_placement = OwnPlacement(databases, placement)

    @classmethod
    def from_resources(cls, resources: Resources) -> Self:
        return cls(
            resources.get(NovaDatabases.from_resources),
            resources.get(Placement.from_resources),
            resources.get(RecentPlacement.from_resources),
            resources.get(Network.from_resources),
        )

    def inspect(self, key: Key) -> Iterable[Finding]:
        return self._inspect_together(key, self._suspects_of_host(key.id) if key.kind == "host" else [key.id])

    def inspect_suspect(self, key: Key, seen_for: float) -> Iterable[Finding]:
        return self._inspect_shared(key, seen_for - self.confirm_after) or self.inspect(key)

    def inspect_alone(self, key: Key) -> Iterable[Finding]:
        judged = list(self._judge.judge(self._judge.look([key.id]), key.id))
        findings = [finding for one in judged if (finding := _finding(key, one)) is not None]
        return findings_or_wait(findings, _waits(judged))

    def _inspect_shared(self, key: Key, oldest: float) -> Iterable[Finding]:
        taken = self._looks.take(key.id, oldest)
        if taken is None:
            return []
        findings, _ = self._judged(key, taken.look, [key.id])
        if findings and not taken.again:
            self._looks.expect_again(key.id, taken.look.began + self.confirm_after)
        return findings

    def _inspect_together(self, key: Key, consumers: Sequence[str]) -> Iterable[Finding]:
        findings: list[Finding] = []
        waits: list[Wait] = []
        for start in range(0, len(consumers), CHUNK):
            chunk = consumers[start : start + CHUNK]
            found, more = self._judged(key, self._judge.look(chunk), chunk)
            findings += found
            waits += more
        return findings_or_wait(findings, waits)

    def _judged(self, key: Key, look: Look, consumers: Iterable[str]) -> tuple[list[Finding], list[Wait]]:
        judged = [one for consumer in consumers for one in self._judge.judge(look, consumer)]
        found = [(one, finding) for one in judged if (finding := _finding(key, one)) is not None]
        findings = [replace(finding, concerns=self._judge.concerns(look, one)) for one, finding in found]
        return findings, _waits(judged)

    def sweep(self) -> Iterator[Key]:
        return self.sweep_cells(self._databases.host_cells())

    def sweep_cells(self, cells: Collection[Cell]) -> Iterator[Key]:
        nodes, down = live_nodes(self._databases)
        providers = self._placement.compute_providers()
        if nodes and not providers:
            raise Unavailable("placement", f"lists no compute node's provider, while the cells have {len(nodes)} nodes")
        batch: set[str] = set()
        groups = in_groups(nodes[one] for one in providers if one in nodes and nodes[one][0] in cells)
        for _, read in read_ahead(lambda group: self._suspects(*group, self._recent), groups):
            batch |= read.result()
            if len(batch) >= queries.CHUNK:
                yield from self._keys(batch, down)
                batch.clear()
        for provider in providers if down is None else ():
            if provider not in nodes:
                batch |= self._not_building(self._placement.holders(provider))
        if down is None:
            batch |= self._suspects_beside(nodes, {*providers, *nodes})
        yield from self._keys(batch, down)
        if down is not None:
            raise down

    def population(self) -> int:
        return live_instances(self._databases)

    def heal(self, finding: Finding) -> Healed:
        self._databases.require_known_schema()
        self._own_placement.require()
        # a key of a host stands for many consumers: this one alone is proved
        alone = replace(finding, key=Key("consumer", finding.evidence["consumer"]))
        proved = self.prove_again(alone).evidence
        allocation, keep = Evidence.allocation_of(proved), proved["keep"]
        self._placement.replace_allocation(allocation, keep)
        taken = sorted(set(allocation.providers) - set(keep))
        return Healed(
            f"took from consumer {allocation.consumer} its resources of {', '.join(taken)}"
            + ("; an operator is the second witness" if finding.witnessed else ""),
            before={"allocations": plain(allocation.providers), "generation": allocation.generation},
            after={"allocations": plain(keep)},
            undo=allocation.command(),
        )

    def _suspects(self, cell: Cell, nodes: Sequence[ComputeNode], consumers_of: ConsumersOf) -> set[str]:
        found = consumers_of(node.uuid for node in nodes)
        return self._without_right(cell, nodes, {node: frozenset(held) for node, held in found.items()})

    def _without_right(
        self, cell: Cell, nodes: Sequence[ComputeNode], consumers: Mapping[str, Iterable[str]]
    ) -> set[str]:
        everyone = frozenset[str]().union(*consumers.values())
        if not everyone:
            return set()
        rightful = self._databases.database(cell).run(
            lambda connection: instance_queries.rightful(connection, nodes, everyone)
        )
        return self._not_building(uuid for node, some in consumers.items() for uuid in set(some) - rightful[node])

    def _suspects_beside(self, nodes: Mapping[str, tuple[Cell, ComputeNode]], roots: set[str]) -> set[str]:
        due = self._nested.due(roots)
        found = self._recent(due)
        by_root: dict[str, set[str]] = {}
        of_former_nodes: set[str] = set()
        elsewhere: set[str] = set()
        for provider, root in due.items():
            if root in nodes:
                by_root.setdefault(root, set()).update(found[provider])
            elif root in roots:
                of_former_nodes.update(found[provider])
            else:
                elsewhere.update(found[provider])
        suspects = self._not_building(of_former_nodes)
        for cell, some in in_groups(nodes[root] for root in by_root):
            suspects |= self._without_right(cell, some, {node.uuid: by_root[node.uuid] for node in some})
        return suspects | self._without_home(elsewhere)

    def _without_home(self, consumers: set[str]) -> set[str]:
        if not consumers:
            return set()
        living = self._databases.run_in_all(
            self._databases.host_cells(), lambda connection: instance_queries.living(connection, consumers)
        )
        return self._not_building(consumers.difference(*living.values()))

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
                tree = self._placement.tree(node.uuid)
                consumers = frozenset[str]().union(*(self._placement.holders(one) for one in tree))
                if node.deleted:
                    suspects |= self._not_building(consumers)
                else:
                    suspects |= self._without_right(cell, [node], {node.uuid: consumers})
        return sorted(suspects)

    def _keys(self, suspects: set[str], down: Unavailable | None) -> list[Key]:
        if suspects and down is None:
            found = self._databases.run_in_all(
                self._databases.cells(), lambda connection: queries.known_consumers(connection, suspects)
            )
            self._archive.among(suspects.difference(*found.values()))
        ordered = sorted(suspects)
        self._looks.expect(ordered)
        return [Key("consumer", suspect) for suspect in ordered]


def _waits(judged: Iterable[Judged]) -> list[Wait]:
    return [one.verdict for one in judged if isinstance(one.verdict, Wait)]


def _finding(key: Key, judged: Judged) -> Finding | None:
    allocation = judged.allocation
    match judged.verdict:
        case Take(problem=problem, summary=summary, keep=keep):
            evidence, refusal = Evidence(allocation, keep), ""
            undo, plan = allocation.command(), str(replacing(allocation, keep))
        case TakeIfWitnessed(problem=problem, summary=summary, refusal=refusal):
            evidence, undo, plan = Evidence(allocation, {}), allocation.command(), str(replacing(allocation, {}))
        case Report(problem=problem, summary=summary, refusal=refusal):
            evidence, undo, plan = Evidence(allocation, None), "", ""
        case _:
            return None
    return Finding(
        key,
        str(problem),
        f"{summary} (consumer {allocation.consumer})",
        evidence.to_json(),
        not refusal,
        refusal,
        undo=undo,
        plan=plan,
        approvable=isinstance(judged.verdict, TakeIfWitnessed),
    )
