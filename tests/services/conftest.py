"""A cloud of simulated Nova databases and a real Placement, a real RabbitMQ, and stackmend beside them as a process."""

from __future__ import annotations

import json
import ssl
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from amqp.exceptions import ChannelError
from kombu.connection import Connection
from kombu.entity import Exchange, Queue

from handlers.demo import Notification
from handlers.nova.simulation import NovaSimulation
from tests.program import Program, only
from tests.servers.rabbitmq import RabbitMQ
from tests.servers.server import HOST

HOSTS = {"compute-1": "cell1", "compute-2": "cell1", "compute-3": "cell2"}


def eventually(predicate: Callable[[], bool], seconds: float, what: str) -> None:
    """Wait until something holds; a wide bound, for slow machines."""
    deadline = time.monotonic() + seconds
    while not predicate():
        assert time.monotonic() < deadline, f"{what}: not in {seconds:.0f} s"
        time.sleep(0.2)


@dataclass
class Bus:
    """A virtual host as the publishers use it.

    :param authority: the file of the authority by which they know the broker, where it speaks TLS
    """

    server: RabbitMQ
    url: str
    vhost: str
    authority: Path | None = None

    def connection(self) -> Connection:
        """Return a connection of a publisher's."""
        tls = {"ca_certs": str(self.authority), "cert_reqs": ssl.CERT_REQUIRED, "server_hostname": HOST}
        return Connection(self.url, ssl=tls if self.authority else False)

    def declare(self, *queues: str) -> None:
        """Declare exchange and queues as oslo.messaging's publishers do."""
        with self.connection() as connection:
            exchange = Exchange("nova", "topic", durable=True, channel=connection)
            for name in queues:
                queue = Queue(name, exchange, routing_key=name, durable=True, channel=connection)
                queue.declare()

    def publish(self, bodies: Sequence[bytes], queue: str = "stackmend.info") -> None:
        """Publish bodies as they are."""
        with self.connection() as connection:
            producer = connection.Producer()
            for body in bodies:
                producer.publish(
                    body,
                    exchange="nova",
                    routing_key=queue,
                    content_type="application/json",
                    content_encoding="utf-8",
                    delivery_mode=2,
                )

    def send(self, notifications: Sequence[Notification]) -> None:
        """Publish notifications."""
        self.publish([notification.body for notification in notifications])

    def read(self, queue: str) -> list[dict[str, Any]]:
        """Return the notifications in a queue, which stay there; none while the queue does not exist."""
        found = []
        with self.connection() as connection, suppress(ChannelError):
            channel = connection.channel()
            while message := channel.basic_get(queue):
                found.append(json.loads(json.loads(message.body)["oslo.message"]))
        return found

    def messages(self) -> int:
        """Count what is in all queues, delivered and unacknowledged messages included."""
        lines = self.server.ctl("list_queues", "-q", "-p", self.vhost, "messages").splitlines()
        return sum(int(line) for line in lines if line.strip().isdigit())


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
