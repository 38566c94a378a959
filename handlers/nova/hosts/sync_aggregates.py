"""Add the hosts of Nova's aggregates to Placement's aggregates.

**What drifts.** A host is in an aggregate of Nova, but its providers are not in that aggregate in Placement. Requests for the
aggregate's availability zone or tenant then do not reach the host. Or a host left the aggregate, but its provider did not.

**Why Nova lets it.** To add a host, Nova writes its database, then Placement, and only logs a failure of the second write. A
new provider is in no aggregate. ``nova-manage placement sync_aggregates`` gives up at a host with several nodes.

**What is read.** ``aggregates`` and ``aggregate_hosts``; the live compute nodes of every cell; each aggregate's members in
Placement. Where Nova and Placement disagree about a provider, also all aggregates of the provider.

**What is changed.** ``PUT /resource_providers/{uuid}/aggregates``, with the provider's generation, adds the missing aggregates
and keeps all others.

**What is not changed.** A membership that Nova does not know is only reported: either the host left, or an operator added the
provider. ``[audit] sync_aggregates_remove`` permits the removal, unless the host has several nodes. Memberships of Ironic nodes
are only reported: these nodes move between hosts, and Nova's aggregates know hosts only. The handler also reports a host
without a compute node, and a node without a provider. It reports an aggregate of Placement that Nova does not have, if the
aggregate has compute nodes and no sharing provider. To find such aggregates, each sweep reads those of the next hundred nodes.

**Why a race does no harm.** Nova removes a host from Placement first, so for a moment a membership seems to be missing.
Therefore two inspections must agree, and the heal reads providers before databases. If Nova and stackmend write at once, the
provider's generation makes the second write fail. A server of nova_api that refuses writes can have old rows: then nothing is
changed.

**Undo.** ``openstack resource provider aggregate set`` with the former memberships.

Sources: ``nova/compute/api.py`` (AggregateAPI), ``nova/scheduler/client/report.py`` (aggregate_add_host),
``nova/cmd/manage.py`` (sync_aggregates).
"""

from __future__ import annotations

import random
import shlex
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Self

from oslo_config import cfg

from handlers.access.cloud import Write
from handlers.access.roles import PLACEMENT
from handlers.base import (
    Conflict,
    Finding,
    HandlerError,
    Healed,
    InFlight,
    Key,
    Mode,
    Refused,
    Resources,
    Roles,
    Trigger,
    Unavailable,
    keys_of,
)
from handlers.nova import concerns, keys, options, queries
from handlers.nova.base import PlacementHandler
from handlers.nova.database import NovaDatabases
from handlers.nova.hosts.aggregate_rules import OR_RUN, Membership, Problem, differing, refusal, wanted
from handlers.nova.nodes import OwnPlacement, live_nodes, nodes_among
from handlers.nova.placement import Placement, ProviderAggregates, joining
from handlers.nova.records import Aggregate, ComputeNode
from handlers.nova.turns import Turns

#: seconds that a new host has for making its compute node and its provider before that is reported
PATIENCE = 600
_AGAIN = 5.0
#: providers of one finding
BATCH = 50
#: compute nodes of one sweep whose aggregates are compared with Nova's
NODES = 100
#: aggregates unknown to Nova that one sweep yields: too few to trip the breaker, because operators may have made many
UNKNOWN = 20
#: nodes that a sentence names
_NAMED = 5
#: rounds in which a heal reads and writes providers that changed between reading and writing, and seconds between rounds
_ROUNDS, _PAUSE = 4, (0.05, 0.3)

OPTIONS: list[cfg.Opt] = [
    cfg.BoolOpt(
        "sync_aggregates_remove",
        default=False,
        help="Also remove providers from aggregates of Placement that their host is not in, as far as Nova knows. Leave it "
        "off where operators put providers into aggregates by hand, for example to isolate tenants. Providers of a host with "
        "several compute nodes, and of Ironic nodes, are never removed. When off, such memberships are reported.",
    ),
]


