"""A dispatcher with a world of things that drift, on an SQLite journal."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from consumer.journal.database import Database
from tests import journals
from tests.doubles import World
from tests.functional.engine.machine import Machine


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Database]:
    database = journals.fresh(tmp_path)
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
