"""The handler that the documentation shows heals the simulated cloud, and works once its package is installed."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path
from time import time

import pytest
import sqlalchemy as sa

from doc import handler_pages
from handlers.base import Conflict, Finding, Handler, Key, Refused, Resources
from handlers.nova.cells import Cell
from handlers.nova.database import NovaDatabases
from handlers.nova.simulation import NovaSimulation
from tests.functional.nova.conftest import cloud, fresh_cells, resources
from tests.program import Program, only

__all__ = ["cloud", "fresh_cells", "resources"]

EXAMPLE = Path(__file__).parents[3] / "doc" / "source" / "examples" / "expired_consoles.py"
DAY = 86400
#: the age of the expiry of each token, by its id; one token is still valid
AGES = {1: 2 * DAY, 2: 60, 3: -DAY}


@pytest.fixture
def cell(cloud: NovaSimulation, resources: Resources) -> Cell:
    """A cell with tokens of the host ``compute-9``, which was added and removed."""
    databases = resources.get(NovaDatabases.from_resources)
    for one in databases.host_cells():
        databases.database(one).run(_create_tokens)
    first = databases.host_cells()[0]
    cloud.add_compute("compute-9", first.name)
    cloud.map_host("compute-9")
    cloud.delete_service("compute-9")
    return first


def _create_tokens(connection: sa.Connection) -> None:
    connection.execute(sa.text("CREATE TABLE console_auth_tokens (id INTEGER PRIMARY KEY, host TEXT, expires INTEGER)"))
    for number, age in AGES.items():
        connection.execute(
            sa.text("INSERT INTO console_auth_tokens VALUES (:id, 'compute-9', :expires)"),
            {"id": number, "expires": int(time()) - age},
        )


def tokens(resources: Resources, cell: Cell) -> list[int]:
    """Return the ids of the tokens in a cell."""
    database = resources.get(NovaDatabases.from_resources).database(cell)
    query = sa.text("SELECT id FROM console_auth_tokens ORDER BY id")
    return database.run(lambda connection: list(connection.scalars(query)))


@pytest.fixture
def handler_class(monkeypatch: pytest.MonkeyPatch) -> type[Handler]:
    spec = importlib.util.spec_from_file_location("expired_consoles", EXAMPLE)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    found: type[Handler] = module.ExpiredConsoles
    return found


@pytest.fixture
def handler(handler_class: type[Handler], resources: Resources) -> Handler:
    return handler_class.from_resources(resources)


def test_it_deletes_expired_tokens_of_a_removed_host_and_no_others(
    handler: Handler, cell: Cell, resources: Resources
) -> None:
    assert list(handler.sweep()) == [Key("cell", cell.uuid)]
    assert handler.population() == 2 * len(AGES)
    [finding] = handler.inspect(Key("cell", cell.uuid))
    assert (finding.evidence, finding.weight) == ({"ids": [1]}, 1)

    healed = handler.heal(finding)

    assert healed.action == "deleted 1 console tokens"
    assert tokens(resources, cell) == [2, 3]
    assert list(handler.inspect(Key("cell", cell.uuid))) == []
    with pytest.raises(Conflict):
        handler.heal(finding)


def test_a_host_without_any_service_proves_nothing(handler: Handler, cell: Cell, resources: Resources) -> None:
    other = next(one for one in resources.get(NovaDatabases.from_resources).host_cells() if one != cell)

    assert list(handler.inspect(Key("cell", other.uuid))) == []


def test_a_host_that_returned_keeps_its_tokens(
    handler: Handler, cell: Cell, resources: Resources, cloud: NovaSimulation
) -> None:
    [finding] = handler.inspect(Key("cell", cell.uuid))
    cloud.register_host("compute-9", cell.name)

    with pytest.raises(Conflict):
        handler.heal(finding)

    assert tokens(resources, cell) == [1, 2, 3]


def test_it_refuses_a_problem_that_it_does_not_know(handler: Handler, cell: Cell, resources: Resources) -> None:
    with pytest.raises(Refused):
        handler.heal(Finding(Key("cell", cell.uuid), "tokens-strange", "?", {"ids": [1, 2, 3]}))

    assert tokens(resources, cell) == [1, 2, 3]


def test_a_cell_that_does_not_exist_has_no_drift(handler: Handler, cell: Cell) -> None:
    assert list(handler.inspect(Key("cell", "gone"))) == []


def test_its_page_needs_no_other_text(handler_class: type[Handler]) -> None:
    page = handler_pages.page(handler_class)

    assert "What drifts\n===========\n" in page
    assert "DELETE on ``console_auth_tokens`` (each cell)" in page


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of packages that holds a package with the example: its module, and its entry point."""
    site = tmp_path / "site"
    metadata = site / "sample-1.0.dist-info"
    metadata.mkdir(parents=True)
    shutil.copy(EXAMPLE, site)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: sample\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(
        "[stackmend.handlers]\nexpired_consoles = expired_consoles:ExpiredConsoles\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(site))
    return site


def test_an_installed_handler_needs_no_more_than_its_module_and_its_entry_point(
    installed: Path, cloud: NovaSimulation, cell: Cell, resources: Resources, tmp_path: Path
) -> None:
    options = {**cloud.options(), "audit": {**only(), "expired_consoles_mode": "heal"}}
    with Program(tmp_path / "stackmend", options) as program:
        [listed] = [line for line in program.json("handler", "list") if line["name"] == "expired_consoles"]
        assert listed["mode"] == "heal"

        [found] = program.json("sweep", "--audit", "expired_consoles")
        assert (found["key"], found["problem"]) == (f"cell:{cell.uuid}", "tokens-expired")
        assert tokens(resources, cell) == [1, 2, 3]

        healed = program.run("sweep", "expired_consoles")
        assert healed.returncode == 0, healed.stdout + healed.stderr
        assert tokens(resources, cell) == [2, 3]

        [entry] = program.json("history")
        assert (entry["handler"], entry["outcome"]) == ("expired_consoles", "healed")


def test_the_sample_configuration_has_the_options_of_an_installed_handler(installed: Path) -> None:
    generator = Path(sys.executable).parent / "oslo-config-generator"
    sample = subprocess.run(
        [generator, "--namespace", "stackmend"], capture_output=True, text=True, check=True, timeout=120
    ).stdout

    assert "#expired_consoles_mode = audit\n" in sample
    assert "#expired_consoles_interval = 86400\n" in sample
