from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from sqlalchemy import Connection

from consumer.cli.base import Command, Lister, SpanCell, add_by, known_ids, operator, row_id
from consumer.cli.errors import ERROR, OK, CommandError
from consumer.cli.moments import read_since
from consumer.journal import acts, asks
from consumer.journal.acts import Act
from consumer.journal.approvals import State
from consumer.journal.asks import AlsoAsks, Ask
from consumer.journal.database import now
from consumer.text import plural, utc
from handlers.base import Key

_EXPIRED = "expired"
_CHANGED = "it has changed meanwhile; see 'work asks'"


class Asks(Lister):
    """List the findings that wait for approval, and the decisions about them.

    States: waiting; approved (a new inspection follows, then the heal); denied; expired (the next inspection asks again).
    """

    example = "examples:\n  %(prog)s work asks\n  %(prog)s work asks --handler audit_allocations -f json"
    titles = ("ID", "Handler", "Key", "Problem", "State", "Age", "Summary", "Plan", "Operator", "Reason")
    more_titles = ("Objects", "Evidence", "Undo", "Expires at")

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("--handler", metavar="NAME", help="Only asks of this handler.")
        parser.add_argument("--problem", metavar="NAME", help="Only asks about this problem.")
        parser.add_argument("--state", choices=[*State, _EXPIRED], help="Only asks in this state.")
        return parser

    def rows(self, parsed_args: argparse.Namespace) -> Iterable[Sequence[Any]]:
        if parsed_args.handler:
            self.session.handler(parsed_args.handler)
        database = self.session.database
        clock = database.transact(now)
        found = asks.listing(database, parsed_args.handler, parsed_args.problem)
        return [_row(one, clock) for one in found if parsed_args.state in {None, _shown(one)}]


def _shown(one: Ask) -> str:
    return _EXPIRED if one.expired else one.state.value


def _row(one: Ask, clock: float) -> list[Any]:
    return [
        one.id,
        one.handler,
        one.key,
        one.problem,
        _shown(one),
        SpanCell(round(max(0.0, clock - one.at), 1)),
        one.summary,
        one.plan,
        one.operator,
        one.reason,
        one.weight,
        one.evidence,
        one.undo,
        utc(one.expires_at),
    ]


class Decide(Command):
    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("ids", nargs="*", type=row_id, metavar="ID", help="IDs in 'work asks'.")
        parser.add_argument("--handler", metavar="NAME", help="All asks of this handler that wait.")
        parser.add_argument("--problem", metavar="NAME", help="All asks about this problem that wait.")
        parser.add_argument(
            "--older-than",
            metavar="WHEN",
            help="All waiting asks that are older than this: 90s, 15m, 2h, 3d, or from before a UTC time.",
        )
        add_by(parser)
        return parser

    def chosen(self, parsed_args: argparse.Namespace) -> list[Ask]:
        """Return the asks with the given ids, or the waiting asks that match all filters.

        :raises CommandError: ids and filters are both given or both missing, or an id is unknown
        """
        database = self.session.database
        filters = (parsed_args.handler, parsed_args.problem, parsed_args.older_than)
        if bool(parsed_args.ids) == any(filters):
            raise CommandError("give the ids of asks, or --handler, --problem or --older-than; see 'work asks'")
        if parsed_args.ids:
            found = asks.find(database, parsed_args.ids)
            known_ids(parsed_args.ids, [one.id for one in found], "ask")
            return found
        if parsed_args.handler:
            self.session.handler(parsed_args.handler)
        found = asks.listing(database, parsed_args.handler, parsed_args.problem)
        before = None
        if parsed_args.older_than:
            before = read_since(parsed_args.older_than, database.transact(now), "--older-than")
        return [
            one
            for one in found
            if one.state is State.WAITING and not one.expired and (before is None or one.at < before)
        ]

    def explain_rest(
        self, chosen: Sequence[Ask], decided: Sequence[Ask], did: str, why_not: Callable[[Ask, float], str]
    ) -> int:
        """Print why chosen asks were not decided; return the command's exit code.

        :param why_not: gets an ask as it was before the command, and the journal's present time; returns the reason
        """
        done = {one.id for one in decided}
        rest = [one for one in chosen if one.id not in done]
        clock = self.session.database.transact(now)
        for one in rest:
            self.remark(f"ask {one.id} is not {did}: {why_not(one, clock)}")
        return ERROR if rest else OK

    def needing_witness(self, chosen: Sequence[Ask]) -> list[Ask]:
        """Return the asks whose finding has only one of two required witnesses."""
        problems = {one.name: one.witnessed_problems for one in self.session.all_classes}
        return [one for one in chosen if one.problem in problems.get(one.handler, frozenset())]


