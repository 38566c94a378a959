"""Reads the records of an instance, from ``nova_api`` first, then from every cell."""

from __future__ import annotations

from sqlalchemy.engine import Connection

from handlers.nova import queries
from handlers.nova.cells import Cell
from handlers.nova.database import NovaDatabases
from handlers.nova.instances.queries import live_row
from handlers.nova.instances.rules import Case, Row


def read(databases: NovaDatabases, instance: str, after: float) -> list[tuple[Cell, Case]]:
    """Return the cell and the case of each live row of an instance."""
    requested, mapping = databases.api.run(lambda connection: queries.scheduling(connection, instance))
    seen = databases.run_in_all(databases.cells(), lambda connection: _in_cell(connection, instance))
    rows = {cell: (row, up) for cell, (row, up) in seen.items() if row is not None}
    return [
        (
            cell,
            Case(
                row,
                len(rows),
                mapping is not None and mapping.cell_id == cell.id,
                requested,
                mapping is not None and mapping.queued,
                up,
                after,
            ),
        )
        for cell, (row, up) in rows.items()
    ]


def _in_cell(connection: Connection, instance: str) -> tuple[Row | None, bool | None]:
    row = live_row(connection, instance)
    return row, None if row is None or row.host is None else queries.host_up(connection, row.host)
