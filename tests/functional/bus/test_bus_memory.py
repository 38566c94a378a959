"""The same source over kombu's broker in memory, which the demonstration and other tests use."""

import dataclasses
import json
import threading
import time
import uuid
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from consumer.bus import intake
from consumer.bus.connection import opened
from consumer.bus.source import Batch, NotStored, Source
from consumer.bus.topology import check, publish
from consumer.conf.bus import BusSettings, QueueMode
from handlers.base import Broker

CAPTURED = [
    json.loads(line)["body"].encode()
    for line in (Path(__file__).parents[2] / "data" / "notifications.jsonl").read_text().splitlines()
]
DELETE = next(body for body in CAPTURED if b'\\"event_type\\": \\"instance.delete.end\\"' in body)
WANTED = frozenset({"instance.delete.end"})


@pytest.fixture(params=["memory://", "kombu+memory://"])
def broker(request: pytest.FixtureRequest) -> Broker:
    return Broker("demo", request.param, (f"nova-{uuid.uuid4().hex}",))


@pytest.fixture
def settings() -> BusSettings:
    """Names of their own: what is in memory is shared by the process."""
    return BusSettings(topics=(f"topic-{uuid.uuid4().hex}",), priorities=("info",), queue_wait=0.1)


def declare(broker: Broker, settings: BusSettings) -> None:
    with opened(broker.transport_url, settings) as link, link.brief_channel() as channel:
        channel.exchange_declare(exchange=broker.exchanges[0], type="topic")
        for queue in settings.queues:
            channel.queue_declare(queue=queue)
            channel.queue_bind(queue=queue, exchange=broker.exchanges[0], routing_key=queue)


def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.01)


@contextmanager
def running(source: Source) -> Iterator[None]:
    stop = threading.Event()
    thread = threading.Thread(target=source.run, args=(stop,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(10)
        assert not thread.is_alive()


def test_events_dead_events_and_the_rest(broker: Broker, settings: BusSettings) -> None:
    declare(broker, settings)
    stored: list[Batch] = []
    source = Source(broker, settings, WANTED, stored.append, lambda *_: None)
    with running(source):
        for body in [*CAPTURED, b"garbage", b""]:
            publish(broker, broker.exchanges[0], settings.queues[0], body, settings)
        until(lambda: source.received == len(CAPTURED) + 2)
        until(lambda: sum(batch.messages for batch in stored) >= 2)
        until(lambda: sum(len(batch.dead) for batch in stored) == 2)
    assert [one.event.payload["uuid"] for batch in stored for one in batch.wanted] == [
        "69617650-e660-4191-901e-83cedba6e7c5"
    ] * 2
    assert [dead.body for batch in stored for dead in batch.dead] == [b"garbage", b""]
    assert check(broker, settings).ready


def test_a_queue_that_appears_and_a_journal_that_comes_back(broker: Broker, settings: BusSettings) -> None:
    stored: list[Batch] = []
    answers = iter([NotStored("down"), ValueError("a mistake"), None])

    def deliver(batch: Batch) -> None:
        answer = next(answers)
        if answer is not None:
            raise answer
        stored.append(batch)

    source = Source(broker, settings, WANTED, deliver, lambda *_: None)
    with running(source):
        until(lambda: source.connected)
        assert source.missing == settings.queues
        assert not check(broker, settings).ready
        declare(broker, settings)
        publish(broker, broker.exchanges[0], settings.queues[0], DELETE, settings)
        until(lambda: stored)
    assert [len(batch.wanted) for batch in stored] == [1]


def test_the_backlog_is_counted_also_while_the_journal_stores_nothing(
    broker: Broker, settings: BusSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake, "_COUNT_EVERY", 0.05)
    stored: list[Batch] = []
    up = threading.Event()

    def deliver(batch: Batch) -> None:
        if not up.is_set():
            raise NotStored("down")
        stored.append(batch)

    def counted() -> int | None:
        return None if source.backlog is None else source.backlog.messages

    declare(broker, settings)
    source = Source(broker, dataclasses.replace(settings, batch_size=1), WANTED, deliver, lambda *_: None)
    assert counted() is None
    with running(source):
        until(lambda: counted() == 0)
        for _number in range(10):
            publish(broker, broker.exchanges[0], settings.queues[0], DELETE, settings)
        until(lambda: counted() == 8)
        up.set()
        until(lambda: counted() == 0 and sum(batch.messages for batch in stored) == 10)


def test_bind_mode(broker: Broker) -> None:
    name = uuid.uuid4().hex
    settings = BusSettings(
        queue_mode=QueueMode.BIND, queue_name=f"own-{name}", bind_topics=(f"topic-{name}",), queue_wait=0.1
    )
    stored: list[Batch] = []
    with opened(broker.transport_url, settings) as link, link.brief_channel() as channel:
        channel.exchange_declare(exchange=broker.exchanges[0], type="topic")
    source = Source(broker, settings, WANTED, stored.append, lambda *_: None)
    with running(source):
        until(lambda: source.queues)
        publish(broker, broker.exchanges[0], f"topic-{name}.error", DELETE, settings)
        until(lambda: stored)
    assert [one.event.type for batch in stored for one in batch.wanted] == ["instance.delete.end"]


def test_a_compressed_message_is_unpacked(broker: Broker, settings: BusSettings) -> None:
    declare(broker, settings)
    stored: list[Batch] = []
    with running(Source(broker, settings, WANTED, stored.append, lambda *_: None)):
        with opened(broker.transport_url, settings) as link:
            channel = link.channel()
            message = channel.prepare_message(
                zlib.compress(DELETE), headers={"compression": "application/x-gzip"}, content_encoding="binary"
            )
            channel.basic_publish(message, exchange=broker.exchanges[0], routing_key=settings.queues[0])
        until(lambda: stored)
    assert [one.event.type for batch in stored for one in batch.wanted] == ["instance.delete.end"]
