"""Collects what :mod:`handlers.nova.allocations.missing_rules` decides on: allocations first, then the databases.

The order makes the verdict safe: whoever claims before we read has told the databases why, and they are read later; whoever
claims after it has changed the generation with which we write.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import Protocol

from sqlalchemy.engine import Connection

from handlers.access.neutron import Network, Port
from handlers.base import Unavailable
from handlers.nova import queries
from handlers.nova.allocations import port_requests
from handlers.nova.allocations import queries as instance_queries
from handlers.nova.allocations.entitlement import Unbuildable, parse, resources
from handlers.nova.allocations.excess_facts import MIGRATIONS
from handlers.nova.allocations.excess_rules import Located
from handlers.nova.allocations.missing_rules import Facts
from handlers.nova.allocations.port_requests import Needs
from handlers.nova.allocations.queries import Description
from handlers.nova.database import NovaDatabases
from handlers.nova.nodes import nodes_among
from handlers.nova.placement import Allocation, Held, Provider
from handlers.nova.records import ComputeNode, Instance, InstanceMapping, Migration


class Answering(Protocol):
    """What is asked of Placement."""

    def allocation(self, consumer: str) -> Allocation: ...

    def tree(self, provider: str) -> Mapping[str, Provider]: ...

    def offers(self, provider: str) -> frozenset[str]: ...


class Reader:
    """Reads facts about instances; safe to share between threads."""

    def __init__(self, databases: NovaDatabases, placement: Answering, network: Network) -> None:
        self._databases = databases
        self._placement = placement
        self._network = network

    def facts(self, instances: Sequence[str]) -> list[Facts]:
        """Read all that is known about instances, in their order; in sets, but for what each holds.

        :raises Unavailable: when Placement, nova_api or any cell does not answer; or Neutron, when something is to be given
            to an instance that has ports
        """
        found, described = self._entitled(self._known([self._placement.allocation(one) for one in instances]))
        return self._with_ports(self._with_providers(found), described)

    def again(self, gives: Mapping[str, Held]) -> list[Facts]:
        """Read once more what the databases say about instances that held nothing, and are to be given this.

        What their nodes offer and their ports ask for was proved a moment ago, and is taken as it was; that they hold nothing
        the write itself will prove.

        :raises Unavailable: when nova_api or any cell does not answer
        """
        found, _ = self._entitled(self._known([Allocation(one) for one in gives]))
        completed = []
        for facts in found:
            given = gives[facts.allocation.consumer]
            offers = {provider: frozenset(amounts) for provider, amounts in given.items()}
            lent = bool(facts.homes) and self._lent(facts, set(given))
            completed.append(dataclasses.replace(facts, offers=offers, lent=lent))
        return completed

    def rows(self, cell_id: int, instances: Sequence[str]) -> dict[str, Instance]:
        """Read instances' rows once more, in the cell where they were."""
        for cell in self._databases.cells():
            if cell.id == cell_id:
                found = self._databases.database(cell).run(lambda connection: queries.instances(connection, instances))
                return {row.uuid: row for row in found}
        return {}

    def _known(self, held: Sequence[Allocation]) -> list[Facts]:
        """Read what nova_api and the cells say about those who hold this."""
        instances = [allocation.consumer for allocation in held]
        building, mappings = self._databases.api.run(lambda connection: _scheduling(connection, instances))
        cells = self._databases.cells()
        seen = self._databases.run_in_all(cells, lambda connection: _rows(connection, instances))
        found = []
        for allocation in held:
            key = allocation.consumer.lower()
            rows = tuple(Located(rows[key], cell.id, cell.is_cell0) for cell, (rows, _) in seen.items() if key in rows)
            moves = tuple(move for _, moves in seen.values() for move in moves.get(key, ()))
            found.append(
                Facts(allocation, building=key in building, mapping=mappings.get(key), rows=rows, migrations=moves)
            )
        return found

    def _entitled(self, found: Sequence[Facts]) -> tuple[list[Facts], dict[str, Description]]:
        """Add where instances live and what they should hold there, for those that live in one cell, on one host."""
        homes: dict[int, list[Instance]] = {}
        for facts in found:
            if _settled(facts):
                homes.setdefault(facts.live[0].cell_id, []).append(facts.live[0].instance)
        described: dict[str, tuple[Description, list[ComputeNode]]] = {}
        for cell in self._databases.cells():
            if cell.id in homes:
                described |= self._databases.database(cell).run(partial(_described, instances=homes[cell.id]))
        completed = [
            _with_entitlement(facts, *described[facts.live[0].instance.uuid])
            if _settled(facts) and facts.live[0].instance.uuid in described
            else facts
            for facts in found
        ]
        return completed, {uuid: description for uuid, (description, _) in described.items()}

    def _with_providers(self, found: Sequence[Facts]) -> list[Facts]:
        tree, offers = cache(self._placement.tree), cache(self._placement.offers)
        return [self._with_provider(facts, tree, offers) if _settled(facts) else facts for facts in found]

    def _with_ports(self, found: Sequence[Facts], described: Mapping[str, Description]) -> list[Facts]:
        """Add what the ports of those ask for to whom something may be given."""
        given = [facts.live[0].instance.uuid for facts in found if facts.offers]
        ports = self._ports(given) if given else None
        return [
            dataclasses.replace(facts, ports=self._needs(described[facts.live[0].instance.uuid], facts, ports))
            if facts.offers
            else facts
            for facts in found
        ]

    def _with_provider(
        self,
        facts: Facts,
        tree: Callable[[str], Mapping[str, Provider]],
        offers: Callable[[str], frozenset[str]],
    ) -> Facts:
        """Add to which nodes the providers belong; a healthy instance costs no request."""
        held = set(facts.allocation.providers)
        if held == set(facts.homes):
            return dataclasses.replace(facts, roots={home: home for home in held})
        roots: dict[str, str] = {}
        for provider in sorted(held):
            if provider not in roots:
                roots.update({uuid: member.root for uuid, member in tree(provider).items()})
        roots = {provider: roots.get(provider, provider) for provider in held}
        nodes = nodes_among(self._databases, "uuid", set(roots.values()), deleted=True) if roots else []
        facts = dataclasses.replace(
            facts, roots=roots, nodes={node.uuid: (node.host or None, node.node or None) for node in nodes}
        )
        if len(facts.homes) != 1 or facts.homes[0] in roots.values():
            return facts
        mine = tree(facts.homes[0])
        return dataclasses.replace(
            facts, lent=self._lent(facts, set(mine)), offers={provider: offers(provider) for provider in mine}
        )

    def _lent(self, facts: Facts, tree: set[str]) -> bool:
        """Whether one of the last migrations holds something of the node where it began and the instance still is."""
        here = (facts.live[0].instance.host, facts.live[0].instance.node)
        began = [move for move in facts.migrations[:MIGRATIONS] if move.source == here and not move.within_node]
        ended = [move.uuid for move in began if move.terminal and move.uuid is not None]
        return any(tree & set(self._placement.allocation(move).providers) for move in ended)

    def _ports(self, instances: Sequence[str]) -> Mapping[str, list[Port]] | Unavailable:
        """Ask Neutron for the ports of instances."""
        found: dict[str, list[Port]] = {}
        try:
            for port in self._network.ports({"device_id": list(instances)}):
                found.setdefault(port.device, []).append(port)
        except Unavailable as error:
            return error
        return found

    def _needs(
        self, described: Description, facts: Facts, found: Mapping[str, list[Port]] | Unavailable | None
    ) -> Needs | Unbuildable:
        """Tell what the instance's ports ask for.

        Nova's cache of them is not enough: it lacks what a port asks for, and ports that somebody else gave the instance.
        Where Neutron does not answer, only an instance without ports in the cache goes on.
        """
        cached = port_requests.cached(described.network_info)
        try:
            if isinstance(found, Unavailable):
                raise found
            ports = (found or {}).get(facts.live[0].instance.uuid, [])
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


