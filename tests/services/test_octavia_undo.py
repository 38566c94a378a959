"""The statements that reverse heals of Octavia, on the databases that Octavia uses."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from handlers.access.database import utcnow
from handlers.access.sql_text import Writing, as_typed
from handlers.base import Conflict
from handlers.octavia import changes, queries, tables
from handlers.octavia.certificates import queries as certificates
from handlers.octavia.certificates.rules import Certificate
from handlers.octavia.failover.heartbeats import Heard
from handlers.octavia.failover.steps import Situation, Step, StepName
from handlers.octavia.failover.undo import undo_of
from handlers.octavia.records import Amphora, LoadBalancer
from handlers.octavia.reversal import Typed, attaching, restoring_row, to_pending

BALANCER, AMPHORA, SERVER = "balancer", "amphora", "server"
NOW = datetime(2030, 1, 1, 12, 0, 0, tzinfo=UTC)
LATER = datetime(2030, 1, 1, 12, 2, 0)
SITUATION = Situation(
    amphora=Amphora(
        AMPHORA, BALANCER, SERVER, "ALLOCATED", "STANDALONE", None, None, None, None, None, updated_at=None, age=0.0
    ),
    balancer=LoadBalancer(BALANCER, None, None, "ACTIVE", "SINGLE", None, "amphora", updated_at=None, age=0.0),
    now=NOW,
    heard=Heard(1, 1),
)


@pytest.fixture(params=["mariadb_url", "postgresql_url"])
def engine(request: pytest.FixtureRequest) -> sa.Engine:
    """Return a database after the steps lease and let-go."""
    engine = sa.create_engine(request.getfixturevalue(request.param))
    tables.octavia.create_all(engine)
    with engine.begin() as connection:
        balancer = {"id": BALANCER, "provisioning_status": "ACTIVE", "operating_status": "ONLINE", "enabled": True}
        connection.execute(sa.insert(tables.load_balancer).values(balancer))
        row = {"id": AMPHORA, "status": "ERROR", "load_balancer_id": BALANCER, "cert_busy": False}
        connection.execute(sa.insert(tables.amphora).values(row))
        health = {"amphora_id": AMPHORA, "last_update": LATER, "busy": True}
        connection.execute(sa.insert(tables.amphora_health).values(health))
    return engine


def run(engine: sa.Engine, statements: str) -> None:
    with engine.begin() as connection:
        for statement in statements.split("; "):
            connection.exec_driver_sql(statement)


def typed_on(engine: sa.Engine) -> Typed:
    def typed(statement: Writing) -> str:
        return " ".join(as_typed(engine.dialect, statement).split()).removesuffix(";")

    return typed


def undo(engine: sa.Engine, name: StepName) -> str:
    return undo_of(SITUATION, Step(name, ""), typed_on(engine))


def beat(engine: sa.Engine, ahead: float) -> datetime:
    """Write a heartbeat, so many seconds ahead of the database's clock; return its time as the database keeps it."""
    column = tables.amphora_health.c.last_update
    with engine.begin() as connection:
        now = connection.execute(sa.select(queries.NOW)).scalar_one()
        at = now.replace(microsecond=0) + timedelta(seconds=ahead)
        connection.execute(sa.update(tables.amphora_health).values(last_update=at))
        kept: datetime = connection.execute(sa.select(column)).scalar_one()
    return kept


def silence(engine: sa.Engine) -> float:
    """Return the seconds since the last heartbeat."""
    with engine.connect() as connection:
        now, at = connection.execute(sa.select(queries.NOW, tables.amphora_health.c.last_update)).one()
    return float((now - at).total_seconds())


def test_the_undo_of_a_lease_ends_the_lease(engine: sa.Engine) -> None:
    beat(engine, ahead=600)
    run(engine, undo(engine, StepName.LEASE).partition("or: ")[2])
    assert 0 <= silence(engine) < 60, "the amphora has a whole heartbeat_timeout to beat"


def test_a_late_undo_of_a_lease_leaves_an_amphora_that_lives(engine: sa.Engine) -> None:
    at = beat(engine, ahead=-2)
    run(engine, undo(engine, StepName.LEASE).partition("or: ")[2])
    with engine.connect() as connection:
        assert connection.execute(sa.select(tables.amphora_health.c.last_update)).scalar_one() == at


def test_the_undo_of_let_go_restores_server_and_row(engine: sa.Engine) -> None:
    run(engine, undo(engine, StepName.LET_GO))
    with engine.connect() as connection:
        row = connection.execute(sa.select(tables.amphora.c.status, tables.amphora.c.compute_id)).one()
        busy = connection.execute(sa.select(tables.amphora_health.c.busy)).scalar_one()
    assert (row.status, row.compute_id, busy) == ("ALLOCATED", SERVER, False)


def set_values(engine: sa.Engine, table: sa.Table, **values: object) -> None:
    with engine.begin() as connection:
        connection.execute(sa.update(table).values(**values))


def value(engine: sa.Engine, column: sa.Column[str]) -> str | None:
    with engine.connect() as connection:
        return connection.execute(sa.select(column)).scalar_one()


