"""Reading a real RabbitMQ: what is on the broker, and what was stored, after everything that may happen to either."""

import dataclasses
import json
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from consumer.bus import intake
from consumer.bus.connection import opened
from consumer.bus.source import Batch, NotStored, Source
from consumer.bus.topology import NotPublished, check, publish
from consumer.conf.bus import BusSettings, QueueMode
from handlers.base import Broker
from tests.servers.rabbitmq import RabbitMQ

CAPTURED: list[bytes] = [
    json.loads(line)["body"].encode()
    for line in (Path(__file__).parents[1] / "data" / "notifications.jsonl").read_text().splitlines()
]


def captured(event_type: str) -> bytes:
    return next(body for body in CAPTURED if f'\\"event_type\\": \\"{event_type}\\"'.encode() in body)


DELETE, UPDATE = captured("instance.delete.end"), captured("instance.update")
WANTED = frozenset({"instance.delete.end"})
FAST = BusSettings(queue_wait=0.1)


def until(condition: Callable[[], Any], seconds: float = 180.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.01)


class Journal:
    """Stores batches in a list, unless a test sets it down."""

    def __init__(self) -> None:
        self.up = True
        self.asked = 0
        self.batches: list[Batch] = []
        self.gaps: list[str] = []

    def deliver(self, batch: Batch) -> None:
        self.asked += 1
        if not self.up:
            raise NotStored("down")
        self.batches.append(batch)

    def on_gap(self, broker: str, reason: str) -> None:
        self.gaps.append(f"{broker}: {reason}")

    @property
    def ids(self) -> list[str]:
        return [one.event.id for batch in self.batches for one in batch.wanted]

    @property
    def dead(self) -> list[bytes]:
        return [dead.body for batch in self.batches for dead in batch.dead]


@pytest.fixture
def broker(vhost: str) -> Broker:
    return Broker("nova", vhost.replace("amqp://", "rabbit://", 1), ("nova",))


@pytest.fixture
def journal() -> Journal:
    return Journal()


@contextmanager
def running(source: Source) -> Iterator[threading.Event]:
    stop = threading.Event()
    thread = threading.Thread(target=source.run, args=(stop,), daemon=True)
    thread.start()
    try:
        yield stop
    finally:
        stop.set()
        thread.join(20)
        assert not thread.is_alive()


def declare(broker: Broker, queue: str, **options: Any) -> None:
    """Make a queue as a publisher of oslo.messaging does."""
    options = {"durable": True, "auto_delete": False} | options
    with opened(broker.transport_url, FAST) as link, link.brief_channel() as channel:
        channel.exchange_declare(exchange="nova", type="topic", durable=False, auto_delete=False)
        channel.queue_declare(queue=queue, **options)
        channel.queue_bind(queue=queue, exchange="nova", routing_key=queue)


def delete(broker: Broker, queue: str) -> None:
    with opened(broker.transport_url, FAST) as link, link.brief_channel() as channel:
        channel.queue_delete(queue)


def numbered(body: bytes, number: int) -> bytes:
    """Give a captured notification an id of its own."""
    envelope = json.loads(body)
    notification = json.loads(envelope["oslo.message"]) | {"message_id": f"m{number}"}
    return json.dumps(envelope | {"oslo.message": json.dumps(notification)}).encode()


def send(broker: Broker, *bodies: bytes, queue: str = "stackmend.info") -> None:
    with opened(broker.transport_url, FAST) as link, link.brief_channel() as channel:
        for body in bodies:
            channel.basic_publish(
                channel.prepare_message(body, properties={"delivery_mode": 2}), exchange="nova", routing_key=queue
            )


def turn(source: Source) -> None:
    """Wait until the source has looked for missing queues once more."""
    for _ in range(2):
        before = source.turned_at
        until(partial(_turned, source, before))


def _turned(source: Source, before: float) -> bool:
    return source.turned_at > before


def _connected(source: Source) -> bool:
    return source.connected


def queues(rabbitmq: RabbitMQ, broker: Broker) -> dict[str, tuple[str, int, int]]:
    """The broker's own figures: type, ready and unacknowledged messages of each queue."""
    name = broker.transport_url.rpartition("/")[2]
    rows = rabbitmq.ctl(
        "list_queues", "-p", name, "--no-table-headers", "name", "type", "messages_ready", "messages_unacknowledged"
    )
    fields = [row.split("\t") for row in rows.splitlines() if "\t" in row]
    return {name: (kind, int(ready), int(unacked)) for name, kind, ready, unacked in fields}


