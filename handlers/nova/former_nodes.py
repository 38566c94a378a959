"""Compute nodes that were deleted, archived ones too.

Archiving moves deleted rows into the shadow tables, so both tables are read.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from handlers.nova import queries, tables


@dataclass(frozen=True, slots=True)
class FormerNode:
    """A compute node that was deleted, and perhaps archived since.

    :param age: seconds since it was deleted, by the database's clock
    """

    uuid: str
    host: str
    node: str
    age: float


def former_nodes(connection: Connection, column: str, values: Collection[str]) -> list[FormerNode]:
    """The deleted compute nodes of this cell whose column is one of these values, archived ones too."""
    found = []
    for table in (tables.compute_nodes, tables.shadow_compute_nodes):
        c = table.c
        query = sa.select(c.uuid, c.host, c.hypervisor_hostname, c.deleted_at, queries.NOW).where(
            c[column].in_(sorted(values)), c.deleted != 0, c.uuid.is_not(None)
        )
        found += [
            FormerNode(row.uuid, row.host or "", row.hypervisor_hostname or "", since_deletion(row))
            for row in connection.execute(query)
        ]
    return found


def since_deletion(row: sa.Row[tuple[object, ...]]) -> float:
    """Return the seconds since a row was deleted; infinity when the row has no time of its deletion."""
    return float("inf") if row.deleted_at is None else max(0.0, float((row.now - row.deleted_at).total_seconds()))
