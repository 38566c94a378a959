"""A cloud of amphorae for each test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from handlers.octavia.database import OctaviaDatabase
from handlers.octavia.settings import HousekeepingSettings
from tests.functional.octavia.world import House

#: files that need not survive, so that a test of many small transactions does not wait for a disk
MEMORY = Path("/dev/shm")


@pytest.fixture
def make_house() -> Iterator[Callable[..., House]]:
    made: list[OctaviaDatabase] = []
    with TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as folder:

        def make(**settings: object) -> House:
            made.append(OctaviaDatabase(f"sqlite:///{folder}/octavia-{len(made)}.sqlite"))
            return House(made[-1], HousekeepingSettings(**settings))  # type: ignore[arg-type]

        yield make
        for database in made:
            database.close()


@pytest.fixture
def house(make_house: Callable[..., House]) -> House:
    return make_house()
