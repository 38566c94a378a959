"""SQL that several families of handlers share.

Each function runs in a transaction, and may run twice. Ages are seconds by the database's clock.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from handlers.access.database import seconds_since, utcnow
from handlers.nova import records, tables
from handlers.nova.cells import Cell

COMPUTE = "nova-compute"
CHUNK = 500
NOW = utcnow().label("now")


def chunks(values: Collection[str]) -> Iterator[list[str]]:
    """Yield the values, sorted and distinct, in lists that each fit into one statement."""
    ordered = sorted(set(values))
    for start in range(0, len(ordered), CHUNK):
        yield ordered[start : start + CHUNK]


# nova_api


def cells(connection: Connection) -> list[Cell]:
    """Return all cells, including disabled cells and cell0."""
    c = tables.cell_mappings.c
    query = sa.select(c.id, c.uuid, c.name, c.database_connection, c.transport_url, c.disabled).order_by(c.id)
    return [
        Cell(
            row.id, row.uuid, row.name or "", row.database_connection or "", row.transport_url or "", bool(row.disabled)
        )
        for row in connection.execute(query)
    ]


def host_mapping(connection: Connection, host: str) -> records.HostMapping | None:
    """Return a host's mapping. The database compares the names, as in Nova's queries."""
    c = tables.host_mappings.c
    row = connection.execute(sa.select(c.host, c.cell_id).where(c.host == host)).first()
    return None if row is None else records.HostMapping(row.host, row.cell_id)


def mapped_hosts(connection: Connection) -> dict[str, int]:
    c = tables.host_mappings.c
    return {row.host: row.cell_id for row in connection.execute(sa.select(c.host, c.cell_id))}


def insert_host_mapping(connection: Connection, host: str, cell_id: int) -> None:
    """Map a host to a cell. If another process did so first, a unique key refuses the row."""
    connection.execute(mapping_host(host, cell_id))


def mapping_host(host: str, cell_id: int) -> sa.Insert:
    return sa.insert(tables.host_mappings).values(host=host, cell_id=cell_id, created_at=utcnow())


def instance_mapping(connection: Connection, instance: str) -> records.InstanceMapping | None:
    c = tables.instance_mappings.c
    row = connection.execute(
        sa.select(c.instance_uuid, c.cell_id, c.queued_for_delete).where(c.instance_uuid == instance)
    ).first()
    return None if row is None else records.InstanceMapping(row.instance_uuid, row.cell_id, bool(row.queued_for_delete))


def instance_mappings(connection: Connection, instances: Collection[str]) -> list[records.InstanceMapping]:
    c = tables.instance_mappings.c
    query = sa.select(c.instance_uuid, c.cell_id, c.queued_for_delete)
    return [
        records.InstanceMapping(row.instance_uuid, row.cell_id, bool(row.queued_for_delete))
        for chunk in chunks(instances)
        for row in connection.execute(query.where(c.instance_uuid.in_(chunk)))
    ]


def build_requests(connection: Connection, instances: Collection[str]) -> set[str]:
    """Return the instances that have a build request: nova-conductor has not finished their build."""
    c = tables.build_requests.c
    query = sa.select(c.instance_uuid)
    return {uuid for chunk in chunks(instances) for uuid in connection.scalars(query.where(c.instance_uuid.in_(chunk)))}


def scheduling(connection: Connection, instance: str) -> tuple[bool, records.InstanceMapping | None]:
    """Return whether an instance has a build request, and its mapping. One statement reads both at one moment."""
    requests, c = tables.build_requests.c, tables.instance_mappings.c
    requested = sa.exists().where(requests.instance_uuid == instance).label("requested")
    always = sa.select(sa.literal(1).label("one")).subquery()
    query = sa.select(requested, c.instance_uuid, c.cell_id, c.queued_for_delete).select_from(
        always.outerjoin(tables.instance_mappings, c.instance_uuid == instance)
    )
    row = connection.execute(query).one()
    if row.instance_uuid is None:
        return bool(row.requested), None
    return bool(row.requested), records.InstanceMapping(row.instance_uuid, row.cell_id, bool(row.queued_for_delete))


def building(connection: Connection, instances: Collection[str]) -> set[str]:
    """Return the instances that Nova still schedules: they have a build request, or a mapping without a cell."""
    requests, mappings = tables.build_requests.c, tables.instance_mappings.c
    found: set[str] = set()
    for chunk in chunks(instances):
        found.update(connection.scalars(sa.select(requests.instance_uuid).where(requests.instance_uuid.in_(chunk))))
        found.update(
            connection.scalars(
                sa.select(mappings.instance_uuid).where(mappings.instance_uuid.in_(chunk), mappings.cell_id.is_(None))
            )
        )
    return found


def aggregates(connection: Connection) -> list[records.Aggregate]:
    a, h = tables.aggregates.c, tables.aggregate_hosts.c
    query = (
        sa.select(a.uuid, a.name, h.host)
        .select_from(tables.aggregates.outerjoin(tables.aggregate_hosts, h.aggregate_id == a.id))
        .where(a.uuid.is_not(None))
        .order_by(a.uuid)
    )
    hosts: dict[tuple[str, str], set[str]] = {}
    for row in connection.execute(query):
        members = hosts.setdefault((row.uuid, row.name or ""), set())
        if row.host is not None:
            members.add(row.host)
    return [records.Aggregate(uuid, name, frozenset(members)) for (uuid, name), members in hosts.items()]


# a cell: hosts


def compute_services(connection: Connection, host: str | None = None) -> list[records.Service]:
    """Return the nova-compute services that are not deleted, up or down."""
    c = tables.services.c
    query = sa.select(c.host, c.created_at, NOW).where(c.binary == COMPUTE, c.deleted == 0, c.host.is_not(None))
    if host is not None:
        query = query.where(c.host == host)
    return [
        records.Service(row.host, seconds_since(connection, row.now, row.created_at))
        for row in connection.execute(query)
    ]


def compute_services_count(connection: Connection) -> int:
    c = tables.services.c
    query = sa.select(sa.func.count()).where(c.binary == COMPUTE, c.deleted == 0)
    return int(connection.execute(query).scalar_one())


def compute_nodes(
    connection: Connection, equal: Mapping[str, str] | None = None, *, deleted: bool = False
) -> list[records.ComputeNode]:
    """Return the compute nodes whose columns have the values of ``equal``; all without it."""
    c = tables.compute_nodes.c
    return _compute_nodes(connection, [c[name] == value for name, value in (equal or {}).items()], deleted)


def compute_nodes_among(
    connection: Connection, column: str, values: Collection[str], *, deleted: bool = False
) -> list[records.ComputeNode]:
    c = tables.compute_nodes.c
    return [node for chunk in chunks(values) for node in _compute_nodes(connection, [c[column].in_(chunk)], deleted)]


def _compute_nodes(
    connection: Connection, where: list[sa.ColumnElement[bool]], deleted: bool
) -> list[records.ComputeNode]:
    c = tables.compute_nodes.c
    query = sa.select(c.id, c.uuid, c.host, c.hypervisor_hostname, c.mapped, c.deleted, c.created_at, NOW)
    query = query.where(c.uuid.is_not(None), c.host.is_not(None), *where).order_by(c.id)
    if not deleted:
        query = query.where(c.deleted == 0)
    return [
        records.ComputeNode(
            row.id,
            row.uuid,
            row.host,
            row.hypervisor_hostname or "",
            bool(row.mapped),
            bool(row.deleted),
            seconds_since(connection, row.now, row.created_at),
        )
        for row in connection.execute(query)
    ]


def marking_mapped(host: str) -> sa.Update:
    c = tables.compute_nodes.c
    unmapped = sa.or_(c.mapped.is_(None), c.mapped < 1)
    return sa.update(tables.compute_nodes).where(c.host == host, c.deleted == 0, unmapped).values(mapped=1)


# a cell: instances and migrations


def instance(connection: Connection, uuid: str) -> records.Instance | None:
    """Return an instance, even if deleted or hidden."""
    return next(iter(instances(connection, [uuid])), None)


def instances(connection: Connection, uuids: Collection[str]) -> list[records.Instance]:
    """Return these instances, even if deleted or hidden."""
    c = tables.instances.c
    columns = (c.uuid, c.project_id, c.user_id, c.host, c.node, c.vm_state, c.task_state, c.deleted, c.hidden)
    query = sa.select(*columns, c.created_at, c.updated_at, c.deleted_at, NOW)
    return [
        records.Instance(
            row.uuid,
            row.project_id,
            row.user_id,
            row.host,
            row.node,
            row.vm_state,
            row.task_state,
            bool(row.deleted),
            bool(row.hidden),
            seconds_since(connection, row.now, row.created_at, row.updated_at, row.deleted_at),
        )
        for chunk in chunks(uuids)
        for row in connection.execute(query.where(c.uuid.in_(chunk)))
    ]


def lives(connection: Connection, instances: Collection[str]) -> dict[str, bool]:
    """Return whether each instance is alive; omit instances without a row."""
    c = tables.instances.c
    query = sa.select(c.uuid, c.deleted)
    return {
        row.uuid: row.deleted == 0
        for chunk in chunks(instances)
        for row in connection.execute(query.where(c.uuid.in_(chunk)))
    }


def migration(connection: Connection, uuid: str) -> records.Migration | None:
    found = _migrations(connection, tables.migrations, tables.migrations.c.uuid == uuid)
    return found[0] if found else None


def migrations_about(connection: Connection, consumer: str) -> list[records.Migration]:
    """Return the migration with this uuid, or all migrations of the instance with this uuid, youngest first."""
    c = tables.migrations.c
    return _migrations(connection, tables.migrations, sa.or_(c.uuid == consumer, c.instance_uuid == consumer))


def migrations_of(connection: Connection, *instances: str) -> list[records.Migration]:
    """Return all migrations of these instances, youngest first, including deleted ones."""
    c = tables.migrations.c
    return _migrations(connection, tables.migrations, c.instance_uuid.in_(instances))


def _migrations(connection: Connection, table: sa.Table, where: sa.ColumnElement[bool]) -> list[records.Migration]:
    c = table.c
    query = (
        sa.select(
            c.uuid,
            c.instance_uuid,
            c.status,
            c.migration_type,
            c.source_compute,
            c.source_node,
            c.dest_compute,
            c.dest_node,
            c.deleted,
            c.created_at,
            c.updated_at,
            c.deleted_at,
            NOW,
        )
        .where(where)
        .order_by(c.id.desc())
    )
    return [
        records.Migration(
            row.uuid,
            row.instance_uuid,
            row.status,
            row.migration_type,
            (row.source_compute, row.source_node),
            (row.dest_compute, row.dest_node),
            bool(row.deleted),
            seconds_since(connection, row.now, row.created_at, row.updated_at, row.deleted_at),
        )
        for row in connection.execute(query)
    ]


def stayed(connection: Connection) -> dict[str, dict[str, str]]:
    """Find ended or deleted migrations whose instance is on their source node and has no task.

    :return: ``{node: {migration: instance}}``, by uuids; a node may be deleted
    """
    i, m, n = tables.instances.c, tables.migrations.c, tables.compute_nodes.c
    began = sa.and_(i.uuid == m.instance_uuid, i.host == m.source_compute, i.node == m.source_node)
    there = sa.and_(n.host == i.host, n.hypervisor_hostname == i.node)
    query = (
        sa.select(n.uuid.label("node"), m.uuid, m.instance_uuid)
        .select_from(tables.migrations.join(tables.instances, began).join(tables.compute_nodes, there))
        .where(m.uuid.is_not(None), sa.or_(m.deleted != 0, m.status.in_(sorted(records.TERMINAL))))
        .where(i.deleted == 0, i.task_state.is_(None), n.uuid.is_not(None))
    )
    found: dict[str, dict[str, str]] = {}
    for row in connection.execute(query):
        found.setdefault(row.node, {})[row.uuid] = row.instance_uuid
    return found


def live_instances_count(connection: Connection) -> int:
    c = tables.instances.c
    return int(connection.execute(sa.select(sa.func.count()).where(c.deleted == 0)).scalar_one())


def known_consumers(connection: Connection, consumers: Collection[str]) -> set[str]:
    """Return the consumers that are this cell's instances or migrations, deleted or not."""
    i, m = tables.instances.c, tables.migrations.c
    found: set[str] = set()
    for chunk in chunks(consumers):
        found.update(connection.scalars(sa.select(i.uuid).where(i.uuid.in_(chunk))))
        found.update(connection.scalars(sa.select(m.uuid).where(m.uuid.in_(chunk))))
    return found


class ArchivedRow(NamedTuple):
    uuid: str
    project_id: str | None
    host: str | None
    node: str | None


def archived_instances(connection: Connection, consumers: Collection[str]) -> list[ArchivedRow]:
    """Return the archived instances among these consumers.

    The query scans all of ``shadow_instances``, which has no index of uuids.
    """
    c = tables.shadow_instances.c
    hidden = sa.or_(c.hidden.is_(None), c.hidden == sa.false())
    query = sa.select(c.uuid, c.project_id, c.host, c.node).where(c.deleted != 0, hidden)
    return [
        ArchivedRow(*row) for chunk in chunks(consumers) for row in connection.execute(query.where(c.uuid.in_(chunk)))
    ]


def archived_migrations(connection: Connection, consumers: Collection[str]) -> dict[str, str]:
    """Return the consumers that are archived migrations, each with its instance, by a scan of the whole table."""
    c = tables.shadow_migrations.c
    found: dict[str, str] = {}
    for chunk in chunks(consumers):
        query = sa.select(c.uuid, c.instance_uuid).where(c.uuid.in_(chunk), c.instance_uuid.is_not(None))
        found.update({row.uuid: row.instance_uuid for row in connection.execute(query)})
    return found
