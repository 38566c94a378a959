"""A cloud of amphorae for each test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from handlers.octavia.database import OctaviaDatabase
from handlers.octavia.settings import HousekeepingSettings
from tests.functional.octavia.world import House

#: files that need not survive, so that a test of many small transactions does not wait for a disk
MEMORY = Path("/dev/shm")


@cache
def _empty() -> bytes:
    """Return a database file without amphorae: to make its tables takes longer than most tests."""
    with TemporaryDirectory() as folder:
        file = Path(folder) / "octavia.sqlite"
        database = OctaviaDatabase(f"sqlite:///{file}")
        House(database, HousekeepingSettings())
        database.close()
        assert [found.name for found in file.parent.iterdir()] == [file.name], "SQLite has written all into the file"
        return file.read_bytes()


@pytest.fixture
def make_house() -> Iterator[Callable[..., House]]:
    made: list[OctaviaDatabase] = []
    with TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as folder:

        def make(**settings: object) -> House:
            file = Path(folder) / f"octavia-{len(made)}.sqlite"
            file.write_bytes(_empty())
            made.append(OctaviaDatabase(f"sqlite:///{file}"))
            return House(made[-1], HousekeepingSettings(**settings))  # type: ignore[arg-type]

        yield make
        for database in made:
            database.close()


@pytest.fixture
def house(make_house: Callable[..., House]) -> House:
    return make_house()