class SyncAggregates(PlacementHandler):
    name = "sync_aggregates"
    title = "Add the hosts of Nova's aggregates to Placement's aggregates"
    kinds = ("aggregate", "host")
    healable_problems = frozenset({Problem.MISSING, Problem.STALE})
    triggers = (
        Trigger("aggregate.add_host.end", keys.aggregate),
        Trigger("aggregate.remove_host.end", keys.aggregate),
        Trigger("aggregate.delete.end", keys.aggregate),
        Trigger("service.create", keys.compute_host, after=_AGAIN),
    )
    concerned_kinds = concerns.KINDS | {"aggregate"}
    default_mode = Mode.HEAL
    follows = ("discover_hosts",)
    default_interval = 3600
    confirm_after = 2.0
    requires = ("placement", "nova_api")
    cost = "One request to Placement per aggregate, up to a hundred for compute nodes, and one query per cell; an hour is fine."
    roles = Roles((PLACEMENT,))

    def __init__(self, databases: NovaDatabases, placement: Placement, remove: bool = False) -> None:
        super().__init__(databases, placement)
        self._remove = remove
        self._nodes = Turns()
        self._strangers = Turns()
        self._own_placement = OwnPlacement(databases, placement)

    @classmethod
    def options(cls) -> Mapping[str, Sequence[cfg.Opt]]:
        return {**super().options(), options.AUDIT: OPTIONS}

    @classmethod
    def from_resources(cls, resources: Resources) -> Self:
        remove = bool(resources.conf[options.AUDIT].sync_aggregates_remove)
        databases, placement = resources.get(NovaDatabases.from_resources), resources.get(Placement.from_resources)
        return cls(databases, placement, remove)

    def inspect(self, key: Key) -> Iterable[Finding]:
        aggregates = {aggregate.uuid: aggregate for aggregate in self._databases.api.run(queries.aggregates)}
        if key.kind == "host":
            return self._inspect_host(key, aggregates)
        if key.id not in aggregates:
            return self._inspect_unknown(key)
        return self._inspect_aggregate(key, aggregates[key.id])

    def sweep(self) -> Iterator[Key]:
        names = self._databases.host_names
        nodes, down = live_nodes(self._databases)
        by_host: dict[str, set[str]] = {}
        for _, node in nodes.values():
            by_host.setdefault(names.normal(node.host), set()).add(node.uuid)
        aggregates = self._databases.api.run(queries.aggregates)
        members_of = self._placement.members_of_each(aggregate.uuid for aggregate in aggregates)
        for aggregate in aggregates:
            hosts = names.all_normal(aggregate.hosts)
            expected = {uuid for host in hosts for uuid in by_host.get(host, ())}
            members = members_of[aggregate.uuid].keys() & nodes.keys()
            without_node = down is None and not hosts <= set(by_host)
            if expected != members or without_node:
                yield Key("aggregate", aggregate.uuid)
        yield from keys_of("aggregate", self._unknown(nodes, {aggregate.uuid for aggregate in aggregates}))
        if down is not None:
            raise down

    def population(self) -> int:
        return len(self._databases.api.run(queries.aggregates))

    def heal(self, finding: Finding) -> Healed:
        if not finding.healable:
            raise Refused(finding.refusal)
        self._databases.require_known_schema()
        self._own_placement.require()
        match finding.problem:
            case Problem.MISSING | Problem.STALE:
                wrong = [Membership.from_json(provider) for provider in finding.evidence["providers"]]
            case _:
                raise Refused(f"{self.name} has no heal for {finding.problem}")
        done, unanswered = self._write_all(finding.problem, wrong)
        written = [*done, *unanswered]
        return Healed(
            _action(finding.problem, done)
            + "".join(f"; Placement did not answer for the provider of {one.node}" for one in unanswered),
            before={"aggregates": {one.provider: sorted(one.before) for one in written}},
            after={"aggregates": {one.provider: sorted(one.after(finding.problem)) for one in done}},
            undo=_undo(written),
            complete=len(done) == len(wrong),
        )

    def _write_all(self, problem: str, wrong: Sequence[Membership]) -> tuple[list[Membership], list[Membership]]:
        """Correct those memberships of ``wrong`` that are still wrong.

        :return: the corrected memberships, and at most one whose write Placement did not answer, but may have made
        :raises Conflict, Refused: Placement made no write
        :raises Unavailable: Placement confirmed no write, and may have made one
        """
        done: list[Membership] = []
        unanswered: list[Membership] = []
        failed: HandlerError = Conflict(f"the memberships of {_names(wrong)} changed")
        rest = list(wrong)
        for attempt in range(_ROUNDS):
            if attempt:
                time.sleep(random.uniform(*_PAUSE))
            again: list[Membership] = []
            try:
                for one, now in self._still_wrong(problem, rest):
                    try:
                        self._placement.set_aggregates(now, one.after(problem))
                    except Conflict:
                        again.append(one)
                    except Refused as error:
                        failed = error
                    except Unavailable:
                        unanswered.append(one)
                        raise
                    else:
                        done.append(one)
            except Unavailable as error:
                failed = error
                break
            if not again:
                break
            rest = again
        if not done:
            raise failed
        return done, unanswered

    def _still_wrong(self, problem: str, wrong: Sequence[Membership]) -> list[tuple[Membership, ProviderAggregates]]:
        read = [self._placement.aggregates(one.provider) for one in wrong]
        aggregates = self._databases.api.run(queries.aggregates)
        nodes = nodes_among(self._databases, "uuid", {one.provider for one in wrong})
        hosts = {node.uuid: node.host for node in nodes}
        why = self._refusals(problem, nodes)
        found = []
        for one, now in zip(wrong, read, strict=True):
            if now is None or hosts.get(one.provider) != one.host or now.aggregates != one.before:
                continue
            rule = wanted(self._databases.host_names, aggregates, one.host)
            expected = rule.joined if problem == Problem.MISSING else rule.left
            if one.aggregates <= expected and not why(one):
                found.append((one, now))
        return found

    def _inspect_aggregate(self, key: Key, aggregate: Aggregate) -> list[Finding]:
        names = self._databases.host_names
        members = set(self._placement.members(aggregate.uuid))
        by_host = nodes_among(self._databases, "host", aggregate.hosts)
        by_uuid = nodes_among(self._databases, "uuid", members)
        findings, waiting = self._missing_nodes(key, aggregate.hosts, by_host)
        differ = [node for node in by_host if node.uuid not in members]
        hosts = names.all_normal(aggregate.hosts)
        differ += [node for node in by_uuid if names.normal(node.host) not in hosts]
        return self._compare(key, differ, [aggregate], findings, waiting)

    def _inspect_host(self, key: Key, aggregates: Mapping[str, Aggregate]) -> list[Finding]:
        nodes = nodes_among(self._databases, "host", {key.id})
        rule = wanted(self._databases.host_names, aggregates.values(), key.id)
        hosts = frozenset({key.id}) if rule.joined else frozenset()
        findings, waiting = self._missing_nodes(key, hosts, nodes)
        return self._compare(key, nodes, list(aggregates.values()), findings, waiting)

    def _compare(
        self,
        key: Key,
        nodes: Sequence[ComputeNode],
        aggregates: Sequence[Aggregate],
        findings: list[Finding],
        waiting: list[str],
    ) -> list[Finding]:
        lacking, extra = [], []
        for node in nodes:
            rule = wanted(self._databases.host_names, aggregates, node.host)
            has = self._placement.aggregates(node.uuid)
            if has is not None:
                lacks, more = differing(node, has.aggregates, rule)
                lacking += [replace(lacks, generation=has.generation)] if lacks else []
                extra += [replace(more, generation=has.generation)] if more else []
            elif rule.joined and node.age < PATIENCE:
                waiting.append(f"the provider of {node.node}")
            elif rule.joined:
                findings.append(_no_provider(key, node))
        found = [*self._wrong(key, Problem.MISSING, lacking), *self._wrong(key, Problem.STALE, extra), *findings]
        if waiting and not found:
            raise InFlight(f"not there yet: {', '.join(waiting)}", _AGAIN)
        return found

    def _wrong(self, key: Key, problem: Problem, wrong: Sequence[Membership]) -> list[Finding]:
        if not wrong:
            return []
        why = self._refusals(problem, nodes_among(self._databases, "uuid", {one.provider for one in wrong}))
        by_refusal: dict[str, list[Membership]] = {}
        for one in wrong:
            by_refusal.setdefault(why(one), []).append(one)
        found = (one for text, some in sorted(by_refusal.items()) for one in _findings(key, problem, some, text))
        return [replace(finding, concerns=self._concerns(memberships)) for finding, memberships in found]

    def _concerns(self, wrong: Sequence[Membership]) -> frozenset[str]:
        aggregates = (concerns.named("aggregate", *one.aggregates) for one in wrong)
        hosts = (concerns.named("host", one.host, one.node) for one in wrong)
        return concerns.of_nodes(self._databases, {one.provider for one in wrong}).union(*aggregates, *hosts)

    def _refusals(self, problem: str, nodes: Sequence[ComputeNode]) -> Callable[[Membership], str]:
        normal = self._databases.host_names.normal
        of_uuid = Counter(node.uuid for node in nodes)
        ironic = {node.uuid for node in nodes if node.ironic}
        of_host: Counter[str] = Counter()
        if problem == Problem.STALE:
            beside = nodes_among(self._databases, "host", {node.host for node in nodes})
            of_host = Counter(normal(node.host) for node in beside)
        return lambda one: refusal(
            problem, self._remove, of_uuid[one.provider], of_host[normal(one.host)], one.provider in ironic
        )

    def _unknown(self, nodes: Iterable[str], known: set[str]) -> list[str]:
        unknown = self._aggregates_of(self._nodes.take(nodes, NODES)) - known
        if unknown:
            unknown -= self._aggregates_of(self._placement.sharing_providers())
        return self._strangers.take(unknown, UNKNOWN)

    def _aggregates_of(self, providers: Iterable[str]) -> set[str]:
        found = self._placement.aggregates_of_each(providers).values()
        return {aggregate for one in found if one is not None for aggregate in one.aggregates}

    def _inspect_unknown(self, key: Key) -> list[Finding]:
        members = set(self._placement.members(key.id))
        nodes = nodes_among(self._databases, "uuid", members)
        if not nodes or members & set(self._placement.sharing_providers()):
            return []
        providers = sorted({node.uuid for node in nodes})
        finding = Finding(
            key,
            Problem.UNKNOWN_AGGREGATE,
            f"{len(nodes)} compute nodes are members of {key.id} in Placement, and Nova has no such aggregate",
            {"aggregate": key.id, "providers": providers},
            healable=False,
            refusal="either an operator made it in Placement, for example for shared storage, or Nova's aggregate was deleted. "
            f"Only in the second case remove the providers: {self._without(key.id, providers)}",
        )
        return [finding]

    def _without(self, aggregate: str, providers: Sequence[str]) -> str:
        read = {one: self._placement.aggregates(one) for one in providers[:_NAMED]}
        commands = [_setting(one, has.aggregates - {aggregate}) for one, has in read.items() if has is not None]
        more = len(providers) - _NAMED
        return "; ".join([*commands, *([f"likewise {more} more"] if more > 0 else [])])

    def _missing_nodes(
        self, key: Key, hosts: Iterable[str], nodes: Iterable[ComputeNode]
    ) -> tuple[list[Finding], list[str]]:
        names = self._databases.host_names
        there = names.all_normal(node.host for node in nodes)
        missing = sorted(host for host in hosts if names.normal(host) not in there)
        if not missing:
            return [], []
        found = self._databases.run_in_all(self._databases.host_cells(), queries.compute_services)
        ages = {names.normal(service.host): service.age for services in found.values() for service in services}
        gone = [host for host in missing if ages.get(names.normal(host), PATIENCE) >= PATIENCE]
        waiting = [f"the compute node of {host}" for host in missing if host not in gone]
        if not gone:
            return [], waiting
        finding = Finding(
            key,
            Problem.NO_NODE,
            f"hosts in aggregates have no compute node: {', '.join(gone)}",
            {"hosts": gone},
            healable=False,
            refusal="either nova-compute does not run there, or the host is gone. Start it, or: openstack aggregate remove "
            f"host AGGREGATE {shlex.quote(gone[0]) if len(gone) == 1 else 'HOST'}",
        )
        return [finding], waiting


