"""The handlers' writes into Octavia's database. Each write succeeds only while the rows justify it.

To exclude deadlocks, every write locks rows in the order of Octavia's health manager: ``amphora_health``, ``load_balancer``,
``amphora`` (``octavia/controller/healthmanager/health_manager.py``). The schema does not set ``updated_at``; the writes do,
except :func:`detach_deleted`.

No write may leave one of these two states in the database:

- An ALLOCATED amphora without a ``compute_id``. Octavia would treat every visible port as a port of this amphora, and remove
  address pairs from foreign ports (``get_plugged_networks`` with ``device_id`` None).
- An amphora in ERROR with an old heartbeat, whose heartbeat record is not ``busy``. The health manager could set the amphora to
  FAILOVER_STOPPED, and the next heartbeat would set it to ALLOCATED. So one transaction sets ERROR and ``busy``.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
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
    lb_updated_at: datetime | None
    status: str
    compute_id: str | None
    updated_at: datetime | None


def _lock(connection: Connection, amphora: records.Amphora) -> _Locked:
    health = connection.execute(
        sa.select(_HEALTH.last_update, _HEALTH.busy).where(_HEALTH.amphora_id == amphora.id).with_for_update()
    ).first()
    balancer = connection.execute(
        sa.select(_LB.provisioning_status, _LB.updated_at).where(_LB.id == amphora.load_balancer_id).with_for_update()
    ).first()
    row = connection.execute(
        sa.select(_AMPHORA.status, _AMPHORA.compute_id, _AMPHORA.load_balancer_id, _AMPHORA.updated_at, queries.NOW)
        .where(_AMPHORA.id == amphora.id)
        .with_for_update()
    ).first()
    if row is None or balancer is None or row.load_balancer_id != amphora.load_balancer_id:
        raise Conflict(f"amphora {amphora.id} has changed")
    return _Locked(
        row.now,
        None if health is None else health.last_update,
        health is not None and bool(health.busy),
        balancer.provisioning_status,
        balancer.updated_at,
        row.status,
        row.compute_id,
        row.updated_at,
    )


def _check(locked: _Locked, amphora: records.Amphora) -> None:
    if locked.lb_status not in records.IDLE:
        raise InFlight(f"Octavia is working on load balancer {amphora.load_balancer_id}: {locked.lb_status}", 2.0)
    if locked.status != amphora.status or locked.compute_id != amphora.compute_id:
        raise Conflict(f"amphora {amphora.id} is now {locked.status}")
    if locked.status in records.SERVING and locked.busy:
        raise InFlight(f"Octavia's health manager has taken amphora {amphora.id} for a failover", 2.0)


def lease(
    connection: Connection,
    amphora: records.Amphora,
    seconds: int,
    quiet: float = 0.0,
    at: datetime | None = None,
    leases: Collection[str] = (),
) -> bool:
    """Write a heartbeat lease into an amphora's heartbeat record. The next real heartbeat overwrites the lease.

    If no heartbeat comes, Octavia's health manager replaces the amphora one ``heartbeat_timeout`` after the lease ends.

    :param amphora: the amphora's row that proved the failure, in ALLOCATED or FAILOVER_STOPPED
    :param quiet: seconds for which the amphora must be silent, unless a lease runs
    :param at: the end of the lease; None: ``seconds`` from now
    :param leases: ends of the amphora's earlier leases, in ISO format; empty when unknown
    :return: False without a heartbeat record, because the health manager then never replaces the amphora
    :raises InFlight: Octavia works on the load balancer or already replaces the amphora
    :raises Conflict: the amphora's row has changed, or the amphora sends heartbeats again
    """
    locked = _lock(connection, amphora)
    _check(locked, amphora)
    if amphora.status not in records.SERVING:
        raise Conflict(f"amphora {amphora.id} is {amphora.status} and needs no lease")
    if locked.last_update is not None:
        silent = (locked.now - locked.last_update).total_seconds()
        if silent < quiet and not (silent < -records.SKEW and (quiet <= 0 or _is_lease(locked.last_update, leases))):
            raise Conflict(f"amphora {amphora.id} sends heartbeats again")
    return _write_heartbeat(connection, amphora, at or locked.now + timedelta(seconds=seconds))


def _is_lease(at: datetime, leases: Collection[str]) -> bool:
    return not leases or at.isoformat() in leases


def end_lease(connection: Connection, amphora: records.Amphora, silent: float, leases: Collection[str] = ()) -> bool:
    """End a heartbeat lease, so that Octavia's health manager replaces the amphora at once.

    :param silent: age of the heartbeat that replaces the lease, in seconds
    :param leases: as in :func:`lease`
    :return: whether a lease was running
    :raises Conflict: the amphora's row is gone or names another load balancer
    """
    locked = _lock(connection, amphora)
    if locked.status not in records.SERVING or not _is_lease_ahead(locked, leases):
        return False
    return _write_heartbeat(connection, amphora, locked.now - timedelta(seconds=silent))


def _write_heartbeat(connection: Connection, amphora: records.Amphora, at: datetime) -> bool:
    changed = connection.execute(
        sa.update(tables.amphora_health)
        .where(_HEALTH.amphora_id == amphora.id, _HEALTH.busy.is_(False))
        .values(last_update=at)
    )
    return changed.rowcount == 1


def let_go(connection: Connection, amphora: records.Amphora, leases: Collection[str] = ()) -> records.Amphora:
    """Remove the server from an amphora's row, so that the next failover does not delete the server.

    Set the amphora to ERROR without ``compute_id``, and its heartbeat record to ``busy``. The failover then asks Nova to delete
    a server "None", which Nova does not know, and continues.

    :param amphora: the amphora's row that proved the failure: ALLOCATED, FAILOVER_STOPPED or ERROR, with a server
    :param leases: as in :func:`lease`
    :return: the new row; ``updated_at`` is one second in the past, so that every later write has another time
    :raises InFlight: Octavia works on the load balancer
    :raises Conflict: the amphora's row has changed, or a serving amphora's heartbeat record has no running lease
    """
    locked = _lock(connection, amphora)
    _check(locked, amphora)
    if amphora.status in records.SERVING and not _is_under_lease(locked, leases):
        raise Conflict(f"amphora {amphora.id} sends heartbeats again, or its lease has expired")
    at = locked.now.replace(microsecond=0) - timedelta(seconds=1)
    changed = connection.execute(
        sa.update(tables.amphora)
        .where(
            _AMPHORA.id == amphora.id,
            _AMPHORA.compute_id == amphora.compute_id,
            _AMPHORA.status.in_((*records.SERVING, "ERROR")),
        )
        .values(status="ERROR", compute_id=None, updated_at=at)
    )
    if changed.rowcount != 1:
        raise Conflict(f"amphora {amphora.id} has changed")
    connection.execute(sa.update(tables.amphora_health).where(_HEALTH.amphora_id == amphora.id).values(busy=True))
    return replace(amphora, status="ERROR", compute_id=None, updated_at=at)


def _is_under_lease(locked: _Locked, leases: Collection[str]) -> bool:
    return locked.last_update is None or _is_lease_ahead(locked, leases)


def _is_lease_ahead(locked: _Locked, leases: Collection[str]) -> bool:
    at = locked.last_update
    return at is not None and at > locked.now + timedelta(seconds=records.SKEW) and _is_lease(at, leases)


def take_back(
    connection: Connection, amphora: records.Amphora, silent: float, forgotten: records.Amphora | None = None
) -> bool:
    """Write the server into the amphora's row again, because Octavia refused the failover after :func:`let_go`.

    If the row was ALLOCATED or FAILOVER_STOPPED, also write an old heartbeat and reset ``busy``. Then Octavia's health manager
    replaces the amphora.

    :param amphora: the amphora's row before :func:`let_go`
    :param silent: age of the old heartbeat, in seconds
    :param forgotten: the amphora's row after :func:`let_go`; None when an earlier heal wrote that row
    :return: False, without a write, when Octavia works on the load balancer, or the rows have changed since :func:`let_go`
    """
    locked = _lock(connection, amphora)
    if locked.lb_status not in records.IDLE or locked.status != "ERROR" or locked.compute_id is not None:
        return False
    if not (_is_before_requests(locked) if forgotten is None else locked.updated_at == forgotten.updated_at):
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


def _is_before_requests(locked: _Locked) -> bool:
    """Return whether no failover has failed since :func:`let_go` wrote the amphora's row.

    A failed failover writes ERROR into the load balancer's row. Otherwise the load balancer is ACTIVE, or its row is older than
    the amphora's row.
    """
    if locked.lb_status == "ACTIVE" or locked.lb_updated_at is None:
        return True
    return locked.updated_at is not None and locked.lb_updated_at < locked.updated_at


def _is_older(locked: _Locked) -> bool:
    if locked.updated_at is None:
        return True
    return locked.lb_updated_at is not None and locked.updated_at < locked.lb_updated_at


def end_lost_request(connection: Connection, amphora: records.Amphora) -> bool:
    """Set a load balancer from ERROR to ACTIVE if stackmend's failover request was lost between Octavia's API and its workers.

    If the API cannot send a request, it sets ERROR, but answers with success (``octavia/api/v2/controllers/amphora.py``). A
    changed amphora row shows that a worker got the request.

    :param amphora: the amphora's row when Octavia accepted the request; its load balancer was ACTIVE
    :return: whether the request was lost
    :raises Conflict: the amphora's row is gone or names another load balancer
    """
    locked = _lock(connection, amphora)
    found = (locked.lb_status, locked.status, locked.compute_id, locked.updated_at)
    if found != ("ERROR", amphora.status, amphora.compute_id, amphora.updated_at) or not _is_older(locked):
        return False
    connection.execute(
        sa.update(tables.load_balancer)
        .where(_LB.id == amphora.load_balancer_id, _LB.provisioning_status == "ERROR")
        .values(provisioning_status="ACTIVE", updated_at=utcnow())
    )
    return True


def detach_deleted(connection: Connection, amphora: str, load_balancer: str) -> bool:
    """Detach a DELETED amphora's row from its load balancer.

    From Octavia 16 on, the attached row would make the load balancer's next update fail.

    :return: whether this call detached the row
    :raises InFlight: Octavia works on the load balancer
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


