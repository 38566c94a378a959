"""Rules about host mappings and resource providers that can be leftovers of a deleted compute service.

A deleted or archived row proves that Nova made the mapping or the provider; a missing row proves nothing.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from handlers.nova.cells import Cell
from handlers.nova.former_nodes import FormerNode
from handlers.nova.placement import Provider
from handlers.nova.verdicts import MOVED_SETTLE, Report, Wait


class Problem(StrEnum):
    MAPPING_LEFT = "mapping-left"
    MAPPING_UNEXPLAINED = "mapping-unexplained"
    PROVIDER_LEFT = "provider-left"
    PROVIDER_UNEXPLAINED = "provider-unexplained"


@dataclass(frozen=True, slots=True)
class Traces:
    """A host's live rows in one cell, and its deleted compute nodes.

    :param migrations: number of migrations that have not ended
    :param deleted: seconds since the last deletion of a service or compute node of the host; None if Nova deleted none
    """

    services: int
    nodes: tuple[str, ...]
    instances: int
    migrations: int
    former: tuple[FormerNode, ...] = ()
    deleted: float | None = None


@dataclass(frozen=True, slots=True)
class Forget:
    """The verdict to delete a host mapping or a resource provider."""

    problem: Problem
    summary: str


Leftover = Forget | Report | Wait | None


@dataclass(frozen=True, slots=True)
class MappedHost:
    """A row of ``host_mappings`` and the host's rows in every cell.

    :param age: seconds since the host was mapped
    :param successors: uuids of providers with the name of a deleted node of the host, but the uuid of no compute node
    """

    host: str
    home: Cell
    traces: Mapping[Cell, Traces]
    age: float = float("inf")
    successors: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        where = self.home.name or self.home.uuid
        return f"host {self.host} is mapped to {where}, where it has no nova-compute service and no compute node"

    @property
    def deleted(self) -> float | None:
        return self.traces[self.home].deleted


@dataclass(frozen=True, slots=True)
class LeftProvider:
    """A resource provider and the rows of its former hosts in every cell.

    :param consumers: uuids of the consumers with allocations in the provider's tree
    :param alive: whether a live compute node has the provider's uuid
    :param namesake: whether a live compute node has the provider's name
    :param marked: whether the provider has the trait ``COMPUTE_NODE``
    :param mapped: seconds since the last mapping of a former host; infinite without one
    """

    provider: Provider
    tree: frozenset[str]
    consumers: frozenset[str]
    alive: bool
    namesake: bool
    marked: bool
    former: tuple[FormerNode, ...]
    traces: tuple[Traces, ...]
    mapped: float = float("inf")

    @property
    def hosts(self) -> str:
        return ", ".join(sorted({node.host for node in self.former}))

    @property
    def text(self) -> str:
        return f"provider {self.provider.name} ({self.provider.uuid}) is left of a deleted compute node of host {self.hosts}"

    @property
    def deleted(self) -> float:
        return min((node.age for node in self.former), default=float("inf"))


def _mapping_stays(reason: Callable[[MappedHost], str]) -> Callable[[MappedHost], Leftover]:
    return lambda facts: Report(Problem.MAPPING_LEFT, facts.text, reason(facts))


def _provider_stays(reason: Callable[[LeftProvider], str]) -> Callable[[LeftProvider], Leftover]:
    return lambda facts: Report(Problem.PROVIDER_LEFT, facts.text, reason(facts))


def _unexplained_mapping(facts: MappedHost) -> Report:
    return Report(
        Problem.MAPPING_UNEXPLAINED,
        facts.text,
        "no deleted row proves that the cell ever had the host: either its rows were purged, or the cell's database is not the "
        "one that had it. If the host is gone for good: nova-manage "
        f"cell_v2 delete_host --cell_uuid {facts.home.uuid} --host {shlex.quote(facts.host)}",
    )


def _unexplained_provider(facts: LeftProvider) -> Report:
    return Report(
        Problem.PROVIDER_UNEXPLAINED,
        f"provider {facts.provider.name} ({facts.provider.uuid}) has the trait of compute nodes, and no cell ever had its node",
        "either its row was purged, or its cell is not in cell_mappings or has another database. If its host is gone for good: "
        f"openstack resource provider delete {facts.provider.uuid}",
    )


def _needed(traces: Sequence[Traces]) -> str:
    instances = sum(trace.instances for trace in traces)
    if instances:
        return f"{instances} instances that are not deleted are on the host: evacuate or delete them first"
    migrations = sum(trace.migrations for trace in traces)
    return f"{migrations} migrations from or to it have not ended" if migrations else ""


MAPPING: tuple[tuple[Callable[[MappedHost], bool], Callable[[MappedHost], Leftover]], ...] = (
    (lambda it: any(trace.services or trace.nodes for trace in it.traces.values()), lambda it: None),
    (lambda it: it.deleted is None, _unexplained_mapping),
    (
        lambda it: (it.deleted or 0.0) < MOVED_SETTLE,
        lambda it: Wait("its service was deleted just now", MOVED_SETTLE - (it.deleted or 0.0)),
    ),
    (lambda it: bool(_needed(list(it.traces.values()))), _mapping_stays(lambda it: _needed(list(it.traces.values())))),
    (
        lambda it: it.age < (it.deleted or 0.0) - MOVED_SETTLE,
        _mapping_stays(
            lambda it: (
                "the host was mapped after its service was deleted: either an operator mapped it by hand, or the "
                "cell's database is older than the mapping and lost the new service. Check that nova-compute does not run there"
            )
        ),
    ),
    (
        lambda it: bool(it.successors),
        _mapping_stays(
            lambda it: (
                f"Placement has a younger provider of the name ({', '.join(it.successors)}): either nova-compute runs "
                "again and the cell's database lost its rows, or that provider is left over. Check that nova-compute does not "
                "run there"
            )
        ),
    ),
    (lambda it: True, lambda it: Forget(Problem.MAPPING_LEFT, it.text)),
)

PROVIDER: tuple[tuple[Callable[[LeftProvider], bool], Callable[[LeftProvider], Leftover]], ...] = (
    (lambda it: it.alive, lambda it: None),
    (lambda it: it.provider.root != it.provider.uuid, lambda it: None),  # Neutron's, Cyborg's, or a device of a node
    (lambda it: it.namesake, lambda it: None),  # audit_providers reports it
    (lambda it: not it.former and it.marked, _unexplained_provider),
    (lambda it: not it.former, lambda it: None),
    (
        lambda it: it.deleted < MOVED_SETTLE,
        lambda it: Wait("its compute node was deleted just now", MOVED_SETTLE - it.deleted),
    ),
    (
        # Ironic's nodes are named by their own uuid and move from host to host
        lambda it: any(node.node == node.uuid for node in it.former),
        _provider_stays(lambda it: "it is a bare metal node, which another nova-compute may take over"),
    ),
    (
        lambda it: any(trace.services for trace in it.traces),
        _provider_stays(
            lambda it: (
                f"{it.hosts} has a nova-compute service, which makes and deletes its nodes' providers: read its log"
            )
        ),
    ),
    (lambda it: bool(_needed(it.traces)), _provider_stays(lambda it: _needed(it.traces))),
    (
        # Nova brings a deleted compute node back with its uuid (``compute_node_create`` in ``nova/db/main/api.py``)
        lambda it: it.mapped < it.deleted - MOVED_SETTLE,
        _provider_stays(
            lambda it: (
                f"{it.hosts} was mapped after its compute node was deleted, so that it may be back with the same uuid, and the "
                "cell's database may be older. Check that nova-compute does not run there"
            )
        ),
    ),
    (
        lambda it: bool(it.consumers),
        _provider_stays(
            lambda it: (
                f"{len(it.consumers)} consumers have allocations from it: audit_allocations and audit_migrations come "
                f"first. openstack resource provider show --allocations {it.provider.uuid} shows the rest"
            )
        ),
    ),
    (
        lambda it: len(it.tree) > 1,
        _provider_stays(
            lambda it: (
                "it has children, which may be Neutron's or Cyborg's: "
                f"{', '.join(sorted(it.tree - {it.provider.uuid}))}. When they are not needed: openstack resource provider "
                "delete UUID, for each, the deepest first"
            )
        ),
    ),
    (lambda it: True, lambda it: Forget(Problem.PROVIDER_LEFT, it.text)),
)


def of_mapping(facts: MappedHost) -> Leftover:
    return next(verdict(facts) for applies, verdict in MAPPING if applies(facts))


def of_provider(facts: LeftProvider) -> Leftover:
    return next(verdict(facts) for applies, verdict in PROVIDER if applies(facts))
