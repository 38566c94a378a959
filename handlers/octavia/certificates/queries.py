from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from handlers.base import Conflict
from handlers.octavia import queries, records, tables
from handlers.octavia.certificates.rules import Certificate

_AMPHORA = tables.amphora.c
_LB = tables.load_balancer.c

_COLUMNS = (
    queries.NOW,
    _AMPHORA.id,
    _AMPHORA.compute_id,
    _AMPHORA.status,
    _AMPHORA.cert_expiration,
    _AMPHORA.cert_busy,
    _AMPHORA.created_at,
    _AMPHORA.updated_at,
    _LB.id.label("load_balancer"),
    _LB.provisioning_status,
)

#: amphorae that Octavia made, on a load balancer; another provider's device has no certificate
_OURS = (
    _AMPHORA.status.in_((*records.SERVING, "ERROR")),
    _AMPHORA.cert_expiration.is_not(None),
    _LB.provider.in_(records.AMPHORA_PROVIDERS),
)


def _certificate(row: Any) -> Certificate:
    return Certificate(
        amphora=row.id,
        server=row.compute_id,
        status=row.status,
        end=row.cert_expiration,
        left=(row.cert_expiration - row.now).total_seconds(),
        busy=bool(row.cert_busy),
        updated_at=row.updated_at,
        quiet=queries.age(row),
        load_balancer=row.load_balancer,
        load_balancer_status=row.provisioning_status,
    )


def certificates(connection: Connection) -> list[Certificate]:
    """Return the certificates of all amphorae that are on a load balancer, and serve or are in ERROR."""
    query = sa.select(*_COLUMNS).select_from(tables.amphora.join(tables.load_balancer)).where(*_OURS)
    return [_certificate(row) for row in connection.execute(query.order_by(_AMPHORA.id))]


def certificate(connection: Connection, amphora: str) -> Certificate | None:
    query = sa.select(*_COLUMNS).select_from(tables.amphora.join(tables.load_balancer))
    row = connection.execute(query.where(_AMPHORA.id == amphora, *_OURS)).first()
    return None if row is None else _certificate(row)


def rotated_lately(connection: Connection, but: str, seconds: float, buffer: float) -> str | None:
    """Return the id of an amphora whose certificate Octavia began or ended to rotate in the last ``seconds``; None without one.

    A younger amphora counts only with ``cert_busy``, because Octavia writes its row often while it builds the amphora.

    :param but: the id of an amphora that does not count
    :param buffer: as in :class:`handlers.octavia.certificates.rotation.Rotation`
    """
    now: datetime = connection.execute(sa.select(queries.NOW)).scalar_one()
    since = now - timedelta(seconds=seconds)
    renewed = sa.and_(
        _AMPHORA.created_at <= since,
        sa.or_(_AMPHORA.status == "ERROR", _AMPHORA.cert_expiration >= now + timedelta(seconds=buffer)),
    )
    query = sa.select(_AMPHORA.id).where(
        _AMPHORA.id != but,
        sa.func.coalesce(_AMPHORA.updated_at, _AMPHORA.created_at) > since,
        sa.or_(_AMPHORA.cert_busy.is_(True), renewed),
        _AMPHORA.status.in_((*records.SERVING, "ERROR")),
    )
    return connection.execute(query.order_by(_AMPHORA.id).limit(1)).scalar()


def releasing(certificate: Certificate, at: datetime | sa.ColumnElement[datetime]) -> sa.Update:
    """Return the statement that resets ``cert_busy`` if the amphora's row is unchanged.

    :param at: the new ``updated_at``
    """
    same_time = (
        _AMPHORA.updated_at.is_(None)
        if certificate.updated_at is None
        else _AMPHORA.updated_at == certificate.updated_at
    )
    return (
        sa.update(tables.amphora)
        .where(
            _AMPHORA.id == certificate.amphora,
            _AMPHORA.status == certificate.status,
            _AMPHORA.cert_busy.is_(True),
            _AMPHORA.cert_expiration == certificate.end,
            same_time,
        )
        .values(cert_busy=False, updated_at=at)
    )


def taking_back(certificate: Certificate) -> sa.Update:
    """Return the statement that undoes :func:`releasing`.

    It changes nothing once Octavia has set ``cert_busy`` or rotated the certificate.
    """
    released = (
        _AMPHORA.id == certificate.amphora,
        _AMPHORA.status == certificate.status,
        _AMPHORA.cert_busy.is_(False),
        _AMPHORA.cert_expiration == certificate.end,
    )
    return sa.update(tables.amphora).where(*released).values(cert_busy=True)


def release(connection: Connection, certificate: Certificate, at: datetime | sa.ColumnElement[datetime]) -> None:
    """:raises Conflict: the amphora's row has changed"""
    if connection.execute(releasing(certificate, at)).rowcount != 1:
        raise Conflict(f"amphora {certificate.amphora} has changed")
