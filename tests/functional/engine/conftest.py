"""A dispatcher with a world of things that drift, on an SQLite journal."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from consumer.journal import migrations
from consumer.journal.database import Database, open_engine
from tests.doubles import World
from tests.functional.engine.machine import Machine


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Database]:
    database = Database(open_engine(f"sqlite:///{tmp_path}/journal.sqlite"))
    migrations.upgrade(database)
    yield database
    database.close()


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def machine(journal: Database, world: World) -> Iterator[Machine]:
    machine = Machine(journal, world)
    yield machine
    machine.stop()
