"""Puts instances with the same drift into one finding."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from handlers.base import Finding, Json, Key
from handlers.nova.allocations.missing_rules import Drift, Facts, Give, Problem
from handlers.nova.allocations.port_requests import Needs
from handlers.nova.placement import Allocation, Held, replacing_all
from handlers.nova.placement import plain as plain_amounts
from handlers.nova.verdicts import Report


class Kind(StrEnum):
    #: the instances of a compute node that hold nothing, by the node's uuid
    NODE = "node"
    #: such instances of several nodes of a cell: of this node and the next in order of uuid, as many as one finding takes
    NODES = "nodes"
    #: the instances of a node that hold wrong amounts
    AMOUNTS = "amounts"


#: instances of one finding: one request to Placement writes all of them
BATCH = 50

Judged = tuple[Facts, Sequence[Drift]]


@dataclass(frozen=True, slots=True)
class Missing:
    """An instance without an allocation, and the resources that it should get."""

    facts: Facts
    give: Give

    @property
    def change(self) -> tuple[Allocation, Held]:
        instance = self.facts.instance
        before = Allocation(instance.uuid, project_id=instance.project_id, user_id=instance.user_id)
        return before, self.give.providers

    def to_json(self) -> Json:
        instance = self.facts.instance
        return {
            "cell_id": self.facts.row.cell_id,
            "host": instance.host,
            "node": instance.node,
            "vm_state": instance.vm_state,
            "owner": [instance.project_id, instance.user_id],
            "give": plain_amounts(self.give.providers),
        }


@dataclass(frozen=True, slots=True)
class MissingEvidence:
    """The evidence of ``allocations-missing``: instances of one cell have no allocation.

    :param instances: the JSON of a :class:`Missing` for each instance, by uuid
    """

    compute_nodes: Sequence[str]
    instances: Mapping[str, Json]


@dataclass(frozen=True, slots=True)
class WrongEvidence:
    """The evidence of ``wrong-amounts``: instances on one compute node have other amounts than their entitlement.

    :param instances: a sentence about the difference for each instance, by uuid
    """

    compute_node: str
    instances: Mapping[str, str]


def together(missing: Iterable[tuple[str, frozenset[str]]]) -> Iterator[tuple[Key, frozenset[str]]]:
    """Group compute nodes; yield each group's key and instances: up to :data:`BATCH`, or more on a single node.

    :param missing: compute nodes of one cell, in order of uuid, each with its instances that lack an allocation
    """
    nodes: list[str] = []
    instances: frozenset[str] = frozenset()
    for node, some in missing:
        if nodes and len(instances) + len(some) > BATCH:
            yield _key(nodes, instances), instances
            nodes, instances = [], frozenset()
        nodes.append(node)
        instances |= some
    if nodes:
        yield _key(nodes, instances), instances


def _key(nodes: Sequence[str], instances: frozenset[str]) -> Key:
    return Key(Kind.NODE.value if len(nodes) == 1 else Kind.NODES.value, nodes[0], weight=len(instances))


def grouped(key: Key, judged: Sequence[Judged]) -> tuple[list[Finding], list[Judged]]:
    """Return the findings about several instances, and the other judged instances. For a key ``amounts:``, omit the latter."""
    match key.kind:
        case Kind.AMOUNTS:
            wrong = [
                (facts, drift)
                for facts, drifts in judged
                for drift in drifts
                if isinstance(drift, Report) and drift.problem == Problem.WRONG_AMOUNTS
            ]
            return [wrong_amounts(key, wrong)] if wrong else [], []
        case Kind.NODE | Kind.NODES:
            simple = [
                (facts, drifts, simple_of(facts, drifts) if _belongs(key, facts) else None) for facts, drifts in judged
            ]
            missing = [one for _, _, one in simple if one is not None]
            found = [finding(key, missing[start : start + BATCH]) for start in range(0, len(missing), BATCH)]
            return found, [(facts, drifts) for facts, drifts, one in simple if one is None]
        case _:
            return [], list(judged)


def _belongs(key: Key, facts: Facts) -> bool:
    return key.kind == Kind.NODES or facts.homes == (key.id,)


def simple_of(facts: Facts, drifts: Sequence[Drift]) -> Missing | None:
    """Return an instance's part of a finding about several instances, if it can have one.

    Its only drift must be a missing allocation that a heal can give, and its ports must request no resources.
    """
    match list(drifts):
        case [Give(problem=Problem.MISSING, allocations=allocations) as give] if not allocations:
            if isinstance(facts.ports, Needs) and not facts.ports.requests and not facts.allocation.providers:
                return Missing(facts, give)
    return None


def finding(key: Key, missing: Sequence[Missing]) -> Finding:
    parts = {one.facts.instance.uuid: one.to_json() for one in missing}
    homes = sorted({home for one in missing for home in one.facts.homes})
    return Finding(
        key,
        str(Problem.SEVERAL_MISSING),
        f"{len(parts)} instances hold nothing, though they live on {where(parts.values())}",
        asdict(MissingEvidence(homes, parts)),
        weight=len(parts),
        undo=undo(sorted(parts)),
        plan=str(replacing_all(one.change for one in missing)),
        concerns=frozenset[str]().union(*(one.facts.concerns for one in missing)),
    )


def where(parts: Iterable[Mapping[str, Any]]) -> str:
    nodes = sorted({str(one["node"]) for one in parts})
    return nodes[0] if len(nodes) == 1 else f"{len(nodes)} compute nodes, {nodes[0]} among them"


def wrong_amounts(key: Key, wrong: Sequence[tuple[Facts, Report]]) -> Finding:
    node = wrong[0][0].instance.node
    parts = {facts.instance.uuid: report.summary for facts, report in wrong}
    return Finding(
        key,
        str(Problem.WRONG_AMOUNTS),
        f"{len(parts)} instances on {node} hold other amounts than their entitlement",
        asdict(WrongEvidence(key.id, parts)),
        healable=False,
        refusal=wrong[0][1].refusal,
        weight=len(parts),
        concerns=frozenset[str]().union(*(facts.concerns for facts, _ in wrong)),
    )


def undo(instances: Sequence[str]) -> str:
    return "; ".join(f"openstack resource provider allocation delete {instance}" for instance in instances)
