from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from handlers.base.errors import Unavailable


@dataclass(frozen=True, slots=True)
class Broker:
    """A message broker that delivers notifications.

    :param name: the name in logs and metrics: ``nova``, ``cell:cell1``, ``octavia``
    :param transport_url: an oslo.messaging URL with secrets; never log this URL
    :param exchanges: the topic exchanges of the publishing services; stackmend can bind its own queue to them
    :param options: names and values of these services' TLS options in ``[oslo_messaging_rabbit]``
    """

    name: str
    transport_url: str = field(repr=False)
    exchanges: tuple[str, ...]
    options: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class QueueDepth:
    messages: int
    consumers: int


#: reads the queue with this name without a change; raises :class:`Unavailable` when no host answers, when the queue does not
#: exist, and for a malformed URL
QueueReader = Callable[[str], QueueDepth]


def _no_queues(broker: Broker) -> QueueReader:
    def refuse(queue: str) -> QueueDepth:
        raise Unavailable(f"broker:{broker.name}", f"this process cannot ask for the queue {queue}")

    return refuse


@dataclass(frozen=True, slots=True)
class Bus:
    """stackmend's access to RabbitMQ; handlers never connect to a broker themselves.

    :param topics_option: the option that sets ``topics``, for error messages
    :param queues: returns, for a broker, the function that counts a queue's messages. Call ``queues`` in the main thread:
        the first call imports eventlet, and a thread that imports eventlet can never be joined
    """

    topics: tuple[str, ...] = ()
    topics_option: str = "[bus] topics"
    queues: Callable[[Broker], QueueReader] = _no_queues