class Approve(Decide):
    """Approve findings that wait in mode ask.

    stackmend inspects each object again before the heal. If the evidence differs, stackmend asks again. You can approve a
    denied ask, but no expired one. Exit code 1 if an ask was not approved.

    Some findings have only one of two required witnesses. Your approval makes you the second witness; the column 'Reason' of
    'work asks' names the facts to examine. Approve these asks by ID; the filters omit them.
    """

    example = (
        "examples:\n"
        "  %(prog)s work approve 41 42 --by alice\n"
        "  %(prog)s work approve --handler audit_allocations --problem instance-deleted"
    )

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("--reason", default="", metavar="TEXT", help="A note for the record.")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> int:
        chosen = self.chosen(parsed_args)
        if not parsed_args.ids and (left := self.needing_witness(chosen)):
            chosen = [one for one in chosen if one not in left]
            named = ", ".join(str(one.id) for one in left)
            self.remark(f"approve these by ID, because you become their second witness: {named}")
        who, why, ids = operator(parsed_args), parsed_args.reason, [one.id for one in chosen]
        approved = asks.approve(self.session.database, ids, who, why, _recorder("work approve", "approved", who, why))
        follows = "; a new inspection follows" if approved else ""
        self.write_line(f"{plural(len(approved), 'ask')} approved{follows}")
        return self.explain_rest(chosen, approved, "approved", _why_not_approved)


class Deny(Decide):
    """Deny findings that wait in mode ask. stackmend asks again only when the evidence changes.

    By ID, you can also deny expired and approved asks. Exit code 1 if an ask was not denied.
    """

    example = "example:\n  %(prog)s work deny 41 --reason 'the host is under repair' --by alice"

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("--reason", required=True, metavar="TEXT", help="Why the heal is not wanted.")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> int:
        chosen = self.chosen(parsed_args)
        who, why, ids = operator(parsed_args), parsed_args.reason, [one.id for one in chosen]
        denied = asks.deny(self.session.database, ids, who, why, _recorder("work deny", "denied", who, why))
        self.write_line(f"{plural(len(denied), 'ask')} denied")
        return self.explain_rest(chosen, denied, "denied", _why_not_denied)


def _why_not_approved(one: Ask, clock: float) -> str:
    if one.state is State.APPROVED and not one.expired:
        return "it was approved before"
    if one.state is State.DENIED and one.expires_at <= clock:
        return f"it was denied and has expired; to heal the object: stackmend heal {one.handler} {one.key}"
    return "it has expired; the next inspection asks again" if one.expires_at <= clock else _CHANGED


def _why_not_denied(one: Ask, _clock: float) -> str:
    return "it was denied before" if one.state is State.DENIED else _CHANGED


def _recorder(command: str, did: str, who: str, why: str) -> AlsoAsks:

    def write(connection: Connection, decided: Sequence[Ask]) -> None:
        made = [
            Act(
                command,
                one.handler,
                Key.parse(one.key),
                f"{did} ask {one.id}, {one.problem} of {one.key}{f': {why}' if why else ''}",
                one.evidence,
            )
            for one in decided
        ]
        acts.write(connection, who, made)

    return write
