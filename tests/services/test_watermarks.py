"""Watermarks of a cell on real MariaDB and PostgreSQL: a restored dump is a fall; archive, purge and offsets are none."""

from __future__ import annotations

import subprocess
import uuid
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import sqlalchemy as sa

from consumer.engine.guard import falls
from handlers.access.database import Database
from handlers.nova import tables
from handlers.nova.watermarks import cell_watermark
from tests.servers.mariadb import MariaDB
from tests.services.nova import database, url

__all__ = ["database", "url"]


def boot(engine: sa.Engine, count: int = 1) -> None:
    with engine.begin() as connection:
        for _ in range(count):
            connection.execute(sa.insert(tables.instances).values(uuid=str(uuid.uuid4()), hidden=False, deleted=0))


def archive(engine: sa.Engine) -> None:
    """Delete the newest instance and move its row, as ``nova-manage db archive_deleted_rows`` does."""
    with engine.begin() as connection:
        newest = connection.execute(sa.select(sa.func.max(tables.instances.c.id))).scalar_one()
        row = connection.execute(sa.select(tables.instances).where(tables.instances.c.id == newest)).mappings().one()
        connection.execute(sa.insert(tables.shadow_instances).values(**{**row, "deleted": newest}))
        connection.execute(sa.delete(tables.instances).where(tables.instances.c.id == newest))


def purge(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        connection.execute(sa.delete(tables.shadow_instances))


@pytest.fixture
def engine(url: str) -> Iterator[sa.Engine]:
    made = sa.create_engine(url)
    tables.cell.create_all(made)
    with made.begin() as connection:
        connection.execute(
            sa.insert(tables.services).values(uuid=str(uuid.uuid4()), host="a", binary="nova-compute", deleted=0)
        )
    boot(made, 5)
    yield made
    made.dispose()


@pytest.fixture
def cell(url: str) -> Iterator[Database]:
    opened = Database("cell:cell1", url)
    yield opened
    opened.close()


def test_archive_and_purge_of_the_newest_row_are_no_fall(engine: sa.Engine, cell: Database) -> None:
    before = cell_watermark(cell)
    assert before.ids[0].highest == 5

    archive(engine)
    assert list(falls(before, cell_watermark(cell))) == []
    purge(engine)
    now = cell_watermark(cell)

    assert now.ids[0].highest == 4
    assert list(falls(before, now)) == []


def test_a_dump_of_before_is_a_fall(
    mariadb: MariaDB, mariadb_url: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    name = sa.make_url(mariadb_url).database or ""
    engine = sa.create_engine(mariadb_url)
    tables.cell.create_all(engine)
    boot(engine, 5)
    dump = tmp_path / "dump.sql"
    client = ["mariadb-dump", *mariadb.client_arguments, name]
    with dump.open("w") as opened:
        subprocess.run(client, stdout=opened, check=True)
    boot(engine, 2)
    cell = Database("cell:cell1", mariadb_url)
    request.addfinalizer(cell.close)
    request.addfinalizer(engine.dispose)
    before = cell_watermark(cell)

    mariadb.execute(dump.read_text(), name)

    [reason] = falls(before, cell_watermark(cell))
    assert "highest id 7 before, 5 now with the next id 6" in reason


def test_steps_of_a_cluster_are_no_fall(mariadb_url: str, request: pytest.FixtureRequest) -> None:
    engine = sa.create_engine(mariadb_url)
    tables.cell.create_all(engine)
    request.addfinalizer(engine.dispose)
    cell = Database("cell:cell1", mariadb_url)
    request.addfinalizer(cell.close)
    seen = []
    for offset in (1, 3, 2, 1, 2):
        with engine.begin() as connection:
            connection.exec_driver_sql("SET SESSION auto_increment_increment = 3")
            connection.exec_driver_sql(f"SET SESSION auto_increment_offset = {offset}")
            connection.execute(sa.insert(tables.instances).values(uuid=str(uuid.uuid4()), hidden=False, deleted=0))
            connection.exec_driver_sql("SET SESSION auto_increment_increment = 1")
        seen.append(cell_watermark(cell))
    assert [list(falls(one, other)) for one, other in pairwise(seen)] == [[]] * 4
