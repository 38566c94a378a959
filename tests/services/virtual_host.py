"""A virtual host of RabbitMQ, as the publishers use it."""

from __future__ import annotations

import json
import ssl
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from amqp.exceptions import ChannelError
from kombu.connection import Connection
from kombu.entity import Exchange, Queue

from handlers.demo import Notification
from tests.servers.rabbitmq import RabbitMQ
from tests.servers.server import HOST


@dataclass
class Bus:
    """A virtual host as the publishers use it.

    :param authority: the file of the authority by which they know the broker, where it speaks TLS
    :param declared: the queues that the publishers have declared
    """

    server: RabbitMQ
    url: str
    vhost: str
    authority: Path | None = None
    declared: list[str] = field(default_factory=list)

    def connection(self) -> Connection:
        """Return a connection of a publisher's."""
        tls = {"ca_certs": str(self.authority), "cert_reqs": ssl.CERT_REQUIRED, "server_hostname": HOST}
        return Connection(self.url, ssl=tls if self.authority else False)

    def declare(self, *queues: str) -> None:
        """Declare exchange and queues as oslo.messaging's publishers do."""
        with self.connection() as connection:
            exchange = Exchange("nova", "topic", durable=True, channel=connection)
            for name in queues:
                queue = Queue(name, exchange, routing_key=name, durable=True, channel=connection)
                queue.declare()
        self.declared += queues

    def publish(self, bodies: Sequence[bytes], queue: str = "stackmend.info") -> None:
        """Publish bodies as they are."""
        with self.connection() as connection:
            producer = connection.Producer()
            for body in bodies:
                producer.publish(
                    body,
                    exchange="nova",
                    routing_key=queue,
                    content_type="application/json",
                    content_encoding="utf-8",
                    delivery_mode=2,
                )

    def send(self, notifications: Sequence[Notification]) -> None:
        """Publish notifications."""
        self.publish([notification.body for notification in notifications])

    def read(self, queue: str) -> list[dict[str, Any]]:
        """Return the notifications in a queue, which stay there; none while the queue does not exist."""
        found = []
        with self.connection() as connection, suppress(ChannelError):
            channel = connection.channel()
            while message := channel.basic_get(queue):
                found.append(json.loads(json.loads(message.body)["oslo.message"]))
        return found

    @property
    def empty(self) -> bool:
        """Whether no message is in any queue, and none is delivered and unacknowledged.

        RabbitMQ counts over AMQP what waits for delivery. rabbitmqctl boots an Erlang machine, so it is asked last.
        """
        with self.connection() as connection, suppress(ChannelError):
            channel = connection.channel()
            if any(channel.queue_declare(queue=name, passive=True).message_count for name in self.declared):
                return False
        return self.messages() == 0

    def messages(self) -> int:
        """Count what is in all queues, delivered and unacknowledged messages included."""
        lines = self.server.ctl("list_queues", "-q", "-p", self.vhost, "messages").splitlines()
        return sum(int(line) for line in lines if line.strip().isdigit())