def erring(balancer: records.LoadBalancer, at: datetime | sa.ColumnElement[datetime]) -> sa.Update:
    """Return the statement that sets a load balancer from PENDING_* to ERROR if its row is unchanged.

    :param balancer: the row as the proof read it
    :param at: the new ``updated_at``, by the database's clock
    """
    same_time = _LB.updated_at.is_(None) if balancer.updated_at is None else _LB.updated_at == balancer.updated_at
    return (
        sa.update(tables.load_balancer)
        .where(_LB.id == balancer.id, _LB.provisioning_status == balancer.status, same_time)
        .values(provisioning_status="ERROR", updated_at=at)
    )


def mark_error(connection: Connection, balancer: records.LoadBalancer, at: datetime) -> None:
    """Set a load balancer from PENDING_* to ERROR, so that Octavia accepts a failover or its deletion.

    :param balancer, at: as in :func:`erring`
    :raises Conflict: the load balancer's row has changed
    """
    if connection.execute(erring(balancer, at)).rowcount != 1:
        raise Conflict(f"load balancer {balancer.id} is no longer {balancer.status} since {balancer.updated_at}")


def forget_server(connection: Connection, amphora: records.Amphora) -> None:
    """Set a preserved amphora's row to DELETED without ``compute_id``. Delete its heartbeat record and member port rows.

    :param amphora: the amphora's row as read: in ERROR, on no load balancer, with a server
    :raises Conflict: the amphora's row has changed
    """
    _delete(connection, amphora, compute_id=None)


def mark_deleted(connection: Connection, amphora: records.Amphora) -> None:
    """Set a removed amphora's row to DELETED. Delete its heartbeat record and member port rows.

    :param amphora: the amphora's row as read: not DELETED, on no load balancer
    :raises Conflict: the amphora's row has changed
    """
    _delete(connection, amphora, compute_id=amphora.compute_id)


def _delete(connection: Connection, amphora: records.Amphora, compute_id: str | None) -> None:
    same_server = (
        _AMPHORA.compute_id.is_(None) if amphora.compute_id is None else _AMPHORA.compute_id == amphora.compute_id
    )
    connection.execute(sa.delete(tables.amphora_health).where(_HEALTH.amphora_id == amphora.id))
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
    if queries.has_member_ports(connection):
        connection.execute(
            sa.delete(tables.amphora_member_port).where(tables.amphora_member_port.c.amphora_id == amphora.id)
        )


def forget_health(connection: Connection, amphora: str, older_than: float) -> bool:
    """Delete the heartbeat record of an amphora that is DELETED or has no row. Octavia would count this amphora as silent.

    :param older_than: required seconds of silence; a fresh heartbeat proves that the amphora lives
    :return: whether the record was deleted
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
