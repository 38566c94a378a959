"""The handler that the documentation shows: it is loaded from there and run against the simulated cloud."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from time import time

import pytest
import sqlalchemy as sa

from handlers.base import Conflict, Handler, Key, Resources
from handlers.nova.database import NovaDatabases
from handlers.nova.simulation import NovaSimulation
from tests.functional.nova.conftest import cloud, fresh_cells, resources

__all__ = ["cloud", "fresh_cells", "resources"]

EXAMPLE = Path(__file__).parents[3] / "doc" / "source" / "examples" / "expired_consoles.py"
DAY = 86400


@pytest.fixture
def cells(resources: Resources) -> list[tuple[Key, NovaDatabases]]:
    """The cells, each with the table of tokens: one that expired long ago, one lately, one that is valid."""
    databases = resources.get(NovaDatabases.from_resources)
    for cell in databases.host_cells():
        databases.database(cell).run(_fill)
    return [(Key("cell", cell.uuid), databases) for cell in databases.host_cells()]


def _fill(connection: sa.Connection) -> None:
    connection.execute(sa.text("CREATE TABLE console_auth_tokens (id INTEGER PRIMARY KEY, host TEXT, expires INTEGER)"))
    for number, age in ((1, 2 * DAY), (2, 60), (3, -DAY)):
        connection.execute(
            sa.text("INSERT INTO console_auth_tokens VALUES (:id, 'gone', :expires)"),
            {"id": number, "expires": int(time()) - age},
        )


def _left(databases: NovaDatabases, key: Key) -> list[int]:
    [cell] = [cell for cell in databases.cells() if cell.uuid == key.id]
    ids = databases.database(cell).run(
        lambda connection: connection.scalars(sa.text("SELECT id FROM console_auth_tokens ORDER BY id")).all()
    )
    return list(ids)


@pytest.fixture
def example(resources: Resources) -> Handler:
    spec = importlib.util.spec_from_file_location("expired_consoles", EXAMPLE)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    made: Handler = module.ExpiredConsoles.from_resources(resources)
    return made


def test_it_heals_what_it_finds_and_nothing_else(
    example: Handler, cells: list[tuple[Key, NovaDatabases]], cloud: NovaSimulation
) -> None:
    assert list(example.sweep()) == [key for key, _ in cells]
    assert example.population() == len(cells)
    (key, databases), (other, _) = cells
    [finding] = example.inspect(key)
    assert finding.evidence == {"ids": [1]}
    assert example.heal(finding).action == "deleted 1 console tokens"
    assert _left(databases, key) == [2, 3]
    assert _left(databases, other) == [1, 2, 3]
    assert list(example.inspect(key)) == []
    with pytest.raises(Conflict):
        example.heal(finding)
