from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

from consumer.cli.base import Lister, add_by, operator
from consumer.cli.session import read_key
from consumer.cli.sweep import exit_code, summaries
from consumer.conf.window import Window
from consumer.engine.oneshot import OneShot, Result
from consumer.engine.task import always
from consumer.journal import controls, replicas
from handlers.base import Mode


class OneKey(Lister):
    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("handler", metavar="HANDLER", help="Name of the handler; see 'handler list'.")
        parser.add_argument(
            "key",
            metavar="KEY",
            help="The object, as kind:id (host:compute-7); the id alone if the handler has one kind.",
        )
        return parser

    def named_handlers(self, parsed_args: argparse.Namespace) -> Sequence[str]:
        return [parsed_args.handler]

    def results(self, parsed_args: argparse.Namespace, *, who: str, heals: bool) -> list[Result]:
        handler = self.session.handler(parsed_args.handler)
        key = read_key(handler, parsed_args.key)
        [task] = self.session.tasks([handler], always(Mode.HEAL if heals else Mode.AUDIT))
        task = replace(
            task, settings=replace(task.settings, window=Window())
        )  # an operator's request ignores the window
        database = self.session.database if heals else None
        if database is not None:
            controls.ensure(database, [task.name])
            self.session.compare_watermarks()
        board = None if database is None else self.session.board
        one_shot = OneShot(database, self.session.engine, replicas.new_id(), operator=who, board=board)
        with self.session.sending() if heals else nullcontext():
            found = one_shot.examine(task, [key], "operator")
        for sentence in summaries(found):
            self.remark(sentence)
        if not found:
            self.remark(f"{key} has no drift, or {task.name} does not know it: check that the key is exact")
        self.exit_code = exit_code(found)
        return found


class Inspect(OneKey):
    """Inspect one object; show its proved drift, the writes that would heal it, and their undo. Changes nothing.

    Needs no journal. If the handler requires two inspections, the command waits for the second.

    Exit codes: 0 no drift is proved, 2 drift, 1 the inspection failed.
    """

    example = "example:\n  %(prog)s inspect discover_hosts host:compute-7"
    titles = ("Key", "Problem", "Action", "Summary", "Why not healed", "Evidence", "Plan", "Undo")

    def rows(self, parsed_args: argparse.Namespace) -> Iterable[Sequence[Any]]:
        found = self.results(parsed_args, who="", heals=False)
        return [(r.key, r.problem, r.action, r.summary, r.change, dict(r.evidence), r.plan, r.undo) for r in found]


class Heal(OneKey):
    """Inspect one object and heal its proved drift, whatever the handler's mode and window.

    The command begins no heal if the object is exempt or on hold, or if the handler is paused, stopped or without budget. The
    history records each heal.

    Exit codes: 0 no drift left, 2 drift remains, 1 the inspection failed. Exempt drift and objects in flight give 0.
    """

    example = "example:\n  %(prog)s heal audit_allocations consumer:4f5c0e0a-3c53-4d67-a7d5-2b1c8a6f0e11"
    titles = ("Key", "Problem", "Action", "Details", "Undo")
    more_titles = ("Changed", "Summary", "Evidence")

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        add_by(parser)
        return parser

    def rows(self, parsed_args: argparse.Namespace) -> Iterable[Sequence[Any]]:
        found = self.results(parsed_args, who=operator(parsed_args), heals=True)
        return [
            (*(r.key, r.problem, r.action, r.change or r.summary, r.undo), r.change, r.summary, dict(r.evidence))
            for r in found
        ]
