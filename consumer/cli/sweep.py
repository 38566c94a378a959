"""``sweep``: look at the whole cloud once, and heal what is wrong."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from consumer.cli.base import Lister
from consumer.cli.errors import DRIFT, ERROR, OK, CommandError
from consumer.conf import tasks as task_conf
from consumer.engine.oneshot import OneShot, Progress, Result, no_progress
from consumer.engine.task import Task, always, as_configured, at_most_audit
from consumer.journal import controls, replicas
from consumer.journal.database import Database
from consumer.text import plural
from handlers.base import Handler

#: How the summary calls what came of a drift; others are called by their own name.
_CALLED = {"found": "left as they are", "held": "held back by the hourly budget or a closed window"}
#: Outcomes that are no drift: the question is open.
_OPEN = ("in flight", "unavailable", "stopped")


class Sweep(Lister):
    """Look at everything once: list what is wrong and, where the mode is heal, heal it.

    Does what the daemon's sweeps do, with the same proofs, budgets and history, and ends. Handlers whose mode is off are
    left out; what an operator paused or the breaker stopped, or what is outside its window, is looked at and not healed.

    Exit codes: 0 nothing is wrong or all is healed, 2 drift remains, 1 something could not be looked at.
    """

    example = (
        "examples:\n"
        "  %(prog)s sweep --audit                    what is wrong? changes nothing, needs no journal\n"
        "  %(prog)s sweep discover_hosts -f json     one handler, for a program"
    )
    titles = ("Handler", "Key", "Problem", "Action", "Details")
    more_titles = ("Changed", "Summary", "Evidence", "Undo")

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Return the parser."""
        parser = super().get_parser(prog_name)
        parser.add_argument("names", nargs="*", metavar="NAME", help="Handlers; all that are not off if none is named.")
        parser.add_argument("--audit", action="store_true", help="Change nothing, whatever the configuration says.")
        return parser

    def rows(self, parsed_args: argparse.Namespace) -> Iterable[Sequence[Any]]:
        """Sweep, and return one row per finding."""
        tasks = self._tasks(parsed_args.names, parsed_args.audit)
        database = self.session.database if any(task.heals for task in tasks) else None
        if database is not None:
            tasks = self._respect_stops(database, tasks)
        for sentence in self.session.resources.warnings():
            self.remark(sentence)
        for task in (task for task in tasks if task.heals and not task.is_open):
            self.remark(f"{task.name} is outside its window ({task.settings.window}) and heals nothing")
        with progress() as shown:
            results = OneShot(database, self.session.engine, replicas.new_id(), shown).sweep(tasks)
        for sentence in summaries(results):
            self.remark(sentence)
        self.exit_code = exit_code(results)
        return [
            (
                *(r.handler, r.key, r.problem, r.action, r.change or r.summary),
                r.change,
                r.summary,
                dict(r.evidence),
                r.undo,
            )
            for r in results
        ]

    def _tasks(self, names: Sequence[str], audit: bool) -> list[Task]:
        classes = self.session.classes(names)
        if names and audit:
            return self.session.tasks(classes, always("audit"))
        if names:
            self._refuse_off(classes)
        return self.session.tasks(classes, at_most_audit if audit else as_configured)

    def _refuse_off(self, classes: Sequence[type[Handler]]) -> None:
        for handler in classes:
            if task_conf.settings(self.session.conf, handler).mode == "off":
                raise CommandError(
                    f"{handler.name} is off: look with --audit, or set [{handler.group}] {handler.name}_mode = heal"
                )

    def _respect_stops(self, database: Database, tasks: Sequence[Task]) -> list[Task]:
        """Make those tasks audit that an operator paused or the breaker stopped."""
        controls.ensure(database, [task.name for task in tasks])
        known = controls.read(database)
        allowed = []
        for task in tasks:
            control = known[task.name]
            if task.heals and control.stopped:
                how = "paused" if control.paused else "stopped"
                self.remark(f"{task.name} is {how} and heals nothing ({control.reason})")
                task = replace(task, settings=replace(task.settings, mode="audit"))  # noqa: PLW2901
            allowed.append(task)
        return allowed


def exit_code(results: Iterable[Result]) -> int:
    """Return 1 when a question is open, 2 when drift remains, else 0."""
    results = list(results)
    if any(result.is_error or _look_failed(result) for result in results):
        return ERROR
    return DRIFT if any(result.is_drift for result in results) else OK


def _look_failed(result: Result) -> bool:
    """Tell whether the look itself failed, so that nothing is known."""
    return result.action == result.problem == "failed"


def summaries(results: Iterable[Result]) -> Iterator[str]:
    """Say in a sentence what was found, and in another what could not be told."""
    results = list(results)
    drifts = [result for result in results if result.action not in _OPEN and not _look_failed(result)]
    rest = Counter("failed" if _look_failed(result) else result.action for result in results if result not in drifts)
    if drifts:
        where = plural(len({result.handler for result in drifts}), "handler")
        came = Counter(result.action for result in drifts)
        said = ", ".join(f"{count} {_CALLED.get(action, action)}" for action, count in came.most_common())
        yield f"{plural(len(drifts), 'drift')} found in {where}: {said}"
    elif not rest.keys() - {"in flight"}:
        yield "nothing is wrong"
    if rest["in flight"]:
        yield f"{plural(rest['in flight'], 'object')} in flight, proving nothing now: look again later"
    if rest["unavailable"] + rest["failed"]:
        yield f"{plural(rest['unavailable'] + rest['failed'], 'look')} got no answer; what was asked there is not known"
    if rest["stopped"]:
        yield f"{plural(rest['stopped'], 'handler')} found more than can be believed, and healed nothing"


@contextmanager
def progress() -> Iterator[Progress]:
    """Show progress on stderr while inside, when stderr is a terminal."""
    if not sys.stderr.isatty():
        yield no_progress
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        lines: dict[str, Any] = {}

        def show(name: str, done: int, total: int) -> None:
            if name not in lines:
                lines[name] = bar.add_task(name, total=None)
            bar.update(lines[name], completed=done, total=total or None)

        yield show
