"""Decides what the service of a compute host that was deleted has left behind. Pure: facts in, a verdict out.

Only what is proved to have been Nova's compute node or compute host is to be taken away: a deleted row says so, in its table
or in the archive. The rows are tried in order.

A host's mapping (:func:`of_mapping`):

======================================================  =========================================================
what is known                                           verdict
======================================================  =========================================================
a nova-compute service or a compute node, in any cell   nothing
no deleted service or node in the cell it is mapped to  report: nothing proves that the host was ever there
deleted just now                                        wait
instances, or migrations that have not ended            report
otherwise                                               take
======================================================  =========================================================

A resource provider (:func:`of_provider`):

======================================================  =========================================================
what is known                                           verdict
======================================================  =========================================================
a compute node of this uuid, in any cell                nothing
part of another provider's tree                         nothing: Neutron's, Cyborg's, a device of a node's
a compute node of this name                             nothing: audit_providers reports it
never a compute node's uuid                             nothing, or a report when it has the trait of compute nodes
deleted just now                                        wait
a bare metal node's                                     report: another nova-compute may take it over
its host has a nova-compute service                     report
instances, or migrations that have not ended            report
somebody holds something of it or its tree              report
it has children                                         report: they may be Neutron's or Cyborg's
otherwise                                               take
======================================================  =========================================================
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from handlers.nova.cells import Cell
from handlers.nova.former_nodes import FormerNode
from handlers.nova.hosts.queries import Traces
from handlers.nova.placement import Provider
from handlers.nova.verdicts import MOVED_SETTLE, Report, Wait


@dataclass(frozen=True, slots=True)
class Forget:
    """Nothing needs it any more."""

    problem: str
    summary: str


Leftover = Forget | Report | Wait | None


@dataclass(frozen=True, slots=True)
class MappedHost:
    """A row of ``host_mappings`` and what every cell knows of the host.

    :param home: the cell it is mapped to
    """

    host: str
    home: Cell
    traces: dict[Cell, Traces]


@dataclass(frozen=True, slots=True)
class LeftProvider:
    """A resource provider and what every cell knows of it.

    :param tree: the uuids of all providers of its tree, its own too
    :param holders: who holds something of any of these
    :param alive: there is a compute node of its uuid
    :param namesake: there is a compute node of its name
    :param marked: it has the trait that Nova gives to compute nodes
    :param former: the deleted compute nodes of its uuid
    :param traces: what the cells know of the hosts of these
    """

    provider: Provider
    tree: frozenset[str]
    holders: frozenset[str]
    alive: bool
    namesake: bool
    marked: bool
    former: tuple[FormerNode, ...]
    traces: tuple[Traces, ...]


def of_mapping(facts: MappedHost) -> Leftover:
    """Return the verdict about a host's mapping; see the module."""
    traces = list(facts.traces.values())
    if any(trace.services or trace.nodes for trace in traces):
        return None
    where = facts.home.name or facts.home.uuid
    text = f"host {facts.host} is mapped to {where}, where it has no nova-compute service and no compute node"
    deleted = facts.traces[facts.home].deleted
    if deleted is None:
        why = (
            "nothing in that cell proves that it ever had one (or it was purged): if it is gone for good, nova-manage "
        )
        why += f"cell_v2 delete_host --cell_uuid {facts.home.uuid} --host {shlex.quote(facts.host)}"
        return Report("mapping-unexplained", text, why)
    if deleted < MOVED_SETTLE:
        return Wait("its service was deleted only just now", MOVED_SETTLE - deleted)
    why = _needed(traces)
    return Report("mapping-left", text, why) if why else Forget("mapping-left", text)


def of_provider(facts: LeftProvider) -> Leftover:
    """Return the verdict about a resource provider; see the module."""
    provider = facts.provider
    if facts.alive or provider.root != provider.uuid or facts.namesake:
        return None
    if not facts.former:
        return _unexplained(provider) if facts.marked else None
    hosts = ", ".join(sorted({node.host for node in facts.former}))
    text = f"provider {provider.name} ({provider.uuid}) is left of a compute node of host {hosts} that was deleted"
    age = min(node.age for node in facts.former)
    if age < MOVED_SETTLE:
        return Wait("its compute node was deleted only just now", MOVED_SETTLE - age)
    why = _bare(facts.former) or _served(facts.traces, hosts) or _needed(facts.traces) or _used(facts)
    return Report("provider-left", text, why) if why else Forget("provider-left", text)


def _unexplained(provider: Provider) -> Report:
    return Report(
        "provider-unexplained",
        f"provider {provider.name} ({provider.uuid}) says that it is a compute node, and no cell has ever had such a one",
        "its row was purged, or belongs to a cell that cell_mappings does not list: if its host is gone for good, "
        f"openstack resource provider delete {provider.uuid}",
    )


def _bare(former: Sequence[FormerNode]) -> str:
    """Ironic's nodes have their own uuid for a name, and go from host to host."""
    return "it is a bare metal node, which another nova-compute may take over" * any(
        node.node == node.uuid for node in former
    )


def _served(traces: Sequence[Traces], hosts: str) -> str:
    if any(trace.services for trace in traces):
        return f"{hosts} has a nova-compute service, which makes and removes its nodes' providers: see its log"
    return ""


def _needed(traces: Sequence[Traces]) -> str:
    """Return who still says that the host is there; empty when nobody does."""
    instances = sum(trace.instances for trace in traces)
    if instances:
        return f"{instances} instances that are not deleted say that they live there: evacuate or delete them first"
    migrations = sum(trace.migrations for trace in traces)
    return f"{migrations} migrations from or to it have not ended" if migrations else ""


def _used(facts: LeftProvider) -> str:
    if facts.holders:
        return (
            f"{len(facts.holders)} consumers hold something of it: audit_allocations and audit_migrations come first; what "
            f"they leave shows openstack resource provider show --allocations {facts.provider.uuid}"
        )
    children = sorted(facts.tree - {facts.provider.uuid})
    if children:
        return (
            f"it has children, which may be Neutron's or Cyborg's: {', '.join(children)}; when they are not needed, "
            "openstack resource provider delete for each, the deepest first"
        )
    return ""
