"""SELECTs of the ports and groups that Octavia's rows still name."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from handlers.octavia import queries, tables

_AMPHORA = tables.amphora.c


def count_amphorae(connection: Connection) -> int:
    return int(connection.execute(sa.select(sa.func.count()).select_from(tables.amphora)).scalar_one())


def used_ports(connection: Connection) -> frozenset[str]:
    rows = connection.execute(
        sa.select(_AMPHORA.vrrp_port_id, _AMPHORA.ha_port_id).where(_AMPHORA.status != "DELETED")
    ).all()
    used = {port for row in rows for port in row if port} | set(queries.vip_ports(connection).values())
    if queries.has_member_ports(connection):
        member = tables.amphora_member_port.c
        used |= set(
            connection.execute(
                sa.select(member.port_id)
                .join(tables.amphora, _AMPHORA.id == member.amphora_id)
                .where(_AMPHORA.status != "DELETED")
            ).scalars()
        )
    return frozenset(used)


def used_groups(connection: Connection) -> frozenset[str]:
    lb = tables.load_balancer.c
    query = sa.select(lb.server_group_id).where(lb.provisioning_status != "DELETED", lb.server_group_id.is_not(None))
    return frozenset(connection.execute(query).scalars())
