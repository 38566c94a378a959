"""Builds the undo, an SQL statement, of writes that several handlers make.

A handler records the undo before the write. The statement changes a row only while the row is as the heal left it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from datetime import datetime

import sqlalchemy as sa

from handlers.access.sql_text import Writing
from handlers.octavia import records, tables

#: writes a statement as an operator types it, on one line (:meth:`handlers.octavia.database.OctaviaDatabase.typed`)
Typed = Callable[[Writing], str]

#: the undo of a failover
NO_RETURN = "none: nothing takes a failover back, and the next inspection shows whether it succeeded"

_LB = tables.load_balancer.c
_AMPHORA = tables.amphora.c


def attaching(amphorae: Collection[str], balancer: str, typed: Typed) -> str:
    """Return the SQL statement that undoes :func:`handlers.octavia.changes.detach_deleted`."""
    detached = (_AMPHORA.id.in_(sorted(amphorae)), _AMPHORA.status == "DELETED", _AMPHORA.load_balancer_id.is_(None))
    return typed(sa.update(tables.amphora).where(*detached).values(load_balancer_id=balancer))


def restoring_row(amphora: str, status: str, typed: Typed) -> str:
    """Return the SQL statement that undoes :func:`handlers.octavia.changes.mark_deleted`.

    The heartbeat record and the member port rows stay deleted.
    """
    removed = (_AMPHORA.id == amphora, _AMPHORA.status == "DELETED", _AMPHORA.load_balancer_id.is_(None))
    return typed(sa.update(tables.amphora).where(*removed).values(status=status))


def to_pending(balancer: records.LoadBalancer, at: datetime | None, typed: Typed) -> str:
    """Return the SQL statement that undoes :func:`handlers.octavia.changes.mark_error`.

    :param balancer: the row as the proof read it
    :param at: the time that the heal wrote; None before the write: the statement then has the word TIME
    """
    wrote: sa.ColumnElement[datetime] = (
        sa.literal_column("'TIME'") if at is None else sa.literal(at, _LB.updated_at.type)
    )
    freed = (_LB.id == balancer.id, _LB.provisioning_status == "ERROR", _LB.updated_at == wrote)
    return typed(sa.update(tables.load_balancer).where(*freed).values(provisioning_status=balancer.status))
