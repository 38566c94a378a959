"""A cloud of amphorae in memory, with Octavia's tables in SQLite."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from handlers.octavia import queries, records
from handlers.octavia.database import OctaviaDatabase
from handlers.octavia.drivers.noop import NoopDriver
from handlers.octavia.settings import HousekeepingSettings


class House:
    """A driver, and what tests ask about its world."""

    def __init__(self, database: OctaviaDatabase, settings: HousekeepingSettings) -> None:
        self.database = database
        self.driver = NoopDriver(settings, database)
        self.cloud, self.octavia = self.driver.cloud, self.driver.octavia

    def balancer(self, identity: str) -> records.LoadBalancer:
        found = self.database.run(partial(queries.load_balancer, identity=identity))
        assert found is not None
        return found

    def amphora(self, identity: str) -> records.Amphora:
        found = self.database.run(partial(queries.amphora, identity=identity))
        assert found is not None
        return found

    def serving(self, balancer: str) -> list[records.Amphora]:
        """The amphorae of a load balancer that are not deleted."""
        rows = self.database.run(partial(queries.amphorae_of, load_balancer=balancer))
        return [row for row in rows if row.status != "DELETED"]


@pytest.fixture
def make_house(tmp_path: Path) -> Iterator[Callable[..., House]]:
    made: list[OctaviaDatabase] = []

    def make(**settings: object) -> House:
        made.append(OctaviaDatabase(f"sqlite:///{tmp_path}/octavia-{len(made)}.sqlite"))
        return House(made[-1], HousekeepingSettings(**settings))  # type: ignore[arg-type]

    yield make
    for database in made:
        database.close()


@pytest.fixture
def house(make_house: Callable[..., House]) -> House:
    return make_house()
