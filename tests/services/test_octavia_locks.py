"""Writes into Octavia's database lock rows in the order of Octavia's health manager, so that no deadlock is possible."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.exc import OperationalError

from handlers.octavia import changes, tables
from handlers.octavia.records import Amphora

BALANCER, AMPHORA, SERVER = "balancer", "amphora", "server"
LATER = datetime.now(UTC).replace(microsecond=0, tzinfo=None) + timedelta(hours=1)

#: the order of the health manager (``octavia/controller/healthmanager/health_manager.py``)
ROWS = (
    sa.select(tables.amphora_health.c.busy).where(tables.amphora_health.c.amphora_id == AMPHORA),
    sa.select(tables.load_balancer.c.id).where(tables.load_balancer.c.id == BALANCER),
    sa.select(tables.amphora.c.id).where(tables.amphora.c.id == AMPHORA),
)

Write = Callable[[Connection], object]


def amphora(status: str = "ALLOCATED", balancer: str | None = BALANCER, server: str | None = SERVER) -> Amphora:
    return Amphora(AMPHORA, balancer, server, status, "STANDALONE", None, None, None, None, None, None, 0.0)


#: each write that locks several rows, with the row that it finds
WRITES: dict[str, tuple[Amphora, Write]] = {
    "lease": (amphora(), lambda connection: changes.lease(connection, amphora(), 60)),
    "end_lease": (amphora(), lambda connection: changes.end_lease(connection, amphora(), 120.0)),
    "let_go": (amphora(), lambda connection: changes.let_go(connection, amphora())),
    "take_back": (
        amphora("ERROR", server=None),
        lambda connection: changes.take_back(connection, amphora(), 120.0),
    ),
    "end_lost_request": (amphora(), lambda connection: changes.end_lost_request(connection, amphora())),
    "detach_deleted": (amphora("DELETED"), lambda connection: changes.detach_deleted(connection, AMPHORA, BALANCER)),
    "forget_server": (
        amphora("ERROR", None),
        lambda connection: changes.forget_server(connection, amphora("ERROR", None)),
    ),
    "mark_deleted": (
        amphora("ERROR", None),
        lambda connection: changes.mark_deleted(connection, amphora("ERROR", None)),
    ),
    "forget_health": (amphora("DELETED", None), lambda connection: changes.forget_health(connection, AMPHORA, -1e9)),
}


@pytest.fixture
def engine(mariadb_url: str) -> Iterator[sa.Engine]:
    engine = sa.create_engine(mariadb_url)
    tables.octavia.create_all(engine)
    yield engine
    engine.dispose()


def put(engine: sa.Engine, row: Amphora) -> None:
    """Replace all rows by this amphora, its heartbeat record and its load balancer."""
    with engine.begin() as connection:
        for table in (tables.amphora_health, tables.amphora, tables.load_balancer):
            connection.execute(sa.delete(table))
        balancer = {"id": BALANCER, "provisioning_status": "ACTIVE", "operating_status": "ONLINE", "enabled": True}
        connection.execute(sa.insert(tables.load_balancer).values(balancer))
        values = {"id": row.id, "status": row.status, "load_balancer_id": row.load_balancer_id, "cert_busy": False}
        connection.execute(sa.insert(tables.amphora).values(compute_id=row.compute_id, **values))
        health = {"amphora_id": AMPHORA, "last_update": LATER, "busy": False}
        connection.execute(sa.insert(tables.amphora_health).values(health))


def lock(connection: Connection, query: sa.Select[Any]) -> bool:
    """Lock the row of a query; return whether it was free."""
    try:
        connection.execute(query.with_for_update(nowait=True))
    except OperationalError:
        return False
    return True


def test_a_write_that_waits_for_one_row_holds_no_later_row(engine: sa.Engine) -> None:
    held_too_early, waited = [], set()
    for name, (row, write) in WRITES.items():
        put(engine, row)
        for number, held in enumerate(ROWS):
            with engine.connect() as octavia, engine.connect() as ours:
                octavia.execute(held.with_for_update())
                # A statement that would wait for a lock fails at once, and the transaction keeps the locks that it has.
                ours.exec_driver_sql("SET SESSION innodb_lock_wait_timeout = 0")
                try:
                    write(ours)
                except OperationalError:
                    waited.add(name)
                    held_too_early += [name for later in ROWS[number + 1 :] if not lock(octavia, later)]
                ours.rollback()
    assert held_too_early == []
    assert waited == set(WRITES), "a write waited for no row"
