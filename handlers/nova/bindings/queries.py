from __future__ import annotations

from collections.abc import Collection

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from handlers.nova import tables
from handlers.nova.queries import chunks
from handlers.nova.records import Migration


def hosts_at_rest(connection: Connection, instances: Collection[str]) -> dict[str, str]:
    """Return hosts by instance, for those of ``instances`` that are live, have a host and have no task."""
    c = tables.instances.c
    query = sa.select(c.uuid, c.host).where(c.deleted == 0, c.task_state.is_(None), c.host.is_not(None))
    return {
        row.uuid: row.host for chunk in chunks(instances) for row in connection.execute(query.where(c.uuid.in_(chunk)))
    }


def moving(instance: str, host: str, move: Migration) -> sa.Update:
    c = tables.instances.c
    there = {"host": move.dest[0], "node": move.dest[1]}
    before = (c.uuid == instance, c.host == host, c.deleted == 0, c.task_state.is_(None))
    return sa.update(tables.instances).where(*before).values(there)
