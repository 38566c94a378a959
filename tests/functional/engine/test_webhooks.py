"""Webhooks: a message for each line of the history, in order, again after failures, and never in the way of a heal."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace

import pytest
from sqlalchemy import update

from consumer.conf.webhooks import OUTCOMES, Sink, WebhookSettings
from consumer.engine.webhooks import sender, sending, signature
from consumer.engine.webhooks.sender import Post, Sender
from consumer.engine.webhooks.sending import Attempt
from consumer.journal import asks, deliveries, history, schema
from consumer.journal.database import Database, open_engine
from consumer.journal.history import Line, Origin, Outcome
from consumer.journal.work import SWEEP, Hint, Priority
from handlers.base import Key, Mode
from tests.functional.engine.machine import Machine, hint
from tests.receiver import Receiver
from tests.waiting import eventually

#: Starts a sender for some URLs.
Start = Callable[..., Sender]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as made:
        yield made


@pytest.fixture
def start(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    monkeypatch.setattr(sender, "_EVERY", 0.05)
    monkeypatch.setattr(sender, "_FIRST_PAUSE", 0.05)
    made: list[Sender] = []

    def begin(*sinks: Sink, **settings: float) -> Sender:
        one = Sender(machine.database, replace(WebhookSettings(sinks), **settings))  # type: ignore[arg-type]
        made.append(one)
        one.start()
        return one

    yield begin
    for one in made:
        one.stop()


def sink(receiver: Receiver, name: str = "chat", **more: str) -> Sink:
    return Sink(name, receiver.url, events=OUTCOMES, timeout=2.0, **more)


def write(machine: Machine, *names: str) -> None:
    """Write lines of findings."""
    lines = [
        Line("mender", Key("thing", name), Outcome.FOUND, "broken", f"{name} is broken", Origin("sweep", "r1"))
        for name in names
    ]
    history.append(machine.database, lines)


def test_findings_and_heals_are_sent(machine: Machine, receiver: Receiver, start: Start) -> None:
    machine.world.things = {"a": 1, "glued": 1}
    machine.world.unhealable = frozenset({"glued"})
    start(sink(receiver))
    machine.start()
    machine.enqueue(hint("a"), hint("glued"))
    expected = [("healed", "thing:a"), ("healing", "thing:a"), ("refused", "thing:glued")]
    eventually(lambda: sorted(receiver.events) == expected)
    [healed] = [one.json for one in receiver.received if one.json["event"] == "healed"]
    assert healed["action"] == "mended a"
    assert healed["undo"] == "break a"
    assert healed["evidence"] == {"generation": 1}


def test_asks_are_sent_with_their_plan_and_the_operator(machine: Machine, receiver: Receiver, start: Start) -> None:
    machine.mode = Mode.ASK
    machine.world.things = {"a": 1}
    start(sink(receiver))
    machine.start()
    machine.enqueue(hint("a"))
    eventually(lambda: receiver.events == [("asked", "thing:a")])
    assert receiver.received[0].json["plan"] == "set a from 1 to 0"
    eventually(lambda: len(asks.listing(machine.database)) == 1)
    eventually(machine.idle)
    asks.approve(machine.database, [one.id for one in asks.listing(machine.database)], "alice")
    eventually(lambda: receiver.events[-1] == ("healed", "thing:a"))
    assert receiver.received[-1].json["operator"] == "alice"


def test_the_breaker_is_sent(machine: Machine, receiver: Receiver, start: Start) -> None:
    machine.with_settings(breaker_count=1, breaker_percent=0)
    machine.world.things = {"a": 1, "b": 1}
    start(sink(receiver))
    machine.start()
    machine.enqueue(Hint("mender", Key(SWEEP, "mender"), Priority.OPERATOR, "start"))
    eventually(lambda: receiver.events == [("stopped", "sweep:mender")])


def test_a_sink_gets_only_its_events(machine: Machine, receiver: Receiver, start: Start) -> None:
    start(replace(sink(receiver), events=("healed",)))
    machine.world.things = {"a": 1}
    write(machine, "x")
    machine.start()
    machine.enqueue(hint("a"))
    eventually(lambda: receiver.events == [("healed", "thing:a")])
    eventually(lambda: deliveries.waiting(machine.database) == [])


def test_without_a_sink_nothing_waits(machine: Machine, start: Start) -> None:
    write(machine, "a")
    start()
    write(machine, "b")
    assert deliveries.waiting(machine.database) == []


def test_a_removed_sink_leaves_no_messages(machine: Machine, start: Start) -> None:
    start(Sink("gone", "http://127.0.0.1:1/"))
    write(machine, "a")
    eventually(lambda: [one.error for one in deliveries.waiting(machine.database)] != [""])
    start()
    assert deliveries.waiting(machine.database) == []


def test_messages_are_signed_and_repeat_their_id(machine: Machine, receiver: Receiver, start: Start) -> None:
    receiver.answers = [500]
    ids: list[str] = []

    def post(one: Sink, message_id: str, body: bytes) -> Attempt:
        ids.append(message_id)
        return sending.post(one, message_id, body)

    one = Sender(machine.database, WebhookSettings((sink(receiver, secret="s3cret"),)), post)
    one.start()
    write(machine, "a")
    eventually(lambda: len(receiver.received) == 1)
    one.stop()
    [message] = receiver.received
    clock = float(message.headers["webhook-timestamp"])
    assert ids == [message.headers["webhook-id"]] * 2
    expected = signature.headers("s3cret", ids[0], clock, message.body)
    assert message.headers["webhook-signature"] == expected["webhook-signature"]


def test_failures_are_repeated_in_order(machine: Machine, receiver: Receiver, start: Start) -> None:
    receiver.answers = [500, 403, 302]
    start(sink(receiver))
    write(machine, "a", "b", "c")
    eventually(lambda: len(receiver.received) == 3)
    assert receiver.events == [("found", f"thing:{name}") for name in "abc"]


def test_a_message_that_the_receiver_refuses_blocks_no_other(
    machine: Machine, receiver: Receiver, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    receiver.answers = [400]
    start(sink(receiver))
    write(machine, "a", "b")
    eventually(lambda: receiver.events == [("found", "thing:b")])
    assert "is dropped: answered 400" in caplog.text


def test_a_silent_receiver_delays_neither_heals_nor_other_sinks(
    machine: Machine, receiver: Receiver, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    machine.world.things = {"a": 1}
    start(Sink("silent", "http://127.0.0.1:1/t0psecret", secret="s3cret", events=OUTCOMES), sink(receiver))
    machine.start()
    machine.enqueue(hint("a"))
    eventually(lambda: receiver.events == [("healing", "thing:a"), ("healed", "thing:a")])
    late = {one.sink: one.messages for one in deliveries.waiting(machine.database)}
    assert late["silent"] == 2
    eventually(lambda: {one.error for one in deliveries.waiting(machine.database)} == {"no answer: ConnectionError"})
    assert "t0psecret" not in caplog.text
    assert "s3cret" not in caplog.text


def test_a_restart_sends_what_waited(machine: Machine, receiver: Receiver, start: Start) -> None:
    first = start(Sink("chat", "http://127.0.0.1:1/"))
    write(machine, "a")
    eventually(lambda: [one.error for one in deliveries.waiting(machine.database)] != [""])
    first.stop()
    start(replace(sink(receiver), events=("found",)))
    eventually(lambda: receiver.events == [("found", "thing:a")])


def test_two_replicas_send_each_message_once_and_in_order(machine: Machine, receiver: Receiver, start: Start) -> None:
    start(sink(receiver))
    start(sink(receiver))
    names = [f"{number:02}" for number in range(6)]
    write(machine, *names)
    eventually(lambda: len(receiver.received) >= len(names), 60.0)
    eventually(lambda: deliveries.waiting(machine.database) == [], 60.0)
    assert receiver.events == [("found", f"thing:{name}") for name in names]


def test_messages_that_are_too_old_or_too_many_are_given_up(
    machine: Machine, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    deliveries.subscribe(machine.database, {"chat": ["found"]})
    write(machine, "a", "b", "c", "d")
    rows = schema.delivery
    with machine.database.engine.begin() as connection:
        connection.execute(update(rows).where(rows.c.id == 1).values(at=0.0))
    start(Sink("chat", "http://127.0.0.1:1/", events=("found",)), keep=2, keep_seconds=3600.0)
    eventually(lambda: [one.messages for one in deliveries.waiting(machine.database)] == [2])
    eventually(lambda: "deleted 2 undelivered messages" in caplog.text)


def test_a_flush_sends_what_waits_and_ends(machine: Machine, receiver: Receiver) -> None:
    settings = WebhookSettings((sink(receiver), Sink("silent", "http://127.0.0.1:1/", events=OUTCOMES)))
    one = Sender(machine.database, settings)
    one.subscribe()
    write(machine, "a", "b")
    one.flush(10)
    assert len(receiver.received) == 2


@dataclass
class Posts:
    """Posts messages of two replicas.

    :param doubled: messages that began to travel while they travelled already, or after the receiver had accepted them
    """

    attempts: list[tuple[str, str]] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    _taken: set[str] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def of(self, replica: str) -> Post:
        def post(one: Sink, message: str, body: bytes) -> Attempt:
            with self._lock:
                self.attempts.append((replica, message))
                self.doubled += [message] if message in self._taken else []
                self._taken.add(message)
            attempt = sending.post(one, message, body)
            with self._lock:
                self._taken -= {message} if attempt.error else set()
            return attempt

        return post


def test_two_daemons_heal_beside_a_receiver_that_never_answers_and_lose_no_message(
    machine: Machine, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sender, "_EVERY", 0.05)
    monkeypatch.setattr(sender, "_FIRST_PAUSE", 0.01)
    monkeypatch.setattr(sender, "_LONGEST_PAUSE", 0.01)
    names = [f"{number:02}" for number in range(20)]
    machine.world.things = dict.fromkeys(names, 1)
    receiver.silent.set()
    posts = Posts()
    settings = WebhookSettings((replace(sink(receiver), events=("healed",), timeout=0.2),))
    with closing(Database(open_engine(machine.database.engine.url.render_as_string(hide_password=False)))) as journal:
        machines = [machine, Machine(journal, machine.world, replica="r2")]
        senders = [Sender(one.database, settings, posts.of(one.replica)) for one in machines]
        for one in senders:
            one.start()
        for each in machines:
            each.start()
        try:
            machine.enqueue(*map(hint, names[:10]))
            machines[1].enqueue(*map(hint, names[10:]))
            eventually(lambda: machine.world.drifted() == set(), 60.0)
            eventually(lambda: {replica for replica, _message in posts.attempts} == {"r1", "r2"}, 60.0)
            assert receiver.received == [], "no heal waited for an answer"
            eventually(machine.idle)
            assert [(one.sink, one.messages) for one in deliveries.waiting(machine.database)] == [("chat", 20)]
            receiver.silent.clear()
            eventually(lambda: deliveries.waiting(machine.database) == [], 60.0)
        finally:
            for one in senders:
                one.stop()
            machines[1].stop()
    assert machine.world.writes == dict.fromkeys(names, 1)
    healed = history.listing(machine.database, outcomes=[Outcome.HEALED])
    assert (
        {("healed", entry.key) for entry in healed}
        == set(receiver.events)
        == {("healed", f"thing:{name}") for name in names}
    )
    ids = [int(one.headers["webhook-id"].removeprefix("stackmend-")) for one in receiver.received]
    assert ids == sorted(ids), "the receiver gets the messages in their order"
    assert posts.doubled == [], "a message travels again only after an attempt without an answer"


def test_a_receiver_that_sends_its_headers_for_ever_ends_the_attempt() -> None:
    """Each byte comes in time, and the answer never does."""
    ended = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def drip() -> None:
            connection, _address = server.accept()
            with connection, suppress(OSError):
                connection.sendall(b"HTTP/1.1 200 OK\r\nX: ")
                while not ended.wait(0.05):
                    connection.sendall(b"x")

        thread = threading.Thread(target=drip, daemon=True)
        thread.start()
        slow = Sink("slow", f"http://127.0.0.1:{server.getsockname()[1]}/", timeout=0.5)
        result: list[Attempt] = []
        attempt = threading.Thread(target=lambda: result.append(sending.post(slow, "1", b"{}")), daemon=True)
        attempt.start()
        try:
            eventually(lambda: [one.final for one in result] == [False])
        finally:
            ended.set()
            thread.join()
    assert result[0].error.startswith("no answer: ")
