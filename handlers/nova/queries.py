"""SQL that several families of handlers share.

Each function runs in a transaction, and can run twice. Ages are in seconds, by the database's clock.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from handlers.access.database import seconds_since, utcnow
from handlers.nova import records, tables
from handlers.nova.cells import Cell

COMPUTE = "nova-compute"
#: the type of hypervisor whose nodes are machines of their own, and move between the hosts of the hash ring
IRONIC = "ironic"
CHUNK = 500
NOW = utcnow().label("now")
#: seconds without a heartbeat until a service counts as down: ``[DEFAULT] service_down_time`` of Nova, by default
DOWN_TIME = 60.0

#: the columns of :class:`.InstanceMapping`
_MAPPING = tuple(
    tables.instance_mappings.c[name]
    for name in ("instance_uuid", "cell_id", "queued_for_delete", "project_id", "user_id")
)

#: a row's values by column name
Values = Mapping[str, Any] | sa.RowMapping


def chunks(values: Collection[str]) -> Iterator[list[str]]:
    """Yield the distinct values, sorted, in lists that are short enough for one statement."""
    ordered = sorted(set(values))
    for start in range(0, len(ordered), CHUNK):
        yield ordered[start : start + CHUNK]


def read_both(
    connection: Connection, first: sa.Select[Any], second: sa.Select[Any]
) -> tuple[list[Values], list[Values]]:
    """Run two queries as one statement, so that they see the same state; return the rows of each query.

    In the statement, each query has columns of its own, so no column mixes texts with two collations.
    """
    queries = (first, second)
    parts = [
        query.with_only_columns(
            sa.literal_column(str(mine), sa.Integer).label("part"),
            *(
                (column if part == mine else sa.type_coerce(sa.null(), column.type)).label(f"{part}_{name}")
                for part, one in enumerate(queries)
                for name, column in one.selected_columns.items()
            ),
        )
        for mine, query in enumerate(queries)
    ]
    found: tuple[list[Values], list[Values]] = [], []
    for row in connection.execute(sa.union_all(*parts)).mappings():
        names = queries[row["part"]].selected_columns.keys()
        found[row["part"]].append({name: row[f"{row['part']}_{name}"] for name in names})
    return found


# nova_api


def cells(connection: Connection) -> list[Cell]:
    c = tables.cell_mappings.c
    query = sa.select(c.id, c.uuid, c.name, c.database_connection, c.transport_url, c.disabled).order_by(c.id)
    return [
        Cell(
            row.id, row.uuid, row.name or "", row.database_connection or "", row.transport_url or "", bool(row.disabled)
        )
        for row in connection.execute(query)
    ]


def host_mapping(connection: Connection, host: str) -> records.HostMapping | None:
    """Return a host's mapping, if any. The database compares the names: MySQL ignores letter case and trailing spaces."""
    c = tables.host_mappings.c
    row = connection.execute(sa.select(c.host, c.cell_id).where(c.host == host)).first()
    return None if row is None else records.HostMapping(row.host, row.cell_id)


def mapped_hosts(connection: Connection) -> dict[str, int]:
    c = tables.host_mappings.c
    return {row.host: row.cell_id for row in connection.execute(sa.select(c.host, c.cell_id))}


def insert_host_mapping(connection: Connection, host: str, cell_id: int) -> None:
    """Map a host to a cell. If another process has mapped the host first, the table's unique key refuses the row."""
    connection.execute(mapping_host(host, cell_id))


def mapping_host(host: str, cell_id: int) -> sa.Insert:
    return sa.insert(tables.host_mappings).values(host=host, cell_id=cell_id, created_at=utcnow())


def instance_mapping(connection: Connection, instance: str) -> records.InstanceMapping | None:
    c = tables.instance_mappings.c
    row = connection.execute(sa.select(*_MAPPING).where(c.instance_uuid == instance)).mappings().first()
    return None if row is None else _instance_mapping(row)


def instance_mappings(connection: Connection, instances: Collection[str]) -> list[records.InstanceMapping]:
    c = tables.instance_mappings.c
    query = sa.select(*_MAPPING)
    return [
        _instance_mapping(row)
        for chunk in chunks(instances)
        for row in connection.execute(query.where(c.instance_uuid.in_(chunk))).mappings()
    ]


def _instance_mapping(row: Values) -> records.InstanceMapping:
    return records.InstanceMapping(
        row["instance_uuid"], row["cell_id"], bool(row["queued_for_delete"]), row["project_id"], row["user_id"]
    )


