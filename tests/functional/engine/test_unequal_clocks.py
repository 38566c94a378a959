"""Two replicas reach the journal through database nodes whose clocks differ, as can happen on Galera."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import closing

import pytest
from sqlalchemy import Connection

from consumer.conf.webhooks import OUTCOMES, Sink, WebhookSettings
from consumer.engine.clocks import Clocks
from consumer.engine.webhooks import sender
from consumer.engine.webhooks.sender import Sender
from consumer.engine.webhooks.sending import Attempt
from consumer.engine.worker import Worker
from consumer.journal import backlog, claiming, deliveries, history
from consumer.journal.database import Database, now, open_engine
from consumer.journal.history import Line, Origin, Outcome
from consumer.journal.node_clocks import NodeClock
from handlers.base import Key
from tests.doubles import World
from tests.functional.engine.machine import Machine, hint
from tests.waiting import eventually


@pytest.fixture
def other(machine: Machine, world: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    """Yield a second replica, whose database node is 60 s ahead."""
    with closing(Database(open_engine(machine.database.engine.url.render_as_string(hide_password=False)))) as journal:

        def unequal(connection: Connection) -> float:
            return now(connection) + (60.0 if connection.engine is journal.engine else 0.0)

        monkeypatch.setattr(claiming, "now", unequal)
        monkeypatch.setattr(deliveries, "now", unequal)
        second = Machine(journal, World(world.things), replica="r2")
        yield second
        second.stop()


def test_no_replica_takes_the_lease_of_a_living_one(machine: Machine, other: Machine) -> None:
    release = threading.Event()
    machine.world.things = {"a": 1}
    machine.world.before_look = lambda _key: (release.wait(60), None)[1]
    machine.start()
    machine.enqueue(hint("a"))
    try:
        eventually(lambda: [row.owner for row in backlog.listing(machine.database)] == ["r1"])
        other.start()
        end = time.monotonic() + 3 * machine.settings.lease_seconds
        while time.monotonic() < end:
            assert [row.owner for row in backlog.listing(machine.database)] == ["r1"]
            assert backlog.drop(other.database, [row.id for row in backlog.listing(other.database)]) == 0
            time.sleep(0.1)
    finally:
        release.set()
    eventually(machine.idle)
    assert machine.world.writes == {"a": 1}


def test_the_lease_of_a_dead_replica_ends_by_any_clock(machine: Machine, other: Machine) -> None:
    machine.world.things = other.world.things = {"a": 1}
    machine.enqueue(hint("a"))
    assert claiming.claim(machine.database, "dead", ["mender"], 1, 1.0)
    other.start()
    eventually(lambda: other.world.writes == {"a": 1})


def test_the_second_inspection_does_not_come_sooner_by_a_clock_that_is_ahead(machine: Machine, other: Machine) -> None:
    machine.world.things = other.world.things = {"a": 1}
    machine.enqueue(hint("a", "careful_mender"))
    (first,) = claiming.claim(machine.database, "r1", ["careful_mender"], 1, 30.0)
    machine.worker().work(first)
    engine = other.engine()
    (second,) = claiming.claim(other.database, "r2", ["careful_mender"], 1, 30.0)
    engine.clocks.measured([NodeClock("n1", 0.5), NodeClock("n2", 60.5)])
    Worker(engine).work(second)
    assert other.world.drifted() == {"a"}


def test_the_clock_of_a_silent_node_counts_as_last_measured() -> None:
    clocks = Clocks()
    assert clocks.apart == 0.0
    clocks.measured([NodeClock("n1", -1.0), NodeClock("n2", 60.0)])
    clocks.measured([NodeClock("n1", 0.0), NodeClock("n2", None, "refused")])
    assert clocks.apart == 60.0


class Counted(Sender):
    """Counts its searches for messages."""

    searches = 0

    def send_all(self, sink: Sink) -> None:
        super().send_all(sink)
        self.searches += 1


def settings(timeout: float) -> WebhookSettings:
    return WebhookSettings((Sink("chat", "http://127.0.0.1:1/", events=OUTCOMES, timeout=timeout),))


def write_line(machine: Machine) -> None:
    line = Line("mender", Key("thing", "a"), Outcome.FOUND, "broken", "a is broken", Origin("sweep", "r1"))
    history.append(machine.database, [line])


def test_no_replica_sends_the_message_of_a_living_one(
    machine: Machine, other: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sender, "_EVERY", 0.05)
    sent: list[str] = []

    def post(replica: str) -> sender.Post:
        def send(_sink: Sink, message: str, _body: bytes) -> Attempt:
            sent.append(f"{replica}: {message}")
            before = second.searches
            eventually(lambda: replica == "r2" or second.searches > before + 5)
            return Attempt()

        return send

    first = Sender(machine.database, settings(10.0), post("r1"))
    second = Counted(other.database, settings(10.0), post("r2"))
    first.start()
    try:
        write_line(machine)
        eventually(lambda: sent == ["r1: stackmend-1"])
        second.start()
        eventually(lambda: deliveries.waiting(machine.database) == [])
    finally:
        first.stop()
        second.stop()
    assert sent == ["r1: stackmend-1"]


def test_the_message_of_a_dead_replica_is_sent_by_any_clock(
    machine: Machine, other: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sender, "_EVERY", 0.05)
    monkeypatch.setattr(sender, "_MARGIN", 0.2)
    sent: list[str] = []

    def post(_sink: Sink, message: str, _body: bytes) -> Attempt:
        sent.append(message)
        return Attempt()

    one = Sender(other.database, settings(0.1), post)
    one.subscribe()
    write_line(machine)
    assert deliveries.claim(machine.database, "chat", 0.4)
    one.start()
    try:
        eventually(lambda: deliveries.waiting(machine.database) == [])
    finally:
        one.stop()
    assert sent == ["stackmend-1"]
