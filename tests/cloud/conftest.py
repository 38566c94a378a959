"""The cloud as a fixture: one for the whole session, started when the first test asks for it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cloud.control_plane import ControlPlane
from tests.servers.mariadb import MariaDB
from tests.servers.rabbitmq import RabbitMQ

_LOGS = pytest.StashKey[Path | None]()


@pytest.fixture(scope="session")
def cloud(request: pytest.FixtureRequest, rabbitmq: RabbitMQ, mariadb: MariaDB) -> Iterator[ControlPlane]:
    """A control plane with compute-1 and compute-2 in cell1 and compute-3 in cell2.

    Octavia takes part when STACKMEND_CLOUD_OCTAVIA is set.
    """
    failed_before = request.session.testsfailed
    plane = ControlPlane(rabbitmq, mariadb, octavia=bool(os.environ.get("STACKMEND_CLOUD_OCTAVIA")))
    plane.up()
    try:
        yield plane
    finally:
        logs = plane.down(keep_logs=request.session.testsfailed > failed_before)
        request.config.stash[_LOGS] = logs


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """After the failures: where to look for their cause."""
    logs = terminalreporter.config.stash.get(_LOGS, None)
    if logs is not None:
        terminalreporter.write_line(f"The logs of the cloud are kept in {logs}")
