"""Messages that anyone with an account of the broker can send: none may stop its broker or cost another message."""

from __future__ import annotations

import bz2
import struct
from typing import Any

import amqp
import pytest

from consumer.bus import intake as intake_module
from consumer.bus.connection import opened
from consumer.bus.source import Source
from consumer.conf.bus import BusSettings, QueueMode
from handlers.base import Broker
from tests.servers.rabbitmq import RabbitMQ
from tests.services.test_bus import (
    DELETE,
    FAST,
    WANTED,
    Journal,
    broker,
    declare,
    journal,
    numbered,
    queues,
    running,
    until,
)
from tests.services.test_bus import send as send_good

__all__ = ["broker", "journal"]  # fixtures

QUEUE = "stackmend.info"


class Raw(amqp.Message):  # type: ignore[misc]
    """A message whose properties are these bytes."""

    def __init__(self, body: bytes, properties: bytes) -> None:
        super().__init__(body)
        self._raw = properties

    def _serialize_properties(self) -> bytes:
        return self._raw


def flagged(bit: int, value: bytes) -> bytes:
    """Return a property list of one property; 15 is content_type, 13 the headers."""
    return struct.pack(">H", 1 << bit) + value


def table(*fields: bytes) -> bytes:
    joined = b"".join(fields)
    return struct.pack(">I", len(joined)) + joined


#: in milliseconds, as seconds: the year 57879
MILLISECONDS = b"\x02at" + b"T" + struct.pack(">Q", 1_764_000_000_000)
BAD_PROPERTIES = {
    "content type": flagged(15, b"\x02\xff\xfe"),
    "header timestamp": flagged(13, table(MILLISECONDS)),
}


def send_raw(broker: Broker, body: bytes, properties: bytes, routing_key: str | bytes = QUEUE) -> None:
    with opened(broker.transport_url, FAST) as link, link.brief_channel() as channel:
        channel.basic_publish(Raw(body, properties), exchange="nova", routing_key=routing_key)


def surrounded(broker: Broker, body: bytes, properties: bytes, routing_key: str | bytes = QUEUE) -> list[str]:
    """Send a bad message between good ones; return the ids of the good ones."""
    send_good(broker, *(numbered(DELETE, number) for number in range(20)))
    send_raw(broker, body, properties, routing_key)
    send_good(broker, *(numbered(DELETE, number) for number in range(20, 40)))
    return [f"m{number}" for number in range(40)]


def drained(rabbitmq: RabbitMQ, broker: Broker) -> bool:
    return queues(rabbitmq, broker)[QUEUE][1:] == (0, 0)


@pytest.mark.parametrize("properties", BAD_PROPERTIES.values(), ids=BAD_PROPERTIES.keys())
@pytest.mark.parametrize(
    "arguments", [{}, {"x-queue-type": "quorum", "x-delivery-limit": 5}], ids=["classic", "quorum with a limit"]
)
def test_unreadable_properties_make_one_dead_letter_and_lose_nothing(
    rabbitmq: RabbitMQ, broker: Broker, journal: Journal, arguments: dict[str, Any], properties: bytes
) -> None:
    declare(broker, QUEUE, arguments=arguments)
    good = surrounded(broker, b"odd", properties)
    source = Source(broker, FAST, WANTED, journal.deliver, journal.on_gap)
    with running(source):
        until(lambda: len(journal.ids) == 40, 20)
        until(lambda: drained(rabbitmq, broker), 20)
    assert journal.ids == good
    assert journal.dead == [b"odd"]
    (letter,) = [letter for batch in journal.batches for letter in batch.dead]
    assert "properties" in letter.reason
    assert source.problem == "stopped"
    assert journal.gaps == []


def test_a_notification_with_unreadable_properties_is_still_an_event(broker: Broker, journal: Journal) -> None:
    declare(broker, QUEUE)
    send_raw(broker, numbered(DELETE, 7), BAD_PROPERTIES["header timestamp"])
    with running(Source(broker, FAST, WANTED, journal.deliver, journal.on_gap)):
        until(lambda: journal.batches, 20)
    assert journal.ids == ["m7"]
    assert journal.dead == []


