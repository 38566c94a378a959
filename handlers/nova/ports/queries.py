"""The SQL statements about what deleted instances leave behind in Neutron.

As in :mod:`handlers.nova.queries`: each takes a connection within a transaction and can be run again.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from handlers.nova import tables


@dataclass(frozen=True, slots=True)
class Left:
    """What the rows of a deleted instance still say about its ports.

    :param launched: whether it ever ran
    :param network_info: the network cache as it was when the instance was deleted; None when there is none, or several
    """

    launched: bool
    network_info: str | None


def alive(connection: Connection, instances: Collection[str]) -> dict[str, bool]:
    """Those of these instances that have a row, with whether it is alive; ask for :data:`~handlers.nova.queries.CHUNK`."""
    c = tables.instances.c
    rows = connection.execute(sa.select(c.uuid, c.deleted).where(c.uuid.in_(sorted(instances))))
    return {row.uuid: row.deleted == 0 for row in rows}


def left(connection: Connection, instance: str) -> Left | None:
    """What a deleted instance left, archived or not; None when this cell has no row of it.

    What is archived takes a full scan: the shadow tables have no index but their id.
    """
    launched = _find(connection, tables.instances, "uuid", instance, "launched_at")
    if not launched:
        return None
    cached = _find(connection, tables.instance_info_caches, "instance_uuid", instance, "network_info")
    return Left(all(at is not None for at in launched), cached[0] if len(cached) == 1 else None)


def _find(connection: Connection, table: sa.Table, column: str, instance: str, wanted: str) -> list[Any]:
    """Read a column of an instance's rows, or where there are none, of its archived ones."""
    for place in (table, tables.cell.tables[f"shadow_{table.name}"]):
        query = sa.select(place.c[wanted]).where(place.c[column] == instance)
        found = list(connection.execute(query).scalars())
        if found:
            return found
    return []
