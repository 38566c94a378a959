"""Reads the facts about consumers of Placement: first their allocations, then the databases, last the ports.

A :class:`Look` reads several consumers at once, by one statement in nova_api and one in each cell. If some consumers are
migrations, the look then reads their instances in the same way.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy.engine import Connection

from handlers.access.neutron import Network
from handlers.base import Refused
from handlers.nova import concerns, queries
from handlers.nova.allocations import entitlement, moves
from handlers.nova.allocations import queries as instance_queries
from handlers.nova.allocations.consumers import Facts, Located, Verdict
from handlers.nova.allocations.entitlement import Unbuildable
from handlers.nova.allocations.excess_rules import decide, needs_bindings, unless_unattested
from handlers.nova.archived_consumers import Archive
from handlers.nova.cells import Cell
from handlers.nova.database import NovaDatabases
from handlers.nova.nodes import known_places
from handlers.nova.placement import Allocation, Placement
from handlers.nova.records import Instance, InstanceMapping, Migration

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
    def migration(self) -> Migration | None:
        return next((rows.migration for rows in self.cells.values() if rows.migration is not None), None)

    @property
    def live(self) -> list[tuple[Cell, Instance]]:
        found = ((cell, rows.instance) for cell, rows in self.cells.items())
        return [(cell, row) for cell, row in found if row is not None and not row.deleted]


@dataclass(frozen=True, slots=True)
class Look:
    """The allocations and rows of several consumers, by consumer, read at once.

    :param began: monotonic time before the first read
    """

    began: float
    allocations: Mapping[str, Allocation]
    seen: Mapping[str, _Seen]
    providers: concerns.OfProviders


@dataclass(frozen=True, slots=True)
class Judged:
    """An allocation, the verdict on it, and its facts."""

    allocation: Allocation
    verdict: Verdict
    facts: Facts


class Judge:
    """Decides which resources a consumer has a right to. Thread-safe."""

    def __init__(self, databases: NovaDatabases, placement: Placement, archive: Archive, network: Network) -> None:
        self._databases = databases
        self._placement = placement
        self._archive = archive
        self._network = network

    def look(self, consumers: Collection[str]) -> Look:
        """:raises Unavailable: Placement, nova_api or a cell does not answer"""
        began = time.monotonic()
        allocations, seen = self._read(consumers)
        moves = [move for one in seen.values() if (move := one.migration) is not None]
        if owners := {move.instance_uuid for move in moves if move.instance_uuid} - seen.keys():
            more = self._read(owners)
            allocations, seen = allocations | more[0], seen | more[1]
        held = (provider for one in allocations.values() for provider in one.providers)
        return Look(began, allocations, seen, concerns.OfProviders(self._databases, self._placement, held))

    def judge(self, look: Look, consumer: str) -> Iterator[Judged]:
        """Yield the verdict on a consumer of a look. For an instance, then yield the verdicts on those of its last
        :data:`MIGRATIONS` migrations that are not open.
        """
        for facts in self._all_facts(look, consumer):
            yield Judged(facts.allocation, self._decide(facts), facts)

    def concerns(self, look: Look, judged: Judged) -> frozenset[str]:
        facts, held = judged.facts, judged.allocation
        archived = (
            self._archive.among({held.consumer}).get(held.consumer, frozenset()) if facts.archived else frozenset()
        )
        own = concerns.of_consumers(held.consumer) | concerns.named("project", held.project_id)
        hosts = look.providers.of([*held.providers, *facts.own])
        return own.union(archived, hosts, *(row.concerns for row in facts.rows))

    def _decide(self, facts: Facts) -> Verdict:
        verdict = decide(facts)
        if not needs_bindings(verdict):
            return verdict
        ports = self._network.ports({"device_id": [facts.instance.uuid]})
        return unless_unattested(verdict, facts.here, moves.bound_hosts(ports, self._databases.host_names))

    def _all_facts(self, look: Look, consumer: str) -> Iterator[Facts]:
        allocation, seen = look.allocations[consumer], look.seen[consumer]
        migration = seen.migration
        if migration is not None:
            owner = migration.instance_uuid or consumer
            own, owners = look.allocations[owner], look.seen[owner]
            yield self._facts_of_migration(self._facts(own, owners), owners, allocation, migration)
            return
        facts = self._facts(allocation, seen)
        if facts.allocation.providers and not facts.rows:
            facts = self._with_archive(facts, consumer)
        yield facts
        for move in facts.migrations[:MIGRATIONS]:
            if move.uuid is not None and (move.terminal or move.deleted):
                other = self._placement.allocation(move.uuid)
                yield self._facts_of_migration(facts, seen, other, move)

    def _with_archive(self, facts: Facts, consumer: str) -> Facts:
        archived = consumer in self._archive.among({consumer})
        owner = self._archive.owner_of(consumer) if archived else None
        if owner is None:
            return dataclasses.replace(facts, archived=archived)
        mapping = self._databases.api.run(lambda connection: queries.instance_mapping(connection, owner))
        return dataclasses.replace(facts, archived=True, mapping=mapping)

    def _read(self, consumers: Collection[str]) -> tuple[dict[str, Allocation], dict[str, _Seen]]:
        """Read Placement first, so that a later allocation changes the generation. Read nova_api before the cells, to find an
        instance whose build goes on meanwhile in nova_api or in a cell.
        """
        uuids = {consumer: consumer.lower() for consumer in consumers}
        if len(set(uuids.values())) < len(uuids):
            raise Refused("the uuids of two consumers differ only in the case of letters; inspect each consumer alone")
        allocations = self._placement.allocations(consumers)
        requested, mappings = self._databases.api.run(lambda connection: queries.schedulings(connection, consumers))
        cells = self._databases.run_in_all(self._databases.cells(), lambda connection: _rows(connection, consumers))
        building = {one.lower() for one in requested}
        mapped = {one.instance_uuid.lower(): one for one in mappings}
        _require_among({*building, *mapped}, uuids.values())
        seen = {
            consumer: _Seen(uuid in building, mapped.get(uuid), {cell: rows[uuid] for cell, rows in cells.items()})
            for consumer, uuid in uuids.items()
        }
        return allocations, seen

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


def _rows(connection: Connection, consumers: Collection[str]) -> dict[str, _Rows]:
    found, moves = queries.instances_and_migrations(connection, consumers)
    asked = {consumer.lower() for consumer in consumers}
    instances = {row.uuid.lower(): row for row in found}
    itself: dict[str, Migration] = {}
    own: dict[str, list[Migration]] = {}
    for move in moves:
        uuid, owner = (move.uuid or "").lower(), (move.instance_uuid or "").lower()
        if uuid not in asked and owner not in asked:
            raise _strange(uuid)
        if uuid in asked:
            itself.setdefault(uuid, move)
        # Both may be consumers of one look: the row is then the migration's, and one of its instance's migrations.
        if owner in asked and owner != uuid:
            own.setdefault(owner, []).append(move)
    _require_among(instances, asked)
    return {uuid: _Rows(itself.get(uuid), instances.get(uuid), own.get(uuid, ())) for uuid in asked}


def _require_among(uuids: Collection[str], asked: Collection[str]) -> None:
    if unasked := set(uuids) - set(asked):
        raise _strange(min(unasked))


def _strange(uuid: str) -> Refused:
    return Refused(f"a database returns a row of {uuid}, which it takes for one of the consumers; compare both uuids")
