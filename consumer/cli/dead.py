from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from oslo_utils import strutils

from consumer.bus.compression import decompress_unnamed
from consumer.bus.envelope import Undecodable, decode
from consumer.cli.base import Command, Lister, ShowOne, add_by, known_ids, operator, positive, row_id
from consumer.cli.errors import DRIFT, CommandError
from consumer.conf import bus as bus_conf
from consumer.conf import tasks as task_conf
from consumer.engine.router import Router, Unroutable
from consumer.journal import dead, hinting
from consumer.journal.acts import Act, recorder
from consumer.journal.database import Database
from consumer.journal.dead import StoredLetter
from consumer.journal.work import Hint
from consumer.text import plural, utc
from handlers.base import Key, Mode

#: Letters per query; a body can have a megabyte.
_CHUNK = 50


class DeadList(Lister):
    """List the dead letters (undecodable messages), oldest first.

    Typical causes: messages of another program, a format that this release does not know, a damaged body. stackmend deletes
    old dead letters: see [journal] dead_days, dead_keep and dead_bytes.
    """

    titles = ("ID", "Time", "Broker", "Exchange", "Routing key", "Size", "Reason")

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("--limit", type=positive, default=1000, help="Show the newest N; default: 1000.")
        return parser

    def rows(self, parsed_args: argparse.Namespace) -> Iterable[Sequence[Any]]:
        found = dead.listing(self.session.database, parsed_args.limit)
        return [(m.id, utc(m.at), m.broker, m.exchange, m.routing_key, m.size, m.reason) for m in found]


class DeadShow(ShowOne):
    """Show one dead letter with the stored part of its body. Recognised passwords are masked."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("id", type=row_id, metavar="ID", help="ID in 'dead list'.")
        return parser

    def fields(self, parsed_args: argparse.Namespace) -> Mapping[str, Any]:
        found = dead.find(self.session.database, [parsed_args.id])
        known_ids([parsed_args.id], [message.id for message in found], "dead letter")
        [message] = found
        return {
            "ID": message.id,
            "Time": utc(message.at),
            "Broker": message.broker,
            "Exchange": message.exchange,
            "Routing key": message.routing_key,
            "Reason": message.reason,
            "Size": message.size,
            "Whole": message.whole,
            "Body": strutils.mask_password(message.body.decode("utf-8", "backslashreplace")),
        }


class DeadReplay(Lister):
    """Decode dead letters again with this release. The daemon then inspects the objects that the letters name.

    The command deletes a letter if it can read the letter's keys, or if no handler wants the letter. Exit code 2 if any letter
    stays.
    """

    example = "example:\n  %(prog)s dead replay --all"
    titles = ("ID", "Event", "Result", "Keys")

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        _add_choice(parser)
        return parser

    def rows(self, parsed_args: argparse.Namespace) -> Iterable[Sequence[Any]]:
        database, session = self.session.database, self.session
        on = [one for one in session.classes() if task_conf.settings(session.conf, one).mode is not Mode.OFF]
        router = Router(on)
        max_body = bus_conf.settings(session.conf).max_body_bytes
        rows: list[tuple[int, str, str, list[str]]] = []
        stayed = 0
        for message in _chosen(database, parsed_args):
            event, hints, problem = reread(message, router, max_body)
            if problem:
                self.exit_code = DRIFT
                stayed += 1
                rows.append((message.id, event, problem, []))
                continue
            hinting.enqueue(database, hints)
            dead.drop(
                database, [message.id], recorder(operator(parsed_args), _act("dead replay", "replayed", [message.id]))
            )
            keys = [f"{hint.handler} {hint.key}" for hint in hints]
            rows.append((message.id, event, "queued" if keys else "no handler wants it: dropped", keys))
        self.remark(f"{plural(len(rows) - stayed, 'dead letter')} decoded, {stayed} not")
        return rows


class DeadDrop(Command):
    """Delete dead letters."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        _add_choice(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> int:
        database = self.session.database
        ids = _ids(database, parsed_args)
        who = operator(parsed_args)
        chunks = [ids[start : start + _CHUNK] for start in range(0, len(ids), _CHUNK)]
        gone = sum(dead.drop(database, chunk, recorder(who, _act("dead drop", "dropped", chunk))) for chunk in chunks)
        self.write_line(f"{plural(gone, 'dead letter')} dropped")
        return self.all_done(len(ids), gone, "dead letter")


def reread(message: StoredLetter, router: Router, max_body: int) -> tuple[str, list[Hint], str]:
    """Decode a dead letter; return its event type, its hints, and an error text, which is empty on success.

    :param max_body: size of the largest message to parse, in bytes
    """
    if not message.whole:
        return "", [], f"only {len(message.body)} of its {message.size} bytes are stored"
    try:
        event = decode(decompress_unnamed(message.body, max_body), message.broker, max_body)
    except Undecodable as error:
        return "", [], str(error)
    try:
        return event.type, router.route(event), ""
    except Unroutable as error:
        return event.type, [], str(error)


def _add_choice(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("ids", nargs="*", type=row_id, metavar="ID", help="IDs in 'dead list'.")
    parser.add_argument("--all", action="store_true", help="All dead letters.")
    add_by(parser)


def _act(command: str, did: str, ids: Sequence[int]) -> Act:
    if len(ids) == 1:
        return Act(command, "dead", Key("dead-letter", str(ids[0])), f"{did} dead letter {ids[0]}")
    key = Key("dead-letters", f"{ids[0]}-{ids[-1]}")
    return Act(command, "dead", key, f"{did} {len(ids)} dead letters", {"ids": list(ids)})


def _ids(database: Database, parsed_args: argparse.Namespace) -> list[int]:
    if bool(parsed_args.ids) == parsed_args.all:
        raise CommandError("give the ids of dead letters, or --all")
    there = dead.ids(database)
    return there if parsed_args.all else known_ids(parsed_args.ids, there, "dead letter")


def _chosen(database: Database, parsed_args: argparse.Namespace) -> Iterator[StoredLetter]:
    ids = _ids(database, parsed_args)
    for start in range(0, len(ids), _CHUNK):
        yield from dead.find(database, ids[start : start + _CHUNK])
