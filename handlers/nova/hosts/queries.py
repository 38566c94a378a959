"""SQL about compute hosts and the rows, archived ones included, that their deleted services left."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from handlers.access.database import seconds_since
from handlers.access.sql_text import as_typed
from handlers.base import Conflict
from handlers.nova import queries, records, tables
from handlers.nova.former_nodes import former_nodes
from handlers.nova.hosts.leftover_rules import Traces


@dataclass(frozen=True, slots=True)
class LiveRows:
    name: str
    services: frozenset[str]
    nodes: frozenset[str]


def presence(connection: Connection, host: str) -> LiveRows | None:
    c = tables.services.c
    query = sa.select(c.host, c.uuid).where(c.binary == queries.COMPUTE, c.deleted == 0, c.host == host)
    services = {row.uuid: row.host for row in connection.execute(query)}
    nodes = {node.uuid: node.host for node in queries.compute_nodes(connection, {"host": host})}
    names = [*services.values(), *nodes.values()]
    return LiveRows(names[0], frozenset(services) - {None}, frozenset(nodes)) if names else None


def traces(connection: Connection, host: str) -> Traces:
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
    """Return a cell's hosts that have nova-compute or a compute node, and the uuids of all its compute nodes."""
    nodes = queries.compute_nodes(connection)
    services = {service.host for service in queries.compute_services(connection)}
    return services | {node.host for node in nodes}, {node.uuid for node in nodes}


def mapping_age(connection: Connection, host: str) -> float:
    """Return the seconds since a host was mapped; infinity if no row has the time."""
    c = tables.host_mappings.c
    row = connection.execute(sa.select(c.created_at, queries.NOW).where(c.host == host)).first()
    return float("inf") if row is None else seconds_since(connection, row.now, row.created_at)


def undo_of_forget(connection: Connection, mapping: records.HostMapping) -> str:
    """Return the SQL statement that inserts a host mapping again; empty if the mapping changed."""
    table = tables.host_mappings
    query = sa.select(table.c.created_at, table.c.cell_id, table.c.host).where(_same(mapping))
    row = connection.execute(query).mappings().first()
    if row is None:
        return ""
    values = {name: sa.null() if value is None else sa.literal(value) for name, value in row.items()}
    return as_typed(connection.dialect, sa.insert(table).values(values))


def forget_host(connection: Connection, before: records.HostMapping, undo: str) -> None:
    """:raises Conflict: the mapping changed, or the SQL in ``undo`` would not restore it"""
    restoring = undo_of_forget(connection, before)
    gone = connection.execute(forgetting(before)).rowcount
    if gone != 1 or restoring not in undo:
        raise Conflict(f"the mapping of host {before.host} changed")


def forgetting(before: records.HostMapping) -> sa.Delete:
    return sa.delete(tables.host_mappings).where(_same(before))


def _same(mapping: records.HostMapping) -> sa.ColumnElement[bool]:
    c = tables.host_mappings.c
    return sa.and_(c.host == mapping.host, c.cell_id == mapping.cell_id)


def _deleted_services(connection: Connection, host: str) -> list[float]:
    ages = []
    for table in (tables.services, tables.shadow_services):
        c = table.c
        query = sa.select(c.deleted_at, queries.NOW).where(c.host == host, c.binary == queries.COMPUTE, c.deleted != 0)
        ages += [seconds_since(connection, row.now, row.deleted_at) for row in connection.execute(query)]
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
