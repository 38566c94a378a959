"""Finds instances whose allocations seem to differ from their entitlement. Inspections prove the drift.

A key can stand for several instances, which the sweep remembers for at most two minutes. An outdated list does no harm: each
inspection reads the databases, and Placement refuses a first allocation if one exists.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import lru_cache

from handlers.access.neutron import PROFILE, Network, Port
from handlers.base import Incomplete, Key, Unavailable
from handlers.nova import queries
from handlers.nova.allocations import batches, port_requests
from handlers.nova.allocations import queries as instance_queries
from handlers.nova.allocations.entitlement import PLAIN, Unbuildable, parse, resources
from handlers.nova.allocations.nested import Nested
from handlers.nova.allocations.port_requests import REQUEST, Needs, is_port_class
from handlers.nova.allocations.queries import Owner, Resident
from handlers.nova.cells import Cell
from handlers.nova.database import NovaDatabases
from handlers.nova.nodes import GROUP, in_groups, live_nodes, read_ahead
from handlers.nova.placement import ByConsumer, ConsumersOf, Placement
from handlers.nova.records import ComputeNode

#: classes that only root providers of compute nodes give, so that the sum over compute nodes is an owner's whole sum
_SUMMED = frozenset({"VCPU", "PCPU", "MEMORY_MB"})
#: parsed flavors that a sweep caches
_FLAVORS = 1024
#: seconds for which an inspection uses the instances that a sweep found
_JUST_FOUND = 120.0

Resources = Mapping[str, int]
Sums = dict[tuple[str, str], dict[str, int]]
#: by instance and provider: the resources that only ports ask for
ForPorts = dict[str, dict[str, Resources]]

_flavor = lru_cache(_FLAVORS)(parse)


@dataclass(frozen=True, slots=True)
class _NodeReading:
    node: ComputeNode
    here: Sequence[Resident]
    consumers: ByConsumer
    missing: frozenset[str]
    odd: frozenset[str]


class Suspects:
    """Lists the suspects of ``heal_allocations``. Thread-safe.

    :param recent: returns the consumers of providers, perhaps as of some seconds ago
    """

    def __init__(self, databases: NovaDatabases, placement: Placement, recent: ConsumersOf, network: Network) -> None:
        self._databases = databases
        self._placement = placement
        self._network = network
        self._recent = recent
        self._nested = Nested(placement)
        #: by key: the time of the sweep, and the instances that hold nothing
        self._found: dict[Key, tuple[float, frozenset[str]]] = {}

    def everywhere(self) -> Iterator[Key]:
        """Yield the keys of the suspects in all cells.

        :raises Unavailable: a read failed; the keys yielded before are valid
        """
        self._found.clear()
        nodes, down = live_nodes(self._databases)
        providers = self._placement.compute_providers()
        if nodes and not providers:
            raise Unavailable("placement", f"lists no compute node's provider, while the cells have {len(nodes)} nodes")
        homeless, _ = self._databases.run_in_available(self._databases.host_cells(), instance_queries.homeless)
        yield from (Key("instance", one) for one in sorted(set().union(*homeless.values())))
        sums: Sums = {}
        for_ports: ForPorts = {}
        dead: set[str] = set()
        groups = in_groups(nodes[uuid] for uuid in sorted(nodes))
        for (cell, _), read in read_ahead(lambda group: self._read(*group, providers, self._recent), groups):
            if cell.uuid in dead:
                continue
            try:
                readings = read.result()
                yield from self._of_nodes(cell, readings, sums)
            except Unavailable as error:
                if error.dependency != cell.label:
                    raise
                down = Incomplete(error, down)
                dead.add(cell.uuid)
                continue
            for one in readings:
                _add_for_ports(for_ports, one.node.uuid, one.consumers)
        yield from self._of_owners(sums)
        if down is not None:
            raise down
        for provider, consumers in self._recent(self._nested.due({*providers, *nodes})).items():
            _add_for_ports(for_ports, provider, consumers)
        yield from (Key("instance", one) for one in self._of_gone_ports(for_ports))

    def just_found(self, key: Key) -> frozenset[str]:
        """Return the instances for which a sweep of the last two minutes yielded this key ``node:`` or ``nodes:``, if any."""
        at, missing = self._found.get(key, (0.0, frozenset[str]()))
        return missing if time.monotonic() - at < _JUST_FOUND else frozenset()

    def forget(self, key: Key) -> None:
        self._found.pop(key, None)

    def missing(self, cell: Cell, node: ComputeNode) -> frozenset[str]:
        """Return the instances at rest on a compute node that have no resources of this node."""
        return _missing(self._residents(cell, [node]), self._placement.consumers(node.uuid))

    def missing_together(self, cell: Cell, first: ComputeNode) -> frozenset[str]:
        """Return the instances for which the key ``nodes:<uuid of first>`` stands.

        They are at rest and have no resources of their node, which is ``first`` or one of the next compute nodes by uuid.
        """
        nodes = self._databases.database(cell).run(queries.compute_nodes)
        some = sorted((node for node in nodes if node.uuid >= first.uuid), key=_uuid)[:GROUP]
        readings = self._read(cell, some, {node.uuid for node in some}, self._placement.consumers_of_each)
        return next((found for _, found in batches.together(_several(readings))), frozenset())

    def odd(self, cell: Cell, node: ComputeNode) -> frozenset[str]:
        """Return the instances at rest on a compute node that seem to have wrong amounts."""
        return _odd(self._residents(cell, [node]), self._placement.consumers(node.uuid))

    def _of_nodes(self, cell: Cell, readings: Collection[_NodeReading], sums: Sums) -> Iterator[Key]:
        for one in readings:
            yield from _keys(one)
            self._add(sums, cell, one.here, one.consumers)
        for key, missing in batches.together(_several(readings)):
            self._found[key] = (time.monotonic(), missing)
            yield key

    def _read(
        self, cell: Cell, nodes: Collection[ComputeNode], providers: Collection[str], consumers_of: ConsumersOf
    ) -> list[_NodeReading]:
        residents: dict[tuple[str, str], list[Resident]] = {}
        for one in self._residents(cell, nodes):
            residents.setdefault(_place(one), []).append(one)
        inhabited = [node for node in nodes if _place(node) in residents]
        found = consumers_of(node.uuid for node in inhabited if node.uuid in providers)
        return [_reading(node, residents[_place(node)], found.get(node.uuid, {})) for node in inhabited]

    def _residents(self, cell: Cell, nodes: Collection[ComputeNode]) -> list[Resident]:
        return self._databases.database(cell).run(lambda connection: instance_queries.residents(connection, nodes))

    def _add(self, sums: Sums, cell: Cell, here: Iterable[Resident], consumers: ByConsumer) -> None:
        owners: dict[str, Owner] = {one.uuid: (one.project_id, one.user_id) for one in here}
        strangers = consumers.keys() - owners.keys()
        if strangers:
            owners |= self._databases.database(cell).run(
                lambda connection: instance_queries.owners(connection, strangers)
            )
        for consumer, amounts in consumers.items():
            project, user = owners.get(consumer, (None, None))
            if project and user:
                total = sums.setdefault((project, user), {})
                for name in _SUMMED & amounts.keys():
                    total[name] = total.get(name, 0) + amounts[name]

    def _of_gone_ports(self, for_ports: ForPorts) -> Iterator[str]:
        if not for_ports:
            return
        found = self._databases.run_in_all(
            self._databases.host_cells(), lambda connection: instance_queries.those_at_rest(connection, for_ports)
        )
        resting = sorted(set[str]().union(*found.values()))
        ports: dict[str, list[Port]] = {}
        for port in self._network.ports({"device_id": resting}, ("device_id", REQUEST, PROFILE)) if resting else ():
            ports.setdefault(port.device, []).append(port)
        for instance in resting:
            needs = port_requests.read(ports.get(instance, ()))
            if isinstance(needs, Needs) and port_requests.exceeds(for_ports[instance], needs):
                yield instance

    def _of_owners(self, sums: Sums) -> Iterator[Key]:
        for (project, user), total in sums.items():
            counted = self._placement.usages(project, user)
            if all(counted.get(name, 0) >= amount for name, amount in total.items()):
                continue
            for instance in self._owned(project, user):
                allocation = self._placement.allocation(instance)
                if allocation.providers and (allocation.project_id, allocation.user_id) != (project, user):
                    yield Key("instance", instance)

    def _owned(self, project: str, user: str) -> list[str]:
        found, _ = self._databases.run_in_available(
            self._databases.host_cells(), lambda connection: instance_queries.owned(connection, (project, user))
        )
        return sorted(set[str]().union(*found.values()))


def _add_for_ports(for_ports: ForPorts, provider: str, consumers: ByConsumer) -> None:
    for consumer, amounts in consumers.items():
        if some := {name: amount for name, amount in amounts.items() if is_port_class(name)}:
            for_ports.setdefault(consumer, {})[provider] = some


def _place(one: ComputeNode | Resident) -> tuple[str, str]:
    # A sweep may take Node-1 and node-1 for one: the inspection compares as the database does.
    return one.host.lower(), one.node.lower()


def _uuid(node: ComputeNode) -> str:
    return node.uuid


def _reading(node: ComputeNode, here: Sequence[Resident], consumers: ByConsumer) -> _NodeReading:
    return _NodeReading(node, here, consumers, _missing(here, consumers), _odd(here, consumers))


def _several(readings: Iterable[_NodeReading]) -> Iterator[tuple[str, frozenset[str]]]:
    return ((one.node.uuid, one.missing) for one in readings if len(one.missing) > 1)


def _keys(one: _NodeReading) -> Iterator[Key]:
    if len(one.missing) == 1:
        yield from (Key("instance", instance) for instance in one.missing)
    if len(one.odd) > 1:
        yield Key(batches.Kind.AMOUNTS.value, one.node.uuid, weight=len(one.odd))
    else:
        yield from (Key("instance", instance) for instance in one.odd)


def _missing(here: Iterable[Resident], consumers: ByConsumer) -> frozenset[str]:
    return frozenset(one.uuid for one in here if one.at_rest and one.uuid not in consumers)


def _odd(here: Iterable[Resident], consumers: ByConsumer) -> frozenset[str]:
    given = {name for amounts in consumers.values() for name in amounts}
    suspects = (one for one in here if one.at_rest and one.uuid in consumers)
    return frozenset(one.uuid for one in suspects if _differs(one, consumers[one.uuid], given))


def _differs(one: Resident, amounts: Resources, given: Set[str]) -> bool:
    flavor = _flavor(one.flavor)
    if isinstance(flavor, Unbuildable):
        return False
    wanted = resources(flavor, one.image_properties, one.boot_from_volume)
    if isinstance(wanted, Unbuildable):
        return False
    names = (PLAIN & given) | (wanted.keys() & (given | _SUMMED))
    if "PCPU" in wanted and "PCPU" not in amounts:
        names -= {"VCPU", "PCPU"}
    return any(amounts.get(name, 0) != wanted.get(name, 0) for name in names)
