"""Reads the facts about a consumer of Placement: first its allocation, then the databases, last the ports."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy.engine import Connection

from handlers.access.neutron import Network
from handlers.nova import concerns, queries
from handlers.nova.allocations import entitlement, moves
from handlers.nova.allocations import queries as instance_queries
from handlers.nova.allocations.consumers import Facts, Located, Move, Take, TakeIfWitnessed, Verdict
from handlers.nova.allocations.entitlement import Unbuildable
from handlers.nova.allocations.excess_rules import decide, needs_bindings, unless_unattested
from handlers.nova.archived_consumers import Archive
from handlers.nova.cells import Cell
from handlers.nova.database import NovaDatabases
from handlers.nova.nodes import known_places
from handlers.nova.placement import Allocation, Placement
from handlers.nova.records import Instance, InstanceMapping, Migration
from handlers.nova.verdicts import Report

#: how many migrations of an instance are judged as consumers, youngest first
MIGRATIONS = 5


@dataclass(frozen=True, slots=True)
class _Rows:
    migration: Migration | None
    instance: Instance | None
    migrations: Sequence[Migration]


@dataclass(frozen=True, slots=True)
class _Seen:
    building: bool
    mapping: InstanceMapping | None
    cells: Mapping[Cell, _Rows]

    @property
    def live(self) -> list[tuple[Cell, Instance]]:
        found = ((cell, rows.instance) for cell, rows in self.cells.items())
        return [(cell, row) for cell, row in found if row is not None and not row.deleted]


@dataclass(frozen=True, slots=True)
class Judged:
    """An allocation and the verdict on it.

    :param concerns: the finding's concerns; empty without a finding
    """

    allocation: Allocation
    verdict: Verdict
    concerns: frozenset[str]


class Judge:
    """Decides which resources a consumer has a right to. Thread-safe."""

    def __init__(self, databases: NovaDatabases, placement: Placement, archive: Archive, network: Network) -> None:
        self._databases = databases
        self._placement = placement
        self._archive = archive
        self._network = network

    def judge(self, consumer: str) -> Iterator[Judged]:
        """Yield the verdict on a consumer. For an instance, also yield those on the instance's last ended migrations."""
        for facts in self._all_facts(consumer):
            verdict = self._decide(facts)
            found = (
                self._concerns(facts) if isinstance(verdict, Take | TakeIfWitnessed | Move | Report) else frozenset()
            )
            yield Judged(facts.allocation, verdict, found)

    def _decide(self, facts: Facts) -> Verdict:
        verdict = decide(facts)
        if not needs_bindings(verdict):
            return verdict
        ports = self._network.ports({"device_id": [facts.instance.uuid]})
        bound = frozenset(self._databases.host_names.normal(port.host) for port in ports if port.host)
        return unless_unattested(verdict, facts.here, bound)

    def _all_facts(self, consumer: str) -> Iterator[Facts]:
        allocation = self._placement.allocation(consumer)
        seen = self._read(consumer)
        migration = next((rows.migration for rows in seen.cells.values() if rows.migration is not None), None)
        if migration is not None:
            owner = migration.instance_uuid or consumer
            own = self._placement.allocation(owner)
            owners = self._read(owner)
            yield self._facts_of_migration(self._facts(own, owners), owners, allocation, migration)
            return
        facts = self._facts(allocation, seen)
        if facts.allocation.providers and not facts.rows:
            facts = dataclasses.replace(facts, archived=consumer in self._archive.among({consumer}))
        yield facts
        for move in facts.migrations[:MIGRATIONS]:
            if move.uuid is not None and (move.terminal or move.deleted):
                other = self._placement.allocation(move.uuid)
                yield self._facts_of_migration(facts, seen, other, move)

    def _concerns(self, facts: Facts) -> frozenset[str]:
        held = facts.allocation
        archived = (
            self._archive.among({held.consumer}).get(held.consumer, frozenset()) if facts.archived else frozenset()
        )
        own = concerns.of_consumers(held.consumer) | concerns.named("project", held.project_id)
        hosts = concerns.of_providers(self._databases, self._placement, [*held.providers, *facts.own])
        return own.union(archived, hosts, *(row.concerns for row in facts.rows))

    def _read(self, consumer: str) -> _Seen:
        """Return the rows about a consumer in nova_api and in every cell.

        nova_api is read first, so an instance that moves between two cells is found in at least one cell.
        """
        building, mapping = self._databases.api.run(lambda connection: queries.scheduling(connection, consumer))
        cells = self._databases.run_in_all(self._databases.cells(), lambda connection: _rows(connection, consumer))
        return _Seen(building, mapping, cells)

    def _facts(self, allocation: Allocation, seen: _Seen) -> Facts:
        rows = tuple(located(cell, found.instance) for cell, found in seen.cells.items() if found.instance is not None)
        migrations = tuple(move for found in seen.cells.values() for move in found.migrations)
        facts = Facts(allocation, seen.building, seen.mapping, rows, migrations=migrations)
        if len(seen.live) != 1:
            return facts
        [(cell, instance)] = seen.live
        if instance.host is None or instance.node is None:
            return facts
        return self._with_home(facts, cell, instance.host, instance.node)

    def _with_home(self, facts: Facts, cell: Cell, host: str, node: str) -> Facts:
        found = self._databases.database(cell).run(lambda connection: instance_queries.homes(connection, host, node))
        names = self._databases.host_names
        facts = dataclasses.replace(
            facts,
            home=found[0].uuid if len(found) == 1 else None,
            here=moves.normal_place((host, node), names),
            migrations=tuple(moves.normal(move, names) for move in facts.migrations),
        )
        return self._with_nodes(facts, facts.allocation)

    def _with_nodes(self, facts: Facts, held: Allocation) -> Facts:
        if facts.home is None:
            return facts
        roots = dict(facts.roots)
        for provider in held.providers:
            if provider not in roots:
                roots.update({uuid: member.root for uuid, member in self._placement.tree(provider).items()})
        unknown = set(roots.values()) - set(facts.nodes)
        places = known_places(self._databases, unknown)
        names = self._databases.host_names
        nodes = {**facts.nodes, **{uuid: moves.normal_place(place, names) for uuid, place in places.items()}}
        return dataclasses.replace(facts, roots=roots, nodes=nodes)

    def _facts_of_migration(self, facts: Facts, seen: _Seen, allocation: Allocation, migration: Migration) -> Facts:
        facts = self._with_nodes(facts, allocation)
        move = moves.normal(migration, self._databases.host_names)
        facts = dataclasses.replace(facts, allocation=allocation, migration=move, own=facts.allocation.providers)
        if allocation.providers and facts.home is not None and not facts.is_at_home:
            facts = dataclasses.replace(facts, wanted=self._entitlement(*seen.live[0]))
        return facts

    def _entitlement(self, cell: Cell, instance: Instance) -> Mapping[str, int] | Unbuildable:
        described = self._databases.database(cell).run(
            lambda connection: instance_queries.descriptions(connection, [instance.uuid])[instance.uuid]
        )
        return entitlement.of(described.flavor, described.image_properties, described.boot_from_volume)


def located(cell: Cell, instance: Instance) -> Located:
    return Located(instance, cell.id, cell.is_cell0, concerns.of_instance(instance) | concerns.of_cell(cell))


def _rows(connection: Connection, consumer: str) -> _Rows:
    found = queries.migrations_about(connection, consumer)
    itself = [move for move in found if (move.uuid or "").lower() == consumer.lower()]
    return _Rows(
        itself[0] if itself else None,
        queries.instance(connection, consumer),
        [move for move in found if move not in itself],
    )
