"""Delete the host mapping and the resource providers that a deleted compute service left.

**What drifts.** A compute service was deleted, but ``host_mappings`` or Placement still has its host. The scheduler sees
resources that do not exist. If the host comes back, Nova uses its old mapping, perhaps to the wrong cell. Its old provider
blocks the name of the new provider.

**Why Nova lets it.** One request deletes a service in three databases. nova-api only logs an outage of Placement, and leaves a
provider with allocations. A mapping that another process inserts meanwhile stays.

**What is read.** In every cell, the host's instances and migrations, and its services and compute nodes, even deleted or
archived ones. In nova_api, the host's mapping. In Placement, the provider's tree and allocations, and providers with the nodes'
names. If one cell does not answer, the handler decides nothing.

**What is changed.** ``mapping-left``: the row of ``host_mappings`` is deleted. Before the commit, the handler reads the cells
again. If the host came back, or a cell does not answer, it rolls the deletion back. ``provider-left``: ``DELETE
/resource_providers/{uuid}``, which Placement refuses while the provider has allocations or children.

**What is not changed.** stackmend does not delete a leftover that no deleted row explains, that is in use, or whose host may be
back. It reports such a leftover.

**Why a race does no harm.** A nova-compute that starts meanwhile makes a new provider, and ``discover_hosts`` maps the host.

**Undo.** The ``INSERT`` of the mapping, or ``openstack resource provider create``. nova-compute then reports inventories and
traits, and ``sync_aggregates`` adds the aggregates.

Sources: ``nova/api/openstack/compute/services.py`` (delete), ``nova/scheduler/client/report.py`` (delete_resource_provider),
``nova/objects/host_mapping.py``, ``placement/objects/resource_provider.py`` (_delete).
"""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace

from sqlalchemy.engine import Connection

from handlers.access.roles import PLACEMENT
from handlers.base import Conflict, Finding, Healed, Key, Mode, Privilege, Refused, Roles, Trigger, Unavailable, keys_of
from handlers.nova import concerns, keys, queries
from handlers.nova.base import PlacementHandler
from handlers.nova.cells import Cell
from handlers.nova.database import API
from handlers.nova.former_nodes import FormerNode, former_nodes
from handlers.nova.hosts import queries as host_queries
from handlers.nova.hosts.leftover_rules import (
    Forget,
    Leftover,
    LeftProvider,
    MappedHost,
    Problem,
    Traces,
    of_mapping,
    of_provider,
)
from handlers.nova.nodes import known_places, nodes_among, require_own_placement
from handlers.nova.placement import Provider, deleting_provider
from handlers.nova.records import HostMapping
from handlers.nova.verdicts import MOVED_SETTLE, Report, Wait, findings_or_wait


@dataclass(frozen=True, slots=True)
class MappingEvidence:
    host: str
    cell: str
    cell_id: int


@dataclass(frozen=True, slots=True)
class ProviderEvidence:
    """The proof about one resource provider.

    :param nodes: host and name of each deleted compute node that had the provider's uuid
    """

    provider: str
    name: str
    nodes: Sequence[str]
    children: Sequence[str]
    holders: Sequence[str]


@dataclass(frozen=True, slots=True)
class Judged:
    verdict: Leftover
    evidence: MappingEvidence | ProviderEvidence
    undo: str
    plan: str
    concerns: frozenset[str]