def _settled(facts: Facts) -> bool:
    """Whether it lives in one cell, on one host, so that there is a node of which it should hold something."""
    return len(facts.live) == 1 and None not in (facts.live[0].instance.host, facts.live[0].instance.node)


def _with_entitlement(facts: Facts, described: Description, nodes: list[ComputeNode]) -> Facts:
    """Add where the instance lives and what it should hold there."""
    flavor = parse(described.flavor)
    if not isinstance(flavor, Unbuildable):
        wanted = resources(flavor, described.image_properties, described.boot_from_volume)
    else:
        wanted = flavor
    return dataclasses.replace(facts, homes=tuple(node.uuid for node in nodes), wanted=wanted)


def _scheduling(connection: Connection, instances: Sequence[str]) -> tuple[set[str], dict[str, InstanceMapping]]:
    mappings = queries.instance_mappings(connection, instances)
    building = queries.build_requests(connection, instances)
    return {one.lower() for one in building}, {one.instance_uuid.lower(): one for one in mappings}


def _rows(connection: Connection, instances: Sequence[str]) -> tuple[dict[str, Instance], dict[str, list[Migration]]]:
    moves: dict[str, list[Migration]] = {}
    for move in queries.migrations_of(connection, *instances):
        moves.setdefault((move.instance_uuid or "").lower(), []).append(move)
    return {row.uuid.lower(): row for row in queries.instances(connection, instances)}, moves


def _described(
    connection: Connection, instances: Sequence[Instance]
) -> dict[str, tuple[Description, list[ComputeNode]]]:
    descriptions = instance_queries.descriptions(connection, [one.uuid for one in instances])
    nodes = {
        (host, node): queries.compute_nodes(connection, {"host": host or "", "hypervisor_hostname": node or ""})
        for host, node in {(one.host, one.node) for one in instances}
    }
    return {one.uuid: (descriptions[one.uuid], nodes[one.host, one.node]) for one in instances}
