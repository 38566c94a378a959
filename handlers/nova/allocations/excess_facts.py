"""Collects what is known about a consumer, in the order that makes the verdict safe: allocations, then the databases.

See :mod:`handlers.nova.allocations.excess_rules` for the verdict and :mod:`handlers.nova.allocations.audit_allocations` for why the order matters.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy.engine import Connection

from handlers.nova import queries
from handlers.nova.allocations.excess_rules import Facts, Located, Verdict, decide
from handlers.nova.archived_consumers import Archive
from handlers.nova.cells import Cell
from handlers.nova.database import NovaDatabases
from handlers.nova.nodes import known_places
from handlers.nova.placement import Allocation, Placement
from handlers.nova.records import Instance, InstanceMapping, Migration

#: how many of an instance's migrations are looked at as consumers, youngest first
MIGRATIONS = 5


@dataclass(frozen=True, slots=True)
class _Known:
    """What a cell knows about a consumer: that it is a migration, or an instance, its row and its migrations."""

    migration: Migration | None
    row: Instance | None
    migrations: Sequence[Migration]


@dataclass(frozen=True, slots=True)
class _Seen:
    """What all databases know about a consumer."""

    building: bool
    mapping: InstanceMapping | None
    cells: Mapping[Cell, _Known]


class Judge:
    """Judges consumers, by what Placement and the databases say; safe to share between threads."""

    def __init__(self, databases: NovaDatabases, placement: Placement, archive: Archive) -> None:
        self._databases = databases
        self._placement = placement
        self._archive = archive

    def judge(self, consumer: str, held: Allocation | None = None) -> Iterator[tuple[Allocation, Verdict]]:
        """Judge a consumer and then, when it is an instance, its migrations; allocations are read before the databases.

        :param held: what it was read to hold, if that is known already; only a write that says its generation may follow
        :raises Unavailable: when Placement or a database does not answer
        """
        allocation = self._placement.allocation(consumer) if held is None else held
        seen = self._read(consumer)
        migration = next((known.migration for known in seen.cells.values() if known.migration is not None), None)
        if migration is not None:
            owner = migration.instance_uuid or consumer
            own = self._placement.allocation(owner)
            known = self._with_nodes(self._facts(own, self._read(owner)), allocation)
            yield allocation, decide(_of_migration(known, allocation, migration))
            return
        facts = self._facts(allocation, seen)
        if facts.allocation.providers and not facts.rows:
            facts = dataclasses.replace(facts, archived=consumer in self._archive.among({consumer}))
        yield allocation, decide(facts)
        for move in facts.migrations[:MIGRATIONS]:
            if move.uuid is not None and (move.terminal or move.deleted):
                other = self._placement.allocation(move.uuid)
                known = self._with_nodes(facts, other)
                yield other, decide(_of_migration(known, other, move))

    def _read(self, consumer: str) -> _Seen:
        """Read what nova_api and then the cells know; what moves from there to here meanwhile is seen at least once."""
        building, mapping = self._databases.api.run(lambda connection: _scheduling(connection, consumer))
        cells = self._databases.run_in_all(self._databases.cells(), lambda connection: _known(connection, consumer))
        return _Seen(building, mapping, cells)

    def _facts(self, allocation: Allocation, seen: _Seen) -> Facts:
        """Put together what is known about an instance that holds this, and read where it lives."""
        cells, building, mapping = seen.cells, seen.building, seen.mapping
        rows = tuple(
            Located(known.row, cell.id, cell.is_cell0) for cell, known in cells.items() if known.row is not None
        )
        moves = tuple(move for known in cells.values() for move in known.migrations)
        facts = Facts(allocation, building=building, mapping=mapping, rows=rows, migrations=moves)
        live = [(cell, known.row) for cell, known in cells.items() if known.row is not None and not known.row.deleted]
        if len(live) == 1 and live[0][1].host is not None and live[0][1].node is not None:
            return self._with_places(facts, *live[0])
        return facts

    def _with_places(self, facts: Facts, cell: Cell, instance: Instance) -> Facts:
        """Add where the instance lives, and to which compute nodes the providers belong."""
        place = {"host": instance.host or "", "hypervisor_hostname": instance.node or ""}
        found = self._databases.database(cell).run(lambda connection: queries.compute_nodes(connection, place))
        home = found[0].uuid if len(found) == 1 else None
        return self._with_nodes(dataclasses.replace(facts, home=home), facts.allocation)

    def _with_nodes(self, facts: Facts, held: Allocation) -> Facts:
        """Add to which compute nodes the providers of an allocation belong, when it is known where the instance lives."""
        if facts.home is None:
            return facts
        roots = dict(facts.roots)
        for provider in held.providers:
            if provider not in roots:
                roots.update({uuid: member.root for uuid, member in self._placement.tree(provider).items()})
        unknown = set(roots.values()) - set(facts.nodes)
        nodes = {**facts.nodes, **known_places(self._databases, unknown)}
        return dataclasses.replace(facts, roots=roots, nodes=nodes)


def _scheduling(connection: Connection, instance: str) -> tuple[bool, InstanceMapping | None]:
    mapping = queries.instance_mapping(connection, instance)
    return queries.has_build_request(connection, instance), mapping


def _known(connection: Connection, consumer: str) -> _Known:
    return _Known(
        queries.migration(connection, consumer),
        queries.instance(connection, consumer),
        queries.migrations_of(connection, consumer),
    )


def _of_migration(facts: Facts, allocation: Allocation, migration: Migration) -> Facts:
    """Turn what is known about an instance into what is known about a migration of it."""
    return dataclasses.replace(facts, allocation=allocation, migration=migration, own=facts.allocation.providers)
