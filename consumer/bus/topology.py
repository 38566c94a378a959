"""Looking at a broker from outside, and publishing to it.

:func:`check` answers an operator who wonders why no event comes: it asks, passively, for the exchanges and queues that
should be there, and says what to do about each that is not as it should be. It changes nothing.

:func:`publish` puts a message on an exchange and returns when a queue has it: for the demonstration and for tests.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass

from kombu.exceptions import ChannelError

from consumer.bus.connection import LOST, Link, is_absent, opened, plan, reason
from consumer.conf.bus import BusSettings
from handlers.base import Broker


class NotPublished(Exception):
    """The broker did not take the message, or no queue was there to keep it."""


@dataclass(frozen=True, slots=True)
class Found:
    """An exchange or a queue, as the broker describes it.

    :param kind: ``exchange`` or ``queue``
    :param messages: how many wait in the queue, without those being handed out
    :param consumers: how many read the queue, with us
    :param advice: what is wrong and what to do, in a sentence; empty when nothing is wrong
    :param allowed: whether our user may look at an exchange, or read a queue
    """

    kind: str
    name: str
    exists: bool
    messages: int = 0
    consumers: int = 0
    advice: str = ""
    allowed: bool = True


@dataclass(frozen=True, slots=True)
class Topology:
    """What was found on one broker.

    :param advice: why nothing could be looked at; empty when it could
    """

    broker: str
    reachable: bool
    found: tuple[Found, ...] = ()
    advice: str = ""

    @property
    def ready(self) -> bool:
        """Whether there is something to read. The queue of each priority appears with the first message of it."""
        return self.reachable and any(thing.exists for thing in self.found if thing.kind == "queue")


def check(broker: Broker, settings: BusSettings) -> Topology:
    """Look at one broker.

    :raises UnusableURL: when its transport URL is none of a broker that can be read
    """
    try:
        with opened(broker.transport_url, settings, broker.options) as link:
            return Topology(broker.name, True, tuple(_things(link, broker, settings)))
    except LOST as error:
        return Topology(
            broker.name, False, advice=f"{reason(error)}. Check the transport URL, its user and the network."
        )


def publish(broker: Broker, exchange: str, routing_key: str, body: bytes, settings: BusSettings | None = None) -> None:
    """Publish one persistent message, and wait until the broker has it in a queue.

    :param exchange: ``""`` for the default exchange, where the routing key is the name of a queue
    :raises NotPublished: also when the exchange routes it to no queue
    :raises UnusableURL: when the broker's transport URL is none of a broker that can be read
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
        raise NotPublished(f"broker {broker.name} did not take the message: {reason(error)}") from None


def _things(link: Link, broker: Broker, settings: BusSettings) -> Iterator[Found]:
    for exchange in broker.exchanges:
        yield _exchange(link, exchange)
    for queue in settings.queues:
        yield _queue(link, broker, queue, settings)


def _exchange(link: Link, name: str) -> Found:
    """Look for an exchange. Whether it is durable cannot be asked: only a declaration that is not passive would tell."""
    try:
        with link.brief_channel() as channel:
            channel.exchange_declare(exchange=name, type="topic", passive=True)
    except ChannelError as error:
        if not is_absent(error):
            return Found(
                "exchange", name, exists=True, allowed=False, advice=f"It cannot be looked at: {reason(error)}."
            )
        advice = (
            "Nothing was published to it yet: set [oslo_messaging_notifications] driver = messagingv2 in its services."
        )
        return Found("exchange", name, exists=False, advice=advice)
    return Found("exchange", name, exists=True)


def _queue(link: Link, broker: Broker, name: str, settings: BusSettings) -> Found:
    try:
        with link.brief_channel() as channel:
            declared = channel.queue_declare(queue=name, passive=True)
    except ChannelError as error:
        if not is_absent(error):
            return Found("queue", name, exists=True, allowed=False, advice=f"It cannot be read: {reason(error)}.")
        return Found("queue", name, exists=False, advice=_absent(name, settings))
    advice = ""
    if forbidden := _forbidden(link, broker, name, settings):
        return Found("queue", name, True, declared.message_count, declared.consumer_count, forbidden, allowed=False)
    if declared.message_count and not declared.consumer_count:
        advice = f"{declared.message_count} messages wait and nobody reads them: start the service."
    return Found("queue", name, True, declared.message_count, declared.consumer_count, advice)


def _forbidden(link: Link, broker: Broker, queue: str, settings: BusSettings) -> str:
    """Say that the user may not read a queue; nothing when it may.

    Everybody may ask for a queue. To consume with an argument that cannot be is refused in any case, before a message
    moves: for the right that is missing, which RabbitMQ looks at first, or else for the argument.
    """
    if not link.acks_multiple:  # the broker in memory has no users
        return ""
    try:
        with link.brief_channel() as channel:
            channel.basic_consume(queue, arguments={"x-priority": "none"})
    except ChannelError as error:
        if str(error.reply_code) == "403":
            return f"{reason(error)}: run {_permission(broker, queue, settings)}"
    return ""


def _permission(broker: Broker, queue: str, settings: BusSettings) -> str:
    """Return the command that gives the user of a broker what reading needs, and no more."""
    arguments = plan(broker.transport_url, settings, broker.options).endpoints[0].arguments
    if settings.queue_mode == "bind":
        own = f"^{re.escape(queue)}$"
        rights = (own, own, "|".join((own, *(f"^{re.escape(exchange)}$" for exchange in broker.exchanges))))
    else:
        rights = ("^$", "^$", f"^({'|'.join(re.escape(name) for name in settings.queues)})$")
    words = ["rabbitmqctl", "set_permissions", "-p", arguments["virtual_host"], arguments["userid"], *rights]
    return shlex.join(words)


def _absent(queue: str, settings: BusSettings) -> str:
    if settings.queue_mode == "bind":
        return "It is created when the service starts."
    topic = queue.rpartition(".")[0]
    return (
        "The first notification to it creates it. nova.conf: [notifications] notification_format = versioned, "
        f"versioned_notifications_topics = versioned_notifications,{topic}; octavia.conf: "
        f"[oslo_messaging_notifications] topics = notifications,{topic}; both: "
        "[oslo_messaging_notifications] driver = messagingv2."
    )
