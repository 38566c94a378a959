"""Moving deleted rows of a cell into its shadow tables: the steps, without a decision.

**A tree** is a row with all rows that refer to it, over any number of foreign keys, whatever their own ``deleted`` says.
It moves whole or not at all: children first, several trees in one transaction (:func:`move`). INSERT and DELETE of a
table must count the same number of rows, or the transaction is rolled back. Conditions are lists of values, never
subqueries: MySQL and MariaDB would scan the whole table for a DELETE with one.

A table of the tree that has no shadow table (``share_mapping``) cannot be followed: a row in it that refers to the tree
blocks the tree (:class:`Blocked`). A row whose parent is deleted, too, is never moved by itself: it goes with its parent.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from typing import Any

import sqlalchemy as sa
from oslo_config import cfg
from sqlalchemy.engine import Connection
from sqlalchemy.sql import ColumnElement

from handlers.access.database import utcnow
from handlers.nova.archive.schema import INSTANCES, Reference, Schema, key, old

#: why a run ended that was not to go on
TOLD = "told not to go on"

OPTIONS = [
    cfg.IntOpt(
        "archive_deleted_rows_after_days",
        default=30,
        min=1,
        help="Rows that were deleted this many days ago, or earlier, are archived. 30 days cover a month's accounting "
        "(usage reports read deleted instances from the live tables) and most disputes about a deletion.",
    ),
    cfg.IntOpt(
        "archive_deleted_rows_rows_per_transaction",
        default=1000,
        min=1,
        max=10000,
        help="How many rows one transaction moves or purges, about; an instance with all its rows is never split. Small "
        "transactions keep locks short and pass Galera's certification; large ones are a little faster.",
    ),
    cfg.FloatOpt(
        "archive_deleted_rows_pause_seconds",
        default=0.05,
        min=0,
        help="How long to rest between two transactions, so that Nova gets its turn and replicas keep up.",
    ),
]


class Blocked(Exception):
    """Something that cannot be moved refers to what should be; nothing was written."""


class Miscounted(Exception):
    """A table gave other rows to the DELETE than to the INSERT; the transaction has to be rolled back."""


@dataclass(frozen=True, slots=True)
class Moved:
    """What one transaction moved.

    :param rows: by table
    :param instances: uuids of the instances among them
    """

    rows: Mapping[str, int]
    instances: tuple[str, ...]

    @property
    def total(self) -> int:
        """How many rows."""
        return sum(self.rows.values())


def days_ago(connection: Connection, days: int) -> date:
    """Return the day so many days ago, by the database's clock."""
    now: datetime | None = connection.scalar(sa.select(utcnow()))
    if now is None:
        raise AssertionError("a database without a clock")
    return now.date() - timedelta(days=days)


def midnight(day: str | date) -> datetime:
    """Return the beginning of a day."""
    return datetime.combine(date.fromisoformat(day) if isinstance(day, str) else day, time.min)


def count_due(connection: Connection, schema: Schema, before: datetime, task_log: bool) -> dict[str, int]:
    """Count the rows that may go, by table, without those that go with them."""
    counts = {}
    for table in schema.archivable(task_log):
        query = sa.select(sa.func.count()).select_from(table).where(schema.due(table, before))
        if number := connection.scalar(query):
            counts[table.name] = int(number)
    return counts


def any_due(connection: Connection, schema: Schema, before: datetime, task_log: bool) -> bool:
    """Whether any row is old enough to be archived, blocked ones too."""
    return any(
        connection.execute(sa.select(key(table)).where(old(table, before)).limit(1)).first() is not None
        for table in schema.archivable(task_log)
    )


def blocked(
    connection: Connection, schema: Schema, before: datetime, task_log: bool, limit: int
) -> Iterator[tuple[Reference, list[str]]]:
    """Yield the references by which old rows are blocked, with these rows: their uuids or ids, some at most."""
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
    """Whether a row refers to this value."""
    query = sa.select(sa.literal(1)).select_from(reference.child).where(reference.column == value).limit(1)
    return connection.execute(query).first() is not None


