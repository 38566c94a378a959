from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from handlers.access.database import seconds_since
from handlers.nova import queries, tables


@dataclass(frozen=True, slots=True)
class FormerNode:
    """A deleted compute node, archived or not.

    :param age: seconds since the node's deletion
    """

    uuid: str
    host: str
    node: str
    age: float


def former_nodes(connection: Connection, column: str, values: Collection[str]) -> list[FormerNode]:
    found = []
    for table in (tables.compute_nodes, tables.shadow_compute_nodes):
        c = table.c
        query = sa.select(c.uuid, c.host, c.hypervisor_hostname, c.deleted_at, queries.NOW).where(
            c[column].in_(sorted(values)), c.deleted != 0, c.uuid.is_not(None)
        )
        found += [
            FormerNode(
                row.uuid,
                row.host or "",
                row.hypervisor_hostname or "",
                seconds_since(connection, row.now, row.deleted_at),
            )
            for row in connection.execute(query)
        ]
    return found