@pytest.mark.parametrize(
    "options",
    [{}, {"durable": False}, {"arguments": {"x-queue-type": "quorum"}}],
    ids=["classic", "classic transient", "quorum"],
)
def test_wanted_events_are_stored_and_everything_is_acknowledged(
    rabbitmq: RabbitMQ, broker: Broker, journal: Journal, options: dict[str, Any]
) -> None:
    declare(broker, "stackmend.info", **options)
    wanted = [numbered(DELETE, number) for number in range(1200)]
    send(broker, *(body for pair in zip(wanted, [UPDATE] * 1200, strict=True) for body in pair), b"garbage")
    source = Source(broker, FAST, WANTED, journal.deliver, journal.on_gap)
    with running(source):
        until(lambda: source.received == 2401)
        until(lambda: journal.dead)
    assert journal.ids == [f"m{number}" for number in range(1200)]
    assert journal.dead == [b"garbage"]
    assert all(batch.messages <= FAST.batch_size for batch in journal.batches)
    assert [one.body for batch in journal.batches for one in batch.wanted] == wanted
    assert (source.wanted, source.dead) == (1200, 1)
    assert journal.gaps == []
    # a quorum queue counts a little later
    until(lambda: queues(rabbitmq, broker)["stackmend.info"][1:] == (0, 0))


def test_a_single_event_is_stored_at_once(broker: Broker, journal: Journal) -> None:
    declare(broker, "stackmend.info")
    patient = dataclasses.replace(FAST, batch_seconds=3600.0)
    source = Source(broker, patient, WANTED, journal.deliver, journal.on_gap)
    with running(source):
        until(lambda: source.queues)
        send(broker, DELETE)
        until(lambda: journal.ids)


def test_reading_creates_no_queue_and_a_queue_that_appears_is_read(
    rabbitmq: RabbitMQ, broker: Broker, journal: Journal
) -> None:
    source = Source(broker, FAST, WANTED, journal.deliver, journal.on_gap)
    with running(source):
        until(lambda: source.connected)
        turn(source)
        assert queues(rabbitmq, broker) == {}
        assert source.missing == ("stackmend.info", "stackmend.error")
        declare(broker, "stackmend.error")
        send(broker, DELETE, queue="stackmend.error")
        until(lambda: len(journal.ids) == 1)
        declare(broker, "stackmend.info", arguments={"x-queue-type": "quorum"})
        send(broker, DELETE)
        until(lambda: len(journal.ids) == 2)
        assert not source.missing
    assert set(queues(rabbitmq, broker)) == {"stackmend.info", "stackmend.error"}
    assert journal.gaps == []


def test_nothing_is_acknowledged_before_it_is_stored(rabbitmq: RabbitMQ, broker: Broker, journal: Journal) -> None:
    declare(broker, "stackmend.info")
    send(broker, *(numbered(DELETE, number) for number in range(30)))
    journal.up = False
    source = Source(broker, FAST, WANTED, journal.deliver, journal.on_gap)
    with running(source):
        until(lambda: journal.asked >= 3)
        assert queues(rabbitmq, broker)["stackmend.info"] == ("classic", 0, 30)
        assert "the journal stores nothing now" in source.problem
        assert source.connected
        journal.up = True
        until(lambda: len(journal.ids) == 30)
        until(lambda: source.problem == "")
    assert journal.ids == [f"m{number}" for number in range(30)]
    assert queues(rabbitmq, broker)["stackmend.info"] == ("classic", 0, 0)


def test_the_backlog_is_what_rabbitmq_has_not_sent_yet(
    broker: Broker, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake, "_COUNT_EVERY", 0.1)
    declare(broker, "stackmend.info")
    send(broker, *(numbered(DELETE, number) for number in range(30)))
    journal.up = False
    source = Source(broker, dataclasses.replace(FAST, batch_size=5), WANTED, journal.deliver, journal.on_gap)
    with running(source):
        until(lambda: source.backlog is not None and source.backlog.messages == 20)
        journal.up = True
        until(lambda: len(journal.ids) == 30)
        until(lambda: source.backlog is not None and source.backlog.messages == 0)


def test_heartbeats_go_on_while_the_journal_is_unavailable(broker: Broker, journal: Journal) -> None:
    declare(broker, "stackmend.info")
    send(broker, *(numbered(DELETE, number) for number in range(30)))
    journal.up = False
    nervous = Broker("nova", f"{broker.transport_url}?heartbeat_timeout_threshold=2", ("nova",))
    source = Source(nervous, FAST, WANTED, journal.deliver, journal.on_gap)
    with running(source):
        until(lambda: journal.asked)
        end = time.monotonic() + 8
        while time.monotonic() < end:
            assert source.connected
            time.sleep(0.1)
        journal.up = True
        until(lambda: len(journal.ids) == 30)
        send(broker, numbered(DELETE, 30))
        until(lambda: len(journal.ids) == 31)
    assert source.received == 31
    assert journal.gaps == []


