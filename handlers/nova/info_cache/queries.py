from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from handlers.nova import tables

#: caches of a page; a cache has some kilobytes for each port
PAGE = 500


def cache(connection: Connection, instance: str) -> str | None:
    c = tables.instance_info_caches.c
    return connection.scalar(sa.select(c.network_info).where(c.instance_uuid == instance, c.deleted == 0))


def caches(connection: Connection, after: int) -> tuple[dict[str, str | None], int | None]:
    """Return a page of network caches, by instance uuid, and the page's last instance id. This id is None on the last page.

    The page has live instances that have a host, no task and no open build.

    :param after: the last instance id of the page before; 0 for the first page
    """
    i, n = tables.instances.c, tables.instance_info_caches.c
    query = (
        sa.select(i.id, i.uuid, n.network_info)
        .select_from(tables.instances.join(tables.instance_info_caches, n.instance_uuid == i.uuid))
        .where(i.deleted == 0, n.deleted == 0, i.task_state.is_(None), i.host.is_not(None), i.vm_state != "building")
        .where(i.id > after)
        .order_by(i.id)
        .limit(PAGE)
    )
    rows = list(connection.execute(query))
    return {row.uuid: row.network_info for row in rows}, rows[-1].id if len(rows) == PAGE else None
