"""Keeps Placement's aggregates like Nova's.

**What drifts.** A host is in a Nova aggregate, but the resource providers of its compute nodes are not in Placement's
aggregate of the same uuid: then it is invisible to requests for that availability zone or tenant. Or the other way round:
the host left, its providers did not, and it still gets what it should not.

**Why Nova lets it.** Adding a host writes the database first and Placement second, and any failure there is only logged;
removing does Placement first. A provider that was made anew (a node registered again, Placement rebuilt) is in no
aggregate at all. ``nova-manage placement sync_aggregates`` only ever adds, and gives up at a host with several nodes.

**What is read.** ``aggregates`` and ``aggregate_hosts``; the live compute nodes of every cell; Placement's members, one
request per aggregate. All compute nodes of a host count, so ironic does too.

**What is changed.** ``PUT /resource_providers/{uuid}/aggregates`` with the provider's generation, first to last only the
aggregates in question: memberships that Nova knows nothing about stay. A membership is removed only from the root provider
of a live compute node, only from an aggregate that Nova has: operators put sharing providers into aggregates by hand.

**What is not changed.** Members of an aggregate that Nova does not have (any more) are reported. Nova keeps no trace of a
deleted aggregate, so it cannot be told from one that an operator made in Placement; the event is no proof.

**Races.** Nova removes a host from Placement first and from its database a moment later. A look between the two takes the
host for missing; so a finding must be seen twice, the heal reads Placement before the databases, and the generation makes
Nova's write or ours fail, whichever is second. What slips through even so is found again through
``aggregate.remove_host.end``, which is sent after both. The provider's generation also moves with every allocation on the
node: then the heal reads again, a few times.

**Undo.** ``openstack resource provider aggregate set``, with the memberships that the history holds.

Sources: ``nova/compute/api.py`` (AggregateAPI), ``nova/scheduler/client/report.py`` (aggregate_add_host), ``nova/cmd/
manage.py`` (sync_aggregates).
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Self

import tenacity

from handlers.base import Conflict, Finding, Healed, InFlight, Key, Refused, Resources, Trigger
from handlers.nova import hints, queries
from handlers.nova.database import NovaDatabases
from handlers.nova.nodes import live_nodes, nodes_among
from handlers.nova.placement import Placement, ProviderAggregates
from handlers.nova.records import Aggregate, ComputeNode
from handlers.nova.task import NovaTask

#: seconds that a new host has for making its compute node and its provider before that is reported
PATIENCE = 600
_AGAIN = 5.0


class SyncAggregates(NovaTask):
    """See the module."""

    name = "sync_aggregates"
    title = "Make the members of Placement's aggregates those of Nova's, both ways"
    kinds = ("aggregate", "host")
    triggers = (
        Trigger("aggregate.add_host.end", hints.aggregate),
        Trigger("aggregate.remove_host.end", hints.aggregate),
        Trigger("aggregate.delete.end", hints.aggregate),
        Trigger("service.create", hints.compute_host, after=_AGAIN),
    )
    default_mode = "heal"
    default_interval = 3600
    confirm_after = 2.0
    requires = ("placement", "nova_api")
    cost = "One request to Placement per aggregate and one query per cell; an hour is fine."

    def __init__(self, databases: NovaDatabases, placement: Placement) -> None:
        self._databases = databases
        self._placement = placement

    @classmethod
    def from_resources(cls, resources: Resources) -> Self:
        """Make it on the shared databases and session."""
        return cls(resources.get(NovaDatabases.from_resources), resources.get(Placement.from_resources))

    def inspect(self, key: Key) -> Iterable[Finding]:
        """Compare the members of one aggregate, or the memberships of one host."""
        aggregates = {aggregate.uuid: aggregate for aggregate in self._databases.api.run(queries.aggregates)}
        if key.kind == "host":
            return self._inspect_host(key, aggregates)
        if key.id not in aggregates:
            return self._inspect_unknown(key)
        return self._inspect_aggregate(key, aggregates[key.id])

    def sweep(self) -> Iterator[Key]:
        """Yield the aggregates whose members differ, as far as the cells answer."""
        nodes, down = live_nodes(self._databases)
        for aggregate in self._databases.api.run(queries.aggregates):
            wanted = {node.uuid for _, node in nodes.values() if node.host in aggregate.hosts}
            members = set(self._placement.members(aggregate.uuid)) & set(nodes)
            if wanted != members:
                yield Key("aggregate", aggregate.uuid)
        if down is not None:
            raise down

    def population(self) -> int:
        """How many aggregates there are."""
        return len(self._databases.api.run(queries.aggregates))

    def heal(self, finding: Finding) -> Healed:
        """Change the memberships of one provider; compare-and-set with its generation."""
        if not finding.healable:
            raise Refused(finding.refusal)
        self._databases.permit_changes()
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(Conflict),
            wait=tenacity.wait_random(0.05, 0.3),
            stop=tenacity.stop_after_attempt(4),
            reraise=True,
        )
        return retrying(self._set, finding)

    def _set(self, finding: Finding) -> Healed:
        provider = finding.evidence["provider"]
        add, remove = set(finding.evidence["add"]), set(finding.evidence["remove"])
        before = self._placement.aggregates(provider)
        if before is None:
            raise Conflict(f"provider {provider} is gone")
        node = self._node(provider, finding.evidence["host"])
        must, must_not = _memberships(self._databases.api.run(queries.aggregates), node.host)
        if not (add <= must - before.aggregates and remove <= must_not & before.aggregates):
            raise Conflict(f"the memberships of provider {provider} are not as they were")
        after = (before.aggregates | add) - remove
        self._placement.set_aggregates(before, after)
        return Healed(
            _action(finding.evidence["node"], sorted(add), sorted(remove)),
            before={"provider": provider, "aggregates": sorted(before.aggregates)},
            after={"provider": provider, "aggregates": sorted(after)},
            undo=_undo(before),
        )

    def _node(self, provider: str, host: str) -> ComputeNode:
        """Return the live compute node of a provider."""
        for node in nodes_among(self._databases, "uuid", {provider}):
            if node.host == host:
                return node
        raise Conflict(f"{provider} is no longer a compute node of host {host}")

    def _inspect_aggregate(self, key: Key, aggregate: Aggregate) -> list[Finding]:
        members = set(self._placement.members(aggregate.uuid))
        by_host = nodes_among(self._databases, "host", aggregate.hosts)
        by_uuid = nodes_among(self._databases, "uuid", members)
        findings, waiting = self._missing_nodes(key, aggregate.hosts - {node.host for node in by_host})
        for node in by_host:
            if node.uuid in members:
                continue
            if self._placement.aggregates(node.uuid) is not None:
                findings.append(_finding(key, node, add=[aggregate.uuid]))
            elif node.age < PATIENCE:
                waiting.append(f"the provider of {node.node}")
            else:
                findings.append(_no_provider(key, node))
        for node in by_uuid:
            if node.host not in aggregate.hosts:
                findings.append(_finding(key, node, remove=[aggregate.uuid]))
        return _or_wait(findings, waiting)

    def _inspect_unknown(self, key: Key) -> list[Finding]:
        nodes = nodes_among(self._databases, "uuid", set(self._placement.members(key.id)))
        if not nodes:
            return []
        finding = Finding(
            key,
            "members-of-unknown-aggregate",
            f"{len(nodes)} compute nodes are members of {key.id} in Placement, which is no aggregate of Nova",
            {"aggregate": key.id, "providers": sorted(node.uuid for node in nodes)},
            healable=False,
            refusal="it may be an aggregate that somebody made in Placement alone; if Nova's was deleted, take the "
            "providers out with: openstack resource provider aggregate set",
        )
        return [finding]

    def _inspect_host(self, key: Key, aggregates: Mapping[str, Aggregate]) -> list[Finding]:
        nodes = nodes_among(self._databases, "host", {key.id})
        must, must_not = _memberships(aggregates.values(), key.id)
        if not nodes:
            return _or_wait(*self._missing_nodes(key, frozenset({key.id}) if must else frozenset()))
        findings, waiting = [], []
        for node in nodes:
            has = self._placement.aggregates(node.uuid)
            if has is not None:
                add, remove = sorted(must - has.aggregates), sorted(must_not & has.aggregates)
                if add or remove:
                    findings.append(_finding(key, node, add=add, remove=remove))
            elif must and node.age < PATIENCE:
                waiting.append(f"the provider of {node.node}")
            elif must:
                findings.append(_no_provider(key, node))
        return _or_wait(findings, waiting)

    def _missing_nodes(self, key: Key, hosts: frozenset[str]) -> tuple[list[Finding], list[str]]:
        """Tell hosts without compute node that were just born from those that are gone."""
        if not hosts:
            return [], []
        found = self._databases.run_in(self._databases.host_cells(), queries.compute_services)
        ages = {service.host: service.age for services in found.values() for service in services}
        young = sorted(host for host in hosts if ages.get(host, PATIENCE) < PATIENCE)
        gone = sorted(hosts - set(young))
        if not gone:
            return [], [f"the compute node of {host}" for host in young]
        finding = Finding(
            key,
            "member-without-node",
            f"hosts in aggregates have no compute node: {', '.join(gone)}",
            {"hosts": gone},
            healable=False,
            refusal="start their nova-compute, or take them out with: openstack aggregate remove host",
        )
        return [finding], [f"the compute node of {host}" for host in young]


def _memberships(aggregates: Iterable[Aggregate], host: str) -> tuple[set[str], set[str]]:
    """Return the aggregates that a host's providers must and must not be in."""
    all_ = {aggregate.uuid: host in aggregate.hosts for aggregate in aggregates}
    return {uuid for uuid, member in all_.items() if member}, {uuid for uuid, member in all_.items() if not member}


