"""Which archived rows are old enough to be deleted for good, and their deletion: the steps, without a decision.

Source of the dates: ``nova/db/main/api.py`` (purge_shadow_tables).
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.sql import ColumnElement

from handlers.nova.archive_schema import Schema, key

#: shadow tables whose rows were never deleted formally, with the date that counts instead
_DATES = {
    "shadow_instance_actions": "created_at",
    "shadow_instance_actions_events": "created_at",
    "shadow_task_log": "updated_at",
}


def purge_date(shadow: sa.Table) -> sa.Column[Any] | None:
    """Return the column by which the rows of a shadow table grow old; None: they cannot be purged by date."""
    for name in (_DATES.get(shadow.name), "deleted_at", "updated_at", "created_at"):
        if name is not None and name in shadow.c:
            return shadow.c[name]
    return None


def purgeable(schema: Schema, before: datetime) -> list[tuple[sa.Table, ColumnElement[bool]]]:
    """Return the shadow tables with the condition by which their rows are old; a date that is NULL is never old."""
    found = []
    for shadow in schema.shadows():
        column = purge_date(shadow)
        if column is not None and len(shadow.primary_key.columns) == 1:
            found.append((shadow, column < before))
    return found


def purge(connection: Connection, shadow: sa.Table, where: ColumnElement[bool], keys: Collection[Any]) -> int:
    """Delete these rows of a shadow table, those of them that are old."""
    return int(connection.execute(sa.delete(shadow).where(key(shadow).in_(keys), where)).rowcount)