def _findings(
    key: Key, problem: Problem, wrong: Sequence[Membership], refusal: str = ""
) -> Iterator[tuple[Finding, Sequence[Membership]]]:
    ordered = sorted(wrong, key=lambda one: one.provider)
    for start in range(0, len(ordered), BATCH):
        part = ordered[start : start + BATCH]
        removing = "; ".join(_setting(one.provider, one.after(problem)) for one in part)
        finding = Finding(
            key,
            problem,
            _summary(problem, part),
            {"providers": [one.to_json() for one in part]},
            healable=not refusal,
            refusal=f"{refusal}: {removing}" if refusal.endswith(OR_RUN) else refusal,
            weight=len(part),
            undo="" if refusal else _undo(part),
            plan="" if refusal else "\n".join(str(_write(problem, one)) for one in part),
        )
        yield finding, part


def _write(problem: Problem, one: Membership) -> Write:
    return joining(ProviderAggregates(one.provider, one.before, one.generation), one.after(problem))


def _summary(problem: Problem, wrong: Sequence[Membership]) -> str:
    if len(wrong) > 1:
        said = "lack aggregates" if problem is Problem.MISSING else "are in aggregates that their hosts are not in"
        return f"{len(wrong)} providers {said} in Placement: {_names(wrong)}"
    [one] = wrong
    aggregates = ", ".join(sorted(one.aggregates))
    said = f"lacks {aggregates}" if problem is Problem.MISSING else f"is in {aggregates}, which the host is not in,"
    return f"the provider of host {one.host}, node {one.node}, {said} in Placement"


