"""What Octavia's database says about failing amphorae: the watch's one query, and how much else fails at the time."""

from __future__ import annotations

from datetime import timedelta

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from handlers.access.database import utcnow
from handlers.octavia import records, tables

_LB = tables.load_balancer.c
_AMPHORA = tables.amphora.c
_HEALTH = tables.amphora_health.c


def failed_amphorae(connection: Connection, stale_after: float) -> list[str]:
    """Amphorae of idle load balancers that look failed, and let go ones whose failover is not finished.

    :param stale_after: seconds of silence
    """
    now = connection.execute(sa.select(utcnow())).scalar_one()
    silent = _HEALTH.last_update < now - timedelta(seconds=stale_after)
    query = (
        sa.select(_AMPHORA.id)
        .join(tables.load_balancer, _LB.id == _AMPHORA.load_balancer_id)
        .outerjoin(tables.amphora_health, _HEALTH.amphora_id == _AMPHORA.id)
        .where(
            _LB.provisioning_status.in_(records.IDLE),
            _LB.provider.in_(records.AMPHORA_PROVIDERS),
            sa.or_(
                _AMPHORA.status == "ERROR",
                sa.and_(_AMPHORA.status.in_(records.SERVING), sa.or_(silent, _AMPHORA.compute_id.is_(None))),
                sa.and_(_AMPHORA.status == "DELETED", _AMPHORA.compute_id.is_(None)),
            ),
        )
        .order_by(_AMPHORA.id)
    )
    return list(connection.execute(query).scalars())


def failing_lately(connection: Connection, stale_after: float, window: float) -> dict[str, str | None]:
    """Amphorae that have failed or were failed over within a window, with their servers.

    Amphorae that went with their load balancer are not counted.

    :param stale_after: seconds of silence
    :param window: seconds
    """
    now = connection.execute(sa.select(utcnow())).scalar_one()
    recent = sa.func.coalesce(_AMPHORA.updated_at, _AMPHORA.created_at) > now - timedelta(seconds=window)
    alone = sa.and_(_AMPHORA.load_balancer_id.is_(None), _AMPHORA.vrrp_port_id.is_not(None))
    going = _LB.provisioning_status.in_(("PENDING_DELETE", "DELETED"))
    replaced = sa.or_(alone, sa.and_(_LB.id.is_not(None), sa.not_(going)))
    query = (
        sa.select(_AMPHORA.id, _AMPHORA.compute_id)
        .outerjoin(tables.load_balancer, _LB.id == _AMPHORA.load_balancer_id)
        .outerjoin(tables.amphora_health, _HEALTH.amphora_id == _AMPHORA.id)
        .where(
            sa.or_(
                sa.and_(_AMPHORA.status.in_(("ERROR", "PENDING_DELETE", "DELETED")), recent, replaced),
                _AMPHORA.status == "FAILOVER_STOPPED",
                sa.and_(
                    _AMPHORA.status == "ALLOCATED",
                    sa.or_(
                        _HEALTH.last_update < now - timedelta(seconds=stale_after),
                        _HEALTH.last_update > now + timedelta(seconds=records.SKEW),
                    ),
                ),
            )
        )
    )
    return {row.id: row.compute_id for row in connection.execute(query)}


def amphora_count(connection: Connection) -> int:
    """How many amphorae are not deleted."""
    return int(connection.execute(sa.select(sa.func.count()).where(_AMPHORA.status != "DELETED")).scalar_one())
