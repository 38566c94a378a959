"""Reads the facts about instances for ``heal_allocations``: first their allocations, then the databases, last the ports."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import Protocol

from sqlalchemy.engine import Connection

from handlers.access.neutron import Network, Port
from handlers.base import Unavailable
from handlers.nova import queries
from handlers.nova.allocations import entitlement, moves, port_requests
from handlers.nova.allocations import queries as instance_queries
from handlers.nova.allocations.entitlement import Unbuildable
from handlers.nova.allocations.excess_facts import MIGRATIONS, located
from handlers.nova.allocations.missing_rules import Facts
from handlers.nova.allocations.port_requests import Needs, Unshown
from handlers.nova.allocations.queries import Description
from handlers.nova.database import NovaDatabases
from handlers.nova.names import HostNames
from handlers.nova.nodes import nodes_among
from handlers.nova.placement import Allocation, Held, Provider
from handlers.nova.records import ComputeNode, Instance, InstanceMapping, Migration


class Answering(Protocol):
    def allocation(self, consumer: str) -> Allocation: ...

    def tree(self, provider: str) -> Mapping[str, Provider]: ...

    def offers(self, provider: str) -> Mapping[str, int]: ...


class Reader:
    """Reads the facts about instances. Thread-safe."""

    def __init__(self, databases: NovaDatabases, placement: Answering, network: Network) -> None:
        self._databases = databases
        self._placement = placement
        self._network = network

    def facts(self, instances: Sequence[str]) -> list[Facts]:
        """Return the facts about each instance, in the same order.

        :raises Unavailable: Placement, nova_api or a cell does not answer; or Neutron does not, and an instance has no
            resources of the node where it lives
        """
        found, described = self._entitled(self._known([self._placement.allocation(one) for one in instances]))
        return self._with_ports(self._with_providers(found), described)

    def again(self, gives: Mapping[str, Held]) -> list[Facts]:
        """Read the facts about instances again, right before a heal gives them the resources ``gives``.

        Read only the databases and the ports' bindings. An inspection has read inventories, requests of ports and allocations,
        and Placement refuses the write if an allocation exists.

        :raises Unavailable: Placement, nova_api, a cell or Neutron does not answer
        """
        found, _ = self._entitled(self._known([Allocation(one) for one in gives]))
        ports = self._ports(list(gives))
        if isinstance(ports, Unavailable):
            raise ports
        completed = []
        for facts in found:
            given = gives[facts.allocation.consumer]
            owed = bool(facts.homes) and self._is_owed(facts, set(given))
            bound = moves.bound_hosts(ports.get(facts.allocation.consumer, ()), self._databases.host_names)
            completed.append(dataclasses.replace(facts, offers=given, owed=owed, ports=Needs(), bound=bound))
        return completed

    def rows(self, cell_id: int, instances: Sequence[str]) -> dict[str, Instance]:
        for cell in self._databases.cells():
            if cell.id == cell_id:
                found = self._databases.database(cell).run(lambda connection: queries.instances(connection, instances))
                return {row.uuid: row for row in found}
        return {}

    def _known(self, allocations: Sequence[Allocation]) -> list[Facts]:
        instances = [allocation.consumer for allocation in allocations]
        building, mappings = self._databases.api.run(lambda connection: _scheduling(connection, instances))
        cells = self._databases.cells()
        seen = self._databases.run_in_all(cells, lambda connection: _rows(connection, instances))
        found = []
        for allocation in allocations:
            key = allocation.consumer.lower()
            rows = tuple(located(cell, rows[key]) for cell, (rows, _) in seen.items() if key in rows)
            migrations = tuple(move for _, moves_of in seen.values() for move in moves_of.get(key, ()))
            found.append(Facts(allocation, key in building, mappings.get(key), rows, migrations))
        return found

    def _entitled(self, found: Sequence[Facts]) -> tuple[list[Facts], dict[str, Description]]:
        homes: dict[int, list[Instance]] = {}
        for facts in found:
            if _is_placed(facts):
                homes.setdefault(facts.row.cell_id, []).append(facts.instance)
        described: dict[str, tuple[Description, list[ComputeNode]]] = {}
        for cell in self._databases.cells():
            if cell.id in homes:
                described |= self._databases.database(cell).run(partial(_described, instances=homes[cell.id]))
        completed = [
            _with_home(facts, self._databases.host_names, *described[facts.instance.uuid])
            if _is_placed(facts) and facts.instance.uuid in described
            else facts
            for facts in found
        ]
        return completed, {uuid: description for uuid, (description, _) in described.items()}

    def _with_providers(self, found: Sequence[Facts]) -> list[Facts]:
        tree, offers = cache(self._placement.tree), cache(self._placement.offers)
        return [self._with_provider(facts, tree, offers) if _is_placed(facts) else facts for facts in found]

    def _with_ports(self, found: Sequence[Facts], described: Mapping[str, Description]) -> list[Facts]:
        asked = [facts.instance.uuid for facts in found if facts.offers or _holds_for_ports(facts)]
        ports = self._ports(asked) if asked else {}
        # Asked after the ports, and once for all of them: a Neutron that knows requests and shows none hides them.
        has = cache(self._network.has)
        return [self._with_needs(facts, described, ports, has) for facts in found]

    def _with_needs(
        self,
        facts: Facts,
        described: Mapping[str, Description],
        found: Mapping[str, list[Port]] | Unavailable,
        has: Callable[[str], bool],
    ) -> Facts:
        only_reported = not facts.offers
        if only_reported and not _holds_for_ports(facts):
            return facts
        try:
            if isinstance(found, Unavailable):
                raise found
            ports = found.get(facts.instance.uuid, [])
            needs = self._needs(described[facts.instance.uuid], facts, ports, has)
        except Unavailable:
            if only_reported:
                return facts
            raise
        return dataclasses.replace(facts, ports=needs, bound=moves.bound_hosts(ports, self._databases.host_names))

    def _with_provider(
        self,
        facts: Facts,
        tree: Callable[[str], Mapping[str, Provider]],
        offers: Callable[[str], Mapping[str, int]],
    ) -> Facts:
        held = set(facts.allocation.providers)
        if held == set(facts.homes):
            return dataclasses.replace(facts, roots={home: home for home in held})
        roots: dict[str, str] = {}
        for provider in sorted(held):
            if provider not in roots:
                roots.update({uuid: member.root for uuid, member in tree(provider).items()})
        roots = {provider: roots.get(provider, provider) for provider in held}
        nodes = nodes_among(self._databases, "uuid", set(roots.values()), deleted=True) if roots else []
        names = self._databases.host_names
        facts = dataclasses.replace(
            facts,
            roots=roots,
            nodes={node.uuid: moves.normal_place((node.host or None, node.node or None), names) for node in nodes},
        )
        if len(facts.homes) != 1 or facts.homes[0] in roots.values():
            return facts
        mine = tree(facts.homes[0])
        return dataclasses.replace(
            facts, owed=self._is_owed(facts, set(mine)), offers={provider: offers(provider) for provider in mine}
        )

    def _is_owed(self, facts: Facts, tree: set[str]) -> bool:
        owed = (move for move in facts.migrations[:MIGRATIONS] if moves.is_owed(move, facts.migrations, facts.here))
        return any(move.uuid and tree & set(self._placement.allocation(move.uuid).providers) for move in owed)

    def _ports(self, instances: Sequence[str]) -> Mapping[str, list[Port]] | Unavailable:
        found: dict[str, list[Port]] = {}
        try:
            for port in self._network.ports({"device_id": list(instances)}):
                found.setdefault(port.device, []).append(port)
        except Unavailable as error:
            return error
        return found

    @staticmethod
    def _needs(
        described: Description, facts: Facts, ports: Sequence[Port], has: Callable[[str], bool]
    ) -> Needs | Unbuildable:
        """:raises Unavailable: Neutron does not show the ports' resource requests"""
        cached = port_requests.cached(described.network_info)
        hidden = any(port_requests.REQUEST not in port.shown for port in ports)
        if hidden and has(port_requests.EXTENSION):
            why = f"does not show {port_requests.REQUEST} of ports; do the credentials have an administrator's role?"
            raise Unavailable("network", why)
        if cached is None and not ports:
            return Unbuildable("its network cache cannot be read, so that its ports are unknown")
        flavor = entitlement.parse(described.flavor)
        policy = "none" if isinstance(flavor, Unbuildable) else flavor.extra_specs.get("group_policy", "none")
        needs = port_requests.read(ports, policy)
        unshown = sorted((cached or frozenset()) - {port.id for port in ports})
        if not unshown or isinstance(needs, Unbuildable):
            return needs
        return Unshown(f"Neutron does not show its port {unshown[0]}, so that its request is unknown", needs)


