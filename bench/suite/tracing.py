"""The cost of traces in a heal: off, with a collector that takes them, and with one that is away.

The same heals, by a handler that does nothing, run on a new SQLite journal, in turn, several times:

  off       the default: a tracer that records nothing
  unsent    traces on, but nothing listens at the endpoint
  sent      traces on, and a collector in this process takes them
  seam      in a loop, only the calls that one heal makes of the tracer that records nothing

Measured is the processor time of one heal, from the inspection to the settled row, of the thread that heals: the median of
the runs. A handler that reads databases and APIs takes many times longer, so the ratios are those of the worst case.
"""

from __future__ import annotations

import argparse
import logging
import os
import platform
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from statistics import median
from typing import Any, Self

from bench.report import Failed, Report
from consumer import tracing
from consumer.conf import WrongConfiguration
from consumer.conf.engine import EngineSettings
from consumer.conf.tasks import TaskSettings
from consumer.conf.tracing import TracingSettings
from consumer.conf.window import Window
from consumer.engine.reconciler import Reconciler, Result
from consumer.engine.stores import JournalStore
from consumer.engine.task import Task
from consumer.journal import claiming, controls, hinting, migrations
from consumer.journal.database import Database, open_engine
from consumer.journal.work import Claim, Hint, Priority
from consumer.tracing import Step, Tracer
from handlers.base import Finding, Handler, Healed, Key, Mode, Resources

#: Processor time of the calls of a tracer that records nothing, as a part of a heal, at most.
SEAM = 0.005
_REPLICA = "bench"


class Nothing(Handler):
    """Finds drift in every key, and heals it by doing nothing."""

    name = "bench_tracing"
    title = "heals nothing for the benchmark"
    group = "audit"
    kinds = ("thing",)
    healable_problems = frozenset({"broken"})
    default_interval = 3600

    @classmethod
    def from_resources(cls, resources: Resources) -> Self:
        """Make the handler."""
        return cls()

    def inspect(self, key: Key) -> Iterable[Finding]:
        """Find drift."""
        return [Finding(key, "broken", f"{key.id} is broken", {"generation": 1})]

    def sweep(self) -> Iterator[Key]:
        """Find nothing."""
        return iter(())

    def population(self) -> int:
        """Look at nothing."""
        return 0

    def heal(self, finding: Finding) -> Healed:
        """Do nothing."""
        return Healed("did nothing")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("--heals", type=_positive, default=300, help="in each run; default: 300")
    parser.add_argument("--runs", type=_positive, default=5, help="of each kind; default: 5")


def run(options: argparse.Namespace) -> Report:
    """Measure.

    :raises Failed: when a heal was left out, the packages are missing, or the collector got nothing
    """
    logging.getLogger("consumer").setLevel(logging.ERROR)  # it warns of the collector that is away
    costs: dict[str, list[float]] = {"off": [], "unsent": [], "sent": [], "seam": []}
    with tempfile.TemporaryDirectory(prefix="stackmend-bench-") as folder, _collector() as (url, paths):
        for number in range(options.runs):
            for kind, endpoint in (("off", ""), ("unsent", "http://127.0.0.1:9/v1/traces"), ("sent", url)):
                try:
                    tracer = tracing.chosen(TracingSettings(endpoint), _REPLICA)
                except WrongConfiguration as error:
                    raise Failed(str(error)) from error
                costs[kind].append(_heal(options.heals, tracer, f"sqlite:///{folder}/{kind}-{number}.sqlite"))
                tracer.close()
            costs["seam"].append(_seam(options.heals))
        if not paths:
            raise Failed("the collector got no traces")
    return _report(options, costs)


def _heal(heals: int, tracer: Tracer, url: str) -> float:
    """Return the microseconds of processor time of one heal."""
    database = Database(open_engine(url))
    try:
        migrations.upgrade(database)
        return _reconcile(database, heals, tracer)
    finally:
        database.close()


def _reconcile(database: Database, heals: int, tracer: Tracer) -> float:
    task = Task(Nothing(), TaskSettings(Mode.HEAL, 3600, Window(), 0), lambda: datetime.now(UTC))
    controls.ensure(database, [task.name])
    keys = [Key("thing", str(number)) for number in range(heals)]
    hinting.enqueue(database, [Hint(task.name, key, Priority.EVENT, "thing.broken", 0.0, key.id) for key in keys])
    claims = claiming.claim(database, _REPLICA, [task.name], heals, 3600)
    reconciler = Reconciler(EngineSettings(), _REPLICA, tracer=tracer)
    store = JournalStore(database, {task.name: task})
    began = time.thread_time()
    results = [reconciler.reconcile(task, claim, store).result for claim in claims]
    took = time.thread_time() - began
    if results != [Result.HEALED] * heals:
        raise Failed(f"{results.count(Result.HEALED)} of {heals} heals")
    return took / heals * 1e6


def _seam(heals: int) -> float:
    """Return the microseconds of the calls that one heal makes of a tracer that records nothing."""
    tracer, claim = Tracer(), _claim()
    began = time.thread_time()
    for _ in range(heals):
        with tracer.work(claim, "") as work:
            with tracer.step(Step.INSPECT):
                pass
            with tracer.step(Step.GATES, "broken") as gates:
                gates.ended("permitted")
            with tracer.step(Step.HEAL, "broken") as heal:
                heal.ended("healed")
            work.ended("healed")
    return (time.thread_time() - began) / heals * 1e6


def _claim() -> Claim:
    return Claim(
        id=1, token="", handler=Nothing.name, key=Key("thing", "a"), generation=1, priority=Priority.EVENT, attempts=0,
        waits=0, watched=0.0, fingerprint=None, seen_at=None, reported=None, healing_id=None, hint="thing.broken",
        hint_id="m-1", hinted_at=None, first_hint_at=0.0, now=0.0,
    )  # fmt: skip


@contextmanager
def _collector() -> Iterator[tuple[str, list[str]]]:
    """Yield the URL of a collector that forgets what it takes, and the paths of the requests so far."""
    paths: list[str] = []

    class Taker(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            paths.append(self.path)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            """Print nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Taker)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1/traces", paths
    finally:
        server.shutdown()
        server.server_close()


def _report(options: argparse.Namespace, costs: Mapping[str, list[float]]) -> Report:
    off = median(costs["off"])
    figures = {
        kind: {"cpu_us_per_heal": round(median(each), 2), "ratio_to_off": round(median(each) / off, 5)}
        for kind, each in costs.items()
    }
    rows = [
        (kind, f"{median(each):,.1f}", f"{min(each):,.1f}", f"{max(each):,.1f}", f"{median(each) / off:.4f}")
        for kind, each in costs.items()
    ]
    part = figures["seam"]["ratio_to_off"]
    return Report(
        figures=figures,
        title=f"{options.heals} heals of a handler that does nothing, median of {options.runs}",
        columns=("traces", "CPU us/heal", "least", "most", "ratio to off"),
        rows=rows,
        notes=(
            f"traces off: their calls are {part:.4f} of a heal; the goal, at most {SEAM:g}, is "
            f"{'met' if part <= SEAM else 'missed'}",
            f"Python {platform.python_version()}; {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}",
        ),
    )


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return number
