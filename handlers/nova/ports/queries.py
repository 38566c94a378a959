from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from handlers.nova import tables
from handlers.nova.ports.rules import Remains


def remains_of(connection: Connection, instance: str) -> Remains | None:
    """Return facts from an instance's rows in a cell or, if there are none, from its archived rows; None without any row.

    Archived rows need a full scan.
    """
    launched = _values(connection, tables.instances, "uuid", instance, "launched_at")
    if not launched:
        return None
    cached = _values(connection, tables.instance_info_caches, "instance_uuid", instance, "network_info")
    return Remains(all(at is not None for at in launched), cached[0] if len(cached) == 1 else None)


def _values(connection: Connection, table: sa.Table, column: str, instance: str, wanted: str) -> list[Any]:
    for place in (table, tables.cell.tables[f"shadow_{table.name}"]):
        query = sa.select(place.c[wanted]).where(place.c[column] == instance)
        found = list(connection.execute(query).scalars())
        if found:
            return found
    return []
