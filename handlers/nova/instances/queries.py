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
    columns = (c.uuid, c.project_id, c.host, c.vm_state, c.task_state, c.hidden, c.node, c.terminated_at)
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
        row.terminated_at is not None,
    )


def suspects(connection: Connection, after: float, host: str | None = None) -> list[str]:
    """Return a cell's live instances that have a task, or that are being built and have no host, or whose deletion began.

    :param after: seconds for which instances of the first two kinds must be unchanged
    :param host: the instances' host; None for any
    """
    c = tables.instances.c
    oldest = time_before(connection, connection.execute(sa.select(NOW)).scalar_one(), after)
    busy = sa.or_(c.task_state.is_not(None), sa.and_(c.vm_state == "building", c.host.is_(None)))
    stuck = sa.and_(busy, sa.func.coalesce(c.updated_at, c.created_at) < oldest)
    begun = sa.and_(c.task_state.is_(None), c.terminated_at.is_not(None))
    query = sa.select(c.uuid).where(c.deleted == 0, sa.or_(stuck, begun))
    if host is not None:
        query = query.where(c.host == host)
    return list(connection.scalars(query.order_by(c.uuid)))


def begin_deletion(
    connection: Connection, instance: str, host: str | None, task: str | None, changed: str | None
) -> bool:
    """Clear the task ``deleting`` of an instance, unless its row changed. Return whether the call changed the row."""
    return connection.execute(beginning(instance, host, task, changed)).rowcount == 1


def restore_deletion(connection: Connection, instance: str, host: str | None, changed: str | None) -> None:
    """Set the task ``deleting`` of an instance again, unless Nova has set another task or deleted the instance."""
    c = tables.instances.c
    mine = (c.uuid == instance, c.deleted == 0, c.task_state.is_(None), c.terminated_at.is_not(None), c.host == host)
    values = {"task_state": DELETING, "terminated_at": None, "updated_at": _moment(changed)}
    connection.execute(sa.update(tables.instances).where(*mine).values(values))


def beginning(instance: str, host: str | None, task: str | None, changed: str | None) -> sa.Update:
    """Return the statement that clears the task and sets ``terminated_at``, by which a later inspection sees a begun heal."""
    return clearing(instance, host, task, changed).values(terminated_at=utcnow())


def clearing(instance: str, host: str | None, task: str | None, changed: str | None) -> sa.Update:
    c = tables.instances.c
    unchanged = c.updated_at.is_(None) if changed is None else c.updated_at == _moment(changed)
    where = c.host.is_(None) if host is None else c.host == host
    busy = c.task_state.is_(None) if task is None else c.task_state == task
    mine = (c.uuid == instance, c.deleted == 0, busy, where, unchanged)
    return sa.update(tables.instances).where(*mine).values(task_state=sa.null(), updated_at=utcnow())


def _moment(changed: str | None) -> datetime | None:
    return None if changed is None else datetime.fromisoformat(changed)
