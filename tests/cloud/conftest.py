"""The cloud as a fixture: one for the whole session, started when the first test asks for it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from consumer import plugins
from tests.cloud.control_plane import ControlPlane
from tests.cloud.parity import Copy, Pair
from tests.cloud.wreckage import Wreckage
from tests.program import Program
from tests.servers.mariadb import MariaDB
from tests.servers.rabbitmq import RabbitMQ

_LOGS = pytest.StashKey[list[Path]]()


@pytest.fixture(scope="session")
def cloud(request: pytest.FixtureRequest, rabbitmq: RabbitMQ, mariadb: MariaDB) -> Iterator[ControlPlane]:
    """A control plane with compute-1 and compute-2 in cell1 and compute-3 in cell2.

    Octavia takes part when STACKMEND_CLOUD_OCTAVIA is set.
    """
    yield from served(request, rabbitmq, mariadb, octavia=bool(os.environ.get("STACKMEND_CLOUD_OCTAVIA")))


def served(
    request: pytest.FixtureRequest,
    rabbitmq: RabbitMQ,
    mariadb: MariaDB,
    *,
    octavia: bool,
    computes: dict[str, str] | None = None,
) -> Iterator[ControlPlane]:
    """A healthy control plane, and its end; the logs are kept when a test failed meanwhile."""
    failed_before = request.session.testsfailed
    folders: pytest.TempPathFactory = request.getfixturevalue("tmp_path_factory")
    plane = ControlPlane(rabbitmq, mariadb, octavia=octavia, computes=computes)
    plane.up()
    try:
        assert_healthy(plane, folders.mktemp("healthy"))
        yield plane
    finally:
        logs = plane.down(keep_logs=request.session.testsfailed > failed_before)
        if logs is not None:
            request.config.stash.setdefault(_LOGS, []).append(logs)


def assert_healthy(plane: ControlPlane, folder: Path) -> None:
    """An audit by every handler finds nothing in a new cloud, and no inspection fails."""
    names = [handler.name for handler in plugins.handlers() if plane.octavia or handler.group == "audit"]
    with Program(folder, plane.account.options(octavia=plane.octavia)) as program:
        audit = program.run("sweep", "--audit", *names, "-f", "json")
    assert (audit.returncode, audit.stdout.strip()) == (0, "[]"), audit.stdout + audit.stderr


@pytest.fixture(scope="session")
def wreckage(cloud: ControlPlane) -> Wreckage:
    """What the cloud was, photographed, before it was repaired."""
    wreckage = Wreckage(cloud)
    wreckage.clear()
    return wreckage


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
    for logs in terminalreporter.config.stash.get(_LOGS, []):
        terminalreporter.write_line(f"The logs of the cloud are kept in {logs}")
