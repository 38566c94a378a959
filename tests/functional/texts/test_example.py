"""The handler that the documentation shows: its tests pass outside this tree, and its package works once installed."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from doc import handler_pages
from handlers.base import Finding, Handler, Key, Refused
from handlers.nova.simulation import NovaSimulation
from tests.program import Program, only

EXAMPLES = Path(__file__).parents[3] / "doc" / "source" / "examples"


@pytest.fixture
def handler_class(monkeypatch: pytest.MonkeyPatch) -> type[Handler]:
    spec = importlib.util.spec_from_file_location("expired_consoles", EXAMPLES / "expired_consoles.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    found: type[Handler] = module.ExpiredConsoles
    return found


@pytest.mark.slow
def test_its_tests_pass_outside_this_tree(tmp_path: Path) -> None:
    for name in ("expired_consoles.py", "test_expired_consoles.py"):
        shutil.copy(EXAMPLES / name, tmp_path)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "--rootdir",
        str(tmp_path),
        str(tmp_path),
    ]

    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300)

    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "3 passed" in ran.stdout


def test_its_page_needs_no_other_text(handler_class: type[Handler]) -> None:
    page = handler_pages.page(handler_class)

    assert "What drifts\n===========\n" in page
    assert "DELETE on ``console_auth_tokens`` (each cell)" in page


def test_it_refuses_a_problem_that_it_does_not_name(handler_class: type[Handler]) -> None:
    handler = handler_class.__new__(handler_class)

    with pytest.raises(Refused):
        handler.prove_again(Finding(Key("cell", "1"), "tokens-strange", "?"))


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[NovaSimulation]:
    """A cloud with one expired token of a host that was removed."""
    folder = tmp_path / "cloud"
    folder.mkdir()
    simulation = NovaSimulation(folder)
    simulation.start()
    for engine in simulation.cells.values():
        with engine.begin() as connection:
            connection.execute(sa.text("CREATE TABLE console_auth_tokens (id INTEGER, host TEXT, expires INTEGER)"))
    with simulation.cells["cell1"].begin() as connection:
        connection.execute(sa.text("INSERT INTO console_auth_tokens VALUES (1, 'compute-9', 0)"))
    simulation.add_compute("compute-9", "cell1")
    simulation.map_host("compute-9")
    simulation.delete_service("compute-9")
    yield simulation
    simulation.stop()


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of packages with the module of the example and the entry point of its package, and no more."""
    site = tmp_path / "site"
    metadata = site / "sample-1.0.dist-info"
    metadata.mkdir(parents=True)
    shutil.copy(EXAMPLES / "expired_consoles.py", site)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: sample\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(
        "[stackmend.handlers]\nexpired_consoles = expired_consoles:ExpiredConsoles\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(site))
    return site


def tokens(cloud: NovaSimulation) -> list[int]:
    with cloud.cells["cell1"].connect() as connection:
        return list(connection.scalars(sa.text("SELECT id FROM console_auth_tokens")))


def test_an_installed_handler_needs_no_more_than_its_module_and_its_entry_point(
    installed: Path, cloud: NovaSimulation, tmp_path: Path
) -> None:
    options = {**cloud.options(), "audit": {**only(), "expired_consoles_mode": "heal"}}
    with Program(tmp_path / "stackmend", options) as program:
        [listed] = [line for line in program.json("handler", "list") if line["name"] == "expired_consoles"]
        assert listed["mode"] == "heal"

        [found] = program.json("sweep", "--audit", "expired_consoles")
        assert found["problem"] == "tokens-expired"
        assert tokens(cloud) == [1]

        healed = program.run("sweep", "expired_consoles")
        assert healed.returncode == 0, healed.stdout + healed.stderr
        assert tokens(cloud) == []

        [entry] = program.json("history")
        assert (entry["handler"], entry["outcome"]) == ("expired_consoles", "healed")


def test_the_sample_configuration_has_the_options_of_an_installed_handler(installed: Path) -> None:
    generator = Path(sys.executable).parent / "oslo-config-generator"

    ran = subprocess.run(
        [generator, "--namespace", "stackmend"], capture_output=True, text=True, check=True, timeout=120
    )

    assert "#expired_consoles_mode = audit\n" in ran.stdout
    assert "#expired_consoles_interval = 86400\n" in ran.stdout