def test_what_is_not_stored_when_we_stop_stays_on_the_broker(
    rabbitmq: RabbitMQ, broker: Broker, journal: Journal
) -> None:
    declare(broker, "stackmend.info")
    send(broker, *(numbered(DELETE, number) for number in range(30)))
    journal.up = False
    with running(Source(broker, FAST, WANTED, journal.deliver, journal.on_gap)):
        until(lambda: journal.asked >= 2)
    assert queues(rabbitmq, broker)["stackmend.info"] == ("classic", 30, 0)


def test_a_long_outage_of_the_journal_gives_the_messages_back_once(
    rabbitmq: RabbitMQ, broker: Broker, journal: Journal
) -> None:
    declare(broker, "stackmend.info", arguments={"x-queue-type": "quorum"})
    send(broker, *(numbered(DELETE, number) for number in range(30)))
    journal.up = False
    settings = BusSettings(queue_wait=0.1, unacknowledged_seconds=1.0)
    source = Source(broker, settings, WANTED, journal.deliver, journal.on_gap)
    with running(source):
        until(lambda: journal.asked and not source.connected)
        until(lambda: queues(rabbitmq, broker)["stackmend.info"] == ("quorum", 30, 0))
        journal.up = True
        until(lambda: source.connected and len(set(journal.ids)) == 30)
        until(lambda: source.received >= 60)
        until(lambda: queues(rabbitmq, broker)["stackmend.info"] == ("quorum", 0, 0))


def test_a_broker_that_restarts_is_a_gap_and_reading_goes_on(
    rabbitmq: RabbitMQ, broker: Broker, journal: Journal
) -> None:
    declare(broker, "stackmend.info")
    send(broker, numbered(DELETE, 1))
    source = Source(broker, FAST, WANTED, journal.deliver, journal.on_gap)
    with running(source):
        until(lambda: journal.ids == ["m1"])
        rabbitmq.stop()
        until(lambda: not source.connected)
        assert source.problem
        assert journal.gaps == []
        rabbitmq.start()
        until(lambda: journal.gaps, 60)
        assert source.connected
        declare(broker, "stackmend.info")
        send(broker, numbered(DELETE, 2))
        until(lambda: journal.ids == ["m1", "m2"])
    assert len(journal.gaps) == 1
    assert journal.gaps[0].startswith("nova: the connection to the broker was lost")


def test_a_queue_that_is_deleted_and_made_again_is_a_gap(broker: Broker, journal: Journal) -> None:
    declare(broker, "stackmend.info")
    source = Source(broker, FAST, WANTED, journal.deliver, journal.on_gap)
    with running(source):
        until(lambda: "stackmend.info" in source.queues)
        delete(broker, "stackmend.info")
        until(lambda: len(journal.gaps) == 1)
        assert "stackmend.info" in source.missing
        declare(broker, "stackmend.info")
        send(broker, DELETE)
        until(lambda: len(journal.ids) == 1)
        until(lambda: len(journal.gaps) == 2)


