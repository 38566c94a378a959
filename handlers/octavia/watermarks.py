"""The watermark of Octavia's database: the creation times of old load balancers.

The watermark has no highest ids, because the ids are UUIDs. A missing row proves nothing: Octavia's housekeeping deletes
expired rows.
"""

from __future__ import annotations

from collections.abc import Iterator

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from handlers.base import HandlerError, Resources, Watermark
from handlers.octavia import options, tables
from handlers.octavia.database import OctaviaDatabase

#: number of load balancers in the watermark: the oldest ones
_MOST = 20


def octavia_watermarks(resources: Resources) -> Iterator[Watermark]:
    """Yield the watermark of Octavia's database, if Octavia is configured and its database answers."""
    if not options.configured(resources.conf):
        return
    try:
        yield resources.get(OctaviaDatabase.from_resources).run(_read)
    except HandlerError:
        return


def _read(connection: Connection) -> Watermark:
    c = tables.load_balancer.c
    query = sa.select(c.id, c.created_at).order_by(c.created_at, c.id).limit(_MOST)
    anchors = {f"load balancer {row.id}": f"created at {row.created_at}" for row in connection.execute(query)}
    return Watermark("octavia_database", connection.dialect.name, anchors=anchors)
