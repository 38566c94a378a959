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
of a live compute node, only from an aggregate that Nova has: operators put sharing providers into aggregates by hand. Up to
fifty providers that an aggregate lacks, or has too many, are one finding and count as one heal; each is written for itself,
and what somebody else has changed meanwhile is left to the next look.

**What is not changed.** Members of an aggregate that Nova does not have (any more) are reported. Nova keeps no trace of a
deleted aggregate, so it cannot be told from one that an operator made in Placement; the event is no proof.

**Races.** Nova removes a host from Placement first and from its database a moment later. A look between the two takes the
host for missing; so a finding must be seen twice, the heal reads all providers before the databases, and their generations
make Nova's write or ours fail, whichever is second. What slips through even so is found again through
``aggregate.remove_host.end``, which is sent after both. The provider's generation also moves with every allocation on the
node: then the heal reads everything again, a few times.

**Undo.** ``openstack resource provider aggregate set``, with the memberships that the history holds.

Sources: ``nova/compute/api.py`` (AggregateAPI), ``nova/scheduler/client/report.py`` (aggregate_add_host), ``nova/cmd/
manage.py`` (sync_aggregates).
"""

from __future__ import annotations

import random
import shlex
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

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
    Roles,
    Trigger,
    Unavailable,
)
from handlers.nova import keys, queries
from handlers.nova.base import PlacementHandler
from handlers.nova.nodes import live_nodes, nodes_among
from handlers.nova.placement import ProviderAggregates
from handlers.nova.records import Aggregate, ComputeNode
from handlers.withheld import Withheld, is_withheld, refusal

#: seconds that a new host has for making its compute node and its provider before that is reported
PATIENCE = 600
_AGAIN = 5.0
#: providers of one finding
BATCH = 50
#: nodes that a sentence names
_NAMED = 5
#: how often the heal reads again what changed between reading and writing, and seconds in between
_ROUNDS, _PAUSE = 4, (0.05, 0.3)


@dataclass(frozen=True, slots=True)
class _Wrong:
    """A compute node's provider whose memberships are not those of its host.

    :param add: the aggregates that it should be in
    :param remove: those that it should not be in
    """

    provider: str
    host: str
    node: str
    add: Sequence[str] = ()
    remove: Sequence[str] = ()


class SyncAggregates(PlacementHandler):
    """See the module."""

    name = "sync_aggregates"
    title = "Make the members of Placement's aggregates those of Nova's, both ways"
    kinds = ("aggregate", "host")
    healable_problems = frozenset({"membership-missing", "membership-stale"})
    triggers = (
        Trigger("aggregate.add_host.end", keys.aggregate),
        Trigger("aggregate.remove_host.end", keys.aggregate),
        Trigger("aggregate.delete.end", keys.aggregate),
        Trigger("service.create", keys.compute_host, after=_AGAIN),
    )
    default_mode = Mode.HEAL
    default_interval = 3600
    confirm_after = 2.0
    requires = ("placement", "nova_api")
    cost = "One request to Placement per aggregate and one query per cell; an hour is fine."
    roles = Roles((PLACEMENT,))

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
        """Change the memberships of the providers that still are as they were; compare-and-set with their generations."""
        if not finding.healable:
            raise Refused(finding.refusal)
        self._databases.require_known_schema()
        wrong = [_Wrong(**provider) for provider in finding.evidence["providers"]]
        before, done = self._set_all(wrong)
        return Healed(
            _action(done),
            before={"aggregates": {one.provider: sorted(before[one.provider].aggregates) for one in done}},
            after={"aggregates": {one.provider: sorted(_after(before[one.provider], one)) for one in done}},
            undo="; ".join(_undo(before[one.provider]) for one in done),
            complete=len(done) == len(wrong),
        )

    def _set_all(self, wrong: Sequence[_Wrong]) -> tuple[dict[str, ProviderAggregates], list[_Wrong]]:
        """Change what is still wrong; return what was there before, and what was changed.

        :raises Conflict: when nothing could be changed
        :raises Unavailable: likewise; when something was changed before, the next look finds the rest
        """
        before: dict[str, ProviderAggregates] = {}
        done: list[_Wrong] = []
        rest = list(wrong)
        failed: HandlerError | None = None
        try:
            for attempt in range(_ROUNDS):
                if not rest:
                    break
                if attempt:
                    time.sleep(random.uniform(*_PAUSE))
                now = self._still_wrong(rest)
                before |= now
                rest = [one for one in rest if one.provider in now]
                for one in list(rest):
                    try:
                        self._placement.set_aggregates(now[one.provider], _after(now[one.provider], one))
                    except Conflict:
                        continue
                    except Refused as error:
                        failed = error
                    else:
                        done.append(one)
                    rest.remove(one)
        except Unavailable as error:
            failed = error
        if not done:
            raise failed or Conflict(f"the memberships of {', '.join(one.node for one in wrong)} are not as they were")
        return before, done

    def _still_wrong(self, wrong: Sequence[_Wrong]) -> dict[str, ProviderAggregates]:
        """Read memberships and then the databases; return the memberships of those that are as wrong as they were."""
        read = [self._placement.aggregates(one.provider) for one in wrong]
        aggregates = self._databases.api.run(queries.aggregates)
        nodes = {node.uuid: node.host for node in nodes_among(self._databases, "uuid", {one.provider for one in wrong})}
        found = {}
        for one, has in zip(wrong, read, strict=True):
            must, must_not = _memberships(aggregates, one.host)
            if has is None or nodes.get(one.provider) != one.host:
                continue
            if set(one.add) <= must - has.aggregates and set(one.remove) <= must_not & has.aggregates:
                found[one.provider] = has
        return found

    def _inspect_aggregate(self, key: Key, aggregate: Aggregate) -> list[Finding]:
        members = set(self._placement.members(aggregate.uuid))
        by_host = nodes_among(self._databases, "host", aggregate.hosts)
        by_uuid = nodes_among(self._databases, "uuid", members)
        findings, waiting = self._missing_nodes(key, aggregate.hosts - {node.host for node in by_host})
        lacking = [node for node in by_host if node.uuid not in members]
        providers = self._placement.providers() if lacking else {}
        wrong: list[_Wrong] = []
        for node in lacking:
            if node.uuid in providers:
                wrong.append(_wrong(node, add=[aggregate.uuid]))
            elif node.age < PATIENCE:
                waiting.append(f"the provider of {node.node}")
            else:
                findings.append(_no_provider(key, node))
        for node in by_uuid:
            if node.host not in aggregate.hosts:
                wrong.append(_wrong(node, remove=[aggregate.uuid]))
        return _or_wait([*_findings(key, wrong), *findings], waiting)

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
        wrong: list[_Wrong] = []
        for node in nodes:
            has = self._placement.aggregates(node.uuid)
            if has is not None:
                add, remove = sorted(must - has.aggregates), sorted(must_not & has.aggregates)
                if add or remove:
                    wrong.append(_wrong(node, add, remove))
            elif must and node.age < PATIENCE:
                waiting.append(f"the provider of {node.node}")
            elif must:
                findings.append(_no_provider(key, node))
        return _or_wait([*_findings(key, wrong), *findings], waiting)

    def _missing_nodes(self, key: Key, hosts: frozenset[str]) -> tuple[list[Finding], list[str]]:
        """Tell hosts without compute node that were just born from those that are gone."""
        if not hosts:
            return [], []
        found = self._databases.run_in_all(self._databases.host_cells(), queries.compute_services)
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


def _wrong(node: ComputeNode, add: Sequence[str] = (), remove: Sequence[str] = ()) -> _Wrong:
    return _Wrong(node.uuid, node.host, node.node, list(add), list(remove))


def _findings(key: Key, wrong: Sequence[_Wrong]) -> list[Finding]:
    ordered = sorted(wrong, key=lambda one: one.provider)
    if not is_withheld(Withheld.LEAVE_AGGREGATE):
        return [_finding(key, part) for part in _parts(ordered)]
    lacking = [replace(one, remove=[]) for one in ordered if one.add]
    staying = [replace(one, add=[]) for one in ordered if one.remove]
    reports = [_finding(key, part) for part in _parts(staying)]
    why = refusal(Withheld.LEAVE_AGGREGATE)
    return [
        *(_finding(key, part) for part in _parts(lacking)),
        *(replace(report, healable=False, refusal=why) for report in reports),
    ]


def _parts(wrong: Sequence[_Wrong]) -> Iterator[Sequence[_Wrong]]:
    return (wrong[start : start + BATCH] for start in range(0, len(wrong), BATCH))


def _finding(key: Key, wrong: Sequence[_Wrong]) -> Finding:
    problem = "membership-missing" if any(one.add for one in wrong) else "membership-stale"
    return Finding(key, problem, _summary(wrong), {"providers": [asdict(one) for one in wrong]})


def _summary(wrong: Sequence[_Wrong]) -> str:
    if len(wrong) > 1:
        lacking, staying = sum(bool(one.add) for one in wrong), sum(bool(one.remove) for one in wrong)
        said = [f"{lacking} providers lack aggregates"] if lacking else []
        said += [f"{staying} providers are still in aggregates"] if staying else []
        return f"{' and '.join(said)} in Placement: {_names(wrong)}"
    [one] = wrong
    said = [f"lacks {', '.join(one.add)}"] if one.add else []
    said += [f"is still in {', '.join(one.remove)}"] if one.remove else []
    return f"the provider of host {one.host}, node {one.node}, {' and '.join(said)} in Placement"


def _names(wrong: Sequence[_Wrong]) -> str:
    names = [one.node for one in wrong[:_NAMED]]
    return f"{', '.join(names)} and {len(wrong) - _NAMED} more" if len(wrong) > _NAMED else ", ".join(names)


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


def _after(before: ProviderAggregates, wrong: _Wrong) -> frozenset[str]:
    return (before.aggregates | set(wrong.add)) - set(wrong.remove)


def _action(wrong: Sequence[_Wrong]) -> str:
    if len(wrong) > 1:
        return f"put the aggregates of {len(wrong)} providers right: {_names(wrong)}"
    [one] = wrong
    done = [f"put the provider of {one.node} into {', '.join(one.add)}"] if one.add else []
    done += [f"took the provider of {one.node} out of {', '.join(one.remove)}"] if one.remove else []
    return " and ".join(done)


def _undo(before: ProviderAggregates) -> str:
    """Return a command that runs as it is: 1.18 is the last version that asks for no generation."""
    words = ["openstack", "--os-placement-api-version", "1.18", "resource", "provider", "aggregate", "set"]
    for aggregate in sorted(before.aggregates):
        words += ["--aggregate", aggregate]
    return shlex.join([*words, before.provider])
