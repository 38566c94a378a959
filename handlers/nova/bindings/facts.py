"""Read the records of an instance that explain the bindings of its ports."""

from __future__ import annotations

from sqlalchemy.engine import Connection

from handlers.nova import queries
from handlers.nova.bindings.rules import Facts
from handlers.nova.cells import Cell
from handlers.nova.database import NovaDatabases
from handlers.nova.records import Instance, InstanceMapping, Migration


def read(databases: NovaDatabases, instance: str) -> tuple[Cell | None, Facts]:
    """Return the cell of the instance's mapping, and the records.

    :raises Unavailable: when a database does not answer
    """
    requested, mapping = databases.api.run(lambda connection: _scheduling(connection, instance))
    seen = databases.run_in_all(databases.cells(), lambda connection: _in_cell(connection, instance))
    home = next((cell for cell in seen if mapping is not None and cell.id == mapping.cell_id), None)
    here, moves = seen[home] if home is not None else (None, [])
    copies = tuple(row for row, _ in seen.values() if row is not None)
    return home, Facts(here, copies, tuple(moves), requested or home is None, databases.host_names)


def _scheduling(connection: Connection, instance: str) -> tuple[bool, InstanceMapping | None]:
    return queries.has_build_request(connection, instance), queries.instance_mapping(connection, instance)


def _in_cell(connection: Connection, instance: str) -> tuple[Instance | None, list[Migration]]:
    moves = queries.migrations_of(connection, instance)
    return queries.instance(connection, instance), [one for one in moves if not one.deleted]
