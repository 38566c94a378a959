"""Announcements: a stop sends those that are queued."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest
from oslo_config import cfg

from consumer.engine import notifier
from consumer.engine.notifier import NotifyingAnnouncer
from handlers.base import Finding, Key


class SlowBroker:
    """Takes no message before its release."""

    def __init__(self, *_arguments: object, **_options: object) -> None:
        self.asked, self.release = threading.Event(), threading.Event()
        self.sent: list[str] = []

    def warn(self, _context: object, _event_type: str, payload: Any) -> None:
        self.asked.set()
        assert self.release.wait(60)
        self.sent.append(payload["key"])


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> SlowBroker:
    made = SlowBroker()
    messaging = SimpleNamespace(
        get_notification_transport=lambda *_arguments, **_options: None, Notifier=lambda *_arguments, **_options: made
    )
    monkeypatch.setattr(notifier, "oslo_messaging", messaging)
    monkeypatch.setattr(notifier, "_KEEP", 2)
    monkeypatch.setattr(notifier, "_GOODBYE", 60.0)
    return made


def test_a_stop_sends_all_announcements_of_a_full_queue(broker: SlowBroker) -> None:
    conf = cfg.ConfigOpts()
    conf.register_opts([cfg.StrOpt("announce_transport_url"), cfg.ListOpt("announce_topics", default=[])], "engine")
    announcer = NotifyingAnnouncer(conf, "stackmend")
    for number in range(3):
        announcer.finding("mender", Finding(Key("thing", str(number)), "broken", "it is broken", {}))
        assert broker.asked.wait(60)
    sent_at_the_end: list[list[str]] = []

    def close() -> None:
        announcer.close()
        sent_at_the_end.append(list(broker.sent))

    closing = threading.Thread(target=close)
    closing.start()
    closing.join(0.2)
    broker.release.set()
    closing.join()
    assert sent_at_the_end == [["thing:0", "thing:1", "thing:2"]]
