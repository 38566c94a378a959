"""Several instances that lack the same, of one compute node or of a few, as one finding. Pure.

What is plainly missing (nothing held anywhere, nothing asked for by ports) is alike for all instances, and each heal of its
own would cost ten requests to Placement. Together they are found, written and counted as one. Whatever is not plain stays a
finding of its own. Wrong amounts, which are only reported, are told once per node.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from handlers.base import Finding, Key
from handlers.nova.allocations.missing_rules import WRONG_AMOUNTS, Drift, Facts, Give
from handlers.nova.allocations.port_requests import Needs
from handlers.nova.verdicts import Report

#: the kind of a key that stands for the instances of a compute node, by the node's uuid
NODE = "node"
#: the kind of a key that stands for those of several nodes of a cell: in the order of their uuids, from this one on, as far as
#: one finding goes
NODES = "nodes"
#: the kind of a key that stands for those of a node that hold wrong amounts, likewise
AMOUNTS = "amounts"
#: instances of one finding: one request to Placement writes all of them
BATCH = 50
#: so many of a node's instances, as a part of all of them, are ordinary drift. Where more hold nothing each is a key of its
#: own, so that what bounds how much is believed to be wrong counts them
ORDINARY = 0.1

Judged = tuple[Facts, list[Drift]]
Missing = tuple[Facts, Give]


def ordinary(missing: int, residents: int) -> bool:
    """Whether the instances of a node that hold nothing are looked at together."""
    return 1 < missing <= residents * ORDINARY


def together(missing: Iterable[tuple[str, frozenset[str]]]) -> Iterator[tuple[Key, frozenset[str]]]:
    """Yield what is looked at together, and the key that stands for it.

    :param missing: of compute nodes of one cell, by uuid in its order: their instances that hold nothing
    """
    nodes: list[str] = []
    instances: frozenset[str] = frozenset()
    for node, some in missing:
        if nodes and len(instances) + len(some) > BATCH:
            yield _key(nodes), instances
            nodes, instances = [], frozenset()
        nodes.append(node)
        instances |= some
    if nodes:
        yield _key(nodes), instances


def _key(nodes: Sequence[str]) -> Key:
    return Key(NODE if len(nodes) == 1 else NODES, nodes[0])


def alike(key: Key, judged: Sequence[Judged]) -> tuple[list[Finding], list[Judged]]:
    """Return the findings of what is alike, when the key stands for that, and the instances of which that does not tell."""
    if key.kind == AMOUNTS:
        wrong = [
            (facts, drift)
            for facts, drifts in judged
            for drift in drifts
            if isinstance(drift, Report) and drift.problem == WRONG_AMOUNTS
        ]
        return [wrong_amounts(key, wrong)] if wrong else [], []
    if key.kind not in (NODE, NODES):
        return [], list(judged)
    plainly = [(facts, drifts, plain(facts, drifts) if _belongs(key, facts) else None) for facts, drifts in judged]
    missing = [(facts, give) for facts, _, give in plainly if give is not None]
    found = [finding(key, missing[start : start + BATCH]) for start in range(0, len(missing), BATCH)]
    return found, [(facts, drifts) for facts, drifts, give in plainly if give is None]


def _belongs(key: Key, facts: Facts) -> bool:
    """Whether an instance is still where the key says; one that has moved since is no part of it."""
    return key.kind == NODES or facts.homes == (key.id,)


def plain(facts: Facts, drifts: Sequence[Drift]) -> Give | None:
    """Return what an instance should be given, if that is all that is wrong with it."""
    match list(drifts):
        case [Give(problem="allocation-missing", allocations=allocations) as give] if not allocations:
            if isinstance(facts.ports, Needs) and not facts.ports.requests and not facts.allocation.providers:
                return give
    return None


def part(facts: Facts, give: Give) -> dict[str, Any]:
    """Return the evidence of one instance."""
    instance = facts.live[0].instance
    return {
        "cell_id": facts.live[0].cell_id,
        "host": instance.host,
        "node": instance.node,
        "vm_state": instance.vm_state,
        "owner": [instance.project_id, instance.user_id],
        "give": {provider: dict(resources) for provider, resources in give.providers.items()},
    }


def finding(key: Key, missing: Sequence[Missing]) -> Finding:
    """Return the finding of all of them."""
    parts: Mapping[str, Any] = {facts.live[0].instance.uuid: part(facts, give) for facts, give in missing}
    homes = sorted({home for facts, _ in missing for home in facts.homes})
    return Finding(
        key,
        "allocations-missing",
        f"{len(parts)} instances hold nothing, though they live on {where(parts.values())}",
        {"compute_nodes": homes, "instances": parts},
    )


def where(parts: Iterable[Mapping[str, Any]]) -> str:
    """Say where the instances of a finding live."""
    nodes = sorted({str(one["node"]) for one in parts})
    return nodes[0] if len(nodes) == 1 else f"{len(nodes)} compute nodes, {nodes[0]} among them"


def wrong_amounts(key: Key, wrong: Sequence[tuple[Facts, Report]]) -> Finding:
    """Return the finding of all instances of a node that hold other amounts than they should."""
    node = wrong[0][0].live[0].instance.node
    parts = {facts.live[0].instance.uuid: report.summary for facts, report in wrong}
    summary = f"{len(parts)} instances on {node} hold other amounts than their flavors say"
    evidence = {"compute_node": key.id, "instances": parts}
    return Finding(key, WRONG_AMOUNTS, summary, evidence, healable=False, refusal=wrong[0][1].refusal)


def undo(instances: Sequence[str]) -> str:
    """Return the commands that take it all back."""
    return "; ".join(f"openstack resource provider allocation delete {instance}" for instance in instances)