def build_requests(connection: Connection, instances: Collection[str]) -> set[str]:
    c = tables.build_requests.c
    query = sa.select(c.instance_uuid)
    return {uuid for chunk in chunks(instances) for uuid in connection.scalars(query.where(c.instance_uuid.in_(chunk)))}


def scheduling(connection: Connection, instance: str) -> tuple[bool, records.InstanceMapping | None]:
    """Return whether an instance has a build request, and the instance's mapping, if any. One statement reads both."""
    requested, mappings = schedulings(connection, [instance])
    return bool(requested), mappings[0] if mappings else None


def schedulings(connection: Connection, instances: Collection[str]) -> tuple[set[str], list[records.InstanceMapping]]:
    """Return the instances with a build request, and the mappings of all ``instances``.

    One statement reads both for up to 500 instances.
    """
    requests, c = tables.build_requests.c, tables.instance_mappings.c
    requested: set[str] = set()
    mappings: list[records.InstanceMapping] = []
    for chunk in chunks(instances):
        built, mapped = read_both(
            connection,
            sa.select(requests.instance_uuid).where(requests.instance_uuid.in_(chunk)),
            sa.select(*_MAPPING).where(c.instance_uuid.in_(chunk)),
        )
        requested |= {row["instance_uuid"] for row in built}
        mappings += map(_instance_mapping, mapped)
    return requested, mappings


def building(connection: Connection, instances: Collection[str]) -> set[str]:
    """Return those of the instances that Nova can still schedule: with a build request, or a mapping without a cell."""
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
    """Return the nova-compute services that are not deleted, up or down: of ``host``, or of all hosts."""
    c = tables.services.c
    query = sa.select(c.host, c.created_at, NOW).where(c.binary == COMPUTE, c.deleted == 0, c.host.is_not(None))
    if host is not None:
        query = query.where(c.host == host)
    return [
        records.Service(row.host, seconds_since(connection, row.now, row.created_at))
        for row in connection.execute(query)
    ]


def host_up(connection: Connection, host: str) -> bool | None:
    """Return whether a host's nova-compute is up (``nova/servicegroup/drivers/db.py``); None if the host has none."""
    c = tables.services.c
    query = sa.select(c.last_seen_up, c.created_at, c.forced_down, NOW)
    row = connection.execute(query.where(c.binary == COMPUTE, c.deleted == 0, c.host == host)).first()
    if row is None:
        return None
    seen = row.last_seen_up or row.created_at
    return not row.forced_down and seen is not None and abs((row.now - seen).total_seconds()) <= DOWN_TIME


def compute_services_count(connection: Connection) -> int:
    c = tables.services.c
    query = sa.select(sa.func.count()).where(c.binary == COMPUTE, c.deleted == 0)
    return int(connection.execute(query).scalar_one())


def compute_nodes(
    connection: Connection, equal: Mapping[str, str] | None = None, *, deleted: bool = False
) -> list[records.ComputeNode]:
    """Return a cell's live compute nodes.

    :param equal: values, by column, of the nodes to return; None for all nodes
    :param deleted: whether to return deleted nodes too
    """
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
    columns = (c.id, c.uuid, c.host, c.hypervisor_hostname, c.hypervisor_type, c.mapped, c.deleted)
    query = sa.select(*columns, c.created_at, NOW)
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
            row.hypervisor_type == IRONIC,
        )
        for row in connection.execute(query)
    ]


def marking_mapped(host: str) -> sa.Update:
    c = tables.compute_nodes.c
    unmapped = sa.or_(c.mapped.is_(None), c.mapped < 1)
    return sa.update(tables.compute_nodes).where(c.host == host, c.deleted == 0, unmapped).values(mapped=1)


# a cell: instances and migrations


def instance(connection: Connection, uuid: str) -> records.Instance | None:
    return next(iter(instances(connection, [uuid])), None)


def instances(connection: Connection, uuids: Collection[str]) -> list[records.Instance]:
    """Return the rows of these instances, even if deleted or hidden."""
    return [
        _instance(connection, row)
        for chunk in chunks(uuids)
        for row in connection.execute(_select_instances(chunk)).mappings()
    ]


def instances_and_migrations(
    connection: Connection, consumers: Collection[str]
) -> tuple[list[records.Instance], list[records.Migration]]:
    """Return the instances and the migrations among these consumers, with all migrations of these instances.

    Deleted rows are included. The youngest migration comes first.
    """
    c = tables.migrations.c
    found: list[records.Instance] = []
    moves: list[Values] = []
    for chunk in chunks(consumers):
        about = _select_migrations(sa.or_(c.uuid.in_(chunk), c.instance_uuid.in_(chunk)))
        rows, some = read_both(connection, _select_instances(chunk), about)
        found += [_instance(connection, row) for row in rows]
        moves += some
    ordered = sorted(moves, key=lambda row: int(row["id"]), reverse=True)
    return found, [_migration(connection, row) for row in ordered]


