"""SQL that moves archived rows back, in the dialect of the cell's database: because of foreign keys, parents first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.sql import ColumnElement

from handlers.access.sql_text import as_typed
from handlers.nova import tables
from handlers.nova.archive.schema import INSTANCES, Schema, converted, key

#: the tables of nova_api that have rows about an instance
API_TABLES = (tables.instance_mappings, tables.request_specs, tables.instance_group_member)


def of_cell(connection: Connection, schema: Schema, roots: Sequence[sa.Table], cell: str) -> str:
    """Return the undo of a run, as SQL: for each table in ``roots``, statements that restore one tree.

    ``UUID`` or ``<ID>`` stand for the root of the tree.
    """
    parts = [f"-- in the database of {cell}"]
    for root in roots:
        if root.name == INSTANCES:
            parts.append("-- for an instance, with its uuid in place of UUID:")
            parts += _restoring(connection, schema, root, root.c.uuid, sa.literal_column("'UUID'"))
        else:
            parts.append(f"-- for a row of {root.name}, with its id in place of <ID>:")
            # A bare ID would be the column "id": a statement run as it stands would restore every row.
            parts += _restoring(connection, schema, root, key(root), sa.literal_column("<ID>"))
    return "\n".join(parts)


def of_instance(connection: Connection, schema: Schema, instance: str, cell: str) -> str:
    root = schema.tables[INSTANCES]
    statements = _restoring(connection, schema, root, root.c.uuid, sa.literal(instance))
    return "\n".join([f"-- in the database of {cell}", *statements])


def of_api_rows(connection: Connection, instance: str) -> str:
    lines = ["-- in nova_api"]
    for table in API_TABLES:
        for row in connection.execute(sa.select(table).where(table.c.instance_uuid == instance)).mappings():
            values = {name: sa.null() if value is None else sa.literal(value) for name, value in row.items()}
            lines.append(as_typed(connection.dialect, sa.insert(table).values(values)))
    return "\n".join(lines) if len(lines) > 1 else ""


def _restoring(
    connection: Connection, schema: Schema, root: sa.Table, column: sa.Column[Any], value: ColumnElement[Any]
) -> list[str]:
    where = _conditions(schema, root, column, value)
    back = [as_typed(connection.dialect, _insert(table, shadow, condition)) for table, shadow, condition in where]
    away = [
        as_typed(connection.dialect, sa.delete(shadow).where(condition)) for _, shadow, condition in reversed(where)
    ]
    return [" ".join(statement.split()) for statement in back + away]


def _conditions(
    schema: Schema, root: sa.Table, column: sa.Column[Any], value: ColumnElement[Any]
) -> list[tuple[sa.Table, sa.Table, ColumnElement[bool]]]:
    found: dict[sa.Table, tuple[sa.Table, ColumnElement[bool]]] = {}
    for table in [root, *schema.below(root)]:
        shadow = schema.shadow(table)
        if shadow is None:
            continue
        conditions = [shadow.c[column.name] == value] if table is root else []
        for reference in schema.parents(table):
            if reference.parent not in found or reference.column.name not in shadow.c:
                continue
            child, parent_column = shadow.c[reference.column.name], reference.parent_column
            parent, condition = found[reference.parent]
            if reference.parent is root and parent_column.name == column.name:
                conditions.append(child == value)
            elif parent_column.name in parent.c:
                conditions.append(child.in_(sa.select(parent.c[parent_column.name]).where(condition)))
        if conditions:
            found[table] = shadow, sa.or_(*conditions)
    return [(table, shadow, condition) for table, (shadow, condition) in found.items()]


def _insert(table: sa.Table, shadow: sa.Table, where: ColumnElement[bool]) -> sa.Insert:
    names = [column.name for column in table.c if column.name in shadow.c]
    rows = sa.select(*(converted(shadow.c[name], table.c[name]) for name in names)).where(where)
    return sa.insert(table).from_select(names, rows, include_defaults=False)
