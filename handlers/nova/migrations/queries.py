"""SQL about migrations that have not ended; :func:`moves_of` returns ended migrations too.

The queries ignore deleted rows and rows without a status, as Nova's ``migration_get_in_progress_by_host_and_node`` does
(``nova/db/main/api.py``).
"""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from handlers.access.database import seconds_since, utcnow
from handlers.base import Conflict
from handlers.nova import tables
from handlers.nova.migrations.rules import Move
from handlers.nova.queries import NOW
from handlers.nova.records import TERMINAL

#: the status that the heal writes, as Nova does for a failed migration
ENDED = "error"


def moves_of(connection: Connection, instance: str) -> list[Move]:
    c = tables.migrations.c
    columns = (c.id, c.uuid, c.status, c.migration_type, c.source_compute, c.dest_compute, c.cross_cell_move)
    query = sa.select(*columns, c.source_node, c.dest_node, c.created_at, c.updated_at, NOW).order_by(c.id.desc())
    return [
        Move(
            row.id,
            row.uuid,
            row.status,
            row.migration_type or "",
            row.source_compute,
            row.dest_compute,
            bool(row.cross_cell_move),
            None if row.updated_at is None else row.updated_at.isoformat(sep=" "),
            seconds_since(connection, row.now, row.created_at, row.updated_at),
            (row.source_node, row.dest_node),
        )
        for row in connection.execute(query.where(c.instance_uuid == instance, c.deleted == 0, c.status.is_not(None)))
    ]


def suspects(connection: Connection, host: str | None = None) -> list[str]:
    """Return the uuids of a cell's instances that have an unfinished migration, and that are deleted or at rest.

    :param host: the migration must be from or to this host; None for any host
    """
    m, i = tables.migrations.c, tables.instances.c
    rest = sa.and_(i.task_state.is_(None), sa.or_(i.vm_state.is_(None), i.vm_state.not_in(("resized", "building"))))
    query = (
        sa.select(i.uuid)
        .distinct()
        .select_from(tables.migrations.join(tables.instances, i.uuid == m.instance_uuid))
        .where(m.deleted == 0, m.status.not_in(sorted(TERMINAL)), sa.or_(i.deleted != 0, rest))
        .order_by(i.uuid)
    )
    if host is not None:
        query = query.where(sa.or_(m.source_compute == host, m.dest_compute == host))
    return list(connection.scalars(query))


def end(connection: Connection, move: int, status: str, changed: str | None, instance: str, deleted: bool) -> None:
    """Set the status of the migration with the id ``move`` to ``error``, if the other arguments still describe it.

    :raises Conflict: the migration, or the state of its instance, changed
    """
    if connection.execute(ending(move, status, changed, instance, deleted)).rowcount != 1:
        raise Conflict(f"migration {move} or its instance {instance} changed")


def undo_of_end(move: Move) -> sa.Update:
    table = tables.migrations
    return sa.update(table).where(table.c.id == move.id, table.c.status == ENDED).values(status=move.status)


def ending(move: int, status: str, changed: str | None, instance: str, deleted: bool) -> sa.Update:
    m, i = tables.migrations.c, tables.instances.c
    state = i.deleted != 0 if deleted else sa.and_(i.deleted == 0, i.task_state.is_(None))
    unchanged = m.updated_at.is_(None) if changed is None else m.updated_at == datetime.fromisoformat(changed)
    there = sa.exists(sa.select(i.id).where(i.uuid == instance, state))
    mine = (m.id == move, m.deleted == 0, m.status == status, unchanged, there)
    return sa.update(tables.migrations).where(*mine).values(status=ENDED, updated_at=utcnow())
