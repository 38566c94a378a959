from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from consumer.cli.base import Lister, ShowOne, known_ids, positive, row_id
from consumer.cli.moments import read_since
from consumer.journal import history
from consumer.journal.database import now
from consumer.journal.history import Entry, Outcome
from consumer.text import seconds, utc

OUTCOMES = tuple(one.value for one in Outcome)


class History(Lister):
    """List findings, heals and operators' commands, oldest first.

    Outcomes of heals:
      healed, failed
      conflict  the cloud changed meanwhile, so the heal wrote nothing
      healing   in progress
    Outcomes of findings:
      found     not healed because of the mode
      refused   unsafe to heal; also an outcome of heals
      parked    failed too often
      stopped   too much drift, or a restored database, stopped the handler
      asked     waits for approval
      denied    an operator denied the heal
      exempt    an exemption forbids the heal
    Outcome of operators' commands:
      act       the command changed stackmend's state
    """

    example = (
        "examples:\n"
        "  %(prog)s history --since 2h\n"
        "  %(prog)s history --key host:compute-7\n"
        "  %(prog)s history --since 2026-11-22T10:00 --outcome healed -f json"
    )
    titles = ("ID", "Time", "Handler", "Key", "Outcome", "Summary", "Action", "Undo", "Lag s")
    more_titles = ("Problem", "Evidence", "Before", "After", "Error", "Hint", "Plan", "Operator", "Request ID")

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument(
            "--since",
            metavar="WHEN",
            help="Only entries since then: 90s, 15m, 2h, 3d or 1w ago, or 2026-11-22T10:00 (UTC).",
        )
        parser.add_argument("--handler", metavar="NAME", help="Only entries of this handler.")
        parser.add_argument("--key", metavar="KEY", help="Only entries about this object, as kind:id.")
        parser.add_argument(
            "--outcome",
            action="append",
            choices=OUTCOMES,
            default=[],
            help="Only entries with this outcome; may be repeated.",
        )
        parser.add_argument(
            "--request-id", metavar="REQ", help="Only entries of this inspection (req-...), as in the logs of the APIs."
        )
        parser.add_argument("--limit", type=positive, default=100, help="Show the newest N; default: 100.")
        return parser

    def rows(self, parsed_args: argparse.Namespace) -> Iterable[Sequence[Any]]:
        database = self.session.database
        since = read_since(parsed_args.since, database.transact(now)) if parsed_args.since else None
        found = history.listing(
            database,
            since=since,
            handler=parsed_args.handler,
            key=parsed_args.key,
            outcomes=parsed_args.outcome,
            request_id=parsed_args.request_id,
            limit=parsed_args.limit,
        )
        return [_row(entry) for entry in found]


def _row(entry: Entry) -> list[Any]:
    return [
        entry.id,
        utc(entry.at),
        entry.handler,
        entry.key,
        entry.outcome,
        entry.summary,
        entry.action,
        entry.undo,
        seconds(entry.lag),
        entry.problem,
        entry.evidence,
        entry.before,
        entry.after,
        entry.error,
        entry.hint,
        entry.plan,
        entry.operator,
        entry.request_id,
    ]


class HistoryShow(ShowOne):
    """Show one entry with evidence, plan, undo, and old and new values."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("id", type=row_id, metavar="ID", help="ID in 'history'.")
        return parser

    def fields(self, parsed_args: argparse.Namespace) -> Mapping[str, Any]:
        entry = history.find(self.session.database, parsed_args.id)
        known_ids([parsed_args.id], [entry.id] if entry else [], "entry of the history")
        assert entry
        return {
            "ID": entry.id,
            "Time": utc(entry.at),
            "Handler": entry.handler,
            "Key": entry.key,
            "Outcome": entry.outcome,
            "Problem": entry.problem,
            "Summary": entry.summary,
            "Evidence": entry.evidence,
            "Action": entry.action,
            "Before": entry.before,
            "After": entry.after,
            "Plan": entry.plan,
            "Undo": entry.undo,
            "Error": entry.error,
            "Hint": entry.hint,
            "Hint ID": entry.hint_id,
            "Hinted at": utc(entry.hinted_at),
            "Closed at": utc(entry.closed_at),
            "Lag s": seconds(entry.lag),
            "Replica": entry.replica,
            "Operator": entry.operator,
            "Request ID": entry.request_id,
        }
