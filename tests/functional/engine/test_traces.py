"""The trace of an event: from the broker, over the journal, to the heal."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from consumer import tracing
from consumer.bus.source import Batch, Received
from consumer.conf.tracing import TracingSettings
from consumer.engine.inbox import Inbox
from consumer.engine.router import Router
from consumer.journal import backlog, claiming, controls, hinting, history
from consumer.journal.database import Database
from consumer.journal.work import Claim, Hint, Priority
from consumer.tracing import places, quiet
from consumer.tracing.otel import OtelTracer
from handlers.access import request_id
from handlers.base import Event, Finding, Handler, Healed, Key, Mode
from tests.doubles import CarefulMender, Mender
from tests.functional.engine.machine import Machine
from tests.silence import SilentServer
from tests.waiting import eventually

ENDPOINT = "http://collector:4318/v1/traces"
#: evidence that no span may have
SECRET = 987654321


@dataclass
class Traced:
    """A tracer of one replica, and the spans that it recorded."""

    replica: str = "r1"
    ratio: float = 1.0
    exporter: InMemorySpanExporter = field(default_factory=InMemorySpanExporter)

    def __post_init__(self) -> None:
        settings = TracingSettings(ENDPOINT, ratio=self.ratio, attributes={"deployment.environment.name": "test"})
        self.tracer = OtelTracer(settings, self.replica, SimpleSpanProcessor(self.exporter))

    @property
    def spans(self) -> Sequence[ReadableSpan]:
        return self.exporter.get_finished_spans()

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.spans if span.name == name]

    def one(self, name: str) -> ReadableSpan:
        [span] = self.named(name)
        return span


def attributes(span: ReadableSpan) -> Mapping[str, Any]:
    return {name.removeprefix("stackmend."): value for name, value in (span.attributes or {}).items()}


def below(parent: ReadableSpan, child: ReadableSpan) -> bool:
    assert parent.context
    assert child.context
    same = child.context.trace_id == parent.context.trace_id
    return same and child.parent is not None and child.parent.span_id == parent.context.span_id


def seconds(span: ReadableSpan) -> float:
    assert span.start_time
    assert span.end_time
    return (span.end_time - span.start_time) / 1e9


@pytest.fixture
def traced(machine: Machine) -> Traced:
    made = Traced()
    machine.tracer = made.tracer
    return made


def receive(
    journal: Database, traced: Traced, *events: Event, handlers: Sequence[type[Handler]] = (Mender, CarefulMender)
) -> None:
    """Store the events as a replica stores what its broker sends."""
    box = Inbox(journal, Router(handlers), lambda: None, 1024, tracer=traced.tracer)
    box.store(Batch("nova", tuple(Received(event, b"") for event in events), (), len(events)))


def broken(name: str, message_id: str = "m-1") -> Event:
    return Event("thing.slow", {"name": name}, id=message_id)


def run(machine: Machine) -> None:
    machine.start()
    eventually(machine.idle)
    machine.stop()


def test_an_event_and_its_heal_are_one_trace(machine: Machine, journal: Database, traced: Traced) -> None:
    machine.world.things = {"a": SECRET}
    receive(journal, traced, broken("a"))
    run(machine)
    assert machine.world.drifted() == set()

    root, work = traced.one("receive thing.slow"), traced.one("work mender")
    assert root.parent is None
    assert root.kind is SpanKind.CONSUMER
    assert below(root, work)
    steps = ["wait", "inspect", "gates", "heal"]
    assert [span.name for span in traced.spans if below(work, span)] == steps
    assert len(traced.spans) == 2 + len(steps)
    assert attributes(root) == {
        "messaging.system": "rabbitmq",
        "messaging.operation.type": "receive",
        "messaging.message.id": "m-1",
        "broker": "nova",
        "event": "thing.slow",
        "handler": ("mender",),
        "key": ("thing:a",),
    }
    [entry] = history.listing(journal)
    assert attributes(work) == {
        "handler": "mender",
        "key": "thing:a",
        "hint": "thing.slow",
        "request_id": entry.request_id,
        "outcome": "healed",
        "problem": ("broken",),
    }
    assert attributes(traced.one("gates")) == {"problem": "broken", "outcome": "permitted"}
    assert attributes(traced.one("heal")) == {"problem": "broken", "outcome": "healed"}
    assert work.resource.attributes["service.name"] == "stackmend"
    assert work.resource.attributes["service.instance.id"] == "r1"
    assert work.resource.attributes["deployment.environment.name"] == "test"
    assert str(SECRET) not in "".join(span.to_json() for span in traced.spans)


def test_the_wait_lasts_from_the_journal_to_the_claim(machine: Machine, journal: Database, traced: Traced) -> None:
    """The trigger of this event asks for half a second before the first inspection."""
    receive(journal, traced, broken("a"))
    run(machine)
    wait, work, inspect = traced.one("wait"), traced.one("work mender"), traced.one("inspect")
    assert wait.start_time == work.start_time
    assert seconds(wait) >= 0.45
    assert wait.end_time
    assert inspect.start_time
    assert wait.end_time <= inspect.start_time


def test_each_event_of_a_batch_has_its_own_trace(machine: Machine, journal: Database, traced: Traced) -> None:
    machine.world.things = {"a": 1, "b": 1}
    receive(journal, traced, broken("a", "m-1"), broken("b", "m-2"), broken("ignored", "m-3"))
    run(machine)
    roots = {attributes(root)["key"]: root for root in traced.named("receive thing.slow")}
    assert set(roots) == {("thing:a",), ("thing:b",)}
    for work in traced.named("work mender"):
        assert below(roots[attributes(work)["key"],], work)


def test_an_event_of_two_handlers_is_one_trace(machine: Machine, journal: Database, traced: Traced) -> None:
    receive(journal, traced, Event("thing.broken", {"name": "a"}, id="m-1"))
    run(machine)
    root = traced.one("receive thing.broken")
    assert attributes(root)["handler"] == ("careful_mender", "mender")
    assert below(root, traced.one("work mender"))
    assert below(root, traced.one("work careful_mender"))


def test_two_inspections_of_an_event_are_in_its_trace(machine: Machine, journal: Database, traced: Traced) -> None:
    machine.world.things = {"a": 1}
    receive(journal, traced, Event("thing.broken", {"name": "a"}, id="m-1"), handlers=[CarefulMender])
    run(machine)
    root = traced.one("receive thing.broken")
    first, second = traced.named("work careful_mender")
    assert [attributes(work)["outcome"] for work in (first, second)] == ["waits", "healed"]
    assert below(root, first)
    assert below(root, second)
    assert first.start_time
    assert second.start_time
    assert second.start_time > first.start_time, "the second wait begins after the first inspection"
    assert seconds(traced.named("wait")[1]) >= 0.25


def test_another_replica_finds_the_trace_of_a_dead_one(machine: Machine, journal: Database) -> None:
    """The first replica stores the event, claims the row, and dies. Only the journal is left of it."""
    first, second = Traced("r1"), Traced("r2")
    machine.world.things = {"a": 1}
    receive(journal, first, Event("thing.broken", {"name": "a"}, id="m-1"))
    assert claiming.claim(journal, "r1", ["mender"], 1, 0.05)
    machine.replica, machine.tracer = "r2", second.tracer
    run(machine)
    work = second.one("work mender")
    assert machine.world.drifted() == set()
    assert below(first.one("receive thing.broken"), work)
    assert work.resource.attributes["service.instance.id"] == "r2"


def test_a_suspect_has_its_own_trace_with_a_link_to_the_sweep(
    machine: Machine, journal: Database, traced: Traced
) -> None:
    machine.handlers = lambda: [Mender(machine.world)]  # type: ignore[method-assign]
    machine.world.things = {"a": 1, "b": 1, "c": 0}
    dispatcher = machine.start()
    hinting.enqueue(journal, [Hint("mender", Key("sweep", "mender"), Priority.OPERATOR, "start")])
    dispatcher.wake()
    eventually(lambda: not machine.world.drifted())
    eventually(lambda: len(traced.named("work mender")) == 2)
    machine.stop()
    sweep = traced.one("sweep mender")
    assert sweep.parent is None
    assert sweep.context
    assert attributes(sweep)["suspects"] == 2
    entries = {entry.key: entry for entry in history.listing(journal)}
    works = traced.named("work mender")
    assert {attributes(work)["key"] for work in works} == {"thing:a", "thing:b"}
    for work in works:
        assert work.context
        assert work.parent is None
        assert work.context.trace_id != sweep.context.trace_id
        [link] = work.links
        assert (link.context.trace_id, link.context.span_id) == (sweep.context.trace_id, sweep.context.span_id)
        assert entries[attributes(work)["key"]].hint_id == attributes(sweep)["request_id"]


def test_a_sweep_that_fails_has_the_type_of_its_error(machine: Machine, journal: Database, traced: Traced) -> None:
    machine.handlers = lambda: [Mender(machine.world)]  # type: ignore[method-assign]
    machine.world.sweep_error = RuntimeError(str(SECRET))
    machine.start()
    hinting.enqueue(journal, [Hint("mender", Key("sweep", "mender"), Priority.OPERATOR, "start")])
    eventually(lambda: len(traced.named("sweep mender")) == 1)
    machine.stop()
    [sweep] = traced.named("sweep mender")
    assert attributes(sweep)["error.type"] == "RuntimeError"
    assert str(SECRET) not in sweep.to_json()


def test_a_failed_heal_has_the_type_of_its_error_and_not_its_text(
    machine: Machine, journal: Database, traced: Traced
) -> None:
    def fail(_finding: Finding) -> None:
        raise RuntimeError(f"password={SECRET}")

    machine.with_settings(max_attempts=1)
    machine.world.things = {"a": 1}
    machine.world.before_heal = fail
    receive(journal, traced, broken("a"))
    machine.start()
    eventually(lambda: [row.state for row in backlog.listing(journal)] == ["parked"])
    machine.stop()
    heal, work = traced.one("heal"), traced.one("work mender")
    assert attributes(heal) == {"problem": "broken", "error.type": "RuntimeError"}
    assert attributes(work)["outcome"] == "parked"
    assert heal.status.status_code is work.status.status_code is StatusCode.ERROR
    assert str(SECRET) not in "".join(span.to_json() for span in traced.spans)


@pytest.mark.parametrize(("mode", "outcome"), [(Mode.ASK, "asked"), (Mode.HEAL, "deferred")])
def test_a_gate_that_withholds_a_heal_is_the_outcome(
    machine: Machine, journal: Database, traced: Traced, mode: Mode, outcome: str
) -> None:
    machine.mode = mode
    machine.world.things = {"a": 1}
    receive(journal, traced, broken("a"))
    controls.ensure(journal, machine.tasks())
    [claim] = _claims(journal)
    controls.pause(journal, ["mender"], "a test")
    machine.worker().work(claim)
    gates, work = traced.one("gates"), traced.one("work mender")
    assert attributes(gates) == {"problem": "broken", "outcome": outcome}
    assert attributes(work)["outcome"] == outcome
    assert traced.named("heal") == []
    assert machine.world.drifted() == {"a"}


def _claims(journal: Database) -> list[Claim]:
    claims: list[Claim] = []

    def found() -> bool:
        claims.extend(claiming.claim(journal, "r1", ["mender"], 1, 60))
        return bool(claims)

    eventually(found)
    return claims


def test_calls_of_apis_carry_the_open_span(machine: Machine, journal: Database, traced: Traced) -> None:
    carried: dict[str, list[str]] = {"inspect": [], "heal": []}

    class Caller(Mender):
        def inspect(self, key: Key) -> Iterable[Finding]:
            carried["inspect"].append(request_id.headers()["traceparent"])
            with request_id.pool(1, "ahead") as pool:
                carried["inspect"].append(pool.submit(request_id.headers).result()["traceparent"])
            return super().inspect(key)

        def heal(self, finding: Finding) -> Healed:
            carried["heal"].append(request_id.headers()["traceparent"])
            return super().heal(finding)

    handlers: list[Handler] = [Caller(machine.world)]
    machine.handlers = lambda: handlers  # type: ignore[method-assign]
    machine.world.things = {"a": 1}
    receive(journal, traced, broken("a"))
    run(machine)
    for name, headers in carried.items():
        context = traced.one(name).context
        assert context
        assert set(headers) == {f"00-{context.trace_id:032x}-{context.span_id:016x}-01"}


def test_without_traces_calls_of_apis_carry_none(machine: Machine) -> None:
    carried: list[Mapping[str, str]] = []
    machine.world.before_look = lambda _key: carried.append(request_id.headers())
    machine.enqueue(Hint("mender", Key("thing", "a"), Priority.EVENT, "thing.broken", source_id="m-1"))
    run(machine)
    assert [set(headers) for headers in carried] == [{request_id.HEADER}]


def test_a_trace_is_recorded_whole_or_not_at_all_by_every_replica(machine: Machine, journal: Database) -> None:
    first, second = Traced("r1", ratio=0.5), Traced("r2", ratio=0.5)
    receive(journal, first, *(Event("thing.slow", {"name": str(n)}, id=f"m-{n}") for n in range(60)))
    machine.tracer = second.tracer
    run(machine)
    received = {key for span in first.named("receive thing.slow") for key in attributes(span)["key"]}
    worked = {attributes(span)["key"] for span in second.named("work mender")}
    assert received == worked
    assert 5 < len(received) < 55
    assert len(second.spans) == 3 * len(worked)


def claim(**changes: Any) -> Claim:
    first = Claim(
        id=1, token="", handler="mender", key=Key("thing", "a"), generation=1, priority=100, attempts=0, waits=0,
        watched=0.0, fingerprint=None, seen_at=None, reported=None, healing_id=None, hint="thing.broken", hint_id="m-1",
        hinted_at=1000.0, first_hint_at=1001.0, now=1010.0,
    )  # fmt: skip
    return replace(first, **changes)


def test_an_inspection_a_day_after_its_event_has_its_own_trace_with_a_link() -> None:
    event = places.of_event("m-1")
    assert places.of_claim(claim(now=1000.0 + 86_000)) == places.Origin(event, follows=True)
    late = places.of_claim(claim(now=1000.0 + 87_000, first_hint_at=80_000.0))
    assert (late.follows, late.link) == (False, event)
    assert late.place != event


@pytest.mark.parametrize(
    ("changes", "seconds"),
    [
        ({}, 9.0),
        ({"hinted_at": 1005.0}, 5.0),
        ({"seen_at": 1007.0}, 3.0),
        ({"hinted_at": 2000.0}, 0.0),
        ({"hinted_at": None}, 9.0),
    ],
)
def test_the_wait_begins_with_the_newest_of_hint_event_and_first_inspection(
    changes: dict[str, Any], seconds: float
) -> None:
    assert places.waited(claim(**changes)) == seconds


def test_a_row_has_another_trace_after_it_was_reported_and_hinted_again() -> None:
    swept = {"hint": "sweep", "hint_id": "req-1", "hinted_at": None}
    first, again = places.of_claim(claim(**swept)), places.of_claim(claim(**swept, first_hint_at=5000.0))
    assert first == places.of_claim(claim(**swept, now=1500.0))
    assert first.place != again.place
    assert first.link == again.link == places.of_sweep("req-1")


@pytest.mark.parametrize("message_id", ["m" * 200, "a\0b", "\ud800", "\N{SNOWMAN}"])
def test_the_row_of_any_message_id_is_in_the_trace_of_its_event(
    machine: Machine, journal: Database, traced: Traced, message_id: str
) -> None:
    receive(journal, traced, Event("thing.broken", {"name": "a"}, id=message_id))
    run(machine)
    assert below(traced.one("receive thing.broken"), traced.one("work mender"))


@pytest.fixture
def silent() -> Iterator[SilentServer]:
    server = SilentServer()
    yield server
    server.close()


@pytest.fixture
def loggers() -> Iterator[None]:
    """Silence the packages of OpenTelemetry afterwards: a thread may still send, and log in the midst of another test."""
    yield
    logger = logging.getLogger("opentelemetry")
    logger.handlers, logger.propagate = [logging.NullHandler()], False


@pytest.mark.usefixtures("loggers")
def test_heals_and_a_stop_do_not_wait_for_a_silent_collector(
    machine: Machine, journal: Database, silent: SilentServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The collector never answers, so whatever waits for an answer waits for the whole time-out: an hour."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "3600")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "10")
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "8")
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "4")
    settings = TracingSettings(f"http://127.0.0.1:{silent.port}/v1/traces")
    machine.tracer = tracing.chosen(settings, "r1")
    names = [str(number) for number in range(12)]
    machine.world.things = dict.fromkeys(names, 1)
    machine.start()
    machine.enqueue(*(Hint("mender", Key("thing", name), Priority.EVENT, "thing.broken") for name in names))
    eventually(lambda: silent.connections > 0)
    eventually(lambda: not machine.world.drifted())
    eventually(machine.idle)
    machine.stop()
    machine.tracer.close()
    assert [thread for thread in threading.enumerate() if thread.name == "traces"], (
        "the collector still has the request"
    )


def test_a_collector_that_is_away_costs_at_most_one_line_of_the_log_a_minute(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock = [0.0]
    exporter = logging.Logger("exporter")
    exporter.addHandler(quiet.Quiet(lambda: clock[0]))
    for second in (0.0, 1.0, 59.0, 60.0, 61.0):
        clock[0] = second
        exporter.warning("no connection to http://u:%s@collector, attempt %s", "t0psecret", second)
        exporter.info("not a warning")
    lines = [record.getMessage() for record in caplog.records]
    assert [line.partition("attempt ")[2] for line in lines] == ["0.0", "60.0"]
    assert "[tracing] endpoint" in lines[0]
    assert "t0psecret" not in "".join(lines)


@pytest.mark.usefixtures("loggers")
def test_the_warnings_of_the_real_exporter_go_through_one_line(caplog: pytest.LogCaptureFixture) -> None:
    tracer = tracing.chosen(TracingSettings("http://127.0.0.1:9/v1/traces"), "r1")
    for number in range(3):
        tracer.stored(
            [Hint("mender", Key("thing", "a"), Priority.EVENT, "thing.broken", 0.0, f"m-{number}")], "nova", time.time()
        )
    tracer.close()
    eventually(lambda: bool(caplog.records))
    lines = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert [record.name for record in lines] == ["consumer.tracing.quiet"]
