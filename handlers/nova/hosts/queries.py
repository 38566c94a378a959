"""The SQL statements about hosts that are gone: what their services left, and who still says that it is there.

As in :mod:`handlers.nova.queries`: each takes a connection within a transaction and can be run again. Deleted rows are
looked for in the shadow tables as well, where archiving puts them; these have no index, and few rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from handlers.base import Conflict
from handlers.nova import queries, records, tables
from handlers.nova.former_nodes import FormerNode, former_nodes, since_deletion
from handlers.nova.sql_text import as_typed


@dataclass(frozen=True, slots=True)
class Traces:
    """What a cell knows of a host.

    :param services: how many nova-compute services are not deleted
    :param nodes: the uuids of the compute nodes that are not deleted
    :param instances: how many instances that are not deleted say that they live there
    :param migrations: how many migrations from or to it have not ended
    :param former: its deleted compute nodes
    :param deleted: seconds since its last nova-compute service or compute node was deleted; None when none ever was
    """

    services: int
    nodes: tuple[str, ...]
    instances: int
    migrations: int
    former: tuple[FormerNode, ...] = ()
    deleted: float | None = None


def traces(connection: Connection, host: str) -> Traces:
    """What this cell knows of a host."""
    former = former_nodes(connection, "host", [host])
    ages = [node.age for node in former] + _deleted_services(connection, host)
    return Traces(
        len(queries.compute_services(connection, host)),
        tuple(node.uuid for node in queries.compute_nodes(connection, {"host": host})),
        _instances(connection, host),
        _migrations(connection, host),
        tuple(former),
        min(ages, default=None),
    )


def present(connection: Connection) -> tuple[set[str], set[str]]:
    """The hosts of this cell that have a nova-compute service or a compute node, and the uuids of the compute nodes."""
    nodes = queries.compute_nodes(connection)
    services = {service.host for service in queries.compute_services(connection)}
    return services | {node.host for node in nodes}, {node.uuid for node in nodes}


def forget_host(connection: Connection, before: records.HostMapping) -> str:
    """Delete the mapping of a host that still leads to the same cell; return the statement that restores it.

    :raises Conflict: when there is no such mapping any more
    """
    table = tables.host_mappings
    where = sa.and_(table.c.host == before.host, table.c.cell_id == before.cell_id)
    rows = list(
        connection.execute(sa.select(table.c.created_at, table.c.cell_id, table.c.host).where(where)).mappings()
    )
    if len(rows) != 1 or connection.execute(sa.delete(table).where(where)).rowcount != 1:
        raise Conflict(f"the mapping of host {before.host} is not as it was")
    values = {name: sa.null() if value is None else sa.literal(value) for name, value in rows[0].items()}
    return as_typed(connection, sa.insert(table).values(values))


def _deleted_services(connection: Connection, host: str) -> list[float]:
    ages = []
    for table in (tables.services, tables.shadow_services):
        c = table.c
        query = sa.select(c.deleted_at, queries.NOW).where(c.host == host, c.binary == queries.COMPUTE, c.deleted != 0)
        ages += [since_deletion(row) for row in connection.execute(query)]
    return ages


def _instances(connection: Connection, host: str) -> int:
    c = tables.instances.c
    query = sa.select(sa.func.count()).where(c.host == host, c.deleted == 0)
    return int(connection.execute(query).scalar_one())


def _migrations(connection: Connection, host: str) -> int:
    c = tables.migrations.c
    ended = sa.and_(c.status.is_not(None), c.status.in_(sorted(records.TERMINAL)))
    query = sa.select(sa.func.count()).where(
        c.deleted == 0, sa.or_(c.source_compute == host, c.dest_compute == host), sa.not_(ended)
    )
    return int(connection.execute(query).scalar_one())