def _is_placed(facts: Facts) -> bool:
    return len(facts.live) == 1 and None not in (facts.instance.host, facts.instance.node)


def _holds_for_ports(facts: Facts) -> bool:
    return _is_placed(facts) and any(
        port_requests.is_port_class(name) for given in facts.allocation.providers.values() for name in given
    )


def _with_home(facts: Facts, names: HostNames, described: Description, nodes: list[ComputeNode]) -> Facts:
    return dataclasses.replace(
        facts,
        here=moves.normal_place((facts.instance.host, facts.instance.node), names),
        migrations=tuple(moves.normal(move, names) for move in facts.migrations),
        homes=tuple(node.uuid for node in nodes),
        wanted=entitlement.of(described.flavor, described.image_properties, described.boot_from_volume),
    )


def _scheduling(connection: Connection, instances: Sequence[str]) -> tuple[set[str], dict[str, InstanceMapping]]:
    mappings = queries.instance_mappings(connection, instances)
    building = queries.build_requests(connection, instances)
    return {one.lower() for one in building}, {one.instance_uuid.lower(): one for one in mappings}


def _rows(connection: Connection, instances: Sequence[str]) -> tuple[dict[str, Instance], dict[str, list[Migration]]]:
    migrations: dict[str, list[Migration]] = {}
    for move in queries.migrations_of(connection, *instances):
        migrations.setdefault((move.instance_uuid or "").lower(), []).append(move)
    return {row.uuid.lower(): row for row in queries.instances(connection, instances)}, migrations


def _described(
    connection: Connection, instances: Sequence[Instance]
) -> dict[str, tuple[Description, list[ComputeNode]]]:
    descriptions = instance_queries.descriptions(connection, [one.uuid for one in instances])
    nodes = {
        (host, node): instance_queries.homes(connection, host or "", node or "")
        for host, node in {(one.host, one.node) for one in instances}
    }
    return {one.uuid: (descriptions[one.uuid], nodes[one.host, one.node]) for one in instances}
