"""Metrics for Prometheus: counters and gauges of this process, and gauges read from the journal.

Labels never name instances or amphorae, so the number of time series is bounded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from consumer import __version__
from consumer.bus.source import Source
from consumer.engine.holds import Board
from consumer.engine.meter import Meter
from consumer.engine.task import Task
from consumer.journal import backlog, controls, dead, deliveries, history, replicas
from consumer.journal.database import Database, now
from consumer.journal.errors import JournalError
from consumer.status.cached import Cached

_DURATIONS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_LAGS = (0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)


class PrometheusMeter(Meter):
    def __init__(self, registry: CollectorRegistry, beats: Meter) -> None:
        self._inspections = Counter(
            "stackmend_reconciles", "Inspections of one key, by outcome.", ["handler", "outcome"], registry=registry
        )
        self._seconds = Histogram(
            "stackmend_reconcile_duration_seconds",
            "Time for one object, inspection and heal together.",
            ["handler"],
            buckets=_DURATIONS,
            registry=registry,
        )
        self._heals = Counter(
            "stackmend_heals", "Objects healed, by source and outcome.", ["handler", "source", "outcome"],
            registry=registry,
        )  # fmt: skip
        self._lag = Histogram(
            "stackmend_heal_lag_seconds",
            "Time from a notification to the end of the heal.",
            ["handler"],
            buckets=_LAGS,
            registry=registry,
        )
        self._found = Counter(
            "stackmend_findings",
            "Objects with new drift, by source. A sweep finds drift that no event reported.",
            ["handler", "source"],
            registry=registry,
        )
        self._beats = beats

    def inspected(self, handler: str, outcome: str, seconds: float) -> None:
        self._inspections.labels(handler, outcome).inc()
        self._seconds.labels(handler).observe(seconds)

    def healed(self, handler: str, source: str, outcome: str, lag: float | None, weight: int = 1) -> None:
        self._heals.labels(handler, source, outcome).inc(weight)
        if outcome == "healed" and lag is not None:
            self._lag.labels(handler).observe(lag)

    def found(self, handler: str, source: str, weight: int = 1) -> None:
        self._found.labels(handler, source).inc(weight)

    def beat(self, loop: str) -> None:
        self._beats.beat(loop)


class JournalCollector(Collector):
    """Gauges from the journal, cached for some seconds; only ``stackmend_journal_up`` if the journal does not answer."""

    def __init__(self, database: Database, tasks: Mapping[str, Task]) -> None:
        self._database = database
        self._tasks = tasks
        self._remembered = Cached(self._metrics)

    def describe(self) -> Iterable[Metric]:
        return []  # so that registration does not read the journal

    def collect(self) -> Iterable[Metric]:
        return self._remembered()

    def _metrics(self) -> Sequence[Metric]:
        up = GaugeMetricFamily("stackmend_journal_up", "Whether the journal's database answered lately.")
        try:
            found = list(self._read())
        except JournalError:
            found = []
        up.add_metric([], 1.0 if found else 0.0)
        return [up, *found]

    def _read(self) -> Iterable[Metric]:
        clock = self._database.transact(now)
        yield from _backlog(backlog.depths(self._database), self._tasks)
        late = GaugeMetricFamily("stackmend_webhook_waiting", "Messages that wait for a webhook.", labels=["sink"])
        for one in deliveries.waiting(self._database):
            late.add_metric([one.sink], one.messages)
        yield late
        yield from self._handlers(controls.read(self._database), clock)
        yield _gauge("stackmend_dead_events", "Stored dead letters (undecodable messages).", dead.count(self._database))
        alive = len(replicas.listing(self._database))
        yield _gauge("stackmend_replicas", "Processes that share the journal.", alive)

    def _handlers(self, known: Mapping[str, controls.Control], clock: float) -> Iterable[Metric]:
        left = GaugeMetricFamily("stackmend_heals_left", "Heals left in the budget of this hour.", labels=["handler"])
        stopped = GaugeMetricFamily(
            "stackmend_handler_stopped",
            "Whether a handler is stopped by an operator, or by the breaker or a fallen watermark (label breaker).",
            labels=["handler", "by"],
        )
        age = GaugeMetricFamily(
            "stackmend_sweep_age_seconds", "Time since the last complete sweep began.", labels=["handler"]
        )
        took = GaugeMetricFamily(
            "stackmend_sweep_duration_seconds", "Time the last complete sweep took.", labels=["handler"]
        )
        found = GaugeMetricFamily(
            "stackmend_sweep_found", "Suspects of the last sweep, complete or not.", labels=["handler"]
        )
        of = GaugeMetricFamily(
            "stackmend_sweep_population", "All objects of the last complete sweep.", labels=["handler"]
        )
        for name, task in self._tasks.items():
            control = known.get(name, controls.Control(name))
            budget = history.budget_left(self._database, name, task.settings.heals_per_hour)
            if budget is not None:
                left.add_metric([name], budget)
            stopped.add_metric([name, "operator"], float(control.paused))
            stopped.add_metric([name, "breaker"], float(control.broken))
            if control.swept_at is not None:
                age.add_metric([name], max(0.0, clock - control.swept_at))
                took.add_metric([name], control.sweep_seconds or 0.0)
                found.add_metric([name], control.sweep_found or 0)
                of.add_metric([name], control.sweep_population or 0)
        return [left, stopped, age, took, found, of]


class HoldCollector(Collector):
    """Gauges of the holds that this process knows, by source."""

    def __init__(self, board: Board) -> None:
        self._board = board

    def describe(self) -> Iterable[Metric]:
        return []  # the sources are read after the registration

    def collect(self) -> Iterable[Metric]:
        holds = GaugeMetricFamily("stackmend_holds", "Holds that let heals wait.", labels=["source"])
        unreadable = GaugeMetricFamily(
            "stackmend_hold_unreadable", "Whether a source of holds cannot be read, so that all heals wait.",
            labels=["source"],
        )  # fmt: skip
        standing = self._board.standing()
        for name in dict.fromkeys([*(one.name for one in self._board.sources), *(one.source for one in standing)]):
            mine = [one for one in standing if one.source == name]
            holds.add_metric([name], len(mine))
            unreadable.add_metric([name], float(any(not one.readable for one in mine)))
        return [holds, unreadable]


class BusCollector(Collector):
    """Gauges and counters of the brokers that are known at the time of a scrape, and stackmend's version."""

    def __init__(self, sources: Callable[[], Sequence[Source]]) -> None:
        self._sources = sources

    def describe(self) -> Iterable[Metric]:
        return []  # the brokers are not known yet

    def collect(self) -> Iterable[Metric]:
        connected = GaugeMetricFamily("stackmend_bus_connected", "Whether a broker is connected.", labels=["broker"])
        missing = GaugeMetricFamily(
            "stackmend_bus_queues_missing", "Queues that do not exist yet or deny access.", labels=["broker"]
        )
        last = GaugeMetricFamily(
            "stackmend_bus_last_message_timestamp_seconds", "When the last message arrived.", labels=["broker"]
        )
        events = CounterMetricFamily(
            "stackmend_events", "Received notifications, by outcome.", labels=["broker", "outcome"]
        )
        for source in self._sources():
            name = source.broker.name
            connected.add_metric([name], float(source.connected))
            missing.add_metric([name], len(source.missing))
            if source.last_message_at is not None:
                last.add_metric([name], source.last_message_at.timestamp())
            wanted, broken = source.wanted, source.dead
            events.add_metric([name, "taken"], wanted)
            events.add_metric([name, "dead"], broken)
            events.add_metric([name, "ignored"], max(0, source.received - wanted - broken))
        yield from (connected, missing, last, events)
        version = GaugeMetricFamily("stackmend_build_info", "The running version.", labels=["version"])
        version.add_metric([__version__], 1.0)
        yield version


def _backlog(depths: Sequence[backlog.Depth], tasks: Iterable[str]) -> Iterable[Metric]:
    rows = GaugeMetricFamily("stackmend_journal_rows", "Objects in the journal, by state.", labels=["handler", "state"])
    oldest = GaugeMetricFamily(
        "stackmend_journal_oldest_seconds", "Age of the oldest hint that waits for an inspection.", labels=["handler"]
    )
    there = {(depth.handler, depth.state): depth for depth in depths}
    for name in tasks:
        for state in backlog.Standing:
            depth = there.get((name, state))
            rows.add_metric([name, state], depth.rows if depth else 0)
        waiting = there.get((name, backlog.Standing.PENDING))
        oldest.add_metric([name], waiting.oldest if waiting else 0.0)
    return [rows, oldest]


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, value=value)
