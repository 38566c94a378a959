"""Taking notifications off RabbitMQ: stackmend, the batch listener of oslo.messaging, and a bare kombu loop.

The same captured notifications, each with an id of its own and one in twenty of a wanted type, wait in a fresh queue of a
private broker. Each consumer drains it in a process of its own, in turn, several times:

  stackmend   the service's source, router, inbox and journal: keys stored and committed, then acknowledged
  oslo_batch  oslo.messaging's batch notification listener, 100 messages a batch, an endpoint that does nothing
  kombu       a loop that looks at nothing and acknowledges 500 messages at a time: the floor

Measured are messages per second and processor time (user and system, all threads) of the consumer's process, from its
first consume to its last acknowledgement, as the median of the runs. After each drain the queue must be empty, nothing
unacknowledged, and the journal must hold exactly the expected keys; else there is no result.

Processor time is the figure to compare: the speed depends on what the broker and others take of the same cores.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from importlib.metadata import version
from pathlib import Path
from statistics import median

from bench.ingest.broker import Bus
from bench.ingest.job import CONSUMERS, Drained, Job
from bench.ingest.journal import Journal
from bench.ingest.notifications import Workload, workload
from bench.report import Failed, Report
from tests.servers.keeper import keeper, kill_tree
from tests.servers.packages import Missing
from tests.servers.server import DidNotStart

ROOT = Path(__file__).parents[2]
CAPTURED = ROOT / "tests" / "data" / "notifications.jsonl"
TOPIC = "ingest"

#: Names in the result.
NAMES = dict(zip(CONSUMERS, ("stackmend", "oslo_batch", "kombu"), strict=True))

#: Processor time per message of stackmend, as a multiple of the other's, at most.
GOALS = {"oslo_batch": 0.25, "kombu": 1.4}

#: Every consumer's batches end with a multiple of this many messages; the rest of one would only be waited for.
WHOLE_BATCHES = 500

#: How long a drain may take before it counts as stuck: seconds, and seconds more per message.
_PATIENCE = 60.0
_PATIENCE_PER_MESSAGE = 0.02


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("--messages", type=_messages, default=20_000, help="in the queue; default: 20000")
    parser.add_argument("--runs", type=_positive, default=5, help="drains by each consumer; default: 5")
    parser.add_argument("--queue-type", choices=("classic", "quorum"), default="classic", help="default: classic")
    parser.add_argument(
        "--journal",
        metavar="URL",
        help="an empty database for the keys, as in [journal] connection; default: a new SQLite file for each drain",
    )


def run(options: argparse.Namespace) -> Report:
    """Measure.

    :raises Failed: when a message was lost or a consumer failed
    """
    work = workload(CAPTURED, options.messages)
    quorum = options.queue_type == "quorum"
    drained: dict[str, list[Drained]] = {name: [] for name in CONSUMERS}
    try:
        with _folder() as folder, Bus(folder / "rabbitmq", quorum) as bus:
            for number in range(options.runs):
                for name in CONSUMERS:
                    journal = options.journal or f"sqlite:///{folder}/{name}-{number}.sqlite"
                    done = _drain(name, bus, work, quorum, journal)
                    drained[name].append(done)
                    _progress(
                        f"run {number + 1}/{options.runs}  {NAMES[name]:<10}  {done.messages_per_s:>7,.0f} messages/s"
                        f"  {done.cpu_us_per_message:>6.1f} us/message"
                    )
    except (Missing, DidNotStart) as error:
        raise Failed(f"no broker: {error}") from error
    return _report(drained, work, options)


def _drain(name: str, bus: Bus, work: Workload, quorum: bool, journal_url: str) -> Drained:
    """Fill the queue, have one consumer drain it, and check that it did."""
    job = Job(bus.server.url(), bus.server.transport_url(), TOPIC, len(work.bodies), quorum, journal_url)
    bus.fill(job.queue, work.bodies)
    if name != "stackmend":
        drained = _consume(name, job)
        bus.check_taken(job.queue)
        return drained
    with closing(Journal(journal_url)) as journal:
        drained = _consume(name, job)
        bus.check_taken(job.queue)
        journal.check(work.instances)
        journal.clear()
    return drained


def _consume(name: str, job: Job) -> Drained:
    """Run a consumer process to its end.

    :raises Failed: when it failed, or took far too long
    """
    # Python compiles what it imports once and keeps it, as where a service is installed.
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.ingest.consumer", name],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    keeper.watch(process.pid)
    try:
        output, complaint = process.communicate(job.as_json(), _PATIENCE + job.messages * _PATIENCE_PER_MESSAGE)
    except subprocess.TimeoutExpired as error:
        raise Failed(f"{NAMES[name]} did not take {job.messages} messages in {error.timeout:.0f} s") from error
    finally:
        if process.poll() is None:
            kill_tree(process.pid)
            process.wait()
        keeper.forget(process.pid)
    if process.returncode:
        raise Failed(f"{NAMES[name]} failed:\n{complaint.strip()}")
    return Drained.from_json(output)


def _report(drained: Mapping[str, Sequence[Drained]], work: Workload, options: argparse.Namespace) -> Report:
    figures, rows = {}, []
    for consumer, name in NAMES.items():
        speeds = [each.messages_per_s for each in drained[consumer]]
        costs = [each.cpu_us_per_message for each in drained[consumer]]
        figures[name] = {
            "messages_per_s": round(median(speeds), 1),
            "cpu_us_per_message": round(median(costs), 2),
        }
        rows.append(
            (name, f"{median(speeds):,.0f}", f"{median(costs):.1f}", f"{min(costs):.1f}", f"{max(costs):.1f}"),
        )
    libraries = ", ".join(f"{library} {version(library)}" for library in ("kombu", "amqp", "oslo.messaging"))
    return Report(
        figures=figures,
        title=(
            f"{len(work.bodies):,} notifications of {work.mean_size:,.0f} bytes from a durable {options.queue_type} queue, "
            f"median of {options.runs}"
        ),
        columns=("consumer", "messages/s", "CPU us/message", "least", "most"),
        rows=rows,
        notes=(
            *_goals(figures),
            f"Python {platform.python_version()}, {libraries}; {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}",
        ),
    )


def _goals(figures: Mapping[str, Mapping[str, float]]) -> Iterator[str]:
    """Say how stackmend's processor time compares."""
    ours = figures["stackmend"]["cpu_us_per_message"]
    for name, goal in GOALS.items():
        ratio = ours / figures[name]["cpu_us_per_message"]
        verdict = "met" if ratio <= goal else "missed"
        yield f"stackmend / {name}: {ratio:.2f} of its CPU time per message; the goal, at most {goal}, is {verdict}"


@contextmanager
def _folder() -> Iterator[Path]:
    """Make a folder that goes away however this process ends."""
    with tempfile.TemporaryDirectory(prefix="stackmend-bench-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        keeper.watch_folder(folder)
        try:
            yield folder
        finally:
            keeper.keep_folder(folder)


def _progress(line: str) -> None:
    if sys.stderr.isatty():
        print(line, file=sys.stderr)


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return number


def _messages(text: str) -> int:
    number = _positive(text)
    if number % WHOLE_BATCHES:
        raise argparse.ArgumentTypeError(f"a multiple of {WHOLE_BATCHES}, so that nobody waits for the rest of a batch")
    return number
