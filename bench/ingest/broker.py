"""The private broker: a fresh queue for each drain, filled before it and looked at after it."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kombu.connection import Connection

from bench.ingest.job import EXCHANGE
from bench.report import Failed
from tests.servers.rabbitmq import RabbitMQ

#: How long the broker may take to have all messages in the queue, or to notice that the consumer is gone, in seconds.
_PATIENCE = 60.0


class Bus:
    """A RabbitMQ server of the benchmark's own.

    :param folder: where its data go
    :param quorum: whether the queues are quorum queues; else durable classic ones
    """

    def __init__(self, folder: Path, quorum: bool) -> None:
        self.server = RabbitMQ(folder)
        self._quorum = quorum

    def __enter__(self) -> Bus:
        self.server.start()
        return self

    def __exit__(self, *_failure: object) -> None:
        self.server.stop()

    def fill(self, name: str, bodies: Sequence[bytes]) -> None:
        """Make the queue anew, and publish the messages as oslo.messaging would: persistent, through the exchange.

        :raises Failed: when they do not arrive
        """
        with self._channel() as channel:
            channel.queue_delete(name)
            channel.exchange_declare(EXCHANGE, "topic", durable=True, auto_delete=False)
            arguments = {"x-queue-type": "quorum"} if self._quorum else None
            channel.queue_declare(name, durable=True, auto_delete=False, arguments=arguments)
            channel.queue_bind(name, EXCHANGE, name)
            for body in bodies:
                message = channel.prepare_message(
                    body,
                    content_type="application/json",
                    content_encoding="utf-8",
                    properties={"delivery_mode": 2},
                )
                channel.basic_publish(message, exchange=EXCHANGE, routing_key=name)
            end = time.monotonic() + _PATIENCE
            while (there := channel.queue_declare(name, passive=True).message_count) != len(bodies):
                if time.monotonic() > end:
                    raise Failed(f"{there} of {len(bodies)} messages reached the queue {name}")
                time.sleep(0.1)

    def check_taken(self, name: str) -> None:
        """Make sure that nothing is left in the queue, neither ready nor delivered and not acknowledged.

        :raises Failed: when something is
        """
        end = time.monotonic() + _PATIENCE
        while (left := self._left(name)) != (0, 0, 0):
            # The broker needs a moment to notice the end of a consumer, and counts of quorum queues are seconds old.
            if time.monotonic() > end:
                ready, held, consumers = left
                raise Failed(f"{name} holds {ready} messages and {held} unacknowledged ones, for {consumers} consumers")
            time.sleep(0.5)

    def _left(self, name: str) -> tuple[int, int, int]:
        """Return how many messages are ready, how many are held by a consumer, and how many consumers there are."""
        with self._channel() as channel:
            counts = channel.queue_declare(name, passive=True)
        listed = self.server.ctl("list_queues", "--no-table-headers", "name", "messages_unacknowledged")
        held = {queue: int(number) for queue, number in (line.split("\t") for line in listed.splitlines())}
        return counts.message_count, held[name], counts.consumer_count

    @contextmanager
    def _channel(self) -> Iterator[Any]:
        # py-amqp's default is 1 s, and a broker that is given messages faster than it can store them pauses for longer.
        patience = {"socket_settings": {socket.TCP_USER_TIMEOUT: int(_PATIENCE * 1000)}}
        connection: Any = Connection(self.server.url(), transport_options=patience)
        with connection, connection.channel() as channel:
            yield channel