def page(
    connection: Connection, table: sa.Table, where: ColumnElement[bool], after: Any, limit: int
) -> list[sa.Row[Any]]:
    """Return the next rows behind a key, in its order: the key, and the uuid where there is one."""
    columns = [key(table).label("key"), *([table.c.uuid] if "uuid" in table.c else [])]
    query = sa.select(*columns).where(where).order_by(key(table)).limit(limit)
    if after is not None:
        query = query.where(key(table) > after)
    return list(connection.execute(query))


def move(connection: Connection, schema: Schema, root: sa.Table, keys: Collection[Any], before: datetime) -> Moved:
    """Move the trees of these rows, those of them that are still old enough, within the connection's transaction.

    :raises Blocked: when something refers to them that cannot be moved
    :raises Miscounted: when the world changed meanwhile
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
    rows = {table.name: _carry(connection, schema, table, where) for table, where in reversed(taken)}
    if rows[root.name] != len(found):
        raise Miscounted(f"{len(found)} rows of {root.name} were locked, {rows[root.name]} were moved")
    instances = tuple(values[root]["uuid"]) if root.name == INSTANCES else ()
    return Moved({name: number for name, number in rows.items() if number}, instances)


#: by column: the values that other rows may refer to
_Values = Mapping[str, list[Any]]


def _values(
    connection: Connection, schema: Schema, table: sa.Table, where: ColumnElement[bool], lock: bool = False
) -> _Values:
    columns = {key(table).name: key(table)} if lock else {}
    columns |= {reference.parent_column.name: reference.parent_column for reference in schema.children(table)}
    if table.name == INSTANCES:
        columns["uuid"] = table.c.uuid
    query = sa.select(*columns.values()).where(where)
    rows = connection.execute(query.with_for_update() if lock else query).all()
    return {name: [row[place] for row in rows if row[place] is not None] for place, name in enumerate(columns)}


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


def _carry(connection: Connection, schema: Schema, table: sa.Table, where: ColumnElement[bool]) -> int:
    shadow = schema.shadow(table)
    if shadow is None:
        raise AssertionError(f"{table.name} has no shadow table")
    names = [column.name for column in table.c if column.name in shadow.c]
    query = sa.select(*(_cast(table.c[name], shadow.c[name]) for name in names)).where(where)
    insert = sa.insert(shadow).from_select(names, query, include_defaults=False)
    copied = connection.execute(insert, execution_options={"preserve_rowcount": True}).rowcount
    if not copied:
        return 0
    deleted = connection.execute(sa.delete(table).where(where)).rowcount
    if deleted != copied:
        raise Miscounted(f"{copied} rows of {table.name} were copied, {deleted} deleted")
    return int(copied)


def _cast(column: sa.Column[Any], shadow: sa.Column[Any]) -> ColumnElement[Any]:
    """PostgreSQL has a type for each ENUM, and those of the shadow tables have other names."""
    one, other = column.type, shadow.type
    if isinstance(one, sa.Enum) and isinstance(other, sa.Enum) and one.name and one.name != other.name:
        return sa.cast(sa.cast(column, sa.Text), other)
    return column


def forget(
    connection: Connection, tables: Sequence[sa.Table], mappings: sa.Table, instances: Collection[str], cell: int
) -> int:
    """Delete what these tables of nova_api keep about instances; see the caller for what ``cell`` is."""
    c = mappings.c
    elsewhere = set(
        connection.scalars(
            sa.select(c.instance_uuid).where(
                c.instance_uuid.in_(instances), sa.or_(c.cell_id.is_(None), c.cell_id != cell)
            )
        )
    )
    gone = sorted(set(instances) - elsewhere)
    return sum(connection.execute(sa.delete(table).where(table.c.instance_uuid.in_(gone))).rowcount for table in tables)