def _names(wrong: Sequence[Membership]) -> str:
    names = [one.node for one in wrong[:_NAMED]]
    return f"{', '.join(names)} and {len(wrong) - _NAMED} more" if len(wrong) > _NAMED else ", ".join(names)


def _no_provider(key: Key, node: ComputeNode) -> Finding:
    return Finding(
        key,
        Problem.NO_PROVIDER,
        f"Placement has no provider for host {node.host}, node {node.node}",
        {"provider": node.uuid, "host": node.host, "node": node.node},
        healable=False,
        refusal="its nova-compute makes the provider: either it does not run, or another provider has the name; read its log",
    )


def _action(problem: str, done: Sequence[Membership]) -> str:
    verb, preposition = ("added", "to") if problem == Problem.MISSING else ("removed", "from")
    if len(done) > 1:
        return f"{verb} {len(done)} providers {preposition} aggregates in Placement: {_names(done)}"
    [one] = done
    return f"{verb} the provider of {one.node} {preposition} {', '.join(sorted(one.aggregates))} in Placement"


def _undo(wrong: Iterable[Membership]) -> str:
    return "\n".join(_setting(one.provider, one.before) for one in wrong)


def _setting(provider: str, aggregates: Iterable[str]) -> str:
    """Up to Placement's microversion 1.18, the command needs no generation."""
    words = ["openstack", "--os-placement-api-version", "1.18", "resource", "provider", "aggregate", "set"]
    for aggregate in sorted(aggregates):
        words += ["--aggregate", aggregate]
    return shlex.join([*words, provider])
