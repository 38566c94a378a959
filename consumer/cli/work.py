from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from consumer.cli.base import Command, Lister, ShowOne, SpanCell, add_by, known_ids, operator, positive, row_id
from consumer.cli.errors import ERROR, CommandError
from consumer.journal import backlog
from consumer.journal.acts import Act, recorder
from consumer.journal.backlog import Standing, WorkRow
from consumer.journal.database import Database
from consumer.text import plural
from handlers.base import Key

T = TypeVar("T")

#: Rows per statement.
_CHUNK = 500
_ALL = 1_000_000


class WorkList(Lister):
    """List the objects to inspect, and the drift that waits for you; the most urgent first.

    States:
      pending   waits for an inspection
      running   in progress
      reported  waits for you: the mode, a gate or the handler forbids the heal
      parked    failed too often; waits for 'work retry', an event or a changed finding

    A key of kind sweep is the timer of a handler.
    """

    example = "example:\n  %(prog)s work list --state parked"
    titles = ("ID", "Handler", "Key", "State", "Due in", "Attempts", "Hint", "Age", "Error")
    more_titles = ("Priority", "Owner")

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("--handler", metavar="NAME", help="Only rows of this handler.")
        parser.add_argument("--state", choices=[one.value for one in Standing], help="Only rows in this state.")
        parser.add_argument("--limit", type=positive, default=1000, help="Show at most N rows; default: 1000.")
        return parser

    def rows(self, parsed_args: argparse.Namespace) -> Iterable[Sequence[Any]]:
        if parsed_args.handler:
            self.session.handler(parsed_args.handler)
        state = Standing(parsed_args.state) if parsed_args.state else None
        found = backlog.listing(self.session.database, parsed_args.handler, state, parsed_args.limit)
        return [list(fields(row).values()) for row in found if state in {None, row.state}]


class WorkShow(ShowOne):
    """Show one row of 'work list'."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("id", type=row_id, metavar="ID", help="ID in 'work list'.")
        return parser

    def fields(self, parsed_args: argparse.Namespace) -> Mapping[str, Any]:
        found = backlog.find(self.session.database, [parsed_args.id])
        known_ids([parsed_args.id], [row.id for row in found], "row of work")
        return fields(found[0])


class WorkRetry(Command):
    """Let the daemon inspect the objects of these rows now, even of reported and parked rows."""

    example = "example:\n  %(prog)s work retry --all-parked"

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("ids", nargs="*", type=row_id, metavar="ID", help="IDs in 'work list'.")
        parser.add_argument("--all-parked", action="store_true", help="All parked rows.")
        add_by(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> int:
        if bool(parsed_args.ids) == parsed_args.all_parked:
            raise CommandError("give the ids of rows, or --all-parked")
        database = self.session.database
        if parsed_args.all_parked:
            rows = backlog.listing(database, state=Standing.PARKED, limit=_ALL)
        else:
            rows = _known(database, parsed_args.ids)
        who = operator(parsed_args)
        count = sum(
            backlog.retry(database, [row.id for row in chunk], recorder(who, _act("work retry", "retried", chunk)))
            for chunk in _chunks(rows)
        )
        self.write_line(f"{plural(count, 'row is', 'rows are')} due now")
        return self.all_done(len(rows), count, "row")


class WorkDrop(Command):
    """Delete rows of 'work list', except running ones. The next sweep finds the drift that remains."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("ids", nargs="+", type=row_id, metavar="ID", help="IDs in 'work list'.")
        add_by(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> int:
        database, who = self.session.database, operator(parsed_args)
        rows = _known(database, parsed_args.ids)
        gone = sum(
            backlog.drop(database, [row.id for row in chunk], recorder(who, _act("work drop", "dropped", chunk)))
            for chunk in _chunks(rows)
        )
        self.write_line(f"{plural(gone, 'row')} dropped")
        left = [row.id for chunk in _chunks(rows) for row in backlog.find(database, [row.id for row in chunk])]
        if not left:
            return self.all_done(len(rows), gone, "row")
        self.remark(f"not dropped, because work on them is in progress: {', '.join(map(str, sorted(left)))}")
        return ERROR


def fields(row: WorkRow) -> dict[str, Any]:
    return {
        "ID": row.id,
        "Handler": row.handler,
        "Key": row.key,
        "State": row.state,
        "Due in": SpanCell(round(row.due_in, 1)) if row.state is Standing.PENDING else None,
        "Attempts": row.attempts,
        "Hint": row.hint,
        "Age": SpanCell(round(row.first_hint_age, 1)),
        "Error": row.error,
        "Priority": row.priority,
        "Owner": row.owner,
    }


def _known(database: Database, ids: Sequence[int]) -> list[WorkRow]:
    there = {row.id: row for chunk in _chunks(ids) for row in backlog.find(database, chunk)}
    return [there[number] for number in known_ids(ids, there, "row of work")]


def _act(command: str, did: str, rows: Sequence[WorkRow]) -> Act:
    first = rows[0]
    if len(rows) == 1:
        return Act(
            command, first.handler, Key("row", str(first.id)), f"{did} row {first.id}, {first.handler} {first.key}"
        )
    ids = f"{first.id}-{rows[-1].id}"
    return Act(
        command,
        "work",
        Key("rows", ids),
        f"{did} {len(rows)} rows",
        {"rows": [f"{row.handler} {row.key}" for row in rows]},
    )


def _chunks(rows: Sequence[T]) -> list[Sequence[T]]:
    return [rows[start : start + _CHUNK] for start in range(0, len(rows), _CHUNK)]
