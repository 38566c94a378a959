"""Collects what is known about a consumer, in the order that makes the verdict safe: allocations, then the databases.

See :mod:`handlers.nova.consumers` for the verdict and :mod:`handlers.nova.audit_allocations` for why the order matters.
"""

from __future__ import annotations

import dataclasses

from sqlalchemy.engine import Connection

from handlers.nova import queries
from handlers.nova.archive import Archive
from handlers.nova.cells import Cell
from handlers.nova.consumers import Facts, Located, Verdict, decide
from handlers.nova.database import NovaDatabases
from handlers.nova.nodes import known_places
from handlers.nova.placement import Allocation, Placement
from handlers.nova.records import Instance, InstanceMapping, Migration

#: how many of an instance's migrations are looked at as consumers, youngest first
MIGRATIONS = 5


class Judge:
    """Judges consumers, by what Placement and the databases say; safe to share between threads."""

    def __init__(self, databases: NovaDatabases, placement: Placement, archive: Archive) -> None:
        self._databases = databases
        self._placement = placement
        self._archive = archive

    def judge(self, consumer: str) -> list[tuple[Allocation, Verdict]]:
        """Judge a consumer and, when it is an instance, its migrations; allocations are read before the databases."""
        allocation = self._placement.allocation(consumer)
        cells = self._databases.cells()
        seen = self._databases.run_in(cells, lambda connection: queries.migration(connection, consumer))
        migration = next((row for row in seen.values() if row is not None), None)
        owner = consumer if migration is None else migration.instance_uuid or consumer
        own = allocation if migration is None else self._placement.allocation(owner)
        facts = self._facts(own, owner)
        if migration is not None:
            known = self._with_nodes(facts, allocation)
            return [(allocation, decide(_of_migration(known, allocation, migration)))]
        if facts.allocation.providers and not facts.rows:
            facts = dataclasses.replace(facts, archived=consumer in self._archive.among({consumer}))
        judged = [(allocation, decide(facts))]
        for move in facts.migrations[:MIGRATIONS]:
            if move.uuid is not None and (move.terminal or move.deleted):
                held = self._placement.allocation(move.uuid)
                known = self._with_nodes(facts, held)
                judged.append((held, decide(_of_migration(known, held, move))))
        return judged

    def _facts(self, allocation: Allocation, instance: str) -> Facts:
        """Read what is known about an instance that holds this."""
        building, mapping = self._databases.api.run(lambda connection: _scheduling(connection, instance))
        seen = self._databases.run_in(self._databases.cells(), lambda connection: _rows(connection, instance))
        rows = tuple(Located(row, cell.id, cell.is_cell0) for cell, (row, _) in seen.items() if row is not None)
        moves = tuple(move for _, moves in seen.values() for move in moves)
        facts = Facts(allocation, building=building, mapping=mapping, rows=rows, migrations=moves)
        live = [(cell, row) for cell, (row, _) in seen.items() if row is not None and not row.deleted]
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


def _rows(connection: Connection, instance: str) -> tuple[Instance | None, list[Migration]]:
    return queries.instance(connection, instance), queries.migrations_of(connection, instance)


def _of_migration(facts: Facts, allocation: Allocation, migration: Migration) -> Facts:
    """Turn what is known about an instance into what is known about a migration of it."""
    return dataclasses.replace(facts, allocation=allocation, migration=migration, own=facts.allocation.providers)
