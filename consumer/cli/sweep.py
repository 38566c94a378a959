from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

from oslo_utils.uuidutils import is_uuid_like

from consumer import plugins
from consumer.cli.base import Lister, add_by, operator, positive
from consumer.cli.errors import DRIFT, ERROR, OK, CommandError
from consumer.conf import tasks as task_conf
from consumer.engine.oneshot import Action, OneShot, Progress, Result, no_progress
from consumer.engine.task import Task, always, as_configured, at_most_audit
from consumer.journal import controls, replicas
from consumer.journal.database import Database
from consumer.text import plural
from handlers.base import Finding, Handler, Key, Mode

#: Action -> words of the summary, where they differ.
_WORDS = {
    Action.FOUND: "not healed",
    Action.ASKED: "wait for approval ('stackmend work asks')",
    Action.DEFERRED: "deferred by a limit, a hold, a pause, the breaker or a closed window",
}
#: Actions without a verdict.
_OPEN = frozenset({Action.IN_FLIGHT, Action.UNAVAILABLE, Action.STOPPED})


class Sweep(Lister):
    """Inspect the whole cloud once: list drift and, in mode heal, heal it.

    The command sweeps like the daemon, with the same proofs and budgets, but it adds only heals to the history, no findings.
    Without NAME, the command omits handlers with mode off. For a handler that is paused, stopped, or outside its window, the
    command begins no heal. Daemons and other sweeps can run at the same time.

    In mode ask, a proved finding waits for 'work approve'.

    Exit codes: 0 no drift or all healed, 2 drift remains, 1 an inspection failed or too much drift stopped a handler. Exempt
    drift and objects in flight do not count.
    """

    example = (
        "examples:\n"
        "  %(prog)s sweep --audit                    only report; needs no journal\n"
        "  %(prog)s sweep discover_hosts -f json     one handler, output for a program\n"
        "  %(prog)s sweep heal_allocations --cell cell1 --max-count 100"
    )
    titles = ("Handler", "Key", "Problem", "Action", "Details")
    more_titles = ("Changed", "Summary", "Evidence", "Plan", "Undo")

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("names", nargs="*", metavar="NAME", help="Handlers; default: all whose mode is not off.")
        parser.add_argument("--audit", action="store_true", help="Only report drift, whatever the configuration.")
        parser.add_argument(
            "--cell", action="append", default=[], metavar="NAME",
            help="Report and heal only drift in this cell, and in no other cell; may be repeated. Handlers that do not name "
            "the cell of each finding are omitted.",
        )  # fmt: skip
        parser.add_argument(
            "--key", action="append", default=[], type=_key, metavar="KEY",
            help="Inspect only this object (kind:id), in each handler that takes its kind; may be repeated.",
        )  # fmt: skip
        parser.add_argument(
            "--max-count", type=positive, metavar="N",
            help="Heal at most N objects in this run, all handlers together; defer the rest.",
        )  # fmt: skip
        add_by(parser)
        return parser

    def named_handlers(self, parsed_args: argparse.Namespace) -> Sequence[str]:
        return list(parsed_args.names)

    def rows(self, parsed_args: argparse.Namespace) -> Iterable[Sequence[Any]]:
        tasks = self._tasks(parsed_args.names, parsed_args.audit)
        if parsed_args.key:
            tasks = _taking(tasks, parsed_args.key)
        selected = self._in_cells(parsed_args.cell)
        if parsed_args.cell:
            tasks = self._knowing_cells(tasks, bool(parsed_args.names))
        database = self.session.database if any(task.heals for task in tasks) else None
        if database is not None:
            self.session.compare_watermarks()
            tasks = self._respect_stops(database, tasks)
        for sentence in self.session.resources.warnings():
            self.remark(sentence)
        for task in (task for task in tasks if task.heals and not task.is_open):
            self.remark(f"{task.name} is outside its window ({task.settings.window}) and heals nothing")
        sending = self.session.sending() if database is not None else nullcontext()
        with sending, progress() as shown:
            one_shot = OneShot(
                database, self.session.engine, replicas.new_id(), shown,
                operator=operator(parsed_args), selected=selected, most=parsed_args.max_count,
                board=None if database is None else self.session.board,
            )  # fmt: skip
            keys = parsed_args.key
            results = one_shot.examine_all(tasks, keys) if keys else one_shot.sweep(tasks)
        for sentence in summaries(results):
            self.remark(sentence)
        self.exit_code = exit_code(results)
        return [
            (
                *(r.handler, r.key, r.problem, r.action, r.change or r.summary),
                r.change,
                r.summary,
                dict(r.evidence),
                r.plan,
                r.undo,
            )
            for r in results
        ]

    def _tasks(self, names: Sequence[str], audit: bool) -> list[Task]:
        classes = self.session.classes(names)
        if names and audit:
            return self.session.tasks(classes, always(Mode.AUDIT))
        if names:
            self._refuse_off(classes)
        return self.session.tasks(classes, at_most_audit if audit else as_configured)

    def _in_cells(self, names: Sequence[str]) -> Callable[[Finding], bool]:
        """Return :func:`within` for the cells ``names``; without names, a function that returns True.

        :raises CommandError: a cell does not exist, or its database does not answer
        """
        if not names:
            return lambda _finding: True
        marks = {one.database for source in plugins.watermarks() for one in source(self.session.resources)}
        cells = {mark.removeprefix("cell:") for mark in marks if mark.startswith("cell:")}
        if unknown := [name for name in names if name not in cells]:
            raise CommandError(
                f"--cell: there is no cell {', '.join(unknown)}, or its database does not answer; the cells are: "
                f"{', '.join(sorted(cells)) or 'none'}"
            )
        return within(names)

    def _knowing_cells(self, tasks: Sequence[Task], named: bool) -> list[Task]:
        """Return the tasks whose findings always name their cell.

        :raises CommandError: no task remains, or a task that the operator named is omitted
        """
        known = [task for task in tasks if "cell" in task.handler.concerned_kinds]
        omitted = [task.name for task in tasks if task not in known]
        if omitted and (named or not known):
            raise CommandError(f"--cell: these handlers do not name the cell of each finding: {', '.join(omitted)}")
        if omitted:
            self.remark(f"--cell: omitted, because they do not name the cell of each finding: {', '.join(omitted)}")
        return known

    def _refuse_off(self, classes: Sequence[type[Handler]]) -> None:
        for handler in classes:
            if task_conf.settings(self.session.conf, handler).mode is Mode.OFF:
                raise CommandError(
                    f"{handler.name} is off: add --audit, or set [{handler.group}] {handler.name}_mode = heal"
                )

    def _respect_stops(self, database: Database, tasks: Sequence[Task]) -> list[Task]:
        controls.ensure(database, [task.name for task in tasks])
        known = controls.read(database)
        names: dict[tuple[str, str], list[str]] = {}
        allowed = []
        for task in tasks:
            control = known[task.name]
            if task.heals and control.stopped:
                names.setdefault(("paused" if control.paused else "stopped", control.reason), []).append(task.name)
                task = replace(task, settings=replace(task.settings, mode=Mode.AUDIT))  # noqa: PLW2901
            allowed.append(task)
        for (how, reason), stopped in names.items():
            verbs = f"is {how} and heals" if len(stopped) == 1 else f"are {how} and heal"
            self.remark(f"{', '.join(stopped)} {verbs} nothing ({reason})")
        return allowed


