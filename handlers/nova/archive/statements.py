"""SQL that finds deleted rows of a cell and moves them into its shadow tables.

A tree is a deleted row, its root, with all rows that refer to it. A row of a table without a shadow table blocks the tree to
which it refers. A heal's conditions are lists of values: for a DELETE with a subquery, MySQL and MariaDB would scan the table.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from oslo_config import cfg
from sqlalchemy.engine import Connection
from sqlalchemy.sql import ColumnElement

from handlers.access.sql_text import Writing
from handlers.nova import tables
from handlers.nova.archive.schema import INSTANCES, Reference, Schema, converted, key, old
from handlers.nova.queries import COMPUTE

#: statuses of evacuations whose guest the former host has not destroyed
_UNCLEANED = ("accepted", "pre-migrating", "done")
#: why a run ended early when ``go_on`` returned False; the history adds the reason for this
STOPPED = "stackmend ended the run early"

OPTIONS = [
    cfg.IntOpt(
        "archive_deleted_rows_after_days",
        default=30,
        min=1,
        help="Rows that were deleted at least this many days ago are archived. 30 days cover a month's accounting "
        "(usage reports read deleted instances from the live tables) and most disputes about a deletion.",
    ),
    cfg.IntOpt(
        "archive_deleted_rows_rows_per_transaction",
        default=1000,
        min=1,
        max=10000,
        help="About how many rows one transaction moves or purges; an instance with all its rows is never split. Small "
        "transactions keep locks short and pass Galera's certification; large ones are a little faster.",
    ),
    cfg.FloatOpt(
        "archive_deleted_rows_pause_seconds",
        default=0.05,
        min=0,
        help="Seconds between two transactions, so that Nova gets its turn and replicas keep up. A purge pauses only as long "
        "as its last transaction took, and at most so long.",
    ),
]


class Blocked(Exception):
    """A row of a table without a shadow table refers to a tree, so no row of the tree moved."""


class Miscounted(Exception):
    """Two statements of a transaction counted different numbers of rows, so the transaction rolls back."""


@dataclass(frozen=True, slots=True)
class Moved:
    """The rows that a transaction moved.

    :param rows: their number, by table
    :param instances: the moved instances, except hidden copies, which prove no deletion
    """

    rows: Mapping[str, int]
    instances: tuple[str, ...]

    @property
    def total(self) -> int:
        return sum(self.rows.values())


def tables_due(connection: Connection, schema: Schema, before: datetime, task_log: bool) -> list[sa.Table]:
    """Return tables that have the root of a tree to archive, but none that refers to another table of the result.

    A search in those tables would take minutes with millions of deleted rows.
    """
    found: list[sa.Table] = []
    below: set[sa.Table] = set()
    for table in schema.archivable(task_log):
        query = sa.select(key(table)).where(schema.due(table, before)).limit(1)
        if table not in below and connection.execute(query).first() is not None:
            found.append(table)
            below.update(schema.below(table))
    return found


def with_those_below(schema: Schema, due: Sequence[sa.Table], task_log: bool) -> list[sa.Table]:
    """Return the tables ``due``, and the tables that refer to them, which can have further roots of trees."""
    reached = {*due, *(table for root in due for table in schema.below(root))}
    return [table for table in schema.archivable(task_log) if table in reached]


def any_due(connection: Connection, schema: Schema, before: datetime, task_log: bool) -> bool:
    """Return whether any table to archive has an :func:`old` row, even if that row cannot move."""
    return any(
        connection.execute(sa.select(key(table)).where(old(table, before)).limit(1)).first() is not None
        for table in schema.archivable(task_log)
    )


def blocked(
    connection: Connection, schema: Schema, before: datetime, task_log: bool, limit: int
) -> Iterator[tuple[Reference, list[str]]]:
    """Yield each foreign key by which a table without a shadow table refers to old rows, with up to ``limit`` of these rows."""
    for table in schema.archivable(task_log):
        name = table.c.uuid if "uuid" in table.c else key(table)
        for reference in schema.blockers(table):
            query = (
                sa.select(name)
                .where(sa.exists().where(reference.column == reference.parent_column), old(table, before))
                .order_by(key(table))
                .limit(limit)
            )
            if rows := [str(row) for row in connection.scalars(query)]:
                yield reference, rows


def refers(connection: Connection, reference: Reference, value: str) -> bool:
    query = sa.select(sa.literal(1)).select_from(reference.child).where(reference.column == value).limit(1)
    return connection.execute(query).first() is not None


def awaited(connection: Connection, instances: Collection[str]) -> set[str]:
    """Return the deleted instances whose guest can still be on a host that has not reported since their deletion.

    The host is the last host, or a host from which the instance was evacuated. When nova-compute returns there, it destroys the
    guest if it finds the deleted row (``_cleanup_running_deleted_instances``, ``_destroy_evacuated_instances``). The lack of
    reports counts only if another host has reported since: with memcache, Nova writes no times of reports.
    """
    i, m, s = tables.instances.c, tables.migrations.c, tables.services.c
    other = tables.services.alias()
    silent = sa.and_(
        i.uuid.in_(sorted(instances)),
        s.binary == COMPUTE,
        s.deleted == 0,
        s.last_seen_up < i.deleted_at,
        sa.exists().where(other.c.binary == COMPUTE, other.c.last_seen_up >= i.deleted_at),
    )
    last = sa.select(i.uuid).select_from(tables.instances.join(tables.services, s.host == i.host))
    left = sa.and_(m.instance_uuid == i.uuid, m.status.in_(_UNCLEANED))
    moved = tables.instances.join(tables.migrations, left).join(tables.services, s.host == m.source_compute)
    former = sa.select(i.uuid, m.migration_type).select_from(moved)
    # PostgreSQL compares the type, an ENUM, with no text
    evacuated = {row.uuid for row in connection.execute(former.where(silent)) if row.migration_type == "evacuation"}
    return {*connection.scalars(last.where(silent)), *evacuated}


def page(
    connection: Connection, table: sa.Table, where: ColumnElement[bool], after: Any, limit: int
) -> list[sa.Row[Any]]:
    """Return the next rows in order of key, after the key ``after``. Each row has its key, and its uuid if any."""
    columns = [key(table).label("key"), *([table.c.uuid] if "uuid" in table.c else [])]
    query = sa.select(*columns).where(where).order_by(key(table)).limit(limit)
    if after is not None:
        query = query.where(key(table) > after)
    return list(connection.execute(query))


def move(connection: Connection, schema: Schema, root: sa.Table, keys: Collection[Any], before: datetime) -> Moved:
    """Move the trees whose roots have these keys in the table ``root`` and are still old.

    :raises Blocked: a row that cannot move refers to a tree
    :raises Miscounted: another transaction changed the rows
    """
    still = sa.and_(key(root).in_(keys), old(root, before))
    tree = [root, *schema.below(root)]
    values = {root: _values(connection, schema, root, still, lock=True)}
    found = values[root][key(root).name]
    if not found:
        return Moved({}, ())
    taken = [(root, sa.and_(key(root).in_(found), old(root, before)))]
    for table in tree[1:]:
        where = _referring(schema, table, values)
        if where is None:
            continue
        if schema.shadow(table) is None:
            _refuse(connection, schema, table, where, values)
        elif any(reference.child in tree for reference in schema.children(table)):
            values[table] = _values(connection, schema, table, where)
            taken.append((table, where))
        else:
            taken.append((table, where))
    instances = _visible(connection, root, found) if root.name == INSTANCES else ()
    rows = {table.name: _carry(connection, schema, table, where) for table, where in reversed(taken)}
    if rows[root.name] != len(found):
        raise Miscounted(f"{len(found)} rows of {root.name} were locked, {rows[root.name]} were moved")
    return Moved({name: number for name, number in rows.items() if number}, instances)


#: by column: the values that other rows may refer to
_Values = Mapping[str, list[Any]]


def _values(
    connection: Connection, schema: Schema, table: sa.Table, where: ColumnElement[bool], lock: bool = False
) -> _Values:
    columns = {key(table).name: key(table)} if lock else {}
    columns |= {reference.parent_column.name: reference.parent_column for reference in schema.children(table)}
    query = sa.select(*columns.values()).where(where)
    rows = connection.execute(query.with_for_update() if lock else query).all()
    return {name: [row[place] for row in rows if row[place] is not None] for place, name in enumerate(columns)}


def _visible(connection: Connection, table: sa.Table, keys: Collection[Any]) -> tuple[str, ...]:
    hidden = sa.or_(table.c.hidden.is_(None), table.c.hidden == sa.false())
    return tuple(connection.scalars(sa.select(table.c.uuid).where(key(table).in_(keys), hidden)))


def _referring(schema: Schema, table: sa.Table, values: Mapping[sa.Table, _Values]) -> ColumnElement[bool] | None:
    conditions = [
        reference.column.in_(values[reference.parent][reference.parent_column.name])
        for reference in schema.parents(table)
        if values.get(reference.parent, {}).get(reference.parent_column.name)
    ]
    return sa.or_(*conditions) if conditions else None


def _refuse(
    connection: Connection,
    schema: Schema,
    table: sa.Table,
    where: ColumnElement[bool],
    values: Mapping[sa.Table, _Values],
) -> None:
    if connection.execute(sa.select(sa.literal(1)).select_from(table).where(where).limit(1)).first() is not None:
        names = [reference.constraint for reference in schema.parents(table) if reference.parent in values]
        raise Blocked(f"rows of {table.name}, which has no shadow table, refer to it ({', '.join(names)})")


def carrying(schema: Schema, table: sa.Table, where: ColumnElement[bool]) -> tuple[sa.Insert, sa.Delete]:
    """Return the two statements that move rows of a table into its shadow table."""
    shadow = schema.shadow(table)
    if shadow is None:
        raise AssertionError(f"{table.name} has no shadow table")
    names = [column.name for column in table.c if column.name in shadow.c]
    query = sa.select(*(converted(table.c[name], shadow.c[name]) for name in names)).where(where)
    return sa.insert(shadow).from_select(names, query, include_defaults=False), sa.delete(table).where(where)


def moving(schema: Schema, root: sa.Table, where: ColumnElement[bool]) -> list[Writing]:
    """Return the statements that a plan shows for moving trees, with subqueries instead of lists of values."""
    found = {root: where}
    for table in schema.below(root):
        conditions = [
            reference.column.in_(sa.select(reference.parent_column).where(found[reference.parent]))
            for reference in schema.parents(table)
            if reference.parent in found
        ]
        if conditions and schema.shadow(table) is not None:
            found[table] = sa.or_(*conditions)
    return [one for table, rows in reversed(found.items()) for one in carrying(schema, table, rows)]


def _carry(connection: Connection, schema: Schema, table: sa.Table, where: ColumnElement[bool]) -> int:
    copying, deletion = carrying(schema, table, where)
    copied = connection.execute(copying, execution_options={"preserve_rowcount": True}).rowcount
    if not copied:
        return 0
    deleted = connection.execute(deletion).rowcount
    if deleted != copied:
        raise Miscounted(f"{copied} rows of {table.name} were copied, {deleted} deleted")
    return int(copied)


def forget(connection: Connection, instances: Collection[str], cell: int) -> int:
    """Delete the rows of nova_api about archived instances that are mapped to the cell with this id; return their count.

    :raises Miscounted: another transaction changed a mapping
    """
    c = tables.instance_mappings.c
    mapped = sa.and_(c.instance_uuid.in_(sorted(instances)), c.cell_id == cell)
    gone = sorted(connection.scalars(sa.select(c.instance_uuid).where(mapped)))
    if not gone:
        return 0
    mapping, *others = forgetting([sa.literal(uuid) for uuid in gone], cell)
    mappings = int(connection.execute(mapping).rowcount)
    if mappings != len(gone):
        raise Miscounted(f"{len(gone)} mappings were read, {mappings} deleted")
    return mappings + sum(int(connection.execute(statement).rowcount) for statement in others)


def forgetting(instances: Sequence[ColumnElement[Any]], cell: int) -> list[sa.Delete]:
    mappings = tables.instance_mappings
    others = (tables.request_specs, tables.instance_group_member)
    return [
        sa.delete(mappings).where(mappings.c.instance_uuid.in_(instances), mappings.c.cell_id == cell),
        *(sa.delete(table).where(table.c.instance_uuid.in_(instances)) for table in others),
    ]
