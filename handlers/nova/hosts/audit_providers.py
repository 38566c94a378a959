"""Reports compute nodes that have no resource provider because their name in Placement belongs to another one.

**What drifts.** The provider of a compute node has the node's name and the node's uuid. Where the name is taken by a provider
of another uuid, nova-compute cannot make its own: ``Conflicting resource provider name``, once a minute, and no instance is
ever scheduled to the host, while what runs there is counted on the wrong provider.

**Why Nova lets it.** A service was deleted, and its provider stayed because somebody still held something of it, or because
Placement did not answer; then the host came back with a new compute node. Or the file in which nova-compute keeps its node's
uuid was lost with the host's disk. Or two hosts, perhaps of different cells, report the same name for their hypervisors.

**What is read.** The live compute nodes of the host in every cell; the provider that has the name of each; who holds anything
of it, and whose uuid it has. When one cell does not answer nothing is said.

**What is changed.** Nothing, in any mode. To delete or rename the provider is right or fatal depending on what the host runs,
which only a person can see; the finding says who holds how much of it, and the commands for either case.

**What is not reported.** A node that has a provider under its name and uuid; one whose name nobody has (nova-compute makes the
provider when it starts); one that is younger than a minute.

Sources: ``nova/scheduler/client/report.py`` (_create_resource_provider), ``nova/virt/node.py``, ``nova/compute/manager.py``
(_ensure_existing_node_identity), ``placement/handlers/resource_provider.py``.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Sequence

from handlers.access.roles import PLACEMENT
from handlers.base import Finding, Healed, InFlight, Key, Mode, Refused, Roles, Trigger
from handlers.nova import keys, queries
from handlers.nova.base import PlacementHandler
from handlers.nova.nodes import live_nodes, nodes_among
from handlers.nova.placement import Provider
from handlers.nova.records import ComputeNode
from handlers.nova.verdicts import MOVED_SETTLE


class AuditProviders(PlacementHandler):
    """See the module."""

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
        """Compare the names of a host's compute nodes with the providers that have them."""
        findings = []
        for node in nodes_among(self._databases, "host", {key.id}):
            for provider in self._placement.named(node.node).values():
                if provider.uuid == node.uuid:
                    continue
                if node.age < MOVED_SETTLE:
                    raise InFlight("the compute node was made only just now", MOVED_SETTLE - node.age)
                findings.append(self._finding(key, node, provider))
        return findings

    def sweep(self) -> Iterator[Key]:
        """Yield the hosts of compute nodes whose name a provider of another uuid has."""
        nodes, down = live_nodes(self._databases)
        named = {provider.name.casefold(): provider.uuid for provider in self._placement.providers().values()}
        wrong = {node.host for uuid, (_, node) in nodes.items() if named.get(node.node.casefold(), uuid) != uuid}
        yield from (Key("host", host) for host in sorted(wrong))
        if down is not None:
            raise down

    def population(self) -> int:
        """How many compute nodes there are in the cells that answer."""
        nodes, _ = live_nodes(self._databases)
        return len(nodes)

    def heal(self, finding: Finding) -> Healed:
        """Refuse: see the module."""
        raise Refused(finding.refusal)

    def _finding(self, key: Key, node: ComputeNode, provider: Provider) -> Finding:
        holders = sorted(self._placement.holders(provider.uuid))
        owners = [other for other in nodes_among(self._databases, "uuid", {provider.uuid}) if other.host != node.host]
        evidence = {
            "host": node.host,
            "node": node.node,
            "compute_node": node.uuid,
            "provider": provider.uuid,
            "root": provider.root,
            "owners": sorted(other.host for other in owners),
            "holders": holders[: queries.CHUNK],
        }
        return Finding(
            key,
            "provider-uuid-wrong",
            f"compute node {node.node} of host {node.host} is {node.uuid}, but the provider of that name is {provider.uuid}, "
            f"of which {len(holders)} consumers hold something",
            evidence,
            healable=False,
            refusal=_advice(node, provider, bool(holders), [other.host for other in owners]),
        )


def _advice(node: ComputeNode, provider: Provider, held: bool, owners: Sequence[str]) -> str:
    """Say what a person has to do."""
    if owners:
        return (
            f"it is the provider of host {', '.join(sorted(owners))}, whose hypervisor has the same name: give one of the two "
            "another name (its host name, or [DEFAULT] host with Ironic), and restart its nova-compute"
        )
    if provider.root != provider.uuid:
        return f"it is part of the tree of {provider.root}: see who made it, and rename it there"
    if held:
        old = shlex.quote(f"{node.node}-{provider.uuid[:8]}")
        return (
            f"instances may be counted on it: openstack resource provider set --name {old} {provider.uuid}; wait until "
            f"nova-compute has made {node.uuid}; openstack resource provider show --allocations {provider.uuid}; for each "
            "instance nova-manage placement heal_allocations --force --instance <uuid>; then audit_services takes the rest"
        )
    return f"nobody holds anything of it: openstack resource provider delete {provider.uuid}, and nova-compute makes its own"
