"""The objects that an exemption names: ``exempt add`` doubts those that Nova's databases do not have."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from consumer.cli import main
from handlers.base import Resources, Unavailable
from handlers.nova import tables
from handlers.nova.objects import OBJECTS
from handlers.nova.simulation import NovaSimulation

pytestmark = pytest.mark.hosts(a="cell1", c="cell2")

NOBODY = str(uuid.uuid4())


def knows(resources: Resources, kind: str, identity: str) -> bool:
    [look] = [one.exists for one in OBJECTS if one.kind == kind]
    assert look is not None
    return look(resources, identity)


def test_a_host_has_a_mapping_or_a_service_or_a_node(cloud: NovaSimulation, resources: Resources) -> None:
    cloud.register_host("unmapped", "cell2")
    cloud.report_node("a", "hypervisor-7")
    found = [name for name in ("a", "c", "unmapped", "hypervisor-7", "b") if knows(resources, "host", name)]
    assert found == ["a", "c", "unmapped", "hypervisor-7"]


def test_an_instance_has_a_mapping_or_a_row(cloud: NovaSimulation, resources: Resources) -> None:
    mapped = cloud.request()
    unmapped = cloud.boot("c")
    with cloud.api.begin() as connection:
        mapping = tables.instance_mappings
        connection.execute(sa.delete(mapping).where(mapping.c.instance_uuid == unmapped))
    for kind in ("instance", "consumer"):
        assert knows(resources, kind, mapped)
        assert knows(resources, kind, unmapped)
        assert not knows(resources, kind, NOBODY)


def test_a_migration_is_a_consumer_and_no_instance(cloud: NovaSimulation, resources: Resources) -> None:
    with cloud.ago(days=1):
        cloud.add_compute("b", "cell1")
    migration = cloud.start_migration(cloud.boot("a"), "b")
    assert knows(resources, "consumer", migration)
    assert not knows(resources, "instance", migration)


def test_aggregates_cells_and_projects(cloud: NovaSimulation, resources: Resources) -> None:
    aggregate = cloud.create_aggregate("fast")
    assert knows(resources, "aggregate", aggregate)
    assert not knows(resources, "aggregate", NOBODY)
    assert knows(resources, "cell", "cell2")
    assert not knows(resources, "cell", "cell9")
    assert not knows(resources, "project", "demo")
    assert not knows(resources, "project", NOBODY)


def test_a_cell_that_does_not_answer_is_no_answer(
    cloud: NovaSimulation, resources: Resources, cut: Callable[[str], None]
) -> None:
    cut("cell1")
    assert knows(resources, "host", "c"), "its mapping is in nova_api"
    with pytest.raises(Unavailable):
        knows(resources, "host", "b")


@pytest.fixture
def add(cloud: NovaSimulation, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[[str], str]]:
    """Run ``exempt add`` beside the cloud; return what it says on stderr."""
    groups = {**cloud.options(), "journal": {"connection": f"sqlite:///{tmp_path}/journal.sqlite"}}
    file = tmp_path / "exempt.conf"
    file.write_text(
        "".join(
            f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in values.items())
            for group, values in groups.items()
        )
    )

    def exempt(scope: str) -> str:
        capsys.readouterr()
        assert main.stackmend(["--config-file", str(file), "exempt", "add", scope, "--reason", "x"]) == 0
        out, err = capsys.readouterr()
        assert f"no heal changes {scope}" in out
        return err

    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield exempt
    root.handlers[:] = handlers
    root.setLevel(level)


def test_the_command_doubts_what_nova_does_not_know(cloud: NovaSimulation, add: Callable[[str], str]) -> None:
    server = cloud.boot("a")
    assert "correct?" not in add("host:a")
    assert "correct?" not in add(f"instance:{server.upper()}")
    assert add("host:compute-70").startswith(
        "Nova knows no host of this name: is host:compute-70 correct? The exemption will cover each finding that names it\n"
    )
    assert add(f"instance:{NOBODY}").startswith(f"Nova knows no instance of this uuid: is instance:{NOBODY} correct?")


def test_the_command_says_which_cell_does_not_answer(add: Callable[[str], str], cut: Callable[[str], None]) -> None:
    cut("cell1")
    assert add("host:b").startswith("stackmend cannot look for host:b: cell:cell1: ")
