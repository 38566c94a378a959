"""The cloud as a fixture: one for the whole session, started when the first test asks for it."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.cloud.control_plane import ControlPlane
from tests.cloud.parity import Copy, Pair
from tests.cloud.serving import LOGS, served
from tests.cloud.wreckage import Wreckage
from tests.servers.mariadb import MariaDB
from tests.servers.rabbitmq import RabbitMQ


@pytest.fixture(scope="session")
def cloud(request: pytest.FixtureRequest, rabbitmq: RabbitMQ, mariadb: MariaDB) -> Iterator[ControlPlane]:
    """A control plane with compute-1 and compute-2 in cell1 and compute-3 in cell2.

    Octavia takes part when STACKMEND_CLOUD_OCTAVIA is set.
    """
    yield from served(request, rabbitmq, mariadb, octavia=bool(os.environ.get("STACKMEND_CLOUD_OCTAVIA")))


@pytest.fixture(scope="session")
def wreckage(cloud: ControlPlane) -> Wreckage:
    """What the cloud was, photographed, before it was repaired."""
    wreckage = Wreckage(cloud)
    wreckage.clear()
    return wreckage


@pytest.fixture(scope="module")
def bindings(wreckage: Wreckage) -> Iterator[None]:
    """Neutron binds ports as it did when the cloud was photographed."""
    with wreckage.plugged():
        yield


@pytest.fixture(scope="session")
def pair(cloud: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """Two copies of the cloud's databases; each test loads them with what it wants."""
    theirs, ours = (Copy(cloud, name, tmp_path_factory.mktemp(name)) for name in ("theirs", "ours"))
    try:
        yield Pair(theirs, ours)
    finally:
        theirs.close()
        ours.close()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """After the failures: where to look for their cause."""
    for logs in terminalreporter.config.stash.get(LOGS, []):
        terminalreporter.write_line(f"The logs of the cloud are kept in {logs}")
