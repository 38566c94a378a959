"""Makes the :class:`~handlers.base.Bus` through which handlers and checks read RabbitMQ."""

from __future__ import annotations

from kombu.exceptions import ChannelError
from oslo_config import cfg

from consumer.bus import connection
from consumer.conf import bus as bus_conf
from consumer.conf.bus import BusSettings, QueueMode, UnusableURL
from handlers.base import Broker, Bus, QueueDepth, Unavailable


def bus(conf: cfg.ConfigOpts) -> Bus:
    settings = bus_conf.settings(conf)
    binds = settings.queue_mode is QueueMode.BIND
    topics = conf.bus.bind_topics if binds else conf.bus.topics
    option = "[bus] bind_topics" if binds else "[bus] topics"
    return Bus(tuple(topics), option, lambda broker, queue: queue_depth(broker, queue, settings))


def queue_depth(broker: Broker, queue: str, settings: BusSettings) -> QueueDepth:
    """Return how many messages and consumers a queue has.

    :raises Unavailable: the transport URL is malformed, no host answers, or the queue does not exist
    """
    try:
        with connection.opened(broker.transport_url, settings, broker.options) as link, link.brief_channel() as channel:
            answer = channel.queue_declare(queue=queue, passive=True)
    except ChannelError as error:
        reply = getattr(error, "reply_text", "")
        raise Unavailable(f"broker:{broker.name}", f"the queue {queue} cannot be asked: {reply}") from error
    except UnusableURL as error:
        raise Unavailable(f"broker:{broker.name}", str(error)) from None
    except connection.LOST as error:
        raise Unavailable(f"broker:{broker.name}", connection.reason(error)) from error
    return QueueDepth(answer.message_count, answer.consumer_count)
