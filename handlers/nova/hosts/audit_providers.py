"""Report compute nodes whose name in Placement belongs to another resource provider.

**What drifts.** A compute node's provider should have the node's name and uuid. If a provider with another uuid has the name,
nova-compute cannot make the node's provider (``Conflicting resource provider name``). No instance is scheduled to the host, and
the host's instances count against the wrong provider.

**Why Nova lets it.** A deleted host came back, and its old provider was still there; the file with the node's uuid was lost;
``[DEFAULT] host`` changed; or two computers have one name.

**What is read.** The host's live compute nodes in every cell. The provider with each node's name, and that provider's
allocations. All compute nodes with that provider's uuid. If one cell does not answer, nothing is reported.

**What is changed.** Nothing, in any mode: the right command depends on the host's guests. The finding has the commands.

**What is not changed.** A name without a provider is no drift. A node younger than a minute is not judged.

Sources: ``nova/scheduler/client/report.py`` (_create_resource_provider), ``nova/virt/node.py``, ``nova/compute/manager.py``
(_ensure_existing_node_identity), ``placement/handlers/resource_provider.py``.
"""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum

from handlers.access.roles import PLACEMENT
from handlers.base import Finding, Healed, InFlight, Key, Mode, Refused, Roles, Trigger, keys_of
from handlers.nova import keys, queries
from handlers.nova.base import PlacementHandler
from handlers.nova.cells import Cell
from handlers.nova.nodes import live_nodes, nodes_among
from handlers.nova.placement import Provider
from handlers.nova.records import ComputeNode
from handlers.nova.verdicts import MOVED_SETTLE


class Problem(StrEnum):
    WRONG_UUID = "provider-uuid-wrong"


@dataclass(frozen=True, slots=True)
class Evidence:
    host: str
    node: str
    compute_node: str
    provider: str
    root: str
    owners: Sequence[str]
    holders: Sequence[str]


class AuditProviders(PlacementHandler):
    name = "audit_providers"
    title = "Report compute nodes whose name in Placement belongs to a provider of another uuid"
    kinds = ("host",)
    triggers = (Trigger("service.create", keys.compute_host, after=MOVED_SETTLE),)
    default_mode = Mode.AUDIT
    default_interval = 3600
    confirm_after = 5.0
    requires = ("placement", "nova_api")
    cost = "One query per cell, and one request for all providers of Placement; an hour is fine for thousands of hosts."
    roles = Roles((PLACEMENT,))

    def inspect(self, key: Key) -> Iterable[Finding]:
        findings = []
        for node in nodes_among(self._databases, "host", {key.id}):
            for provider in self._placement.named(node.node).values():
                if provider.uuid == node.uuid:
                    continue
                if node.age < MOVED_SETTLE:
                    raise InFlight("the compute node was made just now", MOVED_SETTLE - node.age)
                findings.append(self._finding(key, node, provider))
        return findings

    def sweep(self) -> Iterator[Key]:
        return self.sweep_cells(self._databases.host_cells())

    def sweep_cells(self, cells: Collection[Cell]) -> Iterator[Key]:
        normal = self._databases.host_names.normal
        found, down = self._databases.run_in_available(cells, queries.compute_nodes)
        named: dict[str, set[str]] = {}
        for provider in self._placement.providers().values():
            named.setdefault(normal(provider.name), set()).add(provider.uuid)
        nodes = [node for some in found.values() for node in some]
        wrong = {node.host for node in nodes if named.get(normal(node.node), {node.uuid}) != {node.uuid}}
        yield from keys_of("host", sorted(wrong))
        if down is not None:
            raise down

    def population(self) -> int:
        nodes, _ = live_nodes(self._databases)
        return len(nodes)

    def heal(self, finding: Finding) -> Healed:
        raise Refused(finding.refusal)

    def _finding(self, key: Key, node: ComputeNode, provider: Provider) -> Finding:
        consumers = sorted(self._placement.holders(provider.uuid))
        same = self._databases.host_names.same
        owners = [
            other for other in nodes_among(self._databases, "uuid", {provider.uuid}) if not same(other.host, node.host)
        ]
        evidence = Evidence(
            node.host,
            node.node,
            node.uuid,
            provider.uuid,
            provider.root,
            owners=sorted(other.host for other in owners),
            holders=consumers[: queries.CHUNK],
        )
        return Finding(
            key,
            Problem.WRONG_UUID,
            f"compute node {node.node} of host {node.host} is {node.uuid}, but the provider of that name is {provider.uuid}, "
            f"from which {len(consumers)} consumers have allocations",
            asdict(evidence),
            healable=False,
            refusal=advice(node, provider, bool(consumers), [other.host for other in owners]),
        )


def advice(node: ComputeNode, provider: Provider, in_use: bool, owners: Sequence[str]) -> str:
    """Return possible causes and commands as text, if ``provider`` has the name of ``node``, but another uuid.

    :param owners: other hosts that have a compute node with the provider's uuid
    """
    if owners:
        return _shared(node, owners)
    if provider.root != provider.uuid:
        return (
            f"the provider is part of the tree of {provider.root}: either an operator or another service made it. Rename it "
            f"there: openstack resource provider set --name NAME {provider.uuid}"
        )
    if in_use:
        old = shlex.quote(f"{node.node}-{provider.uuid[:8]}")
        return (
            "either the host came back with a new node, and its instances count against the old provider; or another service "
            "made the provider. In the first case: openstack resource provider set --name "
            f"{old} {provider.uuid}; wait until nova-compute has made {node.uuid}; openstack resource provider show "
            f"--allocations {provider.uuid}; for each instance nova-manage placement heal_allocations --force --instance "
            "UUID; then audit_services deletes the rest"
        )
    return f"it has no allocation: openstack resource provider delete {provider.uuid}, and nova-compute makes its own"


def _shared(node: ComputeNode, owners: Sequence[str]) -> str:
    names = ", ".join(sorted(owners))
    renamed = (
        f"one machine changed its name ([DEFAULT] host or host name): give it the name {names} back, restart its nova-compute, "
        f"then delete the service of {node.host}, which is then down: openstack compute service list --host "
        f"{shlex.quote(node.host)} shows it; openstack compute service delete ID"
    )
    shared = (
        "two machines report one hypervisor name: rename one (its host name, or [DEFAULT] host with Ironic), and restart its "
        "nova-compute"
    )
    if any(_is_short_form(owner, node.host) for owner in owners):
        return f"the names {names} and {node.host} differ by the domain only, so most likely {renamed}. Or {shared}"
    return f"either {renamed}. Or {shared}. compute_nodes.host_ip shows which: one machine reports one address under both hosts"


def _is_short_form(one: str, other: str) -> bool:
    short, long = sorted((one, other), key=len)
    return long.startswith(f"{short}.")
