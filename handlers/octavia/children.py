"""Listeners, pools and their parts that stay in PENDING_* under an ACTIVE load balancer.

Octavia's API sets an object and its load balancer to PENDING_* in one transaction, and a flow sets both back. So an object in
PENDING_* under an ACTIVE load balancer has lost its flow.

A failover writes all objects into the new amphorae, except objects in PENDING_DELETE. Then the failover sets all objects to
ACTIVE, even an object that the owner deleted. But in Octavia 10 to 12, a pool without a listener stays in PENDING_*, even after
more failovers. So stackmend requests only one failover for an object.

Sources: ``octavia/controller/worker/v2/tasks/database_tasks.py`` (MarkLBActiveInDB, mark_subobjects),
``octavia/common/jinja/haproxy/combined_listeners/jinja_cfg.py``, ``octavia/api/v2/controllers``; commit 3a157c021.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from handlers.octavia import queries, rebuild, tables

_LISTED = 5


class Kind(StrEnum):
    LISTENER = "listener"
    POOL = "pool"
    MEMBER = "member"
    HEALTH_MONITOR = "healthmonitor"
    L7POLICY = "l7policy"
    L7RULE = "l7rule"


#: each table, and its joined parents with the column of the load balancer
_LISTENER, _POOL = tables.listener.c.load_balancer_id, tables.pool.c.load_balancer_id
_SOURCES: dict[Kind, tuple[sa.Table, sa.FromClause, sa.Column[Any]]] = {
    Kind.LISTENER: (tables.listener, tables.listener, _LISTENER),
    Kind.POOL: (tables.pool, tables.pool, _POOL),
    Kind.MEMBER: (tables.member, tables.member.join(tables.pool), _POOL),
    Kind.HEALTH_MONITOR: (tables.health_monitor, tables.health_monitor.join(tables.pool), _POOL),
    Kind.L7POLICY: (tables.l7policy, tables.l7policy.join(tables.listener), _LISTENER),
    Kind.L7RULE: (tables.l7rule, tables.l7rule.join(tables.l7policy).join(tables.listener), _LISTENER),
}


@dataclass(frozen=True, slots=True)
class Child:
    """A listener, a pool, or a part of one: member, health monitor, L7 policy or L7 rule.

    :param age: seconds since the object's row was last written
    """

    kind: Kind
    id: str
    load_balancer_id: str
    status: str
    updated_at: datetime | None
    age: float

    def __str__(self) -> str:
        return f"{self.kind} {self.id}"


def pending(connection: Connection) -> list[Child]:
    return [child for kind in Kind for child in _pending(connection, kind)]


def pending_of(connection: Connection, load_balancer: str) -> list[Child]:
    return [child for kind in Kind for child in _pending(connection, kind, _SOURCES[kind][2] == load_balancer)]


def _pending(connection: Connection, kind: Kind, *conditions: sa.ColumnElement[bool]) -> Iterator[Child]:
    table, source, load_balancer = _SOURCES[kind]
    c = table.c
    query = (
        sa.select(queries.NOW, c.id, load_balancer.label("owner"), c.provisioning_status, c.created_at, c.updated_at)
        .select_from(source)
        .where(c.provisioning_status.startswith("PENDING_"), *conditions)
        .order_by(c.id)
    )
    for row in connection.execute(query):
        yield Child(kind, row.id, row.owner, row.provisioning_status, row.updated_at, queries.age(row))


def names(children: Sequence[Child]) -> str:
    listed = ", ".join(f"{child} ({child.status})" for child in children[:_LISTED])
    return listed if len(children) <= _LISTED else f"{listed} and {len(children) - _LISTED} others"


def deleted(children: Iterable[Child]) -> str:
    """Return a refusal if a failover would restore a child that its owner deleted; otherwise an empty text."""
    found = [str(child) for child in children if child.status == "PENDING_DELETE"]
    return f"its owner deleted {found[0]}, and a failover restores it: delete it again" if found else ""


def obstacle(remains: rebuild.Remains, children: Iterable[Child]) -> str:
    """Return why stackmend must not fail over the children's load balancer; empty without a reason."""
    if rebuild.attempts(remains.security_group, {child.id for child in children}, remains.balancer):
        return "a failover did not help: examine the logs of octavia-worker"
    return rebuild.obstacle(remains)
