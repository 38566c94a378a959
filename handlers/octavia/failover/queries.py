"""SELECT statements about failing amphorae and their heartbeats."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from handlers.access.database import utcnow
from handlers.octavia import records, tables
from handlers.octavia.failover.heartbeats import Heard

_LB = tables.load_balancer.c
_AMPHORA = tables.amphora.c
_HEALTH = tables.amphora_health.c


@dataclass(frozen=True, slots=True)
class Watched:
    """An amphora on a load balancer, with the columns that the sweep needs.

    :param idle: whether no flow works on the load balancer
    :param silent: seconds since the last heartbeat; None without a heartbeat record
    :param age: seconds since the amphora's row changed
    """

    id: str
    status: str
    compute_id: str | None
    idle: bool
    silent: float | None
    age: float

    @property
    def serves(self) -> bool:
        return self.status in records.SERVING

    def looks_failed(self, stale_after: float | None) -> bool:
        """Return whether the amphora looks failed or its recovery is unfinished; False while a flow works on the load balancer.

        :param stale_after: seconds of silence that count as a failure; None when silence proves nothing now
        """
        if not self.idle or not self.serves:
            return self.idle
        silent = stale_after is not None and self.silent is not None and self.silent > stale_after
        return silent or self.compute_id is None

    def unheard(self, patience: float) -> bool:
        """Return whether the amphora serves but sends no heartbeat; False while a flow works on the load balancer.

        :param patience: seconds for which the amphora must be silent and its row unchanged
        """
        silent = self.silent is None or self.silent > patience
        return self.idle and self.serves and silent and self.age > patience


def watch(connection: Connection) -> list[Watched]:
    """Return the amphorae on load balancers in these states: serving, in ERROR, or DELETED without a ``compute_id``."""
    query = (
        sa.select(
            utcnow().label("now"),
            _AMPHORA.id,
            _AMPHORA.status,
            _AMPHORA.compute_id,
            sa.func.coalesce(_AMPHORA.updated_at, _AMPHORA.created_at).label("changed"),
            _LB.provisioning_status,
            _HEALTH.last_update,
        )
        .join(tables.load_balancer, _LB.id == _AMPHORA.load_balancer_id)
        .outerjoin(tables.amphora_health, _HEALTH.amphora_id == _AMPHORA.id)
        .where(
            _LB.provider.in_(records.AMPHORA_PROVIDERS),
            sa.or_(
                _AMPHORA.status.in_((*records.SERVING, "ERROR")),
                sa.and_(_AMPHORA.status == "DELETED", _AMPHORA.compute_id.is_(None)),
            ),
        )
        .order_by(_AMPHORA.id)
    )
    return [
        Watched(
            row.id,
            row.status,
            row.compute_id,
            row.provisioning_status in records.IDLE,
            (row.now - row.last_update).total_seconds() if row.last_update is not None else None,
            (row.now - row.changed).total_seconds() if row.changed is not None else float("inf"),
        )
        for row in connection.execute(query)
    ]


def heard_of(rows: Sequence[Watched], within: float) -> Heard:
    """Count the serving amphorae of ``rows`` that have a heartbeat record, and those of them with a recent heartbeat.

    :param within: greatest age of a recent heartbeat, in seconds
    """
    silent = [row.silent for row in rows if row.serves and row.silent is not None]
    return Heard(len(silent), sum(seconds <= within for seconds in silent))


def now(connection: Connection) -> datetime:
    time: datetime = connection.execute(sa.select(utcnow())).scalar_one()
    return time


def heard(connection: Connection, now: datetime, within: float) -> Heard:
    """Count like :func:`heard_of`, but all serving amphorae of the database.

    :param now: the time by the database's clock
    """
    lately = sa.case((_HEALTH.last_update >= now - timedelta(seconds=within), 1), else_=0)
    query = (
        sa.select(sa.func.count(), sa.func.coalesce(sa.func.sum(lately), 0))
        .select_from(tables.amphora_health)
        .join(tables.amphora, _AMPHORA.id == _HEALTH.amphora_id)
        .where(_AMPHORA.status.in_(records.SERVING), _AMPHORA.load_balancer_id.is_not(None))
    )
    amphorae, recent = connection.execute(query).one()
    return Heard(int(amphorae), int(recent))


@dataclass(frozen=True, slots=True)
class Failing:
    """An amphora that is silent, has a heartbeat in the future, or recently failed or was replaced.

    :param ahead: whether the only sign is a heartbeat in the future; stackmend wrote it as a heartbeat lease, or a clock is
        ahead
    """

    server: str | None
    ahead: bool


def failing_lately(connection: Connection, now: datetime, stale_after: float, window: float) -> dict[str, Failing]:
    """Return every :class:`Failing` amphora by its id, except amphorae that were deleted with their load balancer.

    :param stale_after: seconds of silence that count as a failure
    :param window: length of the recent past, in seconds
    """
    recent = sa.func.coalesce(_AMPHORA.updated_at, _AMPHORA.created_at) > now - timedelta(seconds=window)
    alone = sa.and_(_AMPHORA.load_balancer_id.is_(None), _AMPHORA.vrrp_port_id.is_not(None))
    going = _LB.provisioning_status.in_(("PENDING_DELETE", "DELETED"))
    replaced = sa.or_(alone, sa.and_(_LB.id.is_not(None), sa.not_(going)))
    future = _HEALTH.last_update > now + timedelta(seconds=records.SKEW)
    query = (
        sa.select(
            _AMPHORA.id,
            _AMPHORA.compute_id,
            sa.case((sa.and_(_AMPHORA.status == "ALLOCATED", future), 1), else_=0).label("ahead"),
        )
        .outerjoin(tables.load_balancer, _LB.id == _AMPHORA.load_balancer_id)
        .outerjoin(tables.amphora_health, _HEALTH.amphora_id == _AMPHORA.id)
        .where(
            sa.or_(
                sa.and_(_AMPHORA.status.in_(("ERROR", "PENDING_DELETE", "DELETED")), recent, replaced),
                sa.and_(_AMPHORA.status == "FAILOVER_STOPPED", _LB.id.is_not(None)),
                sa.and_(
                    _AMPHORA.status == "ALLOCATED",
                    _LB.id.is_not(None),
                    sa.or_(_HEALTH.last_update < now - timedelta(seconds=stale_after), future),
                ),
            )
        )
    )
    return {row.id: Failing(row.compute_id, bool(row.ahead)) for row in connection.execute(query)}


def amphora_count(connection: Connection) -> int:
    return int(connection.execute(sa.select(sa.func.count()).where(_AMPHORA.status != "DELETED")).scalar_one())
