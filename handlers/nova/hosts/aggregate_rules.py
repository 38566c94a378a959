"""Rules about the providers that must join or leave Placement's aggregates.

Operators edit Placement's aggregates too (Nova's guide "Tenant Isolation with Placement"). So a membership that Nova does not
know proves no drift.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from enum import StrEnum

from handlers.base import Json
from handlers.nova.names import HostNames
from handlers.nova.records import Aggregate, ComputeNode

#: ends the refusals behind which the commands follow that remove the memberships
OR_RUN = "or run"


class Problem(StrEnum):
    MISSING = "membership-missing"
    STALE = "membership-stale"
    NO_PROVIDER = "provider-missing"
    NO_NODE = "member-without-node"
    UNKNOWN_AGGREGATE = "members-of-unknown-aggregate"


@dataclass(frozen=True, slots=True)
class Membership:
    """A compute node's provider, with the aggregates that it must join, or that it must leave.

    :param before: all aggregates of the provider before the heal
    :param generation: the provider's generation, for the plan; no evidence, because every allocation changes it
    """

    provider: str
    host: str
    node: str
    aggregates: frozenset[str]
    before: frozenset[str]
    generation: int = field(default=0, compare=False)

    def to_json(self) -> Json:
        return {
            "provider": self.provider,
            "host": self.host,
            "node": self.node,
            "aggregates": sorted(self.aggregates),
            "before": sorted(self.before),
        }

    @classmethod
    def from_json(cls, values: Json) -> Membership:
        aggregates, before = frozenset(values["aggregates"]), frozenset(values["before"])
        return cls(values["provider"], values["host"], values["node"], aggregates, before)

    def after(self, problem: str) -> frozenset[str]:
        return self.before | self.aggregates if problem == Problem.MISSING else self.before - self.aggregates


@dataclass(frozen=True, slots=True)
class Wanted:
    joined: frozenset[str]
    left: frozenset[str]


def wanted(names: HostNames, aggregates: Collection[Aggregate], host: str) -> Wanted:
    joined = {aggregate.uuid for aggregate in aggregates if names.normal(host) in names.all_normal(aggregate.hosts)}
    return Wanted(frozenset(joined), frozenset(aggregate.uuid for aggregate in aggregates) - joined)


def differing(node: ComputeNode, has: Collection[str], rule: Wanted) -> tuple[Membership | None, Membership | None]:
    """Return two memberships of a node's provider: the aggregates to join, and those to leave. None means no aggregate.

    :param has: all present aggregates of the provider
    """
    lacks, extra = rule.joined - set(has), rule.left & set(has)
    return _membership(node, lacks, has), _membership(node, extra, has)


def _membership(node: ComputeNode, aggregates: frozenset[str], has: Collection[str]) -> Membership | None:
    return Membership(node.uuid, node.host, node.node, aggregates, frozenset(has)) if aggregates else None


def refusal(problem: str, may_remove: bool, nodes_of_uuid: int, nodes_of_host: int, ironic: bool) -> str:
    """Return why a heal must not change a membership; empty if the heal may change it.

    :param nodes_of_uuid: number of compute nodes in all cells with the provider's uuid
    :param ironic: whether the provider is a node of Ironic
    """
    if nodes_of_uuid > 1:
        return (
            "several compute nodes have the provider's uuid: either a cell's database is a copy of another one, or two "
            "machines have one file compute_id. nova-manage cell_v2 list_cells --verbose shows the databases"
        )
    if ironic:
        return (
            "nodes of Ironic move between hosts, for example while a nova-compute is down, and Nova's aggregates know hosts "
            f"only: either the node keeps its aggregates, because its host may change again, {OR_RUN}"
        )
    return _removal_refusal(may_remove, nodes_of_host) if problem == Problem.STALE else ""


def _removal_refusal(may_remove: bool, nodes_of_host: int) -> str:
    if nodes_of_host > 1:
        return (
            "its host has several compute nodes, and Nova's aggregates know hosts only: either an operator put this node "
            "into the aggregate, or the host left it. openstack aggregate show NAME and the log of nova-api show which"
        )
    if not may_remove:
        return (
            "either the host left the aggregate and Placement kept the provider, or an operator put the provider there, as "
            "Nova's guide to tenant isolation does. The log of nova-api shows whether the host ever left. If it did, set "
            f"[audit] sync_aggregates_remove = true, {OR_RUN}"
        )
    return ""
