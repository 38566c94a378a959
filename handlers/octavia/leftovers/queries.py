"""SELECTs of the groups that Octavia's rows still name, and the number of amphorae."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from handlers.octavia import tables

_AMPHORA = tables.amphora.c


def count_amphorae(connection: Connection) -> int:
    return int(connection.execute(sa.select(sa.func.count()).select_from(tables.amphora)).scalar_one())


def used_groups(connection: Connection) -> frozenset[str]:
    lb = tables.load_balancer.c
    query = sa.select(lb.server_group_id).where(lb.provisioning_status != "DELETED", lb.server_group_id.is_not(None))
    return frozenset(connection.execute(query).scalars())
