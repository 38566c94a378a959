"""Collects what :mod:`handlers.nova.holdings` decides on: allocations first, then the databases.

The order makes the verdict safe: whoever claims before we read has told the databases why, and they are read later; whoever
claims after it has changed the generation with which we write.
"""

from __future__ import annotations

import dataclasses

from sqlalchemy.engine import Connection

from handlers.base import Unavailable
from handlers.network import Network
from handlers.nova import instance_queries, port_requests, queries
from handlers.nova.consumers import Located
from handlers.nova.database import NovaDatabases
from handlers.nova.facts import MIGRATIONS
from handlers.nova.flavor_resources import Unbuildable, parse, resources
from handlers.nova.holdings import Facts
from handlers.nova.instance_queries import Description
from handlers.nova.nodes import nodes_among
from handlers.nova.placement import Placement
from handlers.nova.port_requests import Needs
from handlers.nova.records import ComputeNode, Instance, InstanceMapping, Migration


class Reader:
    """Reads facts about instances; safe to share between threads."""

    def __init__(self, databases: NovaDatabases, placement: Placement, network: Network) -> None:
        self._databases = databases
        self._placement = placement
        self._network = network

    def facts(self, instance: str) -> Facts:
        """Read all that is known about an instance.

        :raises Unavailable: when Placement, nova_api or any cell does not answer; or Neutron, when something is to be given
            to an instance that has ports
        """
        allocation = self._placement.allocation(instance)
        building, mapping = self._databases.api.run(lambda connection: _scheduling(connection, instance))
        seen = self._databases.run_in(self._databases.cells(), lambda connection: _rows(connection, instance))
        rows = tuple(Located(row, cell.id, cell.is_cell0) for cell, (row, _) in seen.items() if row is not None)
        moves = tuple(move for _, moves in seen.values() for move in moves)
        facts = Facts(allocation, building=building, mapping=mapping, rows=rows, migrations=moves)
        live = [(cell, row) for cell, (row, _) in seen.items() if row is not None and not row.deleted]
        if len(live) != 1 or live[0][1].host is None or live[0][1].node is None:
            return facts
        [(cell, row)] = live
        described, nodes = self._databases.database(cell).run(lambda connection: _described(connection, row))
        facts = self._with_providers(_with_entitlement(facts, described, nodes))
        if not facts.offers:
            return facts
        return dataclasses.replace(facts, ports=self._needs(instance, described))

    def row(self, cell_id: int, instance: str) -> Instance | None:
        """Read an instance's row once more, in the cell where it was."""
        for cell in self._databases.cells():
            if cell.id == cell_id:
                return self._databases.database(cell).run(lambda connection: queries.instance(connection, instance))
        return None

    def _with_providers(self, facts: Facts) -> Facts:
        """Add to which nodes the providers belong; a healthy instance costs no request."""
        held = set(facts.allocation.providers)
        if held == set(facts.homes):
            return dataclasses.replace(facts, roots={home: home for home in held})
        roots: dict[str, str] = {}
        for provider in sorted(held):
            if provider not in roots:
                roots.update({uuid: member.root for uuid, member in self._placement.tree(provider).items()})
        roots = {provider: roots.get(provider, provider) for provider in held}
        nodes = nodes_among(self._databases, "uuid", set(roots.values()), deleted=True)
        facts = dataclasses.replace(
            facts, roots=roots, nodes={node.uuid: (node.host or None, node.node or None) for node in nodes}
        )
        if len(facts.homes) != 1 or facts.homes[0] in roots.values():
            return facts
        tree = self._placement.tree(facts.homes[0])
        return dataclasses.replace(
            facts,
            lent=self._lent(facts, set(tree)),
            offers={provider: self._placement.offers(provider) for provider in tree},
        )

    def _lent(self, facts: Facts, tree: set[str]) -> bool:
        """Whether one of the last migrations holds something of the node where it began and the instance still is."""
        here = (facts.live[0].instance.host, facts.live[0].instance.node)
        began = [move for move in facts.migrations[:MIGRATIONS] if move.source == here and not move.within_node]
        ended = [move.uuid for move in began if move.terminal and move.uuid is not None]
        return any(tree & set(self._placement.allocation(move).providers) for move in ended)

    def _needs(self, instance: str, described: Description) -> Needs | Unbuildable:
        """Ask Neutron what the instance's ports ask for.

        Nova's cache of them is not enough: it lacks what a port asks for, and ports that somebody else gave the instance.
        Where Neutron does not answer, only an instance without ports in the cache goes on.
        """
        cached = port_requests.cached(described.network_info)
        try:
            ports = list(self._network.ports({"device_id": instance}))
            hidden = any(port_requests.REQUEST not in port.shown for port in ports)
            hidden = hidden and self._network.has(port_requests.EXTENSION)
        except Unavailable:
            if cached == frozenset():
                return Needs()
            raise
        if hidden:
            why = f"does not show {port_requests.REQUEST} of ports; do the credentials have an administrator's role?"
            raise Unavailable("network", why)
        missing = sorted((cached or frozenset()) - {port.id for port in ports})
        if missing:
            return Unbuildable(f"Neutron does not show its port {missing[0]}, so that nothing tells what that asks for")
        if cached is None and not ports:
            return Unbuildable("its network cache cannot be read, so that nothing tells whether it has ports")
        flavor = parse(described.flavor)
        policy = "none" if isinstance(flavor, Unbuildable) else flavor.extra_specs.get("group_policy", "none")
        return port_requests.read(ports, policy)


def _with_entitlement(facts: Facts, described: Description, nodes: list[ComputeNode]) -> Facts:
    """Add where the instance lives and what it should hold there."""
    flavor = parse(described.flavor)
    if not isinstance(flavor, Unbuildable):
        wanted = resources(flavor, described.image_properties, described.boot_from_volume)
    else:
        wanted = flavor
    return dataclasses.replace(facts, homes=tuple(node.uuid for node in nodes), wanted=wanted)


def _scheduling(connection: Connection, instance: str) -> tuple[bool, InstanceMapping | None]:
    mapping = queries.instance_mapping(connection, instance)
    return queries.has_build_request(connection, instance), mapping


def _rows(connection: Connection, instance: str) -> tuple[Instance | None, list[Migration]]:
    return queries.instance(connection, instance), queries.migrations_of(connection, instance)


def _described(connection: Connection, instance: Instance) -> tuple[Description, list[ComputeNode]]:
    place = {"host": instance.host or "", "hypervisor_hostname": instance.node or ""}
    return instance_queries.description(connection, instance.uuid), queries.compute_nodes(connection, place)
