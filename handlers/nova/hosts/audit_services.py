"""Takes away what the deleted service of a compute host left: its host mapping and its resource providers.

**What drifts.** A compute host is gone for good and its service was deleted, but ``host_mappings`` still leads to it, or
Placement still has the provider of its node. A host that comes back under that name is then not what it seems: it counts as
mapped, perhaps to a cell in which it no longer is, and nova-compute cannot make a provider, whose name is taken. Until then,
the scheduler is offered the resources of a node that does not exist.

**Why Nova lets it.** Deleting a service is one request over three databases: nova-api lets the allocations go, deletes the
providers, the mapping and then the service. It only logs it when Placement does not answer, and not even that when a provider
cannot be deleted because somebody still holds something of it (a migration, an evacuation that had not ended as it looks for
it, another service). Old releases left the mapping. Whoever maps hosts just then puts it back.

**What is read.** In every cell: the services, compute nodes, instances and migrations of the host, deleted services and nodes
too, archived ones as well. In Placement: the provider, its tree, and who holds anything of it. Which verdict follows from what
is the table in :mod:`handlers.nova.hosts.rules`. When one cell does not answer there is no verdict at all.

**What is changed.** ``mapping-left``: the row of ``host_mappings`` is deleted, as long as it leads to the same cell; when the
host is back right after that, the row is put back as well. ``provider-left``: ``DELETE /resource_providers/{uuid}``, which
Placement refuses while anybody holds anything of it, and while it has children.

**Why it cannot hurt.** The uuid of the provider, and the host of the mapping, must be those of a compute node or nova-compute
service whose deleted row is still there, in its table or archived; and no cell may have a live one. So whatever is not Nova's
(shared storage, a reservation, Neutron's and Cyborg's devices, which hang below a compute node) is never a candidate. Should
nova-compute be started again at that very moment, it makes its provider anew, and ``discover_hosts`` maps its host.

**What is not changed.** A host on which instances or unfinished migrations still count; a provider of which somebody holds
something, that has children, is Ironic's, or whose host runs nova-compute; mappings and compute nodes' providers of which no
deleted row tells, because it was purged. They are reported. A provider whose name a live compute node needs is for
``audit_providers``, what is held of a deleted node for ``audit_allocations``.

**Undo.** The ``INSERT`` of the mapping, or ``openstack resource provider create`` (inventories, traits and aggregates are what
nova-compute reports when it starts, and ``sync_aggregates``).

Sources: ``nova/api/openstack/compute/services.py`` (delete), ``nova/scheduler/client/report.py``
(delete_resource_provider), ``nova/objects/host_mapping.py``, ``placement/objects/resource_provider.py`` (_delete).
"""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from sqlalchemy.engine import Connection
from sqlalchemy.exc import IntegrityError

from handlers.access.roles import PLACEMENT
from handlers.base import (
    Conflict,
    Finding,
    Healed,
    InFlight,
    Key,
    Mode,
    Privilege,
    Refused,
    Roles,
    Trigger,
    Unavailable,
)
from handlers.nova import keys, queries
from handlers.nova.base import PlacementHandler
from handlers.nova.cells import Cell
from handlers.nova.database import API
from handlers.nova.former_nodes import FormerNode, former_nodes
from handlers.nova.hosts import queries as host_queries
from handlers.nova.hosts.queries import Traces
from handlers.nova.hosts.rules import Forget, Leftover, LeftProvider, MappedHost, of_mapping, of_provider
from handlers.nova.nodes import nodes_among
from handlers.nova.placement import Provider
from handlers.nova.records import HostMapping
from handlers.nova.verdicts import MOVED_SETTLE, Report, Wait

#: what a look at a key found: a verdict with its evidence
Judged = tuple[Leftover, Mapping[str, Any]]


