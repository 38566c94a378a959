"""Starts a control plane for tests, and stops it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from consumer import plugins
from tests.cloud.control_plane import ControlPlane
from tests.program import Program
from tests.servers.mariadb import MariaDB
from tests.servers.rabbitmq import RabbitMQ

#: the folders with the logs of clouds in which a test failed
LOGS = pytest.StashKey[list[Path]]()


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
            request.config.stash.setdefault(LOGS, []).append(logs)


def assert_healthy(plane: ControlPlane, folder: Path) -> None:
    """An audit by every handler finds nothing in a new cloud, and no inspection fails."""
    names = [handler.name for handler in plugins.handlers() if plane.octavia or handler.group == "audit"]
    with Program(folder, plane.account.options(octavia=plane.octavia)) as program:
        audit = program.run("sweep", "--audit", *names, "-f", "json")
    assert (audit.returncode, audit.stdout.strip()) == (0, "[]"), audit.stdout + audit.stderr
