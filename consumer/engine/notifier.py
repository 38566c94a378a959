"""Publishes findings and heals through oslo.messaging's notifier, when ``[engine] announce`` is on.

A thread sends the announcements from a queue. If the queue is full, further announcements are dropped with a warning.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from oslo_config import cfg

from consumer.engine import trace
from consumer.engine.announce import Announcer
from consumer.messaging import oslo_messaging
from handlers.base import Finding, Healed

LOG = logging.getLogger(__name__)
_KEEP = 1000
#: Seconds for which a stop sends queued announcements.
_GOODBYE = 5.0

Message = tuple[str, str, Mapping[str, Any]]


class NotifyingAnnouncer(Announcer):
    def __init__(self, conf: cfg.ConfigOpts, publisher: str) -> None:
        transport = oslo_messaging.get_notification_transport(conf, url=conf.engine.announce_transport_url)
        topics = conf.engine.announce_topics
        self._notifier = oslo_messaging.Notifier(transport, publisher, driver="messagingv2", topics=topics, retry=1)
        self._queue: queue.Queue[Message | None] = queue.Queue(_KEEP)
        self._thread = threading.Thread(target=self._send_all, name="announce", daemon=True)
        self._thread.start()

    def finding(self, handler: str, finding: Finding) -> None:
        self._put("warn", "stackmend.finding", handler, finding)

    def healed(self, handler: str, finding: Finding, healed: Healed) -> None:
        self._put("info", "stackmend.heal.end", handler, finding, healed=asdict(healed))

    def failed(self, handler: str, finding: Finding, error: str) -> None:
        self._put("error", "stackmend.heal.error", handler, finding, error=error)

    def close(self) -> None:
        """Send the queued announcements, for up to 5 seconds; then stop."""
        ends = time.monotonic() + _GOODBYE
        with suppress(queue.Full):
            self._queue.put(None, timeout=_GOODBYE)
        self._thread.join(max(0.0, ends - time.monotonic()))
        if self._thread.is_alive():
            LOG.warning("announcements are lost: the broker did not take them in %g s", _GOODBYE)

    def _put(self, priority: str, event_type: str, handler: str, finding: Finding, **more: Any) -> None:
        payload = {
            "handler": handler,
            "key": str(finding.key),
            "problem": finding.problem,
            "summary": finding.summary,
            "evidence": dict(finding.evidence),
            "request_id": trace.current(),
            **more,
        }
        try:
            self._queue.put_nowait((priority, event_type, payload))
        except queue.Full:
            LOG.warning("announcement %s of %s dropped: %s are waiting for the broker", event_type, finding.key, _KEEP)

    def _send_all(self) -> None:
        while (message := self._queue.get()) is not None:
            priority, event_type, payload = message
            try:
                getattr(self._notifier, priority)({}, event_type, payload)
            except Exception as error:  # the thread must outlive whatever a driver raises
                LOG.warning("announcement %s not sent: %s", event_type, type(error).__name__)


def from_conf(conf: cfg.ConfigOpts, publisher: str) -> Announcer:
    return NotifyingAnnouncer(conf, publisher) if conf.engine.announce else Announcer()
