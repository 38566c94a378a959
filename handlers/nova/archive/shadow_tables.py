"""SQL that finds and deletes old archived rows.

A row's date is in the same column as for ``purge_shadow_tables`` (``nova/db/main/api.py``).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.sql import ColumnElement

from handlers.nova.archive.schema import INSTANCES, SHADOW, Schema, key

#: shadow tables whose rows Nova never marks as deleted, with the column of their date
_DATES = {
    "shadow_instance_actions": "created_at",
    "shadow_instance_actions_events": "created_at",
    "shadow_task_log": "updated_at",
}
#: the column by which a row belongs to an instance
_OWNER = "instance_uuid"


def purge_date(shadow: sa.Table) -> sa.Column[Any] | None:
    for name in (_DATES.get(shadow.name), "deleted_at", "updated_at", "created_at"):
        if name is not None and name in shadow.c:
            return shadow.c[name]
    return None


def purgeable(schema: Schema, before: datetime) -> list[tuple[sa.Table, ColumnElement[bool]]]:
    found = []
    for shadow in schema.shadows():
        column = purge_date(shadow)
        if column is not None and len(shadow.primary_key.columns) == 1:
            found.append((shadow, column < before))
    return found


def undated(schema: Schema) -> list[tuple[sa.Table, ColumnElement[bool]]]:
    """Return the shadow tables with ``instance_uuid`` and dates in ``deleted_at``, each with an SQL condition.

    The condition finds the table's rows without a date.
    """
    return [
        (shadow, shadow.c.deleted_at.is_(None))
        for shadow in schema.shadows()
        if _belongs(shadow)
        and purge_date(shadow) is shadow.c.get("deleted_at")
        and len(shadow.primary_key.columns) == 1
    ]


def purging(schema: Schema, names: Collection[str], before: datetime) -> Iterator[sa.Delete]:
    """Yield the statements that a plan shows for a purge."""
    instances = schema.tables[SHADOW + INSTANCES]
    old = sa.select(instances.c.uuid).where(instances.c.deleted_at < before)
    for shadow, lacking in undated(schema):
        yield sa.delete(shadow).where(lacking, shadow.c[_OWNER].in_(old))
    yield from (sa.delete(shadow).where(where) for shadow, where in purgeable(schema, before) if shadow.name in names)


def purge_with_instances(
    connection: Connection, schema: Schema, shadow: sa.Table, keys: Collection[Any], before: datetime
) -> int:
    """Delete the rows with these keys that have no date, if their archived instances are old. Return the number of rows."""
    among = sa.and_(key(shadow).in_(keys), shadow.c.deleted_at.is_(None))
    instances = schema.tables[SHADOW + INSTANCES]
    asked = set(connection.scalars(sa.select(shadow.c[_OWNER]).where(among, shadow.c[_OWNER].is_not(None))))
    old = sa.select(instances.c.uuid).where(instances.c.uuid.in_(asked), instances.c.deleted_at < before)
    found = list(connection.scalars(old)) if asked else []
    if not found:
        return 0
    return int(connection.execute(sa.delete(shadow).where(among, shadow.c[_OWNER].in_(found))).rowcount)


def _belongs(shadow: sa.Table) -> bool:
    return _OWNER in shadow.c


def purge(connection: Connection, shadow: sa.Table, where: ColumnElement[bool], keys: Collection[Any]) -> int:
    """Delete the rows with these keys that still fulfil the condition. Return the number of rows."""
    return int(connection.execute(sa.delete(shadow).where(key(shadow).in_(keys), where)).rowcount)
