from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from handlers.access.database import seconds_since, time_before, utcnow
from handlers.nova import tables
from handlers.nova.instances.rules import DELETING, Row
from handlers.nova.queries import NOW


def live_row(connection: Connection, instance: str) -> Row | None:
    c = tables.instances.c
    columns = (c.uuid, c.project_id, c.host, c.vm_state, c.task_state, c.hidden, c.node)
    query = sa.select(*columns, c.created_at, c.updated_at, NOW)
    row = connection.execute(query.where(c.uuid == instance, c.deleted == 0)).first()
    if row is None:
        return None
    return Row(
        row.uuid,
        row.project_id,
        row.host,
        row.vm_state,
        row.task_state,
        bool(row.hidden),
        None if row.updated_at is None else row.updated_at.isoformat(sep=" "),
        seconds_since(connection, row.now, row.created_at, row.updated_at),
        row.node,
    )


def suspects(connection: Connection, after: float, host: str | None = None) -> list[str]:
    """Return a cell's live instances that have a task, or that are being built and have no host.

    :param after: seconds for which the instances must be unchanged
    :param host: the instances' host; None for any
    """
    c = tables.instances.c
    oldest = time_before(connection, connection.execute(sa.select(NOW)).scalar_one(), after)
    busy = sa.or_(c.task_state.is_not(None), sa.and_(c.vm_state == "building", c.host.is_(None)))
    query = sa.select(c.uuid).where(c.deleted == 0, busy, sa.func.coalesce(c.updated_at, c.created_at) < oldest)
    if host is not None:
        query = query.where(c.host == host)
    return list(connection.scalars(query.order_by(c.uuid)))


def clear_deletion(connection: Connection, instance: str, host: str | None, changed: str | None) -> bool:
    """Clear the task ``deleting`` of an instance, unless its row changed. Return whether the call cleared the task."""
    return connection.execute(clearing(instance, host, DELETING, changed)).rowcount == 1


def restore_deletion(connection: Connection, instance: str, host: str | None, changed: str | None) -> None:
    """Set the task ``deleting`` of an instance again, unless Nova has set another task or deleted the instance."""
    c = tables.instances.c
    mine = (c.uuid == instance, c.deleted == 0, c.task_state.is_(None), c.host == host)
    before = None if changed is None else datetime.fromisoformat(changed)
    connection.execute(sa.update(tables.instances).where(*mine).values(task_state=DELETING, updated_at=before))


def clearing(instance: str, host: str | None, task: str, changed: str | None) -> sa.Update:
    c = tables.instances.c
    unchanged = c.updated_at.is_(None) if changed is None else c.updated_at == datetime.fromisoformat(changed)
    where = c.host.is_(None) if host is None else c.host == host
    mine = (c.uuid == instance, c.deleted == 0, c.task_state == task, where, unchanged)
    return sa.update(tables.instances).where(*mine).values(task_state=sa.null(), updated_at=utcnow())