def _finding(key: Key, node: ComputeNode, add: Sequence[str] = (), remove: Sequence[str] = ()) -> Finding:
    said = [f"lacks {', '.join(add)}"] if add else []
    said += [f"is still in {', '.join(remove)}"] if remove else []
    return Finding(
        key,
        "membership-missing" if add else "membership-stale",
        f"the provider of host {node.host}, node {node.node}, {' and '.join(said)} in Placement",
        {"provider": node.uuid, "host": node.host, "node": node.node, "add": list(add), "remove": list(remove)},
    )


def _no_provider(key: Key, node: ComputeNode) -> Finding:
    return Finding(
        key,
        "provider-missing",
        f"Placement has no provider for host {node.host}, node {node.node}",
        {"provider": node.uuid, "host": node.host, "node": node.node},
        healable=False,
        refusal="its nova-compute makes it; look into that log (a provider of the same name and another uuid?)",
    )


def _or_wait(findings: list[Finding], waiting: list[str]) -> list[Finding]:
    """Return the findings; with none, wait for what a new host has not made yet."""
    if waiting and not findings:
        raise InFlight(f"not there yet: {', '.join(waiting)}", _AGAIN)
    return findings


def _action(node: str, add: Sequence[str], remove: Sequence[str]) -> str:
    done = [f"put the provider of {node} into {', '.join(add)}"] if add else []
    done += [f"took the provider of {node} out of {', '.join(remove)}"] if remove else []
    return " and ".join(done)


def _undo(before: ProviderAggregates) -> str:
    """Return a command that runs as it is: 1.18 is the last version that asks for no generation."""
    words = ["openstack", "--os-placement-api-version", "1.18", "resource", "provider", "aggregate", "set"]
    for aggregate in sorted(before.aggregates):
        words += ["--aggregate", aggregate]
    return shlex.join([*words, before.provider])
