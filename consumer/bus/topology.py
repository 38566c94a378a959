"""Inspects a broker's exchanges and queues, and consumes no message. Publishes messages for the demonstration and tests."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from kombu.exceptions import ChannelError

from consumer.bus.connection import LOST, Link, is_absent, opened, plan, reason
from consumer.conf.bus import BusSettings, QueueMode
from handlers.base import Broker


class NotPublished(Exception):
    """The broker did not accept the message, or no queue received it."""


class Kind(StrEnum):
    EXCHANGE = "exchange"
    QUEUE = "queue"


@dataclass(frozen=True, slots=True)
class Found:
    """An exchange or a queue on the broker.

    :param advice: its problem and the remedy; empty without a problem
    :param allowed: whether stackmend's user may inspect the exchange, or read the queue
    """

    kind: Kind
    name: str
    exists: bool
    messages: int = 0
    consumers: int = 0
    advice: str = ""
    allowed: bool = True


@dataclass(frozen=True, slots=True)
class Topology:
    broker: str
    reachable: bool
    found: tuple[Found, ...] = ()
    advice: str = ""

    @property
    def ready(self) -> bool:
        """Whether the broker answers and at least one configured queue exists."""
        return self.reachable and any(thing.exists for thing in self.found if thing.kind is Kind.QUEUE)


def check(broker: Broker, settings: BusSettings) -> Topology:
    """Inspect a broker's exchanges and queues, to explain why no event arrives."""
    try:
        with opened(broker.transport_url, settings, broker.options) as link:
            return Topology(broker.name, True, tuple(_things(link, broker, settings)))
    except LOST as error:
        return Topology(
            broker.name, False, advice=f"{reason(error)}. Check the transport URL, its user and the network."
        )


def publish(broker: Broker, exchange: str, routing_key: str, body: bytes, settings: BusSettings | None = None) -> None:
    """Publish one persistent message; return once a queue has the message, otherwise raise :class:`NotPublished`.

    :param exchange: ``""`` for the default exchange, where the routing key is the queue's name
    """
    try:
        with opened(broker.transport_url, settings or BusSettings(), broker.options) as link:
            channel = link.channel()
            message = channel.prepare_message(
                body, content_type="application/json", content_encoding="utf-8", properties={"delivery_mode": 2}
            )
            channel.basic_publish(message, exchange=exchange, routing_key=routing_key, mandatory=True)
            channel.close()
    except LOST as error:
        raise NotPublished(f"broker {broker.name} did not accept the message: {reason(error)}") from None


def _things(link: Link, broker: Broker, settings: BusSettings) -> Iterator[Found]:
    for exchange in broker.exchanges:
        yield _exchange(link, broker, exchange, settings)
    for queue in settings.queues:
        yield _queue(link, broker, queue, settings)


def _exchange(link: Link, broker: Broker, name: str, settings: BusSettings) -> Found:
    try:
        with link.brief_channel() as channel:
            channel.exchange_declare(exchange=name, type="topic", passive=True)
    except ChannelError as error:
        if not is_absent(error):
            advice = f"Access denied: {reason(error)}. Run {_rabbitmqctl(broker, settings, 'list_permissions')}"
            return Found(Kind.EXCHANGE, name, exists=True, allowed=False, advice=advice)
        advice = (
            "No service has published to it: set [oslo_messaging_notifications] driver = messagingv2 in its services."
        )
        return Found(Kind.EXCHANGE, name, exists=False, advice=advice)
    return Found(Kind.EXCHANGE, name, exists=True)


def _queue(link: Link, broker: Broker, name: str, settings: BusSettings) -> Found:
    try:
        with link.brief_channel() as channel:
            declared = channel.queue_declare(queue=name, passive=True)
    except ChannelError as error:
        if not is_absent(error):
            owners = _rabbitmqctl(broker, settings, "list_queues", "name", "owner_pid")
            advice = f"Cannot read it: {reason(error)}. Find its owner with {owners}"
            return Found(Kind.QUEUE, name, exists=True, allowed=False, advice=advice)
        return Found(Kind.QUEUE, name, exists=False, advice=_absent(name, settings))
    messages, consumers = declared.message_count, declared.consumer_count
    if forbidden := _forbidden(link, broker, name, settings):
        return Found(Kind.QUEUE, name, True, messages, consumers, forbidden, allowed=False)
    advice = (
        f"{messages} messages wait, and no consumer reads them: start stackmend." if messages and not consumers else ""
    )
    return Found(Kind.QUEUE, name, True, messages, consumers, advice)


def _forbidden(link: Link, broker: Broker, queue: str, settings: BusSettings) -> str:
    if not link.acks_multiple:  # the broker in memory has no users
        return ""
    # Every user may declare passively, so try to consume with an invalid argument. RabbitMQ always refuses: first for a missing
    # permission, otherwise for the argument.
    try:
        with link.brief_channel() as channel:
            channel.basic_consume(queue, arguments={"x-priority": "none"})
    except ChannelError as error:
        if str(error.reply_code) == "403":
            return f"{reason(error)}: run {_permission(broker, queue, settings)}"
    return ""


def _permission(broker: Broker, queue: str, settings: BusSettings) -> str:
    if settings.queue_mode is QueueMode.BIND:
        own = f"^{re.escape(queue)}$"
        rights = (own, own, "|".join((own, *(f"^{re.escape(exchange)}$" for exchange in broker.exchanges))))
    else:
        rights = ("^$", "^$", f"^({'|'.join(re.escape(name) for name in settings.queues)})$")
    return _rabbitmqctl(broker, settings, "set_permissions", _arguments(broker, settings)["userid"], *rights)


def _rabbitmqctl(broker: Broker, settings: BusSettings, command: str, *words: str) -> str:
    return shlex.join(["rabbitmqctl", command, "-p", _arguments(broker, settings)["virtual_host"], *words])


def _arguments(broker: Broker, settings: BusSettings) -> Mapping[str, Any]:
    return plan(broker.transport_url, settings, broker.options).endpoints[0].arguments


def _absent(queue: str, settings: BusSettings) -> str:
    if settings.queue_mode is QueueMode.BIND:
        return "It appears once the daemon runs: stackmend run"
    topic = queue.rpartition(".")[0]
    return (
        "The first notification creates it. nova.conf: [notifications] notification_format = versioned, "
        f"versioned_notifications_topics = versioned_notifications,{topic}; octavia.conf: "
        f"[oslo_messaging_notifications] topics = notifications,{topic}; both: "
        "[oslo_messaging_notifications] driver = messagingv2."
    )
