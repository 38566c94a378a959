"""``inspect`` and ``heal``: one object, named by an operator."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from consumer.cli.base import Lister
from consumer.cli.session import read_key
from consumer.cli.sweep import exit_code, summaries
from consumer.conf.window import Window
from consumer.engine.oneshot import OneShot, Result
from consumer.engine.task import always
from consumer.journal import controls, replicas


class OneKey(Lister):
    """A command about one key of one handler."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Return the parser."""
        parser = super().get_parser(prog_name)
        parser.add_argument("handler", metavar="HANDLER", help="Name of the handler; 'handler list' shows them.")
        parser.add_argument(
            "key",
            metavar="KEY",
            help="The object, as kind:id (host:compute-7); the id is enough where the handler has one kind.",
        )
        return parser

    def results(self, parsed_args: argparse.Namespace, *, heals: bool) -> list[Result]:
        """Look at the key, and heal it if so wished, whatever the handler's mode."""
        handler = self.session.handler(parsed_args.handler)
        key = read_key(handler, parsed_args.key)
        [task] = self.session.tasks([handler], always("heal" if heals else "audit"))
        task = replace(task, settings=replace(task.settings, window=Window()))  # who names an object wants it now
        database = self.session.database if heals else None
        if database is not None:
            controls.ensure(database, [task.name])
        found = OneShot(database, self.session.engine, replicas.new_id()).examine(task, [key], "operator")
        for sentence in summaries(found):
            self.remark(sentence)
        if not found:
            self.remark(
                f"{task.name} knows {key} as it should be, or not at all: it is sought exactly as it is written"
            )
        self.exit_code = exit_code(found)
        return found


class Inspect(OneKey):
    """Look at one object and show what is proved to be wrong; changes nothing.

    Needs no journal. Where a handler wants to see a drift twice before it believes it, this takes as long.

    Exit codes: 0 nothing is wrong, 2 drift, 1 it could not be looked at.
    """

    example = "example:\n  %(prog)s inspect discover_hosts host:compute-7"
    titles = ("Key", "Problem", "Action", "Summary", "Why not healed", "Evidence")

    def rows(self, parsed_args: argparse.Namespace) -> Iterable[Sequence[Any]]:
        """Look, and return one row per finding."""
        found = self.results(parsed_args, heals=False)
        return [(r.key, r.problem, r.action, r.summary, r.change, dict(r.evidence)) for r in found]


class Heal(OneKey):
    """Look at one object and heal what is proved to be wrong, whatever the handler's mode is.

    Also a handler that is off, audits, is paused or outside its window: you have asked for it. What was changed is
    written to the history. The proof is the same as ever, so nothing that is right can be changed.

    Exit codes: 0 nothing is wrong any more, 2 drift remains, 1 it could not be looked at.
    """

    example = "example:\n  %(prog)s heal audit_allocations consumer:4f5c0e0a-3c53-4d67-a7d5-2b1c8a6f0e11"
    titles = ("Key", "Problem", "Action", "Details", "Undo")
    more_titles = ("Changed", "Summary", "Evidence")

    def rows(self, parsed_args: argparse.Namespace) -> Iterable[Sequence[Any]]:
        """Heal, and return one row per finding."""
        found = self.results(parsed_args, heals=True)
        return [
            (*(r.key, r.problem, r.action, r.change or r.summary, r.undo), r.change, r.summary, dict(r.evidence))
            for r in found
        ]
