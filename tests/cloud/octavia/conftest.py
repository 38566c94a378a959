"""The cloud with Octavia as a fixture: one for all tests of this folder, on servers of its own."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.cloud.control_plane import ControlPlane
from tests.cloud.octavia import installation
from tests.cloud.octavia.balancers import Balancers
from tests.cloud.octavia.scene import Scene
from tests.cloud.octavia.world import disorders, wait_for_rest, world
from tests.cloud.serving import served
from tests.program import Program
from tests.servers.mariadb import MariaDB
from tests.servers.rabbitmq import RabbitMQ

#: In one cell: where two amphorae of a pair are built at once on one host, Nova tries another of the same cell.
COMPUTES = dict.fromkeys(("compute-1", "compute-2", "compute-3"), "cell1")


@pytest.fixture(scope="package")
def octavia_cloud(request: pytest.FixtureRequest, servers_folder: Path) -> Iterator[ControlPlane]:
    """A control plane with Octavia; its servers are its own, because names of databases are the same in every cloud."""
    with ExitStack() as last:
        rabbitmq, mariadb = RabbitMQ(servers_folder / "o-rabbitmq"), MariaDB(servers_folder / "o-mariadb")
        for server in (rabbitmq, mariadb):
            last.callback(server.stop)
            server.start()
        yield from served(request, rabbitmq, mariadb, octavia=True, computes=COMPUTES)


@pytest.fixture(scope="package")
def bystanders(octavia_cloud: ControlPlane) -> None:
    """What belongs to others: ports like an amphora's in the same network. Nobody ever touches them."""
    network: Any = octavia_cloud.admin.network
    tenant = network.find_network("tenant")
    for address in ("10.0.9.1", "10.0.9.2"):
        network.create_port(
            network_id=tenant.id,
            name="bystander",
            device_owner="compute:nova",
            device_id=str(uuid.uuid4()),
            allowed_address_pairs=[{"ip_address": address}],
        )


@pytest.fixture
def balancers(octavia_cloud: ControlPlane, bystanders: None) -> Iterator[Balancers]:
    """Makes load balancers, and deletes them after the test; then nothing of Octavia's may be left behind."""
    with Balancers(octavia_cloud) as balancers:
        yield balancers
    wait_for_rest(octavia_cloud)
    assert disorders(octavia_cloud) == set()


@pytest.fixture
def stackmend(octavia_cloud: ControlPlane, tmp_path: Path) -> Iterator[Program]:
    """An installation beside the controller; its log is shown when a test fails."""
    with Program(tmp_path / "stackmend", installation.options(octavia_cloud)) as program:
        yield program
        print(program.log.read_text()[-12000:] if program.log.exists() else "")


@pytest.fixture
def scene(octavia_cloud: ControlPlane, balancers: Balancers, stackmend: Program) -> Iterator[Scene]:
    """stackmend at work on load balancers; a test that fails leaves nothing preserved to the next one."""
    scene = Scene(octavia_cloud, balancers, stackmend)
    yield scene
    stackmend.kill()
    scene.clear()


@pytest.fixture
def before(octavia_cloud: ControlPlane, bystanders: None) -> set[str]:
    """What there was before the test."""
    return world(octavia_cloud)
