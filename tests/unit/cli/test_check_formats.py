from __future__ import annotations

from consumer.cli import check
from consumer.journal.notification_formats import ArrivedFormat
from handlers.base import Broker, Verdict


def test_unversioned_notifications_lack_only_the_events_of_hosts() -> None:
    """They have the events of aggregates: see the decoded names in test_bus_formats."""
    found = check._formats(Broker("nova", "rabbit://", ("nova",)), [ArrivedFormat("nova", "unversioned", 5.0)])
    assert found.verdict is Verdict.WARNING
    assert "no events of hosts:" in found.text
    assert "aggregate" not in found.text
