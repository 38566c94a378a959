"""A cell of Nova that does not answer: what is in it is unknown to the real driver, not absent."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from handlers.octavia.drivers.chosen import chosen_driver
from handlers.octavia.drivers.openstack import OpenStackDriver
from handlers.octavia.housekeeping import UnavailableException
from tests.cloud.control_plane import ControlPlane
from tests.cloud.octavia import installation
from tests.program import Program


@pytest.fixture
def driver(octavia_cloud: ControlPlane, tmp_path: Path) -> Iterator[OpenStackDriver]:
    resources = installation.resources(Program(tmp_path / "driver", installation.options(octavia_cloud)))
    made = resources.get(chosen_driver)
    assert isinstance(made, OpenStackDriver)
    yield made
    resources.close()


def test_servers_of_a_cell_that_does_not_answer_are_not_left_out(
    driver: OpenStackDriver, octavia_cloud: ControlPlane
) -> None:
    """A cell whose database has no tables: Nova's listings go on without it, and do not say so."""
    with a_cell_that_does_not_answer(octavia_cloud):
        whole = [server.id for server in driver.servers()]
        inside = str(uuid.uuid4())
        octavia_cloud.mariadb.execute(
            "INSERT INTO instance_mappings (created_at, instance_uuid, cell_id, project_id, queued_for_delete)"
            f" SELECT utc_timestamp(), '{inside}', id, '{driver.project()}', 0 FROM cell_mappings WHERE name = 'lost'",
            "nova_api",
        )
        listed = octavia_cloud.admin.compute.servers(all_projects=True, project_id=driver.project())
        assert sorted(server.id for server in listed) == sorted(whole)
        with pytest.raises(UnavailableException) as silent:
            driver.servers()
        assert silent.value.dependency == "compute"
        with pytest.raises(UnavailableException):
            driver.server(inside)
    assert [server.id for server in driver.servers()] == whole


@contextmanager
def a_cell_that_does_not_answer(cloud: ControlPlane) -> Iterator[None]:
    """Nova's API has a third cell, with a host, and no database for it."""
    add = [
        "INSERT INTO cell_mappings (created_at, uuid, name, transport_url, database_connection, disabled)"
        f" VALUES (utc_timestamp(), uuid(), 'lost', 'fake:///', 'sqlite:///{cloud.folder}/lost.sqlite', 0)",
        "INSERT INTO host_mappings (created_at, cell_id, host)"
        " SELECT utc_timestamp(), id, 'lost-1' FROM cell_mappings WHERE name = 'lost'",
    ]
    lost = "cell_id IN (SELECT id FROM cell_mappings WHERE name = 'lost')"
    remove = [
        f"DELETE FROM instance_mappings WHERE {lost}",
        f"DELETE FROM host_mappings WHERE {lost}",
        "DELETE FROM cell_mappings WHERE name = 'lost'",
    ]

    def change(statements: list[str]) -> None:
        for statement in statements:
            cloud.mariadb.execute(statement, "nova_api")
        cloud.stop_service("nova-api")  # it reads the list of cells once
        cloud.start_service("nova-api")

    try:
        change(add)
        yield
    finally:
        change(remove)
