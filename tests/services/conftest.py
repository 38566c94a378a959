"""A cloud of simulated Nova databases and a real Placement, a real RabbitMQ, and stackmend beside them as a process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from handlers.nova.simulation import NovaSimulation
from tests.program import Program, only
from tests.servers.rabbitmq import RabbitMQ
from tests.services.virtual_host import Bus

HOSTS = {"compute-1": "cell1", "compute-2": "cell1", "compute-3": "cell2"}


@pytest.fixture
def bus(rabbitmq: RabbitMQ, vhost: str) -> Bus:
    """Return a fresh virtual host with the queues of our topic, as publishers leave them."""
    fresh = Bus(rabbitmq, vhost, vhost.rsplit("/", 1)[1])
    fresh.declare("stackmend.info", "stackmend.error")
    return fresh


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[NovaSimulation]:
    """Yield a healthy cloud of three mapped hosts."""
    folder = tmp_path / "cloud"
    folder.mkdir()
    simulation = NovaSimulation(folder)
    simulation.start()
    for host, cell in HOSTS.items():
        simulation.add_compute(host, cell)
        simulation.map_host(host)
    simulation.take()
    yield simulation
    simulation.stop()


@pytest.fixture
def options(cloud: NovaSimulation, bus: Bus) -> dict[str, dict[str, object]]:
    """Return a configuration: everything heals, events only."""
    given: dict[str, dict[str, object]] = {group: dict(values) for group, values in cloud.options().items()}
    given.setdefault("nova", {})["transport_url"] = bus.url.replace("amqp://", "rabbit://")
    given["engine"] = {"poll_seconds": 0.2, "heals_per_hour": 0, "breaker_count": 100000, "lease_seconds": 5}
    given["audit"] = {**only("discover_hosts", "sync_aggregates"), "audit_allocations_mode": "heal"}
    return given


@pytest.fixture
def stackmend(tmp_path: Path, options: dict[str, dict[str, object]]) -> Iterator[Program]:
    """Yield an installation that is not running yet."""
    with Program(tmp_path / "stackmend", options) as program:
        yield program
        print(program.log.read_text()[-8000:] if program.log.exists() else "")
