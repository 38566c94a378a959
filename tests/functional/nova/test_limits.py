"""Warnings at start: unknown schemas, missing tables and columns."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from handlers.base import Resources
from handlers.nova import tables
from handlers.nova.database import NovaDatabases
from handlers.nova.simulation import NovaSimulation
from tests.program import Program, only
from tests.waiting import eventually

UNKNOWN = "is at the schema ffffffffffff. stackmend knows those of Nova 25 (Yoga) to 34"


def upgrade(engine: sa.Engine) -> None:
    """Set a database to an unknown revision."""
    with engine.begin() as connection:
        connection.execute(sa.update(tables.cell_version).values(version_num="ffffffffffff"))


def told(resources: Resources) -> list[str]:
    resources.get(NovaDatabases.from_resources)
    return list(resources.warnings())


def test_known_schemas_give_no_warning(resources: Resources) -> None:
    assert told(resources) == []


def test_a_revision_that_is_not_known(cloud: NovaSimulation, resources: Resources) -> None:
    upgrade(cloud.cells["cell2"])
    assert told(resources) == [
        f"cell:cell2 {UNKNOWN}; with any other schema it reports and changes nothing: install a stackmend that knows this one, "
        "or correct the database's URL"
    ]
    upgrade(cloud.api)
    assert [sentence.split(" ")[0] for sentence in told(resources)] == ["nova_api", "cell:cell2"]


def test_what_is_missing_is_named(cloud: NovaSimulation, resources: Resources) -> None:
    with cloud.cells["cell1"].begin() as connection:
        connection.execute(sa.text("DROP TABLE instance_extra"))
        connection.execute(sa.text("DROP INDEX migrations_by_dest_host_nodes_and_status_idx"))
        connection.execute(sa.text("ALTER TABLE migrations DROP COLUMN dest_node"))
    with cloud.api.begin() as connection:
        connection.execute(sa.text("ALTER TABLE instance_mappings DROP COLUMN user_id"))
    api, cell = told(resources)
    assert api.startswith(
        "nova_api has no column instance_mappings.user_id, so that handlers that need it cannot inspect"
    )
    assert cell.startswith(
        "cell:cell1 has no table instance_extra, column migrations.dest_node, so that handlers that need it"
    )


def test_a_cell_that_does_not_answer_hides_no_warning(
    cloud: NovaSimulation, resources: Resources, cut: Callable[[str], None]
) -> None:
    upgrade(cloud.cells["cell2"])
    cut("cell1")
    assert [sentence.split(" ")[0] for sentence in told(resources)] == ["cell:cell2"]


@pytest.fixture
def program(cloud: NovaSimulation, tmp_path: Path) -> Iterator[Program]:
    """An installation beside the cloud, in which one host is not mapped, and all of a cell is unknown."""
    cloud.add_compute("compute-1", "cell1")
    upgrade(cloud.cells["cell1"])
    settings = {**only("discover_hosts", "map_instances"), "discover_hosts_mode": "heal"}
    with Program(tmp_path / "stackmend", {**cloud.options(), "audit": settings}) as program:
        yield program


def test_a_one_shot_sweep_warns_once_and_changes_nothing(cloud: NovaSimulation, program: Program) -> None:
    done = program.run("sweep")
    assert done.returncode == 2, done.stderr
    assert done.stderr.count(f"cell:cell1 {UNKNOWN}") == 1
    assert cloud.host_mappings() == {}


def test_the_daemon_warns_once_at_start(cloud: NovaSimulation, program: Program) -> None:
    program.start()
    eventually(lambda: UNKNOWN in program.log.read_text(), 60)
    lines = [line for line in program.log.read_text().splitlines() if "WARNING" in line and UNKNOWN in line]
    assert len(lines) == 1
    assert program.stop()[0] == 0
    assert cloud.host_mappings() == {}
