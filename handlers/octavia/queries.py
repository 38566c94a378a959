"""SELECTs against Octavia's database that several handlers run.

Each function runs in the caller's transaction, and can run again. Ages are by the database's clock.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from handlers.access.database import utcnow
from handlers.octavia import records, tables

CHUNK = 500
NOW = utcnow().label("now")

_LB = tables.load_balancer.c
_AMPHORA = tables.amphora.c
_HEALTH = tables.amphora_health.c

_LB_COLUMNS = (
    NOW,
    _LB.id,
    _LB.project_id,
    _LB.name,
    _LB.provisioning_status,
    _LB.topology,
    _LB.server_group_id,
    _LB.provider,
    _LB.created_at,
    _LB.updated_at,
)
_AMPHORA_COLUMNS = (
    NOW,
    _AMPHORA.id,
    _AMPHORA.load_balancer_id,
    _AMPHORA.compute_id,
    _AMPHORA.status,
    _AMPHORA.role,
    _AMPHORA.lb_network_ip,
    _AMPHORA.vrrp_port_id,
    _AMPHORA.ha_port_id,
    _AMPHORA.cached_zone,
    _AMPHORA.compute_flavor,
    _AMPHORA.cert_expiration,
    _AMPHORA.created_at,
    _AMPHORA.updated_at,
)


def age(row: Any) -> float:
    """Return the seconds since a row with the column ``now`` was last written; infinity if the row has no times."""
    times = [time for time in (row.created_at, row.updated_at) if time is not None]
    return max(0.0, (row.now - max(times)).total_seconds()) if times else float("inf")


def _load_balancer(row: Any) -> records.LoadBalancer:
    return records.LoadBalancer(
        row.id,
        row.project_id,
        row.name,
        row.provisioning_status,
        row.topology,
        row.server_group_id,
        row.provider,
        row.updated_at,
        age(row),
    )


def _amphora(row: Any) -> records.Amphora:
    return records.Amphora(
        row.id,
        row.load_balancer_id,
        row.compute_id,
        row.status,
        row.role,
        row.lb_network_ip,
        row.vrrp_port_id,
        row.ha_port_id,
        row.cached_zone,
        row.compute_flavor,
        row.updated_at,
        age(row),
        row.cert_expiration,
    )


def _health(row: Any) -> records.Health:
    silent = (row.now - row.last_update).total_seconds()
    return records.Health(row.amphora_id, silent, bool(row.busy), row.last_update)


def chunks(values: Collection[str]) -> Iterator[list[str]]:
    ordered = sorted(values)
    for start in range(0, len(ordered), CHUNK):
        yield ordered[start : start + CHUNK]


def revisions(connection: Connection) -> frozenset[str]:
    return frozenset(connection.execute(sa.select(tables.alembic_version.c.version_num)).scalars())


def load_balancer(connection: Connection, identity: str) -> records.LoadBalancer | None:
    row = connection.execute(sa.select(*_LB_COLUMNS).where(_LB.id == identity)).first()
    return None if row is None else _load_balancer(row)


def load_balancers(connection: Connection) -> list[records.LoadBalancer]:
    ours = sa.and_(_LB.provider.in_(records.AMPHORA_PROVIDERS), _LB.provisioning_status != "DELETED")
    return [_load_balancer(row) for row in connection.execute(sa.select(*_LB_COLUMNS).where(ours).order_by(_LB.id))]


def open_requests(connection: Connection) -> int:
    """Count the load balancers and amphorae whose requests perhaps wait in Octavia's queues or in a worker."""
    pending = sa.select(sa.func.count()).where(
        _LB.provider.in_(records.AMPHORA_PROVIDERS), _LB.provisioning_status.startswith("PENDING_")
    )
    # The API marks an amphora on no load balancer before it sends the request.
    deleting = sa.select(sa.func.count()).where(
        _AMPHORA.status == "PENDING_DELETE", _AMPHORA.load_balancer_id.is_(None)
    )
    return int(connection.execute(pending).scalar_one() + connection.execute(deleting).scalar_one())


def providers(connection: Connection) -> frozenset[str]:
    query = sa.select(_LB.provider).where(_LB.provider.in_(records.AMPHORA_PROVIDERS)).distinct()
    return frozenset(connection.execute(query).scalars())


