"""The tag by which owners exempt their load balancers from heals. Octavia's database stores the tag.

Sources: ``octavia/db/models.py`` (Tags).
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from handlers.base import EXEMPT_TAG, Finding
from handlers.octavia import tables
from handlers.octavia.database import OctaviaDatabase

_KIND = "load-balancer:"


def holder(database: OctaviaDatabase, finding: Finding) -> str:
    """Return a sentence that names a load balancer of the finding with the tag ``stackmend:exempt``; empty if none has the tag.

    :raises Unavailable: the database does not answer
    """
    scopes = {str(finding.key), *finding.concerns}
    balancers = sorted(scope.removeprefix(_KIND) for scope in scopes if scope.startswith(_KIND))
    tags = tables.tags.c
    mine = sa.select(tags.resource_id).where(tags.resource_id.in_(balancers), tags.tag == EXEMPT_TAG)
    first = mine.order_by(tags.resource_id).limit(1)

    def read(connection: Connection) -> str | None:
        return connection.execute(first).scalar()

    tagged = database.run(read) if balancers else None
    return f"{_KIND}{tagged} has the tag {EXEMPT_TAG}" if tagged else ""