class AuditServices(PlacementHandler):
    """See the module."""

    name = "audit_services"
    title = "Take away host mappings and resource providers that deleted compute services left"
    kinds = ("host", "provider")
    healable_problems = frozenset({"mapping-left", "provider-left"})
    triggers = (Trigger("service.delete", keys.compute_host, after=MOVED_SETTLE),)
    default_mode = Mode.AUDIT
    default_interval = 3600
    confirm_after = 5.0
    requires = ("placement", "nova_api")
    cost = "Two queries per cell, one of nova_api and one request to Placement; an hour is fine for thousands of hosts."
    rights = {"nova_api": {"host_mappings": frozenset({Privilege.DELETE})}}
    roles = Roles((PLACEMENT,))

    def inspect(self, key: Key) -> Iterable[Finding]:
        """Judge a host's mapping and what its deleted compute nodes left in Placement, or one provider."""
        findings: list[Finding] = []
        waits: list[Wait] = []
        for verdict, evidence in self._provider(key.id) if key.kind == "provider" else self._host(key.id):
            if isinstance(verdict, Wait):
                waits.append(verdict)
            elif verdict is not None:
                findings.append(_finding(key, verdict, evidence))
        if waits and not findings:
            soonest = min(waits, key=lambda wait: wait.after)
            raise InFlight(soonest.reason, soonest.after)
        return findings

    def sweep(self) -> Iterator[Key]:
        """Yield mapped hosts that are in no cell, and compute nodes' providers that no cell has a compute node for.

        Those of such a host are looked at with it.
        """
        mapped = self._databases.api.run(queries.mapped_hosts)
        found = self._databases.run_in_all(self._databases.host_cells(), host_queries.present).values()
        there = {host.casefold() for hosts, _ in found for host in hosts}
        if mapped and not there:
            raise Unavailable(API, f"maps {len(mapped)} hosts, and no cell has one; are its cells those of this cloud?")
        hosts = sorted(host for host in mapped if host.casefold() not in there)
        yield from (Key("host", host) for host in hosts)
        left = set(self._placement.compute_providers()) - {uuid for _, nodes in found for uuid in nodes}
        seen = {node.uuid for node in self._former(left) if node.host in hosts} if hosts and left else set()
        yield from (Key("provider", uuid) for uuid in sorted(left - seen))

    def population(self) -> int:
        """How many hosts are mapped."""
        return len(self._databases.api.run(queries.mapped_hosts))

    def heal(self, finding: Finding) -> Healed:
        """Prove again, then delete what still is as it was."""
        if not finding.healable:
            raise Refused(finding.refusal)
        self._databases.require_known_schema()
        again = self.inspect(finding.key)
        if not any(
            (now.problem, now.evidence, now.healable) == (finding.problem, finding.evidence, True) for now in again
        ):
            raise Conflict(f"{finding.key} is not as it was")
        return self._unmap(finding) if finding.problem == "mapping-left" else self._remove(finding)

    def _unmap(self, finding: Finding) -> Healed:
        before = HostMapping(finding.evidence["host"], finding.evidence["cell_id"])
        undo = self._databases.api.run(lambda connection: host_queries.forget_host(connection, before))
        self._unless_back(before)
        return Healed(
            f"deleted the mapping of host {before.host}",
            before={"host": before.host, "cell": finding.evidence["cell"]},
            after={"cell": None},
            undo=f"{undo}\n-- in nova_api",
        )

    def _unless_back(self, before: HostMapping) -> None:
        """Put the mapping back when the host came back meanwhile and found itself mapped.

        :raises Conflict: when it did
        :raises Unavailable: when that cannot be told; it is put back as well
        """
        try:
            traces = self._traces(before.host).values()
        except Unavailable:
            self._put_back(before)
            raise
        if any(trace.services or trace.nodes for trace in traces):
            self._put_back(before)
            raise Conflict(f"host {before.host} came back while its mapping was deleted")

    def _put_back(self, before: HostMapping) -> None:
        def insert(connection: Connection) -> None:
            queries.insert_host_mapping(connection, before.host, before.cell_id)

        try:
            self._databases.api.run(insert)
        except IntegrityError as error:
            raise Conflict(f"somebody mapped host {before.host} again") from error

    def _remove(self, finding: Finding) -> Healed:
        uuid, name = finding.evidence["provider"], finding.evidence["name"]
        self._placement.delete_provider(uuid)
        return Healed(
            f"deleted the resource provider {name} ({uuid})",
            before={"provider": uuid, "name": name, "nodes": finding.evidence["nodes"]},
            after={"provider": None},
            undo=f"openstack resource provider create --uuid {uuid} {shlex.quote(name)}",
        )

    def _host(self, host: str) -> list[Judged]:
        mapping = self._databases.api.run(lambda connection: queries.host_mapping(connection, host))
        traces = self._traces(host)
        judged = [] if mapping is None else [self._mapping(mapping, traces)]
        gone = {node.uuid for trace in traces.values() for node in trace.former}
        gone -= {uuid for trace in traces.values() for uuid in trace.nodes}
        return [*judged, *(found for uuid in sorted(gone) for found in self._provider(uuid))]

    def _mapping(self, mapping: HostMapping, traces: dict[Cell, Traces]) -> Judged:
        for cell in traces:
            if cell.id == mapping.cell_id:
                evidence = {"host": mapping.host, "cell": cell.uuid, "cell_id": cell.id}
                return of_mapping(MappedHost(mapping.host, cell, traces)), evidence
        raise Unavailable(API, f"host {mapping.host} is mapped to the cell {mapping.cell_id}, which cannot have hosts")

    def _provider(self, uuid: str) -> list[Judged]:
        """Judge a provider: what is held of it first, then the databases; nothing, when there is none."""
        tree = self._placement.tree(uuid)
        if uuid not in tree:
            return []
        facts = self._facts(tree[uuid], frozenset(tree))
        evidence = {
            "provider": uuid,
            "name": facts.provider.name,
            "nodes": sorted({f"{node.host} {node.node}" for node in facts.former}),
            "children": sorted(facts.tree - {uuid}),
            "holders": sorted(facts.holders)[: queries.CHUNK],
        }
        return [(of_provider(facts), evidence)]

    def _facts(self, provider: Provider, tree: frozenset[str]) -> LeftProvider:
        holders = frozenset().union(*(self._placement.holders(member) for member in tree))
        marked = self._placement.is_compute_node(provider.uuid)
        former = self._former({provider.uuid})
        hosts = sorted({node.host for node in former})
        return LeftProvider(
            provider,
            tree,
            holders,
            alive=bool(nodes_among(self._databases, "uuid", {provider.uuid})),
            namesake=bool(nodes_among(self._databases, "hypervisor_hostname", {provider.name})),
            marked=marked,
            former=former,
            traces=tuple(trace for host in hosts for trace in self._traces(host).values()),
        )

    def _former(self, uuids: Collection[str]) -> tuple[FormerNode, ...]:
        found = self._databases.run_in_all(
            self._databases.host_cells(), lambda connection: former_nodes(connection, "uuid", uuids)
        )
        return tuple(node for nodes in found.values() for node in nodes)

    def _traces(self, host: str) -> dict[Cell, Traces]:
        return self._databases.run_in_all(
            self._databases.host_cells(), lambda connection: host_queries.traces(connection, host)
        )


def _finding(key: Key, verdict: Forget | Report, evidence: Mapping[str, Any]) -> Finding:
    refusal = verdict.refusal if isinstance(verdict, Report) else ""
    return Finding(key, verdict.problem, verdict.summary, evidence, not refusal, refusal)