def test_the_undo_of_a_detachment_attaches_a_deleted_row_only(engine: sa.Engine) -> None:
    statement = attaching([AMPHORA, "another"], BALANCER, typed_on(engine))
    set_values(engine, tables.amphora, load_balancer_id=None)
    run(engine, statement)
    assert value(engine, tables.amphora.c.load_balancer_id) is None
    set_values(engine, tables.amphora, status="DELETED")
    run(engine, statement)
    assert value(engine, tables.amphora.c.load_balancer_id) == BALANCER


def test_the_undo_of_a_removal_restores_the_status_of_a_deleted_row_only(engine: sa.Engine) -> None:
    statement = restoring_row(AMPHORA, "READY", typed_on(engine))
    set_values(engine, tables.amphora, status="DELETED")
    run(engine, statement)
    assert value(engine, tables.amphora.c.status) == "DELETED", "it is on a load balancer"
    set_values(engine, tables.amphora, load_balancer_id=None)
    run(engine, statement)
    assert value(engine, tables.amphora.c.status) == "READY"


@pytest.mark.parametrize("known", [True, False], ids=["after the heal", "before it"])
def test_the_undo_of_a_freeing_compares_the_time_of_the_write(engine: sa.Engine, known: bool) -> None:
    stuck = replace(SITUATION.balancer, status="PENDING_UPDATE", updated_at=NOW.replace(tzinfo=None))
    set_values(engine, tables.load_balancer, provisioning_status=stuck.status, updated_at=stuck.updated_at)
    with engine.begin() as connection:
        changes.mark_error(connection, stuck, LATER)
    # as the metadata of a server have it
    statement = to_pending(stuck, LATER if known else None, typed_on(engine)).replace("TIME", LATER.isoformat())
    set_values(engine, tables.load_balancer, updated_at=LATER + timedelta(seconds=1))
    run(engine, statement)
    assert value(engine, tables.load_balancer.c.provisioning_status) == "ERROR"
    set_values(engine, tables.load_balancer, updated_at=LATER)
    run(engine, statement)
    assert value(engine, tables.load_balancer.c.provisioning_status) == "PENDING_UPDATE"


@pytest.mark.parametrize("updated_at", [None, NOW.replace(tzinfo=None)])
def test_the_statement_for_an_operator_sets_error_only_if_the_row_is_unchanged(
    engine: sa.Engine, updated_at: datetime | None
) -> None:
    stuck = replace(SITUATION.balancer, status="PENDING_CREATE", updated_at=updated_at)
    statement = typed_on(engine)(changes.erring(stuck, utcnow()))
    set_values(engine, tables.load_balancer, provisioning_status=stuck.status, updated_at=LATER)
    run(engine, statement)
    assert value(engine, tables.load_balancer.c.provisioning_status) == "PENDING_CREATE"
    set_values(engine, tables.load_balancer, updated_at=updated_at)
    run(engine, statement)
    assert value(engine, tables.load_balancer.c.provisioning_status) == "ERROR"


@pytest.fixture
def certificate(engine: sa.Engine) -> Certificate:
    """Return a certificate whose rotation died."""
    set_values(
        engine,
        tables.load_balancer,
        provider="amphora",
        created_at=NOW.replace(tzinfo=None) - timedelta(days=9000),
    )
    set_values(
        engine,
        tables.amphora,
        status="ALLOCATED",
        cert_busy=True,
        cert_expiration=LATER,
        created_at=NOW.replace(tzinfo=None) - timedelta(days=9000),
        updated_at=NOW.replace(tzinfo=None) - timedelta(days=8000),
    )
    with engine.begin() as connection:
        (found,) = certificates.certificates(connection)
        assert found == replace(
            certificates.certificate(connection, AMPHORA) or found, left=found.left, quiet=found.quiet
        )
    return found


def test_a_released_certificate_is_busy_again_after_the_undo(engine: sa.Engine, certificate: Certificate) -> None:
    with engine.begin() as connection:
        certificates.release(connection, certificate, utcnow())
    busy = tables.amphora.c.cert_busy
    assert not value(engine, busy)
    undo_of_release = typed_on(engine)(certificates.taking_back(certificate))
    set_values(engine, tables.amphora, cert_expiration=LATER + timedelta(days=30))
    run(engine, undo_of_release)
    assert not value(engine, busy), "Octavia has rotated it"
    set_values(engine, tables.amphora, cert_expiration=LATER)
    run(engine, undo_of_release)
    assert value(engine, busy)


@pytest.mark.parametrize("change", [{"cert_busy": False}, {"cert_expiration": NOW}, {"updated_at": NOW}])
def test_a_certificate_that_has_changed_is_not_released(
    engine: sa.Engine, certificate: Certificate, change: dict[str, object]
) -> None:
    naive = {name: one.replace(tzinfo=None) if isinstance(one, datetime) else one for name, one in change.items()}
    set_values(engine, tables.amphora, **naive)
    with pytest.raises(Conflict), engine.begin() as connection:
        certificates.release(connection, certificate, utcnow())


def test_a_round_of_rotations_shows_in_the_rows(engine: sa.Engine, certificate: Certificate) -> None:
    def rotated() -> str | None:
        with engine.begin() as connection:
            return certificates.rotated_lately(connection, "another", 3600.0, 1_209_600.0)

    assert certificate.busy
    assert rotated() is None
    with engine.begin() as connection:
        connection.execute(sa.update(tables.amphora).values(updated_at=utcnow()))
    assert rotated() == AMPHORA
