"""The watermark of Octavia's database: deleted load balancers are no fall, an emptied database is one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from consumer.engine.guard import falls
from handlers.base import Resources, Watermark
from handlers.octavia import tables
from handlers.octavia.failover.failed_amphora import FailedAmphora
from handlers.octavia.watermarks import octavia_watermarks
from handlers.testing import configured


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[sa.Engine]:
    made = sa.create_engine(f"sqlite:///{tmp_path}/octavia.sqlite")
    tables.octavia.create_all(made)
    row = {"provisioning_status": "ACTIVE", "operating_status": "ONLINE", "enabled": True}
    with made.begin() as connection:
        connection.execute(
            sa.insert(tables.load_balancer), [{**row, "id": f"balancer-{number}"} for number in range(3)]
        )
    yield made
    made.dispose()


@pytest.fixture
def resources(engine: sa.Engine, tmp_path: Path) -> Iterator[Resources]:
    made = configured(FailedAmphora, {"octavia": {"database_connection": str(engine.url)}}, tmp_path)
    yield made
    made.close()


def mark(resources: Resources) -> Watermark:
    (seen,) = octavia_watermarks(resources)
    return seen


def test_one_of_three_load_balancers_can_be_deleted(engine: sa.Engine, resources: Resources) -> None:
    before = mark(resources)
    with engine.begin() as connection:
        connection.execute(sa.delete(tables.load_balancer).where(tables.load_balancer.c.id == "balancer-0"))

    assert list(falls(before, mark(resources))) == []


def test_an_emptied_database_is_a_fall(engine: sa.Engine, resources: Resources) -> None:
    before = mark(resources)
    with engine.begin() as connection:
        connection.execute(sa.delete(tables.load_balancer))

    [reason] = falls(before, mark(resources))
    assert reason.startswith("none of 3 known rows is there")