def _key(text: str) -> Key:
    try:
        return Key.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _taking(tasks: Sequence[Task], keys: Sequence[Key]) -> list[Task]:
    """:raises CommandError: a key has a kind that no task takes"""
    kinds = {kind for task in tasks for kind in task.handler.kinds}
    if strange := [str(key) for key in keys if key.kind not in kinds]:
        raise CommandError(
            f"--key: no handler of this run takes {', '.join(strange)}; the kinds are: {', '.join(sorted(kinds))}"
        )
    wanted = {key.kind for key in keys}
    return [task for task in tasks if wanted.intersection(task.handler.kinds)]


def within(names: Collection[str]) -> Callable[[Finding], bool]:
    """Return a function that returns True for a finding that concerns one or more cells in ``names``, and no other cell.

    ``Finding.concerns`` names each cell by its uuid and, if the cell has a name, by this name. If a finding has more uuids of
    cells than matching names, it concerns another cell, which has no name.
    """
    wanted = {f"cell:{name}".casefold() for name in names}

    def selected(finding: Finding) -> bool:
        cells = {scope.casefold() for scope in finding.concerns if scope.startswith("cell:")}
        uuids = {scope for scope in cells if is_uuid_like(scope.removeprefix("cell:"))}
        matching = cells & wanted
        return bool(matching) and cells - uuids <= wanted and len(uuids) <= len(matching)

    return selected


def exit_code(results: Iterable[Result]) -> int:
    results = list(results)
    if any(result.is_error or _inspection_failed(result) for result in results):
        return ERROR
    return DRIFT if any(result.is_drift for result in results) else OK


def _inspection_failed(result: Result) -> bool:
    return result.action == result.problem == "failed"


def summaries(results: Iterable[Result]) -> Iterator[str]:
    """Yield sentences that sum up results: drift, then objects in flight, failed inspections, stopped handlers."""
    results = list(results)
    drifts = [result for result in results if result.action not in _OPEN and not _inspection_failed(result)]
    rest = Counter(
        "failed" if _inspection_failed(result) else result.action for result in results if result not in drifts
    )
    if drifts:
        where = plural(len({result.handler for result in drifts}), "handler")
        actions = Counter(result.action for result in drifts)
        outcomes = ", ".join(f"{count} {_WORDS.get(action, action)}" for action, count in actions.most_common())
        yield f"{plural(len(drifts), 'drift')} found in {where}: {outcomes}"
    elif not rest.keys() - {"in flight"}:
        yield "no drift found"
    if rest["in flight"]:
        yield f"{plural(rest['in flight'], 'object')} in flight, so nothing is proved: try again later"
    if failed := rest["unavailable"] + rest["failed"]:
        yield f"{plural(failed, 'inspection')} failed: the state of these objects is unknown"
    if rest["stopped"]:
        yield f"{plural(rest['stopped'], 'handler')} found implausibly much drift and healed nothing"


@contextmanager
def progress() -> Iterator[Progress]:
    if not sys.stderr.isatty():
        yield no_progress
        return
    # Only a terminal needs rich, whose import takes longer than a sweep of a small cloud.
    from consumer.cli.progress_bars import progress_bars

    with progress_bars() as shown:
        yield shown
