"""A RabbitMQ cluster of three nodes, one of which is killed. ``tests/clusters/test_rabbitmq.py`` has what takes longer."""

from __future__ import annotations

from tests.services import quorum
from tests.services.quorum import Reading, brokers, cluster, reading
from tests.services.test_bus import Journal, journal

__all__ = ["brokers", "cluster", "journal", "reading"]  # fixtures


def test_the_node_that_leads_the_queue_is_killed(reading: Reading, journal: Journal) -> None:
    quorum.leader_is_killed(reading, journal)
    assert journal.dead == []
