"""RabbitMQ on three nodes: frozen, parted, short of memory; a queue that is deleted, and one that limits deliveries."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest

from handlers.nova.simulation import NovaSimulation
from tests.clusters.quorum import QUORUM, Reading, brokers, cluster, events, leader_is_killed, reading
from tests.program import Program
from tests.servers.rabbitmq_cluster import RabbitMQCluster
from tests.services.conftest import cloud, options
from tests.services.test_bus import Journal, declare, delete, journal, running, until
from tests.services.test_daemon import assert_healed_once, held, leak, nothing_left
from tests.services.virtual_host import Bus
from tests.waiting import eventually

__all__ = ["brokers", "cloud", "cluster", "journal", "options", "reading"]

DELETIONS = 60


def test_a_minority_that_is_left_alone_stores_and_loses_nothing(
    cluster: RabbitMQCluster, reading: Reading, journal: Journal
) -> None:
    """Two of three nodes freeze. The third confirms no message, and stackmend reads on once they are back."""
    reading.declare()
    source = reading.source(journal)
    with running(source):
        until(lambda: source.queues)
        reading.publish(0, 50)
        until(lambda: set(journal.ids) == events(0, 50))
        with ExitStack() as frozen:
            for node in cluster.nodes[1:]:
                node.pause()
                frozen.callback(node.resume)
            publisher = reading.publishing(50, 150)
            until(lambda: not source.connected, 60)
            assert set(journal.ids) == events(0, 50)
            assert publisher.is_alive(), "the minority confirms nothing"
        publisher.join(180)
        assert not publisher.is_alive()
        until(lambda: set(journal.ids) == events(0, 150))
        until(lambda: reading.messages() == 0)
    assert journal.dead == []


def test_the_leader_is_parted_from_the_majority(cluster: RabbitMQCluster, reading: Reading, journal: Journal) -> None:
    reading.declare()
    source = reading.source(journal)
    with running(source):
        until(lambda: source.queues)
        reading.publish(0, 50)
        leader = cluster.leader(reading.vhost, reading.queue)
        assert leader is not None
        others = [node for node in cluster.nodes if node is not leader]
        leader.part(others)
        try:
            until(lambda: not leader.answers(), 60)
            reading.publish(50, 150)
            until(lambda: set(journal.ids) == events(0, 150))
        finally:
            leader.mend(others)
        until(leader.answers, 60)
        reading.publish(150, 200)
        until(lambda: set(journal.ids) == events(0, 200))
    assert journal.dead == []


def test_the_memory_alarm_stops_publishers_and_not_stackmend(
    cluster: RabbitMQCluster, reading: Reading, journal: Journal
) -> None:
    reading.declare()
    journal.up = False
    source = reading.source(journal)
    with running(source):
        until(lambda: source.queues)
        reading.publish(0, 50)
        until(lambda: journal.asked)
        with cluster.alarm():
            publisher = reading.publishing(50, 100)
            journal.up = True
            until(lambda: set(journal.ids) == events(0, 50))
            until(lambda: reading.messages() == 0)
            assert publisher.is_alive(), "the alarm stops publishers"
        publisher.join(180)
        until(lambda: set(journal.ids) == events(0, 100))
    assert journal.dead == []


def test_a_queue_that_is_deleted_and_made_again_is_a_gap(reading: Reading, journal: Journal) -> None:
    """What was in the queue is lost; the sweep that the gap requests finds its drift."""
    reading.declare()
    source = reading.source(journal)
    with running(source):
        until(lambda: source.queues)
        delete(reading.broker, reading.queue)
        until(lambda: journal.gaps)
        reading.declare()
        until(lambda: any("is back" in gap for gap in journal.gaps))
        turned = source.turned_at
        until(lambda: source.turned_at > turned)
        reading.publish(0, 50)
        until(lambda: set(journal.ids) == events(0, 50))
    assert journal.dead == []


def take_and_return(reading: Reading, journal: Journal, delivers: bool) -> None:
    """Read while the journal is down; the stop returns the messages to the broker, which counts that."""
    asked = journal.asked
    source = reading.source(journal)
    with running(source):
        until(lambda: source.queues)
        if delivers:
            until(lambda: journal.asked > asked)


@pytest.mark.parametrize("dead_letters", ["kept", "dropped"])
def test_a_message_over_the_delivery_limit(reading: Reading, journal: Journal, dead_letters: str) -> None:
    """The limit of a publishers' queue ends a message; the limit's exchange keeps it. Our own queue has no limit."""
    declare(reading.broker, "refused", arguments=QUORUM)
    refuge = {"x-dead-letter-exchange": "nova", "x-dead-letter-routing-key": "refused"}
    reading.declare(**{"x-delivery-limit": 2}, **(refuge if dead_letters == "kept" else {}))
    is_own = reading.queue != reading.topic_queue
    journal.up = False
    if is_own:
        source = reading.source(journal)
        with running(source):
            until(lambda: source.queues)
    reading.publish(0, 3)
    for returned in range(4):
        # A queue that has dropped its messages delivers none.
        take_and_return(reading, journal, delivers=is_own or returned < 3)
    until(lambda: reading.messages() == (3 if is_own else 0))
    journal.up = True
    with running(reading.source(journal)):
        until(lambda: set(journal.ids) == (events(0, 3) if is_own else set()))
    node = reading.cluster.nodes[0]
    rows = node.ctl("list_queues", "-p", reading.vhost, "--no-table-headers", "name", "messages").splitlines()
    kept = 3 if dead_letters == "kept" and not is_own else 0
    assert f"refused\t{kept}" in rows


@pytest.fixture
def bus(reading: Reading) -> Bus:
    """Return the virtual host on all nodes."""
    url = reading.broker.transport_url.replace("rabbit://", "amqp://")
    return Bus(reading.cluster.nodes[0], url, reading.vhost)


def test_the_node_that_leads_the_queue_is_killed(reading: Reading, journal: Journal) -> None:
    leader_is_killed(reading, journal)
    assert journal.dead == []


@pytest.mark.timeout(400)
def test_a_daemon_heals_each_object_once_while_the_leader_dies_and_comes_back(
    reading: Reading, cloud: NovaSimulation, options: dict[str, dict[str, object]], tmp_path: Path
) -> None:
    cluster = reading.cluster
    reading.declare()
    options["bus"] = {"queue_mode": reading.settings.queue_mode.value, "queue_wait": 0.1, "answer_timeout": 5}
    uuids = leak(cloud, DELETIONS)
    bodies = [notification.body for notification in cloud.take()]
    with Program(tmp_path / "one", options) as daemon:
        daemon.start()
        eventually(lambda: f"reading the queue {reading.queue}" in daemon.log.read_text(), 90, "the reading")
        reading.publish_bodies(bodies[: DELETIONS // 2])
        eventually(lambda: len(held(cloud, uuids)) < DELETIONS, 90, "a heal")
        leader = cluster.leader(reading.vhost, reading.queue)
        assert leader is not None
        leader.kill()
        reading.publish_bodies(bodies[DELETIONS // 2 :])
        eventually(lambda: not held(cloud, uuids), 120, "all allocations")
        cluster.start()
        eventually(lambda: reading.messages() == 0, 60, "the end of the queue")
        eventually(lambda: nothing_left(daemon), 120, "the end of the work")
        assert_healed_once(daemon, uuids)
        assert daemon.json("dead", "list") == []
        assert "Traceback" not in daemon.log.read_text()