class AuditServices(PlacementHandler):
    name = "audit_services"
    title = "Delete host mappings and resource providers that deleted compute services left"
    kinds = ("host", "provider")
    healable_problems = frozenset({Problem.MAPPING_LEFT, Problem.PROVIDER_LEFT})
    triggers = (Trigger("service.delete", keys.compute_host, after=MOVED_SETTLE),)
    concerned_kinds = concerns.KINDS
    default_mode = Mode.AUDIT
    default_interval = 3600
    confirm_after = 5.0
    requires = ("placement", "nova_api")
    cost = (
        "Two queries per cell, one of nova_api and two requests to Placement; an hour is fine for thousands of hosts."
    )
    rights = {"nova_api": {"host_mappings": frozenset({Privilege.DELETE})}}
    roles = Roles((PLACEMENT,))

    def inspect(self, key: Key) -> Iterable[Finding]:
        findings: list[Finding] = []
        waits: list[Wait] = []
        for judged in self._provider(key.id) if key.kind == "provider" else self._host(key.id):
            evidence, names = asdict(judged.evidence), judged.concerns
            match judged.verdict:
                case Wait() as wait:
                    waits.append(wait)
                case Report() as report:
                    finding = Finding(key, report.problem, report.summary, evidence, False, report.refusal)
                    findings.append(replace(finding, concerns=names))
                case Forget() as forget:
                    finding = Finding(key, forget.problem, forget.summary, evidence, concerns=names)
                    findings.append(replace(finding, undo=judged.undo, plan=judged.plan))
                case None:
                    pass
        return findings_or_wait(findings, waits)

    def sweep(self) -> Iterator[Key]:
        normal = self._databases.host_names.normal
        mapped = self._databases.api.run(queries.mapped_hosts)
        found = self._databases.run_in_all(self._databases.host_cells(), host_queries.present).values()
        there = {normal(host) for hosts, _ in found for host in hosts}
        if mapped and not there:
            raise Unavailable(API, f"maps {len(mapped)} hosts, and no cell has one; are its cells those of this cloud?")
        hosts = sorted(host for host in mapped if normal(host) not in there)
        yield from keys_of("host", hosts)
        roots = {uuid for uuid, provider in self._placement.providers().items() if provider.root == uuid}
        lone = roots - {uuid for _, nodes in found for uuid in nodes}
        if not lone:
            return
        gone = {normal(host) for host in hosts}
        former = self._former(lone)
        covered = {node.uuid for node in former if normal(node.host) in gone}
        once = {node.uuid for node in former} | (set(self._placement.compute_providers()) & lone)
        yield from keys_of("provider", sorted(once - covered))

    def population(self) -> int:
        return len(self._databases.api.run(queries.mapped_hosts))

    def heal(self, finding: Finding) -> Healed:
        self._databases.require_known_schema()
        require_own_placement(self._databases, self._placement)
        now = self.prove_again(finding)
        match now.problem:
            case Problem.MAPPING_LEFT:
                return self._unmap(MappingEvidence(**now.evidence), finding.undo)
            case Problem.PROVIDER_LEFT:
                return self._remove(ProviderEvidence(**now.evidence), finding.undo)
            case _:
                raise Refused(f"{self.name} has no heal for {finding.problem}")

    def _unmap(self, evidence: MappingEvidence, undo: str) -> Healed:
        before = HostMapping(evidence.host, evidence.cell_id)
        cells = self._databases.host_cells()

        def forget(connection: Connection) -> None:
            host_queries.forget_host(connection, before, undo)
            # Until the commit, Nova sees the mapping: an error below leaves no moment without it.
            traces = self._traces(before.host, cells).values()
            if any(trace.services or trace.nodes for trace in traces):
                raise Conflict(f"host {before.host} came back")

        self._databases.api.run(forget)
        return Healed(
            f"deleted the mapping of host {before.host}",
            before={"host": before.host, "cell": evidence.cell},
            after={"cell": None},
            undo=undo,
        )

    def _remove(self, evidence: ProviderEvidence, undo: str) -> Healed:
        uuid, name = evidence.provider, evidence.name
        self._placement.delete_provider(uuid)
        return Healed(
            f"deleted the resource provider {name} ({uuid})",
            before={"provider": uuid, "name": name, "nodes": evidence.nodes},
            after={"provider": None},
            undo=undo,
        )

    def _host(self, host: str) -> list[Judged]:
        mapping, age = self._databases.api.run(
            lambda connection: (queries.host_mapping(connection, host), host_queries.mapping_age(connection, host))
        )
        traces = self._traces(host, self._databases.host_cells())
        judged = [] if mapping is None else [self._mapping(mapping, age, traces)]
        gone = {node.uuid for trace in traces.values() for node in trace.former}
        gone -= {uuid for trace in traces.values() for uuid in trace.nodes}
        return [*judged, *(found for uuid in sorted(gone) for found in self._provider(uuid))]

    def _mapping(self, mapping: HostMapping, age: float, traces: dict[Cell, Traces]) -> Judged:
        home = next((cell for cell in traces if cell.id == mapping.cell_id), None)
        if home is None:
            raise Unavailable(
                API, f"host {mapping.host} is mapped to the cell {mapping.cell_id}, which cannot have hosts"
            )
        evidence = MappingEvidence(mapping.host, home.uuid, home.id)
        facts = MappedHost(mapping.host, home, traces, age, self._successors(traces.values()))
        undo = self._databases.api.run(lambda connection: host_queries.undo_of_forget(connection, mapping))
        plan = self._databases.api.plan([host_queries.forgetting(mapping)])
        names = concerns.named("host", mapping.host) | concerns.of_cell(home)
        return Judged(of_mapping(facts), evidence, f"-- in nova_api\n{undo}", plan, names)

    def _successors(self, traces: Iterable[Traces]) -> tuple[str, ...]:
        names = {node.node for trace in traces for node in trace.former}
        found = {uuid for name in names for uuid in self._placement.named(name)}
        return tuple(sorted(found - set(known_places(self._databases, found))))

    def _provider(self, uuid: str) -> list[Judged]:
        tree = self._placement.tree(uuid)
        if uuid not in tree:
            return []
        facts = self._facts(tree[uuid], frozenset(tree))
        evidence = ProviderEvidence(
            uuid,
            facts.provider.name,
            nodes=sorted({f"{node.host} {node.node}" for node in facts.former}),
            children=sorted(facts.tree - {uuid}),
            holders=sorted(facts.consumers)[: queries.CHUNK],
        )
        undo = f"openstack resource provider create --uuid {uuid} {shlex.quote(facts.provider.name)}"
        names = concerns.named("host", facts.provider.name) | concerns.named("provider", uuid)
        names |= concerns.of_nodes(self._databases, {uuid})
        return [Judged(of_provider(facts), evidence, undo, str(deleting_provider(uuid)), names)]

    def _facts(self, provider: Provider, tree: frozenset[str]) -> LeftProvider:
        consumers = frozenset().union(*(self._placement.holders(member) for member in tree))
        marked = self._placement.is_compute_node(provider.uuid)
        former = self._former({provider.uuid})
        cells = self._databases.host_cells()
        hosts = sorted({node.host for node in former})
        mapped = self._databases.api.run(
            lambda connection: min((host_queries.mapping_age(connection, host) for host in hosts), default=float("inf"))
        )
        return LeftProvider(
            provider,
            tree,
            consumers,
            alive=bool(nodes_among(self._databases, "uuid", {provider.uuid})),
            namesake=bool(nodes_among(self._databases, "hypervisor_hostname", {provider.name})),
            marked=marked,
            former=former,
            traces=tuple(trace for host in hosts for trace in self._traces(host, cells).values()),
            mapped=mapped,
        )

    def _former(self, uuids: Collection[str]) -> tuple[FormerNode, ...]:
        found = self._databases.run_in_all(
            self._databases.host_cells(), lambda connection: former_nodes(connection, "uuid", uuids)
        )
        return tuple(node for nodes in found.values() for node in nodes)

    def _traces(self, host: str, cells: Iterable[Cell]) -> dict[Cell, Traces]:
        return self._databases.run_in_all(cells, lambda connection: host_queries.traces(connection, host))
