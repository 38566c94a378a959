"""Reads the records of an instance with unfinished migrations, from ``nova_api`` first, then from every cell."""

from __future__ import annotations

from sqlalchemy.engine import Connection

from handlers.nova import queries
from handlers.nova.cells import Cell
from handlers.nova.database import NovaDatabases
from handlers.nova.migrations.queries import moves_of
from handlers.nova.migrations.rules import Case, Move
from handlers.nova.records import Instance


def read(databases: NovaDatabases, instance: str, after: float) -> list[tuple[Cell, Case]]:
    """Return the cell and the case of each unfinished migration of an instance."""
    building = bool(databases.api.run(lambda connection: queries.building(connection, {instance})))
    seen = databases.run_in_all(databases.cells(), lambda connection: _in_cell(connection, instance))
    copies = tuple(row for row, _ in seen.values() if row is not None)
    return [
        (cell, Case(move, row, copies, tuple(moves), databases.host_names, building, after))
        for cell, (row, moves) in seen.items()
        if row is not None
        for move in moves
        if not move.ended
    ]


def _in_cell(connection: Connection, instance: str) -> tuple[Instance | None, list[Move]]:
    return queries.instance(connection, instance), moves_of(connection, instance)
