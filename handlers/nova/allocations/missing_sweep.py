"""Finds the instances that do not seem to hold what they should, in sets: what is suspected here, inspections prove.

Placement lists what every consumer holds of a provider, in one request; a cell says in three statements which instances live
on some nodes and what they are entitled to. So an instance that holds nothing of its node, and one that holds other amounts
of it than its flavor says, cost nothing more to find.

For whom something is held Placement only tells consumer by consumer, or as the sum of a project and user. So the sums of what
their instances and migrations hold, of nodes where instances live, are compared with Placement's: where it has counted less
for somebody, something of theirs is held for somebody else, and only then are their instances asked for one by one. What
comes meanwhile makes Placement's sum larger, which says nothing; what goes makes it smaller, and costs requests in vain.

What a sweep has just found for a key is what the looks at it begin with, so that they do not ask the same again. It cannot
mislead a write: where they live now is read from the databases in each look, that they hold nothing is proved by the
write itself; and before that it is forgotten, so that a look after a write that failed asks anew.

Memory is needed for these nodes, for a sum per project and user, and for what was found until it is healed.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from handlers.base import Key, Unavailable
from handlers.nova import queries
from handlers.nova.allocations import batches
from handlers.nova.allocations import queries as instance_queries
from handlers.nova.allocations.entitlement import Unbuildable, parse, resources
from handlers.nova.allocations.missing_rules import PLAIN
from handlers.nova.allocations.queries import Owner, Resident
from handlers.nova.cells import Cell
from handlers.nova.database import NovaDatabases
from handlers.nova.nodes import GROUP, in_groups, live_nodes, looked_at
from handlers.nova.placement import Holders, HoldersOf, Placement
from handlers.nova.records import ComputeNode

#: what only the root provider of a compute node gives, so that a project's sum of it is that over compute nodes
_SUMMED = frozenset({"VCPU", "PCPU", "MEMORY_MB"})
#: flavors that are kept in mind during a sweep
_FLAVORS = 1024
#: seconds for which what a sweep found of a node is worth a look
_JUST_FOUND = 120.0

Resources = Mapping[str, int]
Sums = dict[tuple[str, str], dict[str, int]]

_flavor = lru_cache(_FLAVORS)(parse)


@dataclass(frozen=True, slots=True)
class _Looked:
    """A compute node, who lives on it, what is held of it, and who holds nothing or other amounts than it should."""

    node: ComputeNode
    here: Sequence[Resident]
    held: Holders
    missing: frozenset[str]
    odd: frozenset[str]

    @property
    def few_are_missing(self) -> bool:
        """Whether so few of those who live there hold nothing that they may be healed together."""
        return batches.ordinary(len(self.missing), sum(one.at_rest for one in self.here))


class Suspects:
    """Lists them; safe to share between threads.

    :param lately_held: tells a sweep, which only suspects, what was held of providers a moment ago
    """

    def __init__(self, databases: NovaDatabases, placement: Placement, lately_held: HoldersOf) -> None:
        self._databases = databases
        self._placement = placement
        self._lately_held = lately_held
        #: by key: when a sweep found instances that hold nothing, and which
        self._found: dict[Key, tuple[float, frozenset[str]]] = {}

    def everywhere(self) -> Iterator[Key]:
        """Yield the keys of all that do not seem to hold what they should.

        :raises Unavailable: when a listing failed; keys yielded before stand
        """
        self._found.clear()  # what an earlier sweep found is asked anew, and what nobody healed is not kept for ever
        nodes, down = live_nodes(self._databases)
        providers = self._placement.compute_providers()
        if nodes and not providers:
            raise Unavailable("placement", f"lists no compute node's provider, while the cells have {len(nodes)} nodes")
        homeless, _ = self._databases.run_in_available(self._databases.host_cells(), instance_queries.homeless)
        yield from (Key("instance", one) for one in sorted(set().union(*homeless.values())))
        sums: Sums = {}
        dead: set[str] = set()
        groups = in_groups(nodes[uuid] for uuid in sorted(nodes))
        for (cell, _), look in looked_at(lambda group: self._looked(*group, providers, self._lately_held), groups):
            if cell.uuid in dead:
                continue
            try:
                yield from self._of_nodes(cell, look.result(), sums)
            except Unavailable as error:
                if error.dependency != cell.label:
                    raise
                down = error
                dead.add(cell.uuid)
        yield from self._of_owners(sums)
        if down is not None:
            raise down

    def just_found(self, key: Key) -> frozenset[str]:
        """Return the instances that hold nothing for which a sweep of ours has just yielded a key."""
        at, missing = self._found.get(key, (0.0, frozenset[str]()))
        return missing if time.monotonic() - at < _JUST_FOUND else frozenset()

    def forget(self, key: Key) -> None:
        """Forget what a sweep found for a key."""
        self._found.pop(key, None)

    def missing(self, cell: Cell, node: ComputeNode) -> frozenset[str]:
        """Return the instances of a node that hold nothing of it."""
        return _missing(self._residents(cell, [node]), self._placement.held(node.uuid))

    def missing_together(self, cell: Cell, first: ComputeNode) -> frozenset[str]:
        """Return the instances for which a sweep would yield one key: of nodes of a cell from this one on, few of each."""
        nodes = self._databases.database(cell).run(queries.compute_nodes)
        some = sorted((node for node in nodes if node.uuid >= first.uuid), key=_uuid)[:GROUP]
        looked = self._looked(cell, some, {node.uuid for node in some}, self._placement.held_of)
        return next((found for _, found in batches.together(_few(looked))), frozenset())

    def odd(self, cell: Cell, node: ComputeNode) -> frozenset[str]:
        """Return the instances of a node that seem to hold wrong amounts of it."""
        return _odd(self._residents(cell, [node]), self._placement.held(node.uuid))

    def _of_nodes(self, cell: Cell, looked: Collection[_Looked], sums: Sums) -> Iterator[Key]:
        for one in looked:
            yield from _keys(one)
            self._add(sums, cell, one.here, one.held)
        for key, missing in batches.together(_few(looked)):
            self._found[key] = (time.monotonic(), missing)
            yield key

    def _looked(
        self, cell: Cell, nodes: Collection[ComputeNode], providers: Collection[str], held_of: HoldersOf
    ) -> list[_Looked]:
        """Look at those of some nodes of a cell on which anybody lives."""
        residents: dict[tuple[str, str], list[Resident]] = {}
        for one in self._residents(cell, nodes):
            residents.setdefault(_place(one), []).append(one)
        inhabited = [node for node in nodes if _place(node) in residents]
        held = held_of(node.uuid for node in inhabited if node.uuid in providers)
        return [_look(node, residents[_place(node)], held.get(node.uuid, {})) for node in inhabited]

    def _residents(self, cell: Cell, nodes: Collection[ComputeNode]) -> list[Resident]:
        return self._databases.database(cell).run(lambda connection: instance_queries.residents(connection, nodes))

    def _add(self, sums: Sums, cell: Cell, here: Iterable[Resident], held: Holders) -> None:
        """Add what is held of a node to the sums of those to whom it belongs, as far as the cell knows them."""
        owners: dict[str, Owner] = {one.uuid: (one.project_id, one.user_id) for one in here}
        strangers = held.keys() - owners.keys()
        if strangers:
            owners |= self._databases.database(cell).run(
                lambda connection: instance_queries.owners(connection, strangers)
            )
        for consumer, amounts in held.items():
            project, user = owners.get(consumer, (None, None))
            if project and user:
                total = sums.setdefault((project, user), {})
                for name in _SUMMED & amounts.keys():
                    total[name] = total.get(name, 0) + amounts[name]

    def _of_owners(self, sums: Sums) -> Iterator[Key]:
        """Yield the instances whose allocations are not their owner's, of those owners for whom less is held."""
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


