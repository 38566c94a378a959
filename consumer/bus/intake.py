"""Consuming the queues of a broker on one connection: one channel, as many queues as exist.

Nothing that Nova or Octavia declare is declared here with arguments: RabbitMQ answers a mismatch with 406, and if ours
came first, the mismatch would be *theirs*, and break their publishing. So a queue of theirs is looked for passively, on a
channel of its own because "not found" closes the channel that asked, and waited for while it does not exist. A publisher
of oslo.messaging creates the queue of a topic with the first message for it
(``impl_rabbit.Connection._publish_and_creates_default_queue``), so nothing is lost while waiting.

Only with ``queue_mode = bind`` a queue is created: our own.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from time import monotonic
from typing import Any

from kombu.exceptions import ChannelError

from consumer.bus.connection import Link, is_absent, reason
from consumer.conf.bus import BusSettings
from handlers.base import Broker

LOG = logging.getLogger(__name__)

#: What makes services publish to our topic.
_ADVICE = (
    "nova.conf: [notifications] notification_format = versioned and versioned_notifications_topics = "
    "versioned_notifications,{topic}; octavia.conf: [oslo_messaging_notifications] topics = notifications,{topic}; both: "
    "[oslo_messaging_notifications] driver = messagingv2"
)

#: A queue that is waited for is asked for less and less often, up to this many times ``queue_wait`` apart.
_SLOWEST = 5

#: How long a broker may take to say goodbye, in seconds.
_LEAVE = 3.0


class Intake:
    """What arrives over one connection, in order.

    ``arrived`` holds the messages that came and were not taken yet, ``size`` their bytes. ``gaps`` collects a sentence for
    each time that messages may have been missed; whoever acts on it empties it.

    :param said: what was logged already, kept over connections: what is missing is said once
    :raises LOST: by the constructor and every method
    """

    def __init__(self, link: Link, broker: Broker, settings: BusSettings, said: set[tuple[str, str]]) -> None:
        self.link = link
        self.arrived: list[Any] = []
        self.size = 0
        self.gaps: list[str] = []
        self.consumed: dict[str, str] = {}
        self._broker = broker
        self._settings = settings
        self._deleted: set[str] = set()
        self._unbound = set(broker.exchanges) if settings.bindings else set()
        self._said = said
        self._tags = 0
        self._wait = settings.queue_wait
        self._next_look = 0.0
        self._next_beat = 0.0
        self._channel = link.channel()
        # Per consumer: quorum queues refuse a limit for the whole channel.
        self._channel.basic_qos(0, settings.prefetch, False)

    @property
    def missing(self) -> tuple[str, ...]:
        """The queues that do not exist, or may not be read."""
        return tuple(queue for queue in self._settings.queues if queue not in self.consumed.values())

    def drain(self, timeout: float) -> bool:
        """Wait for something to arrive; False if nothing did in time."""
        return self.link.drain(timeout)

    def take(self, most: int) -> list[Any]:
        """Return the oldest messages that arrived, and forget them."""
        taken, self.arrived = self.arrived[:most], self.arrived[most:]
        self.size = sum(len(message.body) for message in self.arrived)
        return taken

    def ack(self, messages: Sequence[Any]) -> None:
        """Acknowledge messages that were taken; they must include all that arrived before the last of them."""
        if self.link.acks_multiple:
            self._channel.basic_ack(messages[-1].delivery_tag, multiple=True)
        else:
            for message in messages:
                self._channel.basic_ack(message.delivery_tag)

    def tend(self) -> None:
        """Do what is due: heartbeats, and looking for what was missing. Call it at least once a second."""
        now = monotonic()
        if now >= self._next_beat:
            self._next_beat = now + 1.0
            self.link.beat()
        if now >= self._next_look and (self.missing or self._unbound):
            self.look()

    def look(self) -> None:
        """Consume every queue that exists by now, and bind our own to every exchange that exists by now."""
        for queue in self.missing:
            if self._exists(queue):
                self._consume(queue)
        for exchange in sorted(self._unbound) if not self.missing else ():
            if self._bind(exchange):
                self._unbound.discard(exchange)
        self._next_look = monotonic() + self._wait
        self._wait = min(self._wait * 2, self._settings.queue_wait * _SLOWEST)

    def close(self) -> None:
        """Give back what was not acknowledged, and take leave: the channel first, then the connection.

        In this order everything that was acknowledged has arrived when this returns; a process that just goes away
        sees its last acknowledgements undone now and then.
        """
        self.link.wait_for_answers(_LEAVE)
        self._channel.close()
        self.link.close()

    def _exists(self, queue: str) -> bool:
        declaration: dict[str, Any] = {"passive": True}
        if self._settings.queue_mode == "bind":
            arguments = {"x-queue-type": "quorum"}
            declaration = {"durable": True, "auto_delete": False, "exclusive": False, "arguments": arguments}
        try:
            with self.link.brief_channel() as channel:
                channel.queue_declare(queue=queue, **declaration)
        except ChannelError as error:
            self._say(queue, error)
            return False
        return True

    def _consume(self, queue: str) -> None:
        self._tags += 1
        tag = f"stackmend.{self._tags}"
        self.consumed[tag] = queue
        self._channel.basic_consume(
            queue, no_ack=False, consumer_tag=tag, callback=self._arrive, on_cancel=self._cancelled
        )
        LOG.info("broker %s: reading the queue %s at %s", self._broker.name, queue, self.link.name)
        if queue in self._deleted:
            self._deleted.discard(queue)
            self.gaps.append(f"the queue {queue} is back")

    def _bind(self, exchange: str) -> bool:
        try:
            with self.link.brief_channel() as channel:
                channel.exchange_declare(exchange=exchange, type="topic", passive=True)
                for key in self._settings.bindings:
                    channel.queue_bind(queue=self._settings.queue_name, exchange=exchange, routing_key=key)
        except ChannelError as error:
            self._say(exchange, error)
            return False
        LOG.info("broker %s: bound %s to the exchange %s", self._broker.name, self._settings.queue_name, exchange)
        return True

    def _arrive(self, message: Any) -> None:
        self.arrived.append(message)
        self.size += len(message.body)

    def _cancelled(self, tag: str) -> None:
        """Take note that the broker ended a consumer: its queue was deleted, or moved to another node."""
        queue = self.consumed.pop(tag, "?")
        LOG.warning("broker %s: the broker ended the reading of the queue %s", self._broker.name, queue)
        self._deleted.add(queue)
        self.gaps.append(f"the broker ended the reading of the queue {queue}, which was deleted or moved")
        self._wait = self._settings.queue_wait
        self._next_look = 0.0

    def _say(self, name: str, error: ChannelError) -> None:
        """Say once what is missing and what to do about it."""
        code = str(error.reply_code)
        if (name, code) in self._said:
            return
        self._said.add((name, code))
        if not is_absent(error):
            LOG.warning("broker %s: %s cannot be used, will ask again: %s", self._broker.name, name, reason(error))
        elif self._settings.bindings:
            LOG.info(
                "broker %s: the exchange %s does not exist yet; its service creates it with its first notification. "
                "Waiting for it. Services: set [oslo_messaging_notifications] driver = messagingv2",
                self._broker.name,
                name,
            )
        else:
            topic = name.rpartition(".")[0]
            heard = any(queue.startswith(f"{topic}.") for queue in self.consumed.values())
            LOG.info(
                "broker %s: the queue %s does not exist yet; a publisher creates it with its first notification%s",
                self._broker.name,
                name,
                " of that kind" if heard else f". Waiting for it. {_ADVICE.format(topic=topic)}",
            )
