"""Looking after a fleet, and mending it: stackmend's sweeps and nova-manage's commands on the same data.

A fleet of hosts and instances is loaded into a private MariaDB and a real Placement. Both programs are run as their user
runs them, one task at a time, whole process:

  healthy   nothing is wrong, and that is what has to be found out; ``<task>_healthy``, and ``healthy`` for one sweep of
            stackmend that looks for all of it, against all of nova-manage's commands together
  drifted   each kind of drift is healed: a tenth of the instances, the added hosts, the aggregates; as many instances as
            live were deleted long ago and are archived, as many are purged

After each run SQL counts what is wrong in the databases. A figure counts only where ``right`` is true of both: nothing is
left, nothing was invented. The drifted fleet is loaded twice, from the same statements: each task is mended by both, one right
after the other.

Seconds and processor time are of the program's process, queries MariaDB's ``Questions`` with Placement's own among them,
requests those to Placement. ``memory`` is stackmend's peak beside a fifth of the fleet; ``goals`` says what is aimed at, what
is measured, and whether that is met by a run that is right. Programs, MariaDB and Placement
share the machine: compare within one run. The services' packages are those of the tests' control plane, installed once
into STACKMEND_CLOUD_VENV. Neutron is a stand-in, which only stackmend asks; nova-manage leaves ports out.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.fleet import tasks
from bench.fleet.rows import Sizes
from bench.fleet.site import Cost, Site
from bench.fleet.tasks import Task
from bench.report import Failed, Report
from tests.servers.keeper import keeper
from tests.servers.packages import Missing
from tests.servers.server import DidNotStart

#: nova-manage's seconds as a multiple of stackmend's, at least
GOALS = {
    "healthy": 20.0,
    "heal_allocations": 5.0,
    "map_instances": 10.0,
    "archive_deleted_rows": 3.0,
}
#: stackmend's queries of a healthy fleet as a part of nova-manage's, at most
QUERIES = 1 / 20
#: stackmend's peak memory as a multiple of that beside a fifth of the fleet, at most
GROWTH = 1.2
_FIFTH = 5


@dataclass(frozen=True, slots=True)
class Done:
    """One program's run of a task, or of several."""

    seconds: float
    cpu_s: float
    peak_mb: float
    objects: int
    queries: int
    requests: int
    right: bool

    def figures(self) -> dict[str, Any]:
        """Return it for programs."""
        return {
            "seconds": round(self.seconds, 3),
            "cpu_s": round(self.cpu_s, 3),
            "peak_mb": round(self.peak_mb, 1),
            "objects": self.objects,
            "objects_per_s": round(self.objects / self.seconds, 1),
            "queries": self.queries,
            "placement_requests": self.requests,
            "right": self.right,
        }


Comparison = tuple[Done, Done | None]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("--hosts", type=_hosts, default=100, help="with instances; a fifth is added; default: 100")
    parser.add_argument("--instances", type=int, default=5000, help="a multiple of ten times the hosts; default: 5000")