def test_a_routing_key_that_is_not_utf_8_stops_nothing(rabbitmq: RabbitMQ, broker: Broker, journal: Journal) -> None:
    declare(broker, QUEUE)
    with opened(broker.transport_url, FAST) as link, link.brief_channel() as channel:
        channel.queue_bind(queue=QUEUE, exchange="nova", routing_key="#")
    good = surrounded(broker, b"odd", struct.pack(">H", 0), b"\xff\xfe.info")
    with running(Source(broker, FAST, WANTED, journal.deliver, journal.on_gap)):
        until(lambda: len(journal.ids) == 40, 20)
        until(lambda: drained(rabbitmq, broker), 20)
    assert journal.ids == good
    assert journal.dead == [b"odd"]


def test_an_unexpected_error_costs_no_message_beside_the_bad_one(
    rabbitmq: RabbitMQ, broker: Broker, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A quorum queue counts every return of a message and drops it at its limit."""
    arrive = intake_module.Intake._arrive

    def fails(self: intake_module.Intake, message: Any) -> None:
        if b"odd" in bytes(message.body):
            raise RecursionError("a bug")
        arrive(self, message)

    monkeypatch.setattr(intake_module.Intake, "_arrive", fails)
    declare(broker, QUEUE, arguments={"x-queue-type": "quorum", "x-delivery-limit": 3})
    good = surrounded(broker, b"odd", struct.pack(">H", 0))
    quick = Broker("nova", f"{broker.transport_url}?rabbit_retry_interval=1&rabbit_retry_backoff=1", ("nova",))
    with running(Source(quick, FAST, WANTED, journal.deliver, journal.on_gap)):
        until(lambda: len(set(journal.ids)) == 40 and drained(rabbitmq, broker), 60)
    assert sorted(set(journal.ids)) == sorted(good)


def test_a_small_message_does_not_become_a_large_one(broker: Broker, journal: Journal) -> None:
    bomb = bz2.compress(b'{"event_type": "' + b"a" * 40_000_000)
    declare(broker, QUEUE)
    with opened(broker.transport_url, FAST) as link, link.brief_channel() as channel:
        message = channel.prepare_message(bomb, headers={"compression": "application/x-bz2"})
        channel.basic_publish(message, exchange="nova", routing_key=QUEUE)
    with running(Source(broker, FAST, WANTED, journal.deliver, journal.on_gap)):
        until(lambda: journal.dead, 20)
    (letter,) = journal.batches[0].dead
    assert letter.body == bomb
    assert "decompressed" in letter.reason


def test_of_a_body_beyond_the_limit_only_the_start_is_read(broker: Broker, journal: Journal) -> None:
    settings = BusSettings(queue_wait=0.1, max_body_bytes=100_000, dead_body_bytes=1024)
    large = b"x" * 5_000_000
    declare(broker, QUEUE)
    sizes: list[int] = []
    source = Source(broker, settings, WANTED, journal.deliver, journal.on_gap)
    take = intake_module.Intake.take

    def noting(self: intake_module.Intake, most: int) -> list[Any]:
        sizes.append(self.size)
        return take(self, most)

    with pytest.MonkeyPatch.context() as patch, running(source):
        patch.setattr(intake_module.Intake, "take", noting)
        send_good(broker, large, numbered(DELETE, 1))
        until(lambda: journal.ids and journal.dead, 20)
    (letter,) = [letter for batch in journal.batches for letter in batch.dead]
    assert (letter.body, letter.size) == (large[:1024], len(large))
    assert max(sizes) < 200_000


def test_our_own_queue_survives_a_broker_that_would_drop_returned_messages(
    rabbitmq: RabbitMQ, broker: Broker, journal: Journal
) -> None:
    """A queue that already exists is read as it is, whatever its limit."""
    arguments = {"x-queue-type": "quorum", "x-delivery-limit": 7}
    declare(broker, "stackmend.events", arguments=arguments)
    settings = BusSettings(queue_wait=0.1, queue_mode=QueueMode.BIND)
    with running(Source(broker, settings, WANTED, journal.deliver, journal.on_gap)):
        send_good(broker, numbered(DELETE, 1), queue="stackmend.events")
        until(lambda: journal.ids == ["m1"], 20)
