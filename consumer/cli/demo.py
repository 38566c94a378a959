"""``demo``: a small cloud drifts, and is mended, before the eyes of whoever wants to see what this is."""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
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

#: Seconds in which a heal that needs one look is waited for before the next scene begins, and beyond the second look.
_PATIENCE, _PATIENCE_AT_END = 3.0, 15.0
#: Columns of the table where no terminal says how many it has.
_PLAIN_WIDTH = 150


class Demonstration(Command):
    """Show it at work on a small cloud of its own; needs no configuration, no root, and no OpenStack.

    In one process and a temporary folder: Nova's databases with two cells, the real Placement service, a message broker in
    memory, and the daemon. The cloud drifts in the ways that real ones do; each drift is noticed by its notification
    (or, where none was sent, by a sweep), proved, healed, and checked. Takes half a minute on an idle
    machine. Exit code 0 when all is healed, 2 when not.
    """

    example = "example:\n  %(prog)s demo -f json"

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Return the parser."""
        parser = super().get_parser(prog_name)
        parser.add_argument(
            "-f", "--format", choices=("table", "json"), default="table",
            help="table: tell what happens; json: print only the heals, with the seconds each took.",
        )  # fmt: skip
        parser.add_argument(
            "--keep", action="store_true", help="Keep the folder with databases, journal, configuration and log."
        )
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> int:
        """Play all scenes."""
        demo = plugins.demos().get("nova")
        if demo is None:
            raise CommandError("this installation has no demonstration (entry point stackmend.demos nova)")
        classes = self.session.all_classes
        folder = Path(tempfile.mkdtemp(prefix="stackmend-demo-"))
        quiet = parsed_args.format == "json"
        wide = None if self.app.stdout.isatty() else _PLAIN_WIDTH
        narrator = Narrator(Console(file=self.app.stdout, quiet=quiet, highlight=False, markup=False, width=wide))
        began = time.monotonic()
        try:
            with narrator.spinning(), running_demo(demo(), classes, folder) as daemon:
                narrator.say_hello(self.app.NAME)
                _perform(daemon, narrator, {handler.name: handler.confirm_after for handler in classes})
                rows, all_well = heals(daemon), all(act.over for act in daemon.acts)
                narrator.say_result(daemon, time.monotonic() - began)
                narrator.doing("taking the cloud down")
        finally:
            if parsed_args.keep:
                look = f"{self.app.NAME} --config-file {folder}/stackmend.conf history"
                narrator.say(f"kept: {folder}; for example: {look}")
            else:
                shutil.rmtree(folder, ignore_errors=True)
        if quiet:
            self.app.stdout.write(json.dumps(rows, indent=2, ensure_ascii=False) + "\n")
        return OK if all_well else DRIFT


def _perform(daemon: DemoDaemon, narrator: Narrator, confirm_after: dict[str, float]) -> None:
    for number, scene in enumerate(daemon.scenes, 1):
        act = daemon.play(number, scene)
        twice = confirm_after[scene.handler]
        narrator.say_scene(act, len(daemon.scenes), twice)
        if act.told:
            narrator.doing("waiting for the heal")
            daemon.watch([act], 0.5 if twice else _PATIENCE, narrator.say_line)
    longest = max(confirm_after.values(), default=0.0) + _PATIENCE_AT_END
    silent = {act.scene.handler for act in daemon.acts if not act.told}
    narrator.doing("waiting for the second looks")
    # A sweep finds everything; so what was told must be over before it, or it would take the credit.
    told = [act for act in daemon.acts if act.told and act.scene.handler in silent]
    daemon.watch(told, longest, narrator.say_line)
    if silent:
        narrator.say_sweep()
        daemon.sweep(silent)
    daemon.watch(daemon.acts, longest, narrator.say_line)


def heals(daemon: DemoDaemon) -> list[dict[str, Any]]:
    """Return the heals in the order in which they ended, then what was not healed.

    ``lag_s`` is the time from the notification being published (without one: from the drift) to the heal's end.
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
    """Tells what happens, line by line; in colour, and with something that moves while one waits, on a terminal."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._last = 0
        self._status: Status | None = None

    @contextmanager
    def spinning(self) -> Iterator[None]:
        """Show on a terminal, while inside, that something goes on."""
        if not self._console.is_terminal or self._console.quiet:
            yield
            return
        with self._console.status("building a cloud") as self._status:
            yield

    def doing(self, what: str) -> None:
        """Say beside the spinner what goes on."""
        if self._status is not None:
            self._status.update(what)

    def say(self, text: str = "", style: str = "") -> None:
        """Print a line."""
        self._console.print(Text(printable(text), style=style), soft_wrap=True)

    def say_hello(self, name: str) -> None:
        """Say what is seen."""
        self.say(f"{name} demo", "bold")
        self.say("A cloud in one process: Nova's databases with two cells, a real Placement, a broker in memory;")
        self.say("and the daemon, which listens to notifications. Now the cloud drifts.")

    def say_scene(self, act: Act, total: int, twice: float) -> None:
        """Say what happens now."""
        self.say()
        self.say(f"{act.number}/{total}  {act.scene.title}", "bold")
        self._last = act.number
        self._fact("wrong", act.drift or "nothing", "red")
        if act.told:
            again = f"; it is to be seen twice, {twice:g} s apart" if twice else ""
            self._fact("told", ", ".join(act.told) + again, "cyan")
        else:
            self._fact("told", "nobody: no notification arrives", "yellow")

    def say_sweep(self) -> None:
        """Say that a sweep begins."""
        self.say()
        self.say("a sweep begins, to find what no notification told", "bold")
        self._last = 0

    def say_line(self, act: Act | None, entry: Entry) -> None:
        """Say what the history says, once it is said whole."""
        if entry.outcome == "healing":
            return
        number = act.number if act else 0
        if number != self._last:
            self.say()
            self.say(f"{number}    {act.scene.title}" if act else f"{entry.handler} {entry.key}", "bold")
            self._last = number
        lag = entry.lag if act is None else None
        proved = act.after(entry.at) if act else lag
        ended = act.after(entry.closed_at) if act else lag
        self._fact("noticed", f"{entry.handler}, by {entry.hint}", "cyan")
        self._fact("proved", f"{entry.summary}{_ms(proved)}", "yellow")
        if entry.outcome == "healed":
            self._fact("healed", f"{entry.action}{_ms(ended)}", "green")
        else:
            self._fact(entry.outcome, entry.error or "", "red")

    def say_result(self, daemon: DemoDaemon, took: float) -> None:
        """Print the table of before and after."""
        table = Table(box=box.ROUNDED if self._console.is_terminal else box.ASCII, title_justify="left")
        for title in ("Scene", "Drift before", "Drift after", "Handler"):
            table.add_column(title, overflow="fold")
        table.add_column("Lag", justify="right", no_wrap=True)
        for act in daemon.acts:
            table.add_row(*_result(act))
        self.say()
        self._console.print(table)
        healed = sum(act.over for act in daemon.acts)
        style = "bold green" if healed == len(daemon.acts) else "bold red"
        self.say(f"{healed} of {plural(len(daemon.acts), 'drift')} healed; {took:.0f} s in all", style)

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
