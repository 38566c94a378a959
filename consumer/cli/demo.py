from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.status import Status
from rich.table import Table
from rich.text import Text

from consumer import plugins
from consumer.cli.base import Command
from consumer.cli.demo_daemon import Act, DemoDaemon, running_demo
from consumer.cli.errors import DRIFT, OK, CommandError
from consumer.journal.history import Entry
from consumer.text import plural, printable

#: Seconds to wait for a heal: before the next scene, and after the second inspections.
_PATIENCE, _PATIENCE_AT_END = 3.0, 15.0
#: Width of the table without a terminal.
_PLAIN_WIDTH = 150


class Demonstration(Command):
    """Show stackmend at work on a small cloud of its own. Needs no configuration, no root, and no OpenStack cloud.

    One process runs the cloud and the daemon, with files in a temporary folder. The cloud has Nova's databases with two cells,
    the real Placement service, and Octavia's database. Amphorae and message broker are in memory.

    The cloud drifts. The daemon notices each drift by a notification or a sweep, proves the drift and heals it. The command
    takes about half a minute. Exit codes: 0 all drift is healed, 2 drift remains, 1 the demonstration failed.
    """

    example = "example:\n  %(prog)s demo -f json"

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument(
            "-f", "--format", choices=("table", "json"), default="table",
            help="table: print each step; json: print only the heals, with their durations in seconds.",
        )  # fmt: skip
        parser.add_argument(
            "--keep", action="store_true", help="Keep the folder with databases, journal, configuration and log."
        )
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> int:
        demos = [demo() for demo in plugins.demos().values()]
        if not demos:
            raise CommandError("this installation has no demonstration (entry point stackmend.demos)")
        classes = self.session.all_classes
        folder = Path(tempfile.mkdtemp(prefix="stackmend-demo-"))
        quiet = parsed_args.format == "json"
        wide = None if self.app.stdout.isatty() else _PLAIN_WIDTH
        narrator = Narrator(Console(file=self.app.stdout, quiet=quiet, highlight=False, markup=False, width=wide))
        began = time.monotonic()
        try:
            with narrator.spinning(), running_demo(demos, classes, folder) as daemon:
                narrator.show_introduction(self.app.NAME, [demo.world for demo in demos])
                _perform(daemon, narrator, {handler.name: handler.confirm_after for handler in classes})
                rows, all_well = heals(daemon), all(act.over for act in daemon.acts)
                narrator.show_result(daemon, time.monotonic() - began)
                narrator.doing("stopping the cloud")
        finally:
            if parsed_args.keep:
                example = f"{self.app.NAME} --config-file {folder}/stackmend.conf history"
                narrator.line(f"files: {folder}; for example: {example}")
            else:
                shutil.rmtree(folder, ignore_errors=True)
        if quiet:
            self.app.stdout.write(json.dumps(rows, indent=2, ensure_ascii=False) + "\n")
        return OK if all_well else DRIFT


def _perform(daemon: DemoDaemon, narrator: Narrator, confirm_after: dict[str, float]) -> None:
    for number, scene in enumerate(daemon.scenes, 1):
        act = daemon.play(number, scene)
        twice = confirm_after[scene.handler]
        narrator.show_scene(act, len(daemon.scenes), twice)
        if act.events:
            narrator.doing("waiting for the heal")
            daemon.watch([act], 0.5 if twice else _PATIENCE, narrator.show_entry)
    longest = max(confirm_after.values(), default=0.0) + _PATIENCE_AT_END
    silent = {act.scene.handler for act in daemon.acts if not act.events}
    narrator.doing("waiting for the second inspections")
    # A sweep would also find the drift of notified acts, so these must be over before it.
    notified = [act for act in daemon.acts if act.events and act.scene.handler in silent]
    daemon.watch(notified, longest, narrator.show_entry)
    if silent:
        narrator.show_sweep()
        daemon.sweep(silent)
    daemon.watch(daemon.acts, longest, narrator.show_entry)