def _place(one: ComputeNode | Resident) -> tuple[str, str]:
    # Nova's MySQL does not tell upper from lower case.
    return one.host.lower(), one.node.lower()


def _uuid(node: ComputeNode) -> str:
    return node.uuid


def _look(node: ComputeNode, here: Sequence[Resident], held: Holders) -> _Looked:
    return _Looked(node, here, held, _missing(here, held), _odd(here, held))


def _few(looked: Iterable[_Looked]) -> Iterator[tuple[str, frozenset[str]]]:
    """Yield the nodes of which few instances hold nothing, and those instances."""
    return ((one.node.uuid, one.missing) for one in looked if one.few_are_missing)


def _keys(one: _Looked) -> Iterator[Key]:
    """Yield a key for each instance of a node where more than a few hold nothing, and for what holds wrong amounts."""
    if not one.few_are_missing:
        yield from (Key("instance", instance) for instance in sorted(one.missing))
    if len(one.odd) > 1:
        yield Key(batches.AMOUNTS, one.node.uuid)
    else:
        yield from (Key("instance", instance) for instance in one.odd)


def _missing(here: Iterable[Resident], held: Holders) -> frozenset[str]:
    return frozenset(one.uuid for one in here if one.at_rest and one.uuid not in held)


def _odd(here: Iterable[Resident], held: Holders) -> frozenset[str]:
    """Return who holds other amounts of its node than it should; what nobody holds of it, they may have elsewhere."""
    given = {name for amounts in held.values() for name in amounts} & PLAIN
    suspects = (one for one in here if one.at_rest and one.uuid in held)
    return frozenset(one.uuid for one in suspects if _differs(one, held[one.uuid], given))


def _differs(one: Resident, amounts: Resources, given: Collection[str]) -> bool:
    flavor = _flavor(one.flavor)
    if isinstance(flavor, Unbuildable):
        return False
    wanted = resources(flavor, one.image_properties, one.boot_from_volume)
    if isinstance(wanted, Unbuildable):
        return False
    names = set(given)
    if "PCPU" in wanted and "PCPU" not in amounts:
        names -= {"VCPU", "PCPU"}
    return any(amounts.get(name, 0) != wanted.get(name, 0) for name in names)
