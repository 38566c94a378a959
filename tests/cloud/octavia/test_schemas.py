"""Octavia's schemas from release 10 (Yoga) to 19, as Octavia's own migrations make them on MariaDB: stackmend knows each.

The migrations are those of the newest release, which hold the whole chain. MariaDB refuses a row that lacks a required column.
"""

from __future__ import annotations

import subprocess
import uuid
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import sqlalchemy as sa

from handlers.octavia import changes, children, queries, records, revisions, tables
from handlers.octavia.database import OctaviaDatabase
from handlers.octavia.failover import queries as failover_queries
from tests.cloud.packages import Packages
from tests.servers.mariadb import MariaDB
from tests.servers.server import clean_environment

#: the last revision of each release. Source: ``octavia/db/migration/alembic_migrations/versions`` of its newest tag
RELEASES = {
    10: "6ac558d7fc21",
    11: "0995c26fc506",
    12: "0995c26fc506",
    13: "632152d2d32e",
    14: "db2a73e82626",
    15: "db2a73e82626",
    16: "fabf4983846b",
    17: "fabf4983846b",
    18: "fabf4983846b",
    19: "fabf4983846b",
}
#: known revisions, the oldest first
STEPS = (
    "6ac558d7fc21",
    "31f7653ded67",
    "0995c26fc506",
    "632152d2d32e",
    "db2a73e82626",
    "3097e55493ae",
    "8db7a6443785",
    "fabf4983846b",
)


@pytest.fixture(scope="module")
def migrate(tmp_path_factory: pytest.TempPathFactory, mariadb: MariaDB) -> partial[OctaviaDatabase]:
    """Return a function that migrates one database further, up to a revision."""
    packages = Packages()
    packages.install()
    mariadb.create_database("octavia_schemas")
    file = tmp_path_factory.mktemp("octavia") / "octavia.conf"
    file.write_text(f"[database]\nconnection = {mariadb.url('octavia_schemas')}\n")
    return partial(_migrated, packages.bin / "octavia-db-manage", file, mariadb.url("octavia_schemas"))


def _migrated(program: Path, file: Path, url: str, revision: str) -> OctaviaDatabase:
    command = [str(program), "--config-file", str(file), "upgrade", revision]
    done = subprocess.run(command, env=clean_environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return OctaviaDatabase(url)


@pytest.fixture(scope="module", params=STEPS)
def database(request: pytest.FixtureRequest, migrate: partial[OctaviaDatabase]) -> Iterator[OctaviaDatabase]:
    database = migrate(revision=request.param)
    yield database
    database.close()


def add(connection: sa.Connection) -> records.Amphora:
    """Add an ACTIVE load balancer with an amphora, which was silent for an hour."""
    balancer, amphora = str(uuid.uuid4()), str(uuid.uuid4())
    connection.execute(
        sa.insert(tables.load_balancer).values(
            id=balancer,
            project_id="p",
            name="lb",
            provisioning_status="ACTIVE",
            operating_status="ONLINE",
            enabled=True,
            topology="SINGLE",
            provider="amphora",
        )
    )
    connection.execute(
        sa.insert(tables.amphora).values(
            id=amphora,
            compute_id=str(uuid.uuid4()),
            status="ALLOCATED",
            load_balancer_id=balancer,
            role="STANDALONE",
            cert_busy=False,
        )
    )
    row = queries.amphora(connection, amphora)
    assert row is not None
    return row


def silence(connection: sa.Connection, amphora: records.Amphora) -> None:
    now = failover_queries.now(connection)
    values = {"amphora_id": amphora.id, "last_update": now, "busy": False}
    connection.execute(sa.insert(tables.amphora_health).values(values))


def test_the_releases_and_the_known_revisions_are_the_same() -> None:
    assert set(STEPS) == revisions.KNOWN
    assert set(RELEASES.values()) <= revisions.KNOWN


def test_the_schema_is_known_and_has_every_table_and_column(database: OctaviaDatabase) -> None:
    database.require_known_schema()
    assert list(database.warnings()) == []


def test_every_statement_of_a_recovery_runs(database: OctaviaDatabase) -> None:
    amphora = database.run(add)
    database.run(partial(silence, amphora=amphora))
    assert amphora.id in {row.id for row in database.run(failover_queries.watch)}
    assert amphora.load_balancer_id in {row.id for row in database.run(queries.load_balancers)}
    database.run(children.pending)

    assert database.run(partial(changes.lease, amphora=amphora, seconds=120))
    forgotten = database.run(partial(changes.let_go, amphora=amphora))
    assert database.run(partial(queries.amphora, identity=amphora.id)) is not None
    assert not database.run(partial(changes.end_lost_request, amphora=forgotten))
    assert database.run(partial(changes.take_back, amphora=amphora, silent=120, forgotten=forgotten))
    after = database.run(partial(queries.amphora, identity=amphora.id))
    assert after is not None
    assert (after.status, after.compute_id) == (amphora.status, amphora.compute_id)

    def replaced(connection: sa.Connection) -> None:
        row = tables.amphora.c
        connection.execute(sa.update(tables.amphora).where(row.id == amphora.id).values(status="DELETED"))

    database.run(replaced)
    assert database.run(
        partial(changes.detach_deleted, amphora=amphora.id, load_balancer=amphora.load_balancer_id or "")
    )
    assert database.run(partial(changes.forget_health, amphora=amphora.id, older_than=60))