def heals(daemon: DemoDaemon) -> list[dict[str, Any]]:
    """Return a dictionary for each heal, earliest end first, then one for each scene (drift of the demo) that is not healed.

    ``lag_s`` counts seconds from the scene's notification to the heal's end. Without a notification, it counts from the
    scene's drift. Without a heal, it is None.
    """
    done = [(entry, act.after(entry.closed_at)) for act in daemon.acts for entry in act.healed]
    done += [(entry, entry.lag or 0.0) for entry in daemon.stray.values() if entry.outcome == "healed"]
    rows: list[dict[str, Any]] = [
        {
            "handler": entry.handler,
            "key": entry.key,
            "problem": entry.problem,
            "action": entry.action,
            "lag_s": round(lag, 3),
        }
        for entry, lag in sorted(done, key=lambda pair: pair[0].closed_at or 0.0)
    ]
    for act in daemon.acts:
        if not act.over:
            problem = act.scene.drift() or "no heal was recorded"
            scene = act.scene
            rows.append(
                {"handler": scene.handler, "key": str(scene.key), "problem": problem, "action": "", "lag_s": None}
            )
    return rows


class Narrator:
    def __init__(self, console: Console) -> None:
        self._console = console
        self._last = 0
        self._status: Status | None = None

    @contextmanager
    def spinning(self) -> Iterator[None]:
        if not self._console.is_terminal or self._console.quiet:
            yield
            return
        with self._console.status("building a cloud") as self._status:
            yield

    def doing(self, what: str) -> None:
        if self._status is not None:
            self._status.update(what)

    def line(self, text: str = "", style: str = "") -> None:
        self._console.print(Text(printable(text), style=style), soft_wrap=True)

    def show_introduction(self, name: str, worlds: Iterable[str]) -> None:
        self.line(f"{name} demo", "bold")
        self.line(f"A cloud in one process: {'; '.join(worlds)}; a broker in memory;")
        self.line("and the daemon, which receives notifications. Now the cloud drifts.")

    def show_scene(self, act: Act, total: int, twice: float) -> None:
        self.line()
        self.line(f"{act.number}/{total}  {act.scene.title}", "bold")
        self._last = act.number
        self._fact("drift", act.drift or "nothing", "red")
        if act.events:
            again = f"; proof needs two inspections, {twice:g} s apart" if twice else ""
            self._fact("event", ", ".join(act.events) + again, "cyan")
        else:
            self._fact("event", "none: no notification arrives", "yellow")

    def show_sweep(self) -> None:
        self.line()
        self.line("a sweep starts, to find drift without a notification", "bold")
        self._last = 0

    def show_entry(self, act: Act | None, entry: Entry) -> None:
        if entry.outcome == "healing":
            return
        number = act.number if act else 0
        if number != self._last:
            self.line()
            self.line(f"{number}    {act.scene.title}" if act else f"{entry.handler} {entry.key}", "bold")
            self._last = number
        lag = entry.lag if act is None else None
        proved = act.after(entry.at) if act else lag
        ended = act.after(entry.closed_at) if act else lag
        if act is None or entry.id == min(act.lines):  # the steps that follow have the same event and proof
            self._fact("noticed", f"{entry.handler}, by {entry.hint}", "cyan")
            self._fact("proved", f"{entry.summary}{_ms(proved)}", "yellow")
        if entry.outcome == "healed":
            self._fact("healed", f"{entry.action}{_ms(ended)}", "green")
        else:
            self._fact(entry.outcome, entry.error or "", "red")

    def show_result(self, daemon: DemoDaemon, took: float) -> None:
        table = Table(box=box.ROUNDED if self._console.is_terminal else box.ASCII, title_justify="left")
        for title in ("Scene", "Drift before", "Drift after", "Handler"):
            table.add_column(title, overflow="fold")
        table.add_column("Lag", justify="right", no_wrap=True)
        for act in daemon.acts:
            table.add_row(*_result(act))
        self.line()
        self._console.print(table)
        healed = sum(act.over for act in daemon.acts)
        style = "bold green" if healed == len(daemon.acts) else "bold red"
        self.line(f"{healed} of {plural(len(daemon.acts), 'drift')} healed; {took:.0f} s in all", style)

    def _fact(self, what: str, text: str, style: str) -> None:
        line = Text(f"     {what:<9}", style=style)
        line.append(printable(text), style="default")
        self._console.print(line, soft_wrap=True)


def _result(act: Act) -> Sequence[Text]:
    left = act.scene.drift()
    healed = act.healed
    lag = _ms(act.after(max(entry.closed_at or 0.0 for entry in healed))).strip(" ()") if healed else "-"
    after = Text(left or "none", style="red" if left else "green")
    plain = [Text(text) for text in (act.scene.title, act.drift or "none", act.scene.handler, lag)]
    return [*plain[:2], after, *plain[2:]]


def _ms(value: float | None) -> str:
    if value is None:
        return ""
    return f" ({value * 1000:.0f} ms)" if value < 1 else f" ({value:.2f} s)"