def known_load_balancers(connection: Connection, identities: Collection[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for part in chunks(identities):
        rows = connection.execute(sa.select(_LB.id, _LB.provisioning_status).where(_LB.id.in_(part)))
        found |= {row.id: row.provisioning_status for row in rows}
    return found


def amphora(connection: Connection, identity: str) -> records.Amphora | None:
    row = connection.execute(sa.select(*_AMPHORA_COLUMNS).where(_AMPHORA.id == identity)).first()
    return None if row is None else _amphora(row)


def amphora_of_server(connection: Connection, server: str) -> records.Amphora | None:
    """Return the amphora whose row names a server; of several, preferably one that is not DELETED and changed last."""
    query = sa.select(*_AMPHORA_COLUMNS).where(_AMPHORA.compute_id == server)
    rows = [_amphora(row) for row in connection.execute(query)]
    rows.sort(key=lambda found: (found.status == "DELETED", found.age))
    return rows[0] if rows else None


def sharing_server(connection: Connection, row: records.Amphora) -> str | None:
    """Return another amphora that is not DELETED, and whose row names the same server; None without one."""
    same = (_AMPHORA.compute_id == row.compute_id, _AMPHORA.id != row.id, _AMPHORA.status != "DELETED")
    return connection.execute(sa.select(_AMPHORA.id).where(*same).order_by(_AMPHORA.id).limit(1)).scalar()


def named_servers(connection: Connection, servers: Collection[str]) -> frozenset[str]:
    """Return those of the servers that the row of an amphora names. DELETED rows do not count."""
    named: set[str] = set()
    for part in chunks(servers):
        query = sa.select(_AMPHORA.compute_id).where(_AMPHORA.compute_id.in_(part), _AMPHORA.status != "DELETED")
        named.update(connection.execute(query).scalars())
    return frozenset(named)


def shared_object(connection: Connection, rows: Collection[records.Amphora]) -> str:
    """Return a server or VRRP port of one of these amphorae that another row names too; empty without one.

    DELETED rows do not count.

    :param rows: amphorae of one load balancer
    """
    own = [row for row in rows if row.status != "DELETED"]
    servers, ports = ({row.compute_id for row in own} - {None}, {row.vrrp_port_id for row in own} - {None})
    if not servers and not ports:
        return ""
    named = sa.or_(_AMPHORA.compute_id.in_(servers), _AMPHORA.vrrp_port_id.in_(ports))
    columns = (_AMPHORA.id, _AMPHORA.compute_id, _AMPHORA.vrrp_port_id)
    found = connection.execute(sa.select(*columns).where(named, _AMPHORA.status != "DELETED")).all()
    shared = {
        thing
        for row in own
        for other in found
        if other.id != row.id
        for thing in {row.compute_id, row.vrrp_port_id} & {other.compute_id, other.vrrp_port_id}
        if thing
    }
    return min(shared, default="")


def amphorae_of(connection: Connection, load_balancer: str) -> list[records.Amphora]:
    query = sa.select(*_AMPHORA_COLUMNS).where(_AMPHORA.load_balancer_id == load_balancer).order_by(_AMPHORA.id)
    return [_amphora(row) for row in connection.execute(query)]


def amphorae(connection: Connection) -> list[records.Amphora]:
    query = sa.select(*_AMPHORA_COLUMNS).where(_AMPHORA.status != "DELETED").order_by(_AMPHORA.id)
    return [_amphora(row) for row in connection.execute(query)]


def deleted_amphorae(connection: Connection) -> list[records.Amphora]:
    query = sa.select(*_AMPHORA_COLUMNS).where(_AMPHORA.status == "DELETED").order_by(_AMPHORA.id)
    return [_amphora(row) for row in connection.execute(query)]


def health(connection: Connection, amphora: str) -> records.Health | None:
    columns = (NOW, _HEALTH.amphora_id, _HEALTH.last_update, _HEALTH.busy)
    row = connection.execute(sa.select(*columns).where(_HEALTH.amphora_id == amphora)).first()
    return None if row is None else _health(row)


def healths(connection: Connection) -> dict[str, records.Health]:
    columns = (NOW, _HEALTH.amphora_id, _HEALTH.last_update, _HEALTH.busy)
    return {row.amphora_id: _health(row) for row in connection.execute(sa.select(*columns))}


def has_member_ports(connection: Connection) -> bool:
    """Return whether the database has the table ``amphora_member_port``, which exists from Octavia 16 on."""
    return sa.inspect(connection).has_table(tables.amphora_member_port.name)


def member_ports(connection: Connection, amphora: str) -> list[str]:
    """Return the ids of an amphora's member ports; empty before Octavia 16."""
    if not has_member_ports(connection):
        return []
    c = tables.amphora_member_port.c
    return list(connection.execute(sa.select(c.port_id).where(c.amphora_id == amphora).order_by(c.port_id)).scalars())


def used_ports(connection: Connection, besides: str = "") -> frozenset[str]:
    """Return the ids of the ports that rows of amphorae and load balancers name. DELETED rows do not count.

    :param besides: the id of an amphora whose row does not count either
    """
    counts = (_AMPHORA.status != "DELETED", _AMPHORA.id != besides)
    rows = connection.execute(sa.select(_AMPHORA.vrrp_port_id, _AMPHORA.ha_port_id).where(*counts)).all()
    used = {port for row in rows for port in row if port} | set(vip_ports(connection).values())
    if has_member_ports(connection):
        member = tables.amphora_member_port.c
        query = sa.select(member.port_id).join(tables.amphora, _AMPHORA.id == member.amphora_id).where(*counts)
        used |= set(connection.execute(query).scalars())
    return frozenset(used)


def vip_port(connection: Connection, load_balancer: str) -> str | None:
    v = tables.vip.c
    return connection.execute(sa.select(v.port_id).where(v.load_balancer_id == load_balancer)).scalar()


def vip_ports(connection: Connection) -> dict[str, str]:
    v = tables.vip.c
    query = (
        sa.select(v.load_balancer_id, v.port_id).join(tables.load_balancer).where(_LB.provisioning_status != "DELETED")
    )
    return {row.load_balancer_id: row.port_id for row in connection.execute(query) if row.port_id}
