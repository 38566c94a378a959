"""Reads the records of the instance that attachments name, from ``nova_api`` first, then from the cells."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from sqlalchemy.engine import Connection

from handlers.nova import concerns, queries
from handlers.nova.archived_consumers import Archive
from handlers.nova.attachments.queries import archived_remains_of, remains_of, users
from handlers.nova.attachments.rules import Facts, Remains, User
from handlers.nova.database import NovaDatabases
from handlers.nova.records import Instance


@dataclass(frozen=True, slots=True)
class Known:
    """The facts about an instance, and the objects to which it belongs.

    :param users: block device mappings of other live instances to the volumes of the instance's attachments
    """

    facts: Facts
    users: frozenset[User]
    concerns: frozenset[str]


def read(databases: NovaDatabases, archive: Archive, instance: str, volumes: Collection[str], after: float) -> Known:
    """:param volumes: the volumes of the instance's attachments
    :raises Unavailable: a database does not answer
    """
    requested, mapping = databases.api.run(lambda connection: queries.scheduling(connection, instance))
    cells = databases.cells()
    seen = databases.run_in_all(cells, lambda connection: _in_cell(connection, instance))
    rows = {cell: row for cell, (row, _) in seen.items() if row is not None}
    found = {cell: remains for cell, (_, remains) in seen.items()}
    building = requested or (mapping is not None and mapping.cell_id is None)
    archived = {} if building or rows else archive.among({instance})
    if archived:
        found = databases.run_in_all(cells, lambda connection: archived_remains_of(connection, instance))
    others = databases.run_in_all(cells, lambda connection: users(connection, volumes, instance))
    names = concerns.of_consumers(instance).union(
        *archived.values(), *(concerns.of_instance(row) | concerns.of_cell(cell) for cell, row in rows.items())
    )
    alive = any(not row.deleted for row in rows.values())
    places = frozenset(cell.id for cell, remains in found.items() if remains)
    remains = tuple(one for some in found.values() for one in some)
    facts = Facts(building, mapping, places, alive, bool(archived), remains, after)
    return Known(facts, frozenset[User]().union(*others.values()), names)


def _in_cell(connection: Connection, instance: str) -> tuple[Instance | None, list[Remains]]:
    row = queries.instance(connection, instance)
    return row, remains_of(connection, instance) if row is not None and row.deleted else []
