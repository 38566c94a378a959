"""Three daemons that share a journal on Galera, each through another node, while one node is killed and joins again."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest

from handlers.nova.simulation import NovaSimulation
from tests.program import Program
from tests.servers.galera import Galera
from tests.services.conftest import bus, cloud, options
from tests.services.test_daemon import assert_healed_once, healers, held, leak, nothing_left
from tests.services.virtual_host import Bus
from tests.waiting import eventually

__all__ = ["bus", "cloud", "options"]

DELETIONS = 90


@pytest.mark.timeout(600)
def test_a_node_is_killed_and_joins_again_while_three_daemons_heal(
    galera: Galera,
    database_name: str,
    cloud: NovaSimulation,
    bus: Bus,
    options: dict[str, dict[str, object]],
    tmp_path: Path,
) -> None:
    uuids = leak(cloud, DELETIONS)
    notifications = cloud.take()
    with ExitStack() as stack:
        daemons = []
        for number, url in enumerate(galera.urls(database_name)):
            given: dict[str, dict[str, object]] = {**options, "journal": {"connection": url}}
            daemons.append(stack.enter_context(Program(tmp_path / str(number), given)))
        assert daemons[0].run("db", "upgrade").returncode == 0
        for daemon in daemons:
            daemon.start()
        for daemon in daemons:
            eventually(lambda daemon=daemon: "runs as" in daemon.log.read_text(), 60, "the start")  # type: ignore[misc]
        bus.send(notifications[: DELETIONS // 2])
        first = galera.urls(database_name)[0]
        eventually(lambda: healers(first) == 3, 120, "a heal by each of the three")
        galera.nodes[2].kill()
        assert held(cloud, uuids), "the node is killed while there is work"
        bus.send(notifications[DELETIONS // 2 :])
        eventually(lambda: len(held(cloud, uuids)) < DELETIONS // 3, 240, "most allocations, without the node")
        galera.start()
        eventually(lambda: not held(cloud, uuids), 240, "all allocations")
        eventually(lambda: bus.messages() == 0, 60, "the end of the queue")
        eventually(lambda: nothing_left(daemons[0]), 120, "the end of the work")
        assert all(daemon.running for daemon in daemons)
        assert_healed_once(daemons[2], uuids)
        for daemon in daemons:
            assert "Traceback" not in daemon.log.read_text()
