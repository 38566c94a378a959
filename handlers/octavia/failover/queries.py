"""SELECT statements about failing amphorae and their heartbeats."""

from __future__ import annotations

from datetime import timedelta

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from handlers.access.database import utcnow
from handlers.octavia import records, tables
from handlers.octavia.failover.heartbeats import Heard

_LB = tables.load_balancer.c
_AMPHORA = tables.amphora.c
_HEALTH = tables.amphora_health.c


def failed_amphorae(connection: Connection, stale_after: float | None) -> list[str]:
    """Return amphorae of idle load balancers that look failed, and those whose recovery is not finished.

    :param stale_after: seconds of silence that count as a failure; None when silence proves nothing now
    """
    now = connection.execute(sa.select(utcnow())).scalar_one()
    silent = sa.false() if stale_after is None else _HEALTH.last_update < now - timedelta(seconds=stale_after)
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


def heard(connection: Connection, within: float) -> Heard:
    """Count the serving amphorae that have a heartbeat record, and those that were heard lately.

    :param within: seconds
    """
    now = connection.execute(sa.select(utcnow())).scalar_one()
    lately = sa.case((_HEALTH.last_update >= now - timedelta(seconds=within), 1), else_=0)
    query = (
        sa.select(sa.func.count(), sa.func.coalesce(sa.func.sum(lately), 0))
        .select_from(tables.amphora_health)
        .join(tables.amphora, _AMPHORA.id == _HEALTH.amphora_id)
        .where(_AMPHORA.status.in_(records.SERVING), _AMPHORA.load_balancer_id.is_not(None))
    )
    amphorae, recent = connection.execute(query).one()
    return Heard(int(amphorae), int(recent))


def failing_lately(connection: Connection, stale_after: float, window: float) -> dict[str, str | None]:
    """Return the amphorae that failed or were replaced within a window, with their servers.

    An amphora that was deleted with its load balancer does not count.

    :param stale_after: seconds of silence that count as a failure
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
    return int(connection.execute(sa.select(sa.func.count()).where(_AMPHORA.status != "DELETED")).scalar_one())
