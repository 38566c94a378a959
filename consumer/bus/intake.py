"""Consumes the queues of one broker over one connection.

stackmend never creates a queue or exchange of a service. If stackmend declared other arguments than the service, RabbitMQ would
refuse the service's own declaration with 406. No message is lost before a queue first exists, because oslo.messaging's
publisher creates the queue with the first message (``impl_rabbit.Connection._publish_and_creates_default_queue``).

With ``[bus] queue_mode = bind``, stackmend creates one queue of its own, which gets only messages sent afterwards.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any

from kombu.exceptions import ChannelError

from consumer.bus.connection import Link, is_absent, reason
from consumer.conf.bus import BusSettings, QueueMode
from handlers.base import Broker

LOG = logging.getLogger(__name__)

#: The options that make services publish to our topic.
_ADVICE = (
    "nova.conf: [notifications] notification_format = versioned and versioned_notifications_topics = "
    "versioned_notifications,{topic}; octavia.conf: [oslo_messaging_notifications] topics = notifications,{topic}; both: "
    "[oslo_messaging_notifications] driver = messagingv2"
)

#: The wait between two lookups of a missing queue grows to this many times ``queue_wait``: RabbitMQ logs an error for each.
_SLOWEST = 300

#: Seconds to wait for the broker's answer when the connection is closed.
_LEAVE = 3.0

#: Seconds between two countings of the messages in our queues.
_COUNT_EVERY = 30.0


@dataclass(frozen=True, slots=True)
class Backlog:
    """The number of unsent messages in the queues that stackmend reads on one broker.

    :param at: monotonic time of the count, in seconds
    """

    messages: int
    at: float


@dataclass(frozen=True, slots=True)
class Arrived:
    """A message from the broker, not decoded.

    :param body: the message's body; only its start if ``size`` exceeds ``[bus] max_body_bytes``
    :param size: bytes of the complete body
    :param compression: the message's header ``compression``
    :param unreadable: why the message's properties cannot be read; empty for readable properties
    """

    tag: Any
    body: bytes
    size: int
    exchange: str = ""
    routing_key: str = ""
    compression: Any = None
    unreadable: str = ""


def queue_arguments(version: str) -> dict[str, Any]:
    """Return the arguments that declare stackmend's own queue.

    :param version: the version of RabbitMQ
    """
    # RabbitMQ 4 drops a message of a quorum queue after 20 redeliveries, unless the limit is -1, which RabbitMQ 3 refuses.
    major = version.partition(".")[0]
    limit = {"x-delivery-limit": -1} if major.isdecimal() and int(major) >= 4 else {}
    return {"x-queue-type": "quorum", **limit}


class Intake:
    """Receives messages from one connection into the list ``arrived``. ``size`` is the sum of their bodies' sizes, in bytes.

    The list ``gaps`` has a sentence for each time that messages were perhaps missed. Every method that uses the connection can
    raise the errors in :data:`consumer.bus.connection.LOST`.

    :param logged: the problems that were logged, as (queue or exchange, reply code). Successive connections share this set
    :param prefetch: how many unacknowledged messages the broker may send, per queue
    """

    def __init__(
        self, link: Link, broker: Broker, settings: BusSettings, logged: set[tuple[str, str]], prefetch: int
    ) -> None:
        self.link = link
        self.arrived: list[Arrived] = []
        self.size = 0
        self.gaps: list[str] = []
        self.consumed: dict[str, str] = {}
        #: None until the broker has counted
        self.backlog: Backlog | None = None
        self._broker = broker
        self._settings = settings
        self._deleted: set[str] = set()
        self._unbound = self._to_bind
        self._logged = logged
        self._tags = 0
        self._wait = settings.queue_wait
        self._next_discovery = 0.0
        self._next_beat = 0.0
        self._next_count = 0.0
        self._channel = link.channel()
        # The limit applies per consumer: quorum queues refuse one per channel.
        self._channel.basic_qos(0, prefetch, False)

    @property
    def _to_bind(self) -> set[str]:
        return set(self._broker.exchanges) if self._settings.bindings else set()

    @property
    def missing(self) -> tuple[str, ...]:
        """The configured queues that stackmend does not read now."""
        return tuple(queue for queue in self._settings.queues if queue not in self.consumed.values())

    def drain(self, timeout: float) -> bool:
        return self.link.drain(timeout)

    def take(self, most: int) -> list[Arrived]:
        taken, self.arrived = self.arrived[:most], self.arrived[most:]
        self.size = sum(len(message.body) for message in self.arrived)
        return taken

    def ack(self, messages: Sequence[Arrived]) -> None:
        """Acknowledge these messages, which must be the oldest unacknowledged ones."""
        if self.link.acks_multiple:
            self._channel.basic_ack(messages[-1].tag, multiple=True)
        else:
            for message in messages:
                self._channel.basic_ack(message.tag)

    def tend(self) -> None:
        """Send heartbeats, look for missing queues and exchanges, and count the backlog, if due. Call this every second."""
        now = monotonic()
        if now >= self._next_beat:
            self._next_beat = now + 1.0
            self.link.beat()
        if now >= self._next_discovery and (self.missing or self._unbound):
            self.discover()
        if now >= self._next_count and self.consumed:
            self._count(now)

    def discover(self) -> None:
        """Begin to consume each configured queue that exists. If all exist, bind stackmend's own queue to exchanges."""
        for queue in self.missing:
            if self._exists(queue):
                self._consume(queue)
        for exchange in sorted(self._unbound) if not self.missing else ():
            if self._bind(exchange):
                self._unbound.discard(exchange)
        self._next_discovery = monotonic() + self._wait
        self._wait = min(self._wait * 2, self._settings.queue_wait * _SLOWEST)

    def close(self) -> None:
        """Close the connection; the broker then sends unacknowledged messages again."""
        self.link.wait_for_answers(_LEAVE)
        # The broker's answer shows that it has every acknowledgement.
        self._channel.close()
        self.link.close()

    def _exists(self, queue: str) -> bool:
        """Return whether a queue exists; False after any error. With ``queue_mode = bind``, first create a missing queue."""
        try:
            try:
                self._declare(queue, passive=True)
            except ChannelError as error:
                if self._settings.queue_mode is not QueueMode.BIND or not is_absent(error):
                    raise
                arguments = queue_arguments(self.link.version)
                self._declare(queue, durable=True, auto_delete=False, exclusive=False, arguments=arguments)
        except ChannelError as error:
            self._log_once(queue, error)
            return False
        return True

    def _declare(self, queue: str, **declaration: Any) -> Any:
        with self.link.brief_channel() as channel:
            return channel.queue_declare(queue=queue, **declaration)

    def _count(self, now: float) -> None:
        # Before the requests, so that a queue that is away is not asked for in every round.
        self._next_count = now + _COUNT_EVERY
        try:
            # A passive declaration answers with the number of messages, and needs no further right on the broker.
            counted = [self._declare(queue, passive=True).message_count for queue in self.consumed.values()]
        except ChannelError:
            return  # a queue was deleted; the broker cancels its consumer
        self.backlog = Backlog(sum(counted), now)

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
            self._log_once(exchange, error)
            return False
        LOG.info("broker %s: bound %s to the exchange %s", self._broker.name, self._settings.queue_name, exchange)
        return True

    def _arrive(self, message: Any) -> None:
        body, info = message.body, message.delivery_info
        if not isinstance(body, bytes):  # empty, or of the broker in memory
            body = str(body).encode("utf-8", "replace")
        arrived = Arrived(
            tag=message.delivery_tag,
            body=body,
            size=getattr(message, "body_size", len(body)),
            exchange=str(info.get("exchange") or ""),
            routing_key=str(info.get("routing_key") or ""),
            compression=(message.headers or {}).get("compression"),
            unreadable=getattr(message, "unreadable", ""),
        )
        self.arrived.append(arrived)
        self.size += len(body)

    def _cancelled(self, tag: str) -> None:
        queue = self.consumed.pop(tag, "?")
        LOG.warning("broker %s: the broker cancelled our consumer of the queue %s", self._broker.name, queue)
        self._deleted.add(queue)
        self._unbound = self._to_bind  # a queue takes its bindings with it
        self.gaps.append(f"the queue {queue} was deleted or moved")
        self._wait = self._settings.queue_wait
        self._next_discovery = 0.0

    def _log_once(self, name: str, error: ChannelError) -> None:
        code = str(error.reply_code)
        if (name, code) in self._logged:
            return
        self._logged.add((name, code))
        if not is_absent(error):
            LOG.warning("broker %s: cannot use %s, trying again: %s", self._broker.name, name, reason(error))
        elif self._settings.bindings:
            LOG.info(
                "broker %s: waiting for the exchange %s. Its service creates it with the first notification; "
                "set [oslo_messaging_notifications] driver = messagingv2 in that service",
                self._broker.name,
                name,
            )
        else:
            topic = name.rpartition(".")[0]
            other = any(queue.startswith(f"{topic}.") for queue in self.consumed.values())
            LOG.info(
                "broker %s: waiting for the queue %s. A publisher creates it with its first notification%s",
                self._broker.name,
                name,
                " of this priority" if other else f". {_ADVICE.format(topic=topic)}",
            )
