from __future__ import annotations

from kombu.exceptions import ChannelError

from consumer.bus import connection
from consumer.conf.bus import BusSettings, UnusableURL
from handlers.base import Broker, QueueDepth, Unavailable


def queue_depth(broker: Broker, settings: BusSettings, queue: str) -> QueueDepth:
    """Return how many unsent messages and how many consumers a queue has.

    :raises Unavailable: the transport URL is unusable, no host answers, or the queue is missing or exclusive
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