def test_a_gap_that_cannot_be_stored_now_is_stored_later(
    broker: Broker, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("consumer.bus.source._STORE_AGAIN_MOST", 1.0)
    tried: list[str] = []

    def on_gap(name: str, reason: str) -> None:
        tried.append(reason)
        if len(tried) == 1:
            raise NotStored("down")
        journal.on_gap(name, reason)

    declare(broker, "stackmend.info")
    source = Source(broker, FAST, WANTED, journal.deliver, on_gap)
    with running(source):
        until(lambda: source.queues)
        delete(broker, "stackmend.info")
        until(lambda: journal.gaps)
    assert len(tried) == 2
    assert tried[0] == tried[1]


def test_bind_mode_makes_one_queue_and_leaves_the_shared_ones_alone(
    rabbitmq: RabbitMQ, broker: Broker, journal: Journal
) -> None:
    settings = BusSettings(queue_wait=0.1, queue_mode=QueueMode.BIND)
    source = Source(broker, settings, WANTED, journal.deliver, journal.on_gap)
    with running(source):
        until(lambda: "stackmend.events" in source.queues)
        assert queues(rabbitmq, broker) == {"stackmend.events": ("quorum", 0, 0)}
        declare(broker, "versioned_notifications.info")  # makes the exchange as well
        name = broker.transport_url.rpartition("/")[2]
        until(lambda: sum("nova\texchange\tstackmend.events" in row for row in _bindings(rabbitmq, name)) == 4)
        send(broker, DELETE, queue="versioned_notifications.info")
        until(lambda: len(journal.ids) == 1)
    assert queues(rabbitmq, broker) == {
        "stackmend.events": ("quorum", 0, 0),
        "versioned_notifications.info": ("classic", 1, 0),
    }


def test_our_own_queue_that_is_deleted_is_made_and_bound_again(
    rabbitmq: RabbitMQ, broker: Broker, journal: Journal
) -> None:
    declare(broker, "versioned_notifications.info")
    settings = BusSettings(queue_wait=0.1, queue_mode=QueueMode.BIND)
    name = broker.transport_url.rpartition("/")[2]

    def bound() -> bool:
        return sum("nova\texchange\tstackmend.events" in row for row in _bindings(rabbitmq, name)) == 4

    source = Source(broker, settings, WANTED, journal.deliver, journal.on_gap)
    with running(source):
        until(bound)
        delete(broker, "stackmend.events")
        until(lambda: len(journal.gaps) == 2)
        until(bound, 30)
        send(broker, DELETE, queue="versioned_notifications.info")
        until(lambda: len(journal.ids) == 1)
    assert [gap.partition(" ")[2] for gap in journal.gaps] == [
        "the queue stackmend.events was deleted or moved",
        "the queue stackmend.events is back",
    ]


def _bindings(rabbitmq: RabbitMQ, vhost: str) -> list[str]:
    return rabbitmq.ctl("list_bindings", "-p", vhost, "--no-table-headers").splitlines()


def test_the_second_host_serves_when_the_first_is_dead(broker: Broker, journal: Journal) -> None:
    declare(broker, "stackmend.info")
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        login = broker.transport_url.removeprefix("rabbit://").partition("@")[0]
        hosts = broker.transport_url.removeprefix("rabbit://")
        url = f"rabbit://{login}@127.0.0.1:{unused.getsockname()[1]},{hosts}"
        with ExitStack() as stack:
            for _ in range(4):  # the order is random
                two = Broker("nova", url, ("nova",))
                source = Source(two, FAST, WANTED, journal.deliver, journal.on_gap)
                stack.enter_context(running(source))
                until(partial(_connected, source))
            send(broker, DELETE)
            until(lambda: len(journal.ids) == 1)


def test_replicas_share_a_queue(rabbitmq: RabbitMQ, broker: Broker, journal: Journal) -> None:
    declare(broker, "stackmend.info")
    settings = BusSettings(queue_wait=0.1, batch_size=10)
    with ExitStack() as stack:
        sources = [Source(broker, settings, WANTED, journal.deliver, journal.on_gap) for _ in range(2)]
        for source in sources:
            stack.enter_context(running(source))
        until(lambda: all(source.queues for source in sources))
        send(broker, *(numbered(DELETE, number) for number in range(100)))
        until(lambda: len(journal.ids) == 100)
        assert all(source.received for source in sources)
    assert sorted(journal.ids) == sorted(f"m{number}" for number in range(100))
    assert queues(rabbitmq, broker)["stackmend.info"][1:] == (0, 0)


def test_the_error_for_a_wrong_password_hides_the_password(broker: Broker, journal: Journal) -> None:
    login, _, rest = broker.transport_url.removeprefix("rabbit://").partition("@")
    user = login.partition(":")[0]
    wrong = Broker("nova", f"rabbit://{user}:Geheim1@{rest}", ())
    source = Source(wrong, FAST, WANTED, journal.deliver, journal.on_gap)
    with running(source):
        until(lambda: "ACCESS_REFUSED" in source.problem)
        assert "Geheim1" not in source.problem
    assert "Geheim1" not in check(wrong, FAST).advice


def test_ten_thousand_bad_messages_are_dead_events_every_one(
    rabbitmq: RabbitMQ, broker: Broker, journal: Journal
) -> None:
    declare(broker, "stackmend.info")
    bad = [
        b"",
        b"garbage",
        DELETE[:-100],
        UPDATE[: len(UPDATE) // 2],
        b"[" * 20_000,
        b"\xff" + DELETE,
        DELETE.replace(b'"2.0"', b'"3.0"', 1),
        UPDATE.replace(b'"2.0"', b'"9.9"', 1),
        json.dumps({"event_type": 7, "payload": {}}).encode(),
        json.dumps({"event_type": "instance.delete.end", "payload": []}).encode(),
        b'{"event_type": "instance.delete.end", "payload": "' + b"x" * 50_000,
    ]
    count = 10_000
    bodies = [bad[number % len(bad)] for number in range(count)]
    source = Source(broker, BusSettings(dead_body_bytes=1024), WANTED, journal.deliver, journal.on_gap)
    with running(source):
        for start in range(0, count, 1000):
            send(broker, *bodies[start : start + 1000])
            send(broker, numbered(DELETE, start))
        until(lambda: source.received == count + 10, 60)
        until(lambda: len(journal.ids) == 10)
    assert journal.dead == [body[:1024] for body in bodies]
    assert [dead.size for batch in journal.batches for dead in batch.dead] == [len(body) for body in bodies]
    assert {dead.routing_key for batch in journal.batches for dead in batch.dead} == {"stackmend.info"}
    assert queues(rabbitmq, broker)["stackmend.info"] == ("classic", 0, 0)


def test_a_look_at_the_broker_changes_nothing(rabbitmq: RabbitMQ, broker: Broker) -> None:
    before = check(broker, FAST)
    assert before.reachable
    assert not before.ready
    assert [(thing.kind, thing.name, thing.exists) for thing in before.found] == [
        ("exchange", "nova", False),
        ("queue", "stackmend.info", False),
        ("queue", "stackmend.error", False),
    ]
    assert all(thing.advice for thing in before.found)
    assert queues(rabbitmq, broker) == {}
    declare(broker, "stackmend.info")
    declare(broker, "stackmend.error")
    send(broker, DELETE)
    after = check(broker, FAST)
    assert after.ready
    assert [(thing.name, thing.messages, thing.consumers) for thing in after.found[1:]] == [
        ("stackmend.info", 1, 0),
        ("stackmend.error", 0, 0),
    ]


def test_what_is_published_is_in_a_queue_or_refused(rabbitmq: RabbitMQ, broker: Broker) -> None:
    declare(broker, "stackmend.info")
    publish(broker, "nova", "stackmend.info", DELETE)
    publish(broker, "", "stackmend.info", DELETE)
    assert queues(rabbitmq, broker)["stackmend.info"][1:] == (2, 0)
    with pytest.raises(NotPublished):
        publish(broker, "nova", "nobody.info", DELETE)
    with pytest.raises(NotPublished):
        publish(broker, "no exchange", "stackmend.info", DELETE)


class PrivateRabbitMQ(RabbitMQ):
    """A broker that speaks TLS only, with a certificate of a private authority."""

    name = "rabbitmq-tls"

    def prepare(self) -> None:
        super().prepare()
        file = self.folder / "rabbitmq.conf"
        text = file.read_text().replace("listeners.tcp.default", "listeners.tcp = none\nlisteners.ssl.default")
        for option, name in (("cacertfile", "ca.pem"), ("certfile", "server.pem"), ("keyfile", "server.key")):
            text += f"ssl_options.{option} = {self.folder / name}\n"
        file.write_text(text + "ssl_options.verify = verify_none\n")
        certify(self.folder)

    def answers(self) -> bool:
        with socket.socket() as probe:
            probe.settimeout(1)
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


def certify(folder: Path) -> None:
    """Make an authority (``ca.pem``), a certificate of it for localhost, and another authority (``other.pem``)."""
    (folder / "names").write_text("subjectAltName = DNS:localhost\n")
    for command in (
        "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=ca -keyout ca.key -out ca.pem",
        "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=other -keyout other.key -out other.pem",
        "req -newkey rsa:2048 -nodes -subj /CN=localhost -keyout server.key -out server.csr",
        "x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile names -out server.pem",
    ):
        subprocess.run(["openssl", *command.split()], cwd=folder, check=True, capture_output=True)


@pytest.fixture
def private(tmp_path: Path) -> Iterator[PrivateRabbitMQ]:
    server = PrivateRabbitMQ(tmp_path / "tls")
    try:
        server.start()
        yield server
    finally:
        server.stop()


def test_tls_with_a_private_authority(private: PrivateRabbitMQ, journal: Journal) -> None:
    def broker(host: str, authority: str) -> Broker:
        url = private.transport_url().replace("127.0.0.1", host)
        return Broker("nova", f"{url}?ssl=1&ssl_ca_file={private.folder / authority}", ("nova",))

    good = broker("localhost", "ca.pem")
    declare(good, "stackmend.info")
    source = Source(good, FAST, WANTED, journal.deliver, journal.on_gap)
    with running(source):
        until(lambda: source.queues)
        send(good, DELETE)
        until(lambda: len(journal.ids) == 1)
    assert "CERTIFICATE_VERIFY_FAILED" in check(broker("localhost", "other.pem"), FAST).advice
    assert "CERTIFICATE_VERIFY_FAILED" in check(broker("127.0.0.1", "ca.pem"), FAST).advice