def run(options: argparse.Namespace) -> Report:
    """Measure.

    :raises Failed: when a program failed or the fleet could not be made
    """
    sizes = Sizes(options.hosts, options.instances)
    if sizes.instances < 1 or sizes.instances % (10 * sizes.hosts):
        raise Failed(
            f"--instances must be a multiple of ten times the hosts: {10 * sizes.hosts}, {20 * sizes.hosts} ..."
        )
    now = datetime.now(UTC).replace(tzinfo=None, microsecond=0)
    try:
        with _site() as site, _site() as other:
            done = _compare(site, other, sizes, now)
            small = Sizes(
                max(1, sizes.hosts // _FIFTH), max(1, sizes.hosts // _FIFTH) * (sizes.instances // sizes.hosts)
            )
            peaks = _peaks(site, small, now)
    except (Missing, DidNotStart) as error:
        raise Failed(f"no servers: {error}") from error
    return _report(sizes, done, peaks)


def _compare(site: Site, other: Site, sizes: Sizes, now: datetime) -> dict[str, Comparison]:
    """Run every task with both programs, one right after the other: a machine's speed changes from minute to minute.

    :param other: where nova-manage mends what stackmend mends in the first
    """
    healthy, drifted = tasks.healthy(sizes), tasks.drifted(sizes, now)
    site.load(sizes, False, now)
    wrong = {task.name: site.number(task.wrong) for task in healthy}
    if any(wrong.values()):
        raise Failed(f"the healthy fleet is not: {wrong}")
    done: dict[str, Comparison] = {}
    for task in healthy:
        done[f"{task.name}_healthy"] = (_stackmend(site, [task], 0), _nova_manage(site, task))
    peers = [peer for _, peer in done.values() if peer is not None]
    compared = [task for task in healthy if task.command]
    done["healthy"] = (_stackmend(site, compared, 0), _total(peers))
    for each in (site, other):
        each.load(sizes, True, now)
    for task in drifted:
        theirs = _nova_manage(other, task)
        done[task.name] = (_stackmend(site, [task], 1), theirs)
    return done


def _peaks(site: Site, sizes: Sizes, now: datetime) -> dict[str, float]:
    """Return stackmend's peak memory by task, beside this fleet."""
    peaks = {}
    site.load(sizes, False, now)
    for task in tasks.healthy(sizes):
        peaks[f"{task.name}_healthy"] = _stackmend(site, [task], 0).peak_mb
    site.load(sizes, True, now)
    for task in tasks.drifted(sizes, now):
        peaks[task.name] = _stackmend(site, [task], 1).peak_mb
    return peaks


def _stackmend(site: Site, asked: Sequence[Task], least: int) -> Done:
    """Have stackmend sweep for these tasks.

    :param least: of the drifts that it must tell of
    """
    cost = site.stackmend(["sweep", *(task.name for task in asked), "-f", "json"])
    try:
        found = json.loads(cost.usage.output)
    except ValueError:
        found = None
    if cost.usage.code or found is None:
        raise Failed(f"stackmend sweep {asked[0].name} ended with {cost.usage.code}:\n{_said(cost)}")
    right = len(found) >= least and (least > 0 or not found)
    return _done("stackmend", cost, asked, right and not any(site.number(task.wrong) for task in asked))


def _nova_manage(site: Site, task: Task) -> Done | None:
    if task.command is None:
        return None
    cost = site.nova_manage(task.command.words)
    if cost.usage.code != task.command.code:
        command = " ".join(task.command.words)
        raise Failed(f"nova-manage {command} ended with {cost.usage.code}:\n{_said(cost)}")
    return _done("nova-manage", cost, [task], not site.number(task.wrong))


def _done(program: str, cost: Cost, asked: Sequence[Task], right: bool) -> Done:
    usage, objects = cost.usage, sum(task.objects for task in asked)
    name = asked[0].name if len(asked) == 1 else f"{len(asked)} tasks"
    _progress(f"{program:<12} {name:<24} {usage.seconds:>8.2f} s {cost.queries:>8,} queries  right: {right}")
    return Done(usage.seconds, usage.cpu_s, usage.peak_mb, objects, cost.queries, cost.requests, right)


def _total(runs: Sequence[Done]) -> Done:
    return Done(
        sum(each.seconds for each in runs),
        sum(each.cpu_s for each in runs),
        max(each.peak_mb for each in runs),
        sum(each.objects for each in runs),
        sum(each.queries for each in runs),
        sum(each.requests for each in runs),
        all(each.right for each in runs),
    )


def _report(sizes: Sizes, done: Mapping[str, Comparison], peaks: Mapping[str, float]) -> Report:
    figures: dict[str, dict[str, Any]] = {}
    table = []
    for name, (ours, theirs) in done.items():
        ratio = round(theirs.seconds / ours.seconds, 2) if theirs is not None else None
        figures[name] = {
            "stackmend": ours.figures(),
            "nova_manage": None if theirs is None else theirs.figures(),
            "ratio": ratio,
            "right": ours.right and (theirs is None or theirs.right),
        }
        table.append((name, "stackmend", *_cells(ours), ""))
        if theirs is not None:
            table.append(("", "nova-manage", *_cells(theirs), f"{ratio:.1f}"))
    large = {name: ours.peak_mb for name, (ours, _) in done.items() if name in peaks}
    figures["memory"] = {
        "peak_mb": round(max(large.values()), 1),
        "peak_mb_of_a_fifth": round(max(peaks.values()), 1),
        "growth": round(max(large[name] / peak for name, peak in peaks.items()), 3),
    }
    figures["goals"] = _goals(figures)
    return Report(
        figures=figures,
        title=f"{sizes.instances:,} instances on {sizes.hosts} hosts, as many deleted, as many archived",
        columns=("task", "program", "s", "CPU s", "MB", "objects/s", "queries", "requests", "right", "ratio"),
        rows=table,
        notes=(
            *_sentences(figures),
            "Neutron is a stand-in: stackmend asks it for ports, nova-manage is told to leave ports out",
            f"Python {platform.python_version()}; {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}",
        ),
    )


def _cells(done: Done) -> tuple[str, ...]:
    return (
        f"{done.seconds:.1f}",
        f"{done.cpu_s:.1f}",
        f"{done.peak_mb:.0f}",
        f"{done.objects / done.seconds:,.0f}",
        f"{done.queries:,}",
        f"{done.requests:,}",
        "yes" if done.right else "NO",
    )


def _goals(figures: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return what is measured for each goal, the goal, and whether it is met."""
    goals = {name: (figures[name]["ratio"], goal, figures[name]["ratio"] >= goal) for name, goal in GOALS.items()}
    ours, theirs = figures["healthy"]["stackmend"], figures["healthy"]["nova_manage"]
    part, growth = round(ours["queries"] / theirs["queries"], 4), figures["memory"]["growth"]
    goals["healthy_queries"] = (part, QUERIES, part <= QUERIES)
    goals["memory"] = (growth, GROWTH, growth <= GROWTH)
    return {
        name: {"measured": measured, "goal": goal, "met": met and figures.get(name, {}).get("right", True)}
        for name, (measured, goal, met) in goals.items()
    }


def _sentences(figures: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Say which goals are met."""
    memory = figures["memory"]
    for name, goal in figures["goals"].items():
        if name in GOALS:
            measured, least = f"{goal['measured']:.1f}", f"{goal['goal']:g}"
            yield f"{name}: {measured} times as fast as nova-manage; the goal, at least {least}, is {_met(goal['met'])}"
    part, growth = figures["goals"]["healthy_queries"], figures["goals"]["memory"]
    yield (
        f"healthy: {part['measured']:.3f} of nova-manage's queries; the goal, at most {QUERIES:g}, is {_met(part['met'])}"
    )
    yield (
        f"memory: stackmend's peak is {memory['peak_mb']:.0f} MB, beside a fifth of the fleet "
        f"{memory['peak_mb_of_a_fifth']:.0f} MB; no task grows by more than {growth['measured']:.2f}; the goal, at most "
        f"{GROWTH:g}, is {_met(growth['met'])}"
    )


def _met(met: bool) -> str:
    return "met" if met else "missed"


def _said(cost: Cost) -> str:
    return (cost.usage.output + cost.usage.complaint).strip()[-2000:]


@contextmanager
def _site() -> Iterator[Site]:
    """Start the servers in a folder that goes away however this process ends."""
    with tempfile.TemporaryDirectory(prefix="stackmend-bench-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        keeper.watch_folder(folder)
        site = Site(folder, Path(sys.executable).parent / "stackmend", tasks.OPTIONS)
        try:
            site.up()
            yield site
        finally:
            site.down()
            keeper.keep_folder(folder)


def _progress(line: str) -> None:
    if sys.stderr.isatty():
        print(line, file=sys.stderr)


def _hosts(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return number
