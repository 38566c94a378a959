"""Quorum queues on a RabbitMQ cluster, as the fixtures of tests: in the publishers' topic, and in stackmend's own queue."""

from __future__ import annotations

import dataclasses
import threading
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from consumer.bus.connection import LOST, opened
from consumer.bus.source import Source
from consumer.conf.bus import BusSettings, QueueMode
from handlers.base import Broker
from tests.servers.fixtures import serve
from tests.servers.rabbitmq_cluster import RabbitMQCluster
from tests.services.test_bus import DELETE, FAST, WANTED, Journal, declare, numbered, until

#: A client leaves a silent node after seconds.
_QUICK = "heartbeat_timeout_threshold=4&rabbit_retry_interval=1&rabbit_retry_backoff=0"
QUORUM = {"x-queue-type": "quorum"}


@dataclass(frozen=True)
class Reading:
    """How stackmend reads in one queue mode.

    :param queue: the queue that it reads
    :param topic_queue: the queue of the publishers' topic
    """

    cluster: RabbitMQCluster
    vhost: str
    broker: Broker
    settings: BusSettings
    queue: str
    topic_queue: str

    def source(self, journal: Journal) -> Source:
        return Source(self.broker, self.settings, WANTED, journal.deliver, journal.on_gap)

    def declare(self, **arguments: object) -> None:
        """Make the queue of the topic, as the publishers do."""
        declare(self.broker, self.topic_queue, arguments=QUORUM | arguments)

    def publish(self, first: int, last: int) -> None:
        """Publish numbered events; see :meth:`publish_bodies`."""
        self.publish_bodies([numbered(DELETE, number) for number in range(first, last)])

    def publish_bodies(self, bodies: Sequence[bytes]) -> None:
        """Publish until the broker has confirmed each body; one may then be there twice."""
        left = list(bodies)
        while left:
            try:
                with opened(self.broker.transport_url, self.settings) as link, link.brief_channel() as channel:
                    while left:
                        message = channel.prepare_message(left[0], properties={"delivery_mode": 2})
                        channel.basic_publish(message, exchange="nova", routing_key=self.topic_queue)
                        del left[0]
            except LOST:
                continue

    def publishing(self, first: int, last: int) -> threading.Thread:
        """Publish in another thread."""
        thread = threading.Thread(target=self.publish, args=(first, last), daemon=True)
        thread.start()
        return thread

    def messages(self) -> int:
        """Count the messages in the queue that stackmend reads, unacknowledged ones included."""
        node = next(node for node in self.cluster.nodes if node.running)
        rows = node.ctl("list_queues", "-p", self.vhost, "--no-table-headers", "name", "messages").splitlines()
        return sum(int(row.split("\t")[1]) for row in rows if row.startswith(f"{self.queue}\t"))


def events(first: int, last: int) -> set[str]:
    """Return the ids of numbered events."""
    return {f"m{number}" for number in range(first, last)}


@pytest.fixture(scope="session")
def brokers(servers_folder: Path) -> Iterator[RabbitMQCluster]:
    """Yield a cluster; tests may kill, freeze and part its nodes."""
    yield from serve(RabbitMQCluster, servers_folder / "cluster")


@pytest.fixture
def cluster(brokers: RabbitMQCluster) -> RabbitMQCluster:
    """Return the cluster, with all nodes up."""
    brokers.start()
    return brokers


@pytest.fixture(params=list(QueueMode))
def reading(cluster: RabbitMQCluster, request: pytest.FixtureRequest) -> Iterator[Reading]:
    """Yield a fresh virtual host in each queue mode; in mode bind, stackmend's queue exists and is bound."""
    vhost = f"test-{uuid.uuid4().hex[:12]}"
    cluster.nodes[0].add_vhost(vhost)
    broker = Broker("nova", f"{cluster.transport_url(vhost)}?{_QUICK}", ("nova",))
    settings = dataclasses.replace(FAST, queue_mode=request.param, answer_timeout=5.0)
    binds = request.param is QueueMode.BIND
    topic_queue = "versioned_notifications.info" if binds else "stackmend.info"
    made = Reading(cluster, vhost, broker, settings, "stackmend.events" if binds else topic_queue, topic_queue)
    yield made
    cluster.start()
    cluster.nodes[0].delete_vhost(vhost)


def leader_is_killed(reading: Reading, journal: Journal) -> None:
    """Kill the node that leads the queue, while events arrive; the others go on."""
    reading.declare()
    source = reading.source(journal)
    stop = threading.Event()
    thread = threading.Thread(target=source.run, args=(stop,), daemon=True)
    thread.start()
    try:
        until(lambda: source.queues)
        before = reading.publishing(0, 300)
        until(lambda: len(set(journal.ids)) > 30)
        leader = reading.cluster.leader(reading.vhost, reading.queue)
        assert leader is not None
        leader.kill()
        before.join()
        reading.publish(300, 400)
        until(lambda: set(journal.ids) == events(0, 400))
        until(lambda: reading.messages() == 0)
        assert not leader.running
    finally:
        stop.set()
        thread.join(30)
    assert not thread.is_alive()