def _select_instances(uuids: Collection[str]) -> sa.Select[Any]:
    c = tables.instances.c
    columns = (c.uuid, c.project_id, c.user_id, c.host, c.node, c.vm_state, c.task_state, c.deleted, c.hidden)
    return sa.select(*columns, c.created_at, c.updated_at, c.deleted_at, NOW).where(c.uuid.in_(uuids))


def _instance(connection: Connection, row: Values) -> records.Instance:
    return records.Instance(
        row["uuid"],
        row["project_id"],
        row["user_id"],
        row["host"],
        row["node"],
        row["vm_state"],
        row["task_state"],
        bool(row["deleted"]),
        bool(row["hidden"]),
        _age(connection, row),
    )


def _age(connection: Connection, row: Values) -> float:
    return seconds_since(connection, row["now"], row["created_at"], row["updated_at"], row["deleted_at"])


def lives(connection: Connection, instances: Collection[str]) -> dict[str, bool]:
    c = tables.instances.c
    query = sa.select(c.uuid, c.deleted)
    return {
        row.uuid: row.deleted == 0
        for chunk in chunks(instances)
        for row in connection.execute(query.where(c.uuid.in_(chunk)))
    }


def migration(connection: Connection, uuid: str) -> records.Migration | None:
    found = _migrations(connection, tables.migrations.c.uuid == uuid)
    return found[0] if found else None


def migrations_of(connection: Connection, *instances: str) -> list[records.Migration]:
    """Return all migrations of these instances, youngest first, including deleted ones."""
    return _migrations(connection, tables.migrations.c.instance_uuid.in_(instances))


def archived_migrations_of(connection: Connection, instance: str) -> list[records.Migration]:
    """Return the archived migrations of an instance, youngest first. The query scans all of ``shadow_migrations``."""
    return _migrations(connection, tables.shadow_migrations.c.instance_uuid == instance, tables.shadow_migrations)


def _migrations(
    connection: Connection, where: sa.ColumnElement[bool], table: sa.Table = tables.migrations
) -> list[records.Migration]:
    query = _select_migrations(where, table).order_by(table.c.id.desc())
    return [_migration(connection, row) for row in connection.execute(query).mappings()]


def _select_migrations(where: sa.ColumnElement[bool], table: sa.Table = tables.migrations) -> sa.Select[Any]:
    c = table.c
    places = (c.source_compute, c.source_node, c.dest_compute, c.dest_node)
    times = (c.created_at, c.updated_at, c.deleted_at, NOW)
    return sa.select(c.id, c.uuid, c.instance_uuid, c.status, c.migration_type, *places, c.deleted, *times).where(where)


def _migration(connection: Connection, row: Values) -> records.Migration:
    return records.Migration(
        row["uuid"],
        row["instance_uuid"],
        row["status"],
        row["migration_type"],
        (row["source_compute"], row["source_node"]),
        (row["dest_compute"], row["dest_node"]),
        bool(row["deleted"]),
        _age(connection, row),
    )


def stayed(connection: Connection) -> dict[str, dict[str, str]]:
    """Return ended or deleted migrations whose live instance has no task and is on the migration's source node.

    :return: ``{node: {migration: instance}}`` with uuids; the node can be a deleted compute node
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
    """Return those of the consumers that are instances or migrations of this cell, deleted or not."""
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
    """Return the archived instances among these consumers, except hidden copies.

    The query scans all of ``shadow_instances``, which has no index on uuids.
    """
    c = tables.shadow_instances.c
    hidden = sa.or_(c.hidden.is_(None), c.hidden == sa.false())
    query = sa.select(c.uuid, c.project_id, c.host, c.node).where(c.deleted != 0, hidden)
    return [
        ArchivedRow(*row) for chunk in chunks(consumers) for row in connection.execute(query.where(c.uuid.in_(chunk)))
    ]


def archived_migrations(connection: Connection, consumers: Collection[str]) -> dict[str, str]:
    """Return the archived migrations among these consumers, each with its instance. The query scans the whole table."""
    c = tables.shadow_migrations.c
    found: dict[str, str] = {}
    for chunk in chunks(consumers):
        query = sa.select(c.uuid, c.instance_uuid).where(c.uuid.in_(chunk), c.instance_uuid.is_not(None))
        found.update({row.uuid: row.instance_uuid for row in connection.execute(query)})
    return found
