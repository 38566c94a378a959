"""Every write into Octavia's database, one function each; each compares with the state that was proved.

Rows are locked in the order of Octavia's health manager (``amphora_health``, ``load_balancer``, ``amphora``;
``octavia/controller/healthmanager/health_manager.py``), which excludes deadlocks with it. ``updated_at`` is set here, because
the schema does not set it.

Two states must never stay:

- An amphora that is ALLOCATED without a ``compute_id``. Octavia then takes every port that it sees for this amphora's, and
  removes the address pairs of foreign ports (``get_plugged_networks`` with ``device_id`` None).
- A stale health row that is not busy, beside an amphora in ERROR. The health manager sets the amphora to FAILOVER_STOPPED, and
  the next heartbeat sets it to ALLOCATED. So ``busy`` is set in the same transaction as ERROR.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from handlers.access.database import utcnow
from handlers.base import Conflict, InFlight
from handlers.octavia import queries, records, tables

_LB = tables.load_balancer.c
_AMPHORA = tables.amphora.c
_HEALTH = tables.amphora_health.c


@dataclass(frozen=True, slots=True)
class _Locked:
    now: datetime
    last_update: datetime | None
    busy: bool
    lb_status: str
    status: str
    compute_id: str | None


def _lock(connection: Connection, amphora: records.Amphora) -> _Locked:
    health = connection.execute(
        sa.select(_HEALTH.last_update, _HEALTH.busy).where(_HEALTH.amphora_id == amphora.id).with_for_update()
    ).first()
    lb_status = connection.execute(
        sa.select(_LB.provisioning_status).where(_LB.id == amphora.load_balancer_id).with_for_update()
    ).scalar()
    row = connection.execute(
        sa.select(_AMPHORA.status, _AMPHORA.compute_id, _AMPHORA.load_balancer_id, queries.NOW)
        .where(_AMPHORA.id == amphora.id)
        .with_for_update()
    ).first()
    if row is None or lb_status is None or row.load_balancer_id != amphora.load_balancer_id:
        raise Conflict(f"amphora {amphora.id} has changed")
    return _Locked(
        row.now,
        None if health is None else health.last_update,
        health is not None and bool(health.busy),
        lb_status,
        row.status,
        row.compute_id,
    )


def _check(locked: _Locked, amphora: records.Amphora) -> None:
    if locked.lb_status not in records.IDLE:
        raise InFlight(f"Octavia is working on load balancer {amphora.load_balancer_id}: {locked.lb_status}", 2.0)
    if locked.status != amphora.status or locked.compute_id != amphora.compute_id:
        raise Conflict(f"amphora {amphora.id} is now {locked.status}")
    if locked.status in records.SERVING and locked.busy:
        raise InFlight(f"Octavia's health manager has taken amphora {amphora.id} for a failover", 2.0)


def lease(connection: Connection, amphora: records.Amphora, seconds: int, quiet: float = 0.0) -> bool:
    """Keep Octavia's health manager off an amphora by a heartbeat in the future.

    The health manager acts after the lease and another ``heartbeat_timeout``. A real heartbeat ends the lease.

    :param amphora: the row of the proof; ALLOCATED or FAILOVER_STOPPED, because one in ERROR needs no lease
    :param quiet: seconds for which it must have been silent, or under lease
    :return: whether it has a health row; without one the health manager never acts
    :raises InFlight: when Octavia works on the load balancer, or its health manager was faster
    :raises Conflict: when the row has changed, or the amphora has sent a heartbeat since
    """
    locked = _lock(connection, amphora)
    _check(locked, amphora)
    if amphora.status not in records.SERVING:
        raise Conflict(f"amphora {amphora.id} is {amphora.status} and needs no lease")
    if locked.last_update is not None:
        silent = (locked.now - locked.last_update).total_seconds()
        if -records.SKEW <= silent < quiet:
            raise Conflict(f"amphora {amphora.id} sends heartbeats again")
    return _write_heartbeat(connection, amphora, locked.now + timedelta(seconds=seconds))


def end_lease(connection: Connection, amphora: records.Amphora, silent: float) -> bool:
    """End a lease, so that Octavia's health manager replaces the amphora at once.

    :param silent: seconds of silence that its health row shows afterwards
    :return: whether there was a lease
    :raises Conflict: when the row has changed
    """
    locked = _lock(connection, amphora)
    if locked.status not in records.SERVING or locked.last_update is None or locked.last_update <= locked.now:
        return False
    return _write_heartbeat(connection, amphora, locked.now - timedelta(seconds=silent))


def _write_heartbeat(connection: Connection, amphora: records.Amphora, at: datetime) -> bool:
    changed = connection.execute(
        sa.update(tables.amphora_health)
        .where(_HEALTH.amphora_id == amphora.id, _HEALTH.busy.is_(False))
        .values(last_update=at)
    )
    return changed.rowcount == 1


def let_go(connection: Connection, amphora: records.Amphora) -> None:
    """Make Octavia forget an amphora's server, so that the next failover does not delete it.

    The row becomes ERROR without ``compute_id``, and its health row busy. The failover then deletes a server "None", which
    Nova does not know, and continues.

    :param amphora: the row of the proof; ALLOCATED, FAILOVER_STOPPED or ERROR, with a server
    :raises InFlight: when Octavia works on the load balancer
    :raises Conflict: when the row has changed, or the amphora has sent a heartbeat since
    """
    locked = _lock(connection, amphora)
    _check(locked, amphora)
    leased = locked.last_update is None or locked.last_update > locked.now + timedelta(seconds=records.SKEW)
    if amphora.status in records.SERVING and not leased:
        raise Conflict(f"amphora {amphora.id} sends heartbeats again, or its lease has expired")
    changed = connection.execute(
        sa.update(tables.amphora)
        .where(
            _AMPHORA.id == amphora.id,
            _AMPHORA.compute_id == amphora.compute_id,
            _AMPHORA.status.in_((*records.SERVING, "ERROR")),
        )
        .values(status="ERROR", compute_id=None, updated_at=utcnow())
    )
    if changed.rowcount != 1:
        raise Conflict(f"amphora {amphora.id} has changed")
    connection.execute(sa.update(tables.amphora_health).where(_HEALTH.amphora_id == amphora.id).values(busy=True))


def take_back(connection: Connection, amphora: records.Amphora, silent: float) -> bool:
    """Give an amphora its server back after :func:`let_go`, because Octavia refused the failover.

    An amphora that served becomes silent and not busy, so Octavia's health manager replaces it at once.

    :param amphora: as it was before :func:`let_go`
    :param silent: seconds of silence that its health row shows afterwards
    :return: False when Octavia works on the load balancer or has changed the row
    """
    locked = _lock(connection, amphora)
    if locked.lb_status not in records.IDLE or locked.status != "ERROR" or locked.compute_id is not None:
        return False
    changed = connection.execute(
        sa.update(tables.amphora)
        .where(_AMPHORA.id == amphora.id, _AMPHORA.status == "ERROR", _AMPHORA.compute_id.is_(None))
        .values(status=amphora.status, compute_id=amphora.compute_id, updated_at=utcnow())
    )
    if changed.rowcount != 1:
        return False
    if amphora.status in records.SERVING:
        connection.execute(
            sa.update(tables.amphora_health)
            .where(_HEALTH.amphora_id == amphora.id)
            .values(busy=False, last_update=locked.now - timedelta(seconds=silent))
        )
    return True


def detach_deleted(connection: Connection, amphora: str, load_balancer: str) -> bool:
    """Take a DELETED amphora's row off its load balancer, whose next update would fail because that row's port is gone.

    :return: whether it was still attached
    :raises InFlight: when Octavia works on the load balancer
    """
    status = connection.execute(
        sa.select(_LB.provisioning_status).where(_LB.id == load_balancer).with_for_update()
    ).scalar()
    if status is not None and status not in records.IDLE:
        raise InFlight(f"Octavia is working on load balancer {load_balancer}: {status}", 2.0)
    changed = connection.execute(
        sa.update(tables.amphora)
        .where(_AMPHORA.id == amphora, _AMPHORA.status == "DELETED", _AMPHORA.load_balancer_id == load_balancer)
        .values(load_balancer_id=None)
    )
    return changed.rowcount == 1


def mark_error(connection: Connection, balancer: records.LoadBalancer, at: datetime) -> None:
    """Set a load balancer from PENDING_* to ERROR, in which Octavia accepts a failover.

    :param balancer: the row of the proof
    :param at: its new ``updated_at``, by the database's clock; it stays until the next write
    :raises Conflict: when it has changed since
    """
    same_time = _LB.updated_at.is_(None) if balancer.updated_at is None else _LB.updated_at == balancer.updated_at
    changed = connection.execute(
        sa.update(tables.load_balancer)
        .where(_LB.id == balancer.id, _LB.provisioning_status == balancer.status, same_time)
        .values(provisioning_status="ERROR", updated_at=at)
    )
    if changed.rowcount != 1:
        raise Conflict(f"load balancer {balancer.id} is no longer {balancer.status} since {balancer.updated_at}")


def forget_server(connection: Connection, amphora: records.Amphora) -> None:
    """Set the row of an amphora to DELETED without its server, which is preserved, with its health row and member ports.

    :param amphora: as it was read: ERROR, on no load balancer, with a server
    :raises Conflict: when it has changed since
    """
    _delete(connection, amphora, compute_id=None)


def mark_deleted(connection: Connection, amphora: records.Amphora) -> None:
    """Set an amphora's row to DELETED after its server and ports are gone; delete its health row and member ports.

    :param amphora: the row of the proof: ERROR, PENDING_DELETE or READY, on no load balancer
    :raises Conflict: when it has changed since
    """
    _delete(connection, amphora, compute_id=amphora.compute_id)


def _delete(connection: Connection, amphora: records.Amphora, compute_id: str | None) -> None:
    same_server = (
        _AMPHORA.compute_id.is_(None) if amphora.compute_id is None else _AMPHORA.compute_id == amphora.compute_id
    )
    changed = connection.execute(
        sa.update(tables.amphora)
        .where(
            _AMPHORA.id == amphora.id,
            _AMPHORA.status == amphora.status,
            _AMPHORA.load_balancer_id.is_(None),
            same_server,
        )
        .values(status="DELETED", compute_id=compute_id, updated_at=utcnow())
    )
    if changed.rowcount != 1:
        raise Conflict(f"amphora {amphora.id} is no longer {amphora.status} without a load balancer")
    connection.execute(sa.delete(tables.amphora_health).where(_HEALTH.amphora_id == amphora.id))
    if queries.has_member_ports(connection):
        connection.execute(
            sa.delete(tables.amphora_member_port).where(tables.amphora_member_port.c.amphora_id == amphora.id)
        )


def forget_health(connection: Connection, amphora: str, older_than: float) -> bool:
    """Delete the heartbeat record of an amphora that is deleted or unknown; Octavia would count it as a failure.

    :param older_than: seconds of silence that the record must have; a fresh one comes from an amphora that lives
    :return: whether it was deleted
    """
    row = connection.execute(
        sa.select(_HEALTH.last_update, queries.NOW).where(_HEALTH.amphora_id == amphora).with_for_update()
    ).first()
    if row is None or (row.now - row.last_update).total_seconds() < older_than:
        return False
    status = connection.execute(sa.select(_AMPHORA.status).where(_AMPHORA.id == amphora)).scalar()
    if status not in {None, "DELETED"}:
        return False
    connection.execute(sa.delete(tables.amphora_health).where(_HEALTH.amphora_id == amphora))
    return True
