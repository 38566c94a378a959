"""Sends the journal's waiting messages to the sinks, in threads of its own, so that no heal waits."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from consumer.conf.webhooks import Sink, WebhookSettings, WrongTemplate
from consumer.engine.ended_leases import Sightings
from consumer.engine.webhooks import sending
from consumer.engine.webhooks.message import Renderer
from consumer.engine.webhooks.sending import Attempt
from consumer.journal import deliveries
from consumer.journal.database import Database
from consumer.journal.deliveries import Delivery
from consumer.journal.errors import JournalError

LOG = logging.getLogger(__name__)

#: Seconds between two searches for messages, and between two deletions of old ones.
_EVERY, _TIDY = 2.0, 300.0
#: Seconds before the second attempt; each further pause is twice as long, up to the longest.
_FIRST_PAUSE, _LONGEST_PAUSE = 5.0, 900.0
#: Seconds for which a claim outlasts two timeouts of its sink.
_MARGIN = 30.0

#: Makes one attempt: sink, id of the message, body.
Post = Callable[[Sink, str, bytes], Attempt]


class Sender:
    """Several processes can send messages, but only one at a time claims a message.

    :raises WrongTemplate: a template cannot be used
    """

    def __init__(self, database: Database, settings: WebhookSettings, post: Post = sending.post) -> None:
        self._database = database
        self._settings = settings
        self._post = post
        self._renderers = {sink.name: Renderer(sink.template) for sink in settings.sinks}
        self._sightings = {sink.name: Sightings(_lease(sink)) for sink in settings.sinks}
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(sink,), name=f"webhook-{sink.name}", daemon=True)
            for sink in settings.sinks
        ]

    def start(self) -> None:
        """Register the sinks in the journal; start a thread for each, so that a silent sink delays no other."""
        self.subscribe()
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Stop the threads. Unsent messages wait for the next start."""
        self._stop.set()
        for thread in self._threads:
            if thread.is_alive():
                thread.join(1)

    def subscribe(self) -> None:
        deliveries.subscribe(self._database, {sink.name: sink.events for sink in self._settings.sinks})

    def flush(self, seconds: float) -> None:
        """Send waiting messages for at most ``seconds``; then stop."""
        threads = [threading.Thread(target=self._round, args=(sink,), daemon=True) for sink in self._settings.sinks]
        end = time.monotonic() + seconds
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(max(0.0, end - time.monotonic()))
        self._stop.set()

    def _run(self, sink: Sink) -> None:
        tidied_at = float("-inf")
        while not self._stop.is_set():
            if time.monotonic() - tidied_at > _TIDY:
                self._guarded(self._tidy, sink)
                tidied_at = time.monotonic()
            self._guarded(self._end_leases, sink)
            self._round(sink)
            self._stop.wait(_EVERY)

    def _round(self, sink: Sink) -> None:
        self._guarded(self.send_all, sink)

    def _guarded(self, act: Callable[[Sink], None], sink: Sink) -> None:
        try:
            act(sink)
        except JournalError as outage:
            LOG.debug("webhook %s waits for the journal: %s", sink.name, outage)
        except Exception:
            LOG.exception("a bug in the webhook %s", sink.name)

    def send_all(self, sink: Sink) -> None:
        while not self._stop.is_set():
            held = deliveries.claim(self._database, sink.name, _lease(sink))
            if held is None or not self._send(sink, held):
                return

    def _end_leases(self, sink: Sink) -> None:
        before = time.monotonic()
        leases = deliveries.leases(self._database, sink.name)
        if ended := self._sightings[sink.name].ended(leases, before, time.monotonic()):
            deliveries.end(self._database, ended)

    def _send(self, sink: Sink, held: Delivery) -> bool:
        attempt = self._attempt(sink, held)
        if attempt.error and not attempt.final:
            level = logging.DEBUG if held.attempts else logging.WARNING
            LOG.log(level, "webhook %s: %s; trying again", sink.name, attempt.error)
            pause = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0 ** min(held.attempts, 20))
            deliveries.again(self._database, held, max(pause, attempt.after or 0.0), attempt.error)
            return False
        if attempt.error:
            LOG.warning("webhook %s: message %d is dropped: %s", sink.name, held.id, attempt.error)
        deliveries.done(self._database, held)
        return True

    def _attempt(self, sink: Sink, held: Delivery) -> Attempt:
        if held.entry is None:
            return Attempt("its history entry was deleted", final=True)
        try:
            body = self._renderers[sink.name].body(held.entry, held.outcome)
        except WrongTemplate as error:
            return Attempt(str(error), final=True)
        return self._post(sink, f"stackmend-{held.id}", body)

    def _tidy(self, sink: Sink) -> None:
        deleted = 0
        while more := deliveries.expire(self._database, sink.name, self._settings.keep_seconds, self._settings.keep):
            deleted += more
        if deleted:
            LOG.warning("webhook %s: deleted %d undelivered messages ([webhooks] keep_hours, keep)", sink.name, deleted)


def _lease(sink: Sink) -> float:
    return 2 * sink.timeout + _MARGIN
