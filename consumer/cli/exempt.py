from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from oslo_config import cfg

from consumer.cli.base import Command, Lister, add_by, known_ids, operator, row_id
from consumer.cli.errors import CommandError
from consumer.cli.moments import read_until
from consumer.journal import exemptions
from consumer.journal.acts import Act, recorder
from consumer.journal.database import now
from consumer.text import plural, reason_of, utc
from handlers.base import Handler, HandlerError, Key, ObjectKind

#: kinds of scopes that are no kinds of keys, with an example
_WIDE = {"host": "host:compute-7", "project": "project:<id>", "cell": "cell:cell1", "problem": "problem:host-unmapped"}
#: kinds whose names are one word; an exemption of another text would protect nothing
_ONE_WORD = frozenset({"host", "project"})
_ONE_WORD_ID = re.compile(r"[^\s,;*]*[^\s,;*:]")


class ExemptAdd(Command):
    """Exempt objects from heals, on every replica. Findings about them are still reported, as exempt.

    The command names the handlers that can still heal, because some of their findings name no object of SCOPE's kind. It warns
    if no database of Nova or Octavia knows the object. A new exemption replaces an earlier one of the same scope. A heal that
    has begun goes on.
    """

    example = (
        "examples:\n"
        "  %(prog)s exempt add host:compute-7 --until 2d --reason 'memory test'\n"
        "  %(prog)s exempt add problem:instance-deleted --reason 'the cell moves' --by alice"
    )

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument(
            "scope", metavar="SCOPE", help=f"A key, as 'work list' shows it, or {', '.join(_WIDE.values())}."
        )
        parser.add_argument(
            "--until",
            metavar="WHEN",
            help="End of the exemption: 2h, 3d or 1w from now, or a UTC time (2026-11-22T10:00). Default: none.",
        )
        parser.add_argument("--reason", required=True, metavar="TEXT", help="Why; shown with each finding.")
        add_by(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> None:
        scope = read_scope(parsed_args.scope, self.session.all_classes)
        database = self.session.database
        until = read_until(parsed_args.until, database.transact(now)) if parsed_args.until else None
        end = f" until {utc(until)}" if until is not None else ""
        who, why = operator(parsed_args), parsed_args.reason
        act = Act("exempt add", "exempt", _key(scope), f"exempted {scope}{end}: {why}")
        row = exemptions.add(database, scope, until, who, why, recorder(who, act))
        self.write_line(f"exemption {row}: no heal changes {scope}{end}")
        kind = scope.partition(":")[0]
        for sentence in self._doubts(Key.parse(scope)):
            self.remark(sentence)
        if names := blind(kind, self.session.all_classes):
            self.remark(f"these handlers do not know the {kind} of each finding and can still heal: {', '.join(names)}")

    def _doubts(self, scope: Key) -> Iterator[str]:
        try:
            configured = [one for one in self.session.all_classes if one.applies(self.session.conf)]
            unknown: list[str] = []
            for one in dict.fromkeys(_objects(scope.kind, configured)):
                if one.exists and one.exists(self.session.resources, one.form.usual(scope.id)):
                    return
                unknown += [one.unknown] if one.exists else []
            if unknown:
                doubt = f"{', and '.join(unknown)}: is {scope} correct?"
                yield f"{doubt} The exemption will cover each finding that names it"
        except (HandlerError, cfg.Error) as error:
            yield f"stackmend cannot look for {scope}: {reason_of(error)}. Check that it is correct"


class ExemptList(Lister):
    """List the exemptions, oldest first."""

    titles = ("ID", "Scope", "Since", "Until", "Operator", "Reason", "State")

    def rows(self, parsed_args: argparse.Namespace) -> Iterable[Sequence[Any]]:
        return [
            (
                one.id,
                one.scope,
                utc(one.at),
                utc(one.until),
                one.operator,
                one.reason,
                "ended" if one.ended else "valid",
            )
            for one in exemptions.listing(self.session.database)
        ]


class ExemptRemove(Command):
    """Remove exemptions. The next sweep finds the drift that remains."""

    example = "example:\n  %(prog)s exempt remove 3"

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("ids", nargs="+", type=row_id, metavar="ID", help="IDs in 'exempt list'.")
        add_by(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> int:
        database = self.session.database
        there = exemptions.listing(database)
        ids = known_ids(parsed_args.ids, [one.id for one in there], "exemption")
        acts = [
            Act("exempt remove", "exempt", _key(one.scope), f"removed the exemption of {one.scope}")
            for one in there
            if one.id in ids
        ]
        gone = exemptions.remove(database, ids, recorder(operator(parsed_args), *acts))
        self.write_line(f"{plural(gone, 'exemption')} removed")
        return self.all_done(len(ids), gone, "exemption")


def _objects(kind: str, handlers: Iterable[type[Handler]]) -> Iterator[ObjectKind]:
    return (one for handler in handlers for one in handler.objects if one.kind == kind)


def _key(scope: str) -> Key:
    return Key("exemption", scope[: Key.MAX_ID])


def blind(kind: str, handlers: Iterable[type[Handler]]) -> list[str]:
    """Return the names of handlers that can heal an object despite its exemption, because not every finding names the object.

    :param kind: the kind of the exempt object: ``host``, ``project``, ``cell``, ``problem`` or the kind of a key
    """
    if kind == "problem":
        return []
    healing = [one for one in handlers if one.healable_problems]
    known = {one.service for one in healing if kind in one.kinds and kind not in _WIDE}
    services = known or {one.service for one in healing}
    concerned = [one for one in healing if one.service in services]
    return sorted(one.name for one in concerned if one.kinds != (kind,) and kind not in one.concerned_kinds)


def read_scope(text: str, handlers: Iterable[type[Handler]]) -> str:
    """Check that ``text`` is the scope of an exemption; return it.

    :raises CommandError: the text is no key, host, project, cell or problem of these handlers, or the id has another form
    """
    classes = list(handlers)
    try:
        key = Key.parse(text)
    except ValueError as error:
        raise CommandError(f"SCOPE: {error}") from None
    kinds = {kind for handler in classes for kind in handler.kinds}
    if key.kind not in kinds | _WIDE.keys():
        raise CommandError(
            f"SCOPE: {text!r} has an unknown kind; the kinds are: {', '.join(sorted(kinds | _WIDE.keys()))}"
        )
    if key.kind in _ONE_WORD and not _ONE_WORD_ID.fullmatch(key.id):
        raise CommandError(
            f"SCOPE: {key.id!r} is not one {key.kind}: write its exact name, and one exemption for each {key.kind}"
        )
    if wrong := [one for one in _objects(key.kind, classes) if not one.form.fits(key.id)]:
        raise CommandError(
            f"SCOPE: {key.id!r} is not the id of one {key.kind}: write {key.kind}: and {wrong[0].form.value}; "
            "a name or another spelling protects nothing"
        )
    problems = {problem for handler in classes for problem in handler.healable_problems | handler.witnessed_problems}
    if key.kind == "problem" and key.id not in problems:
        raise CommandError(
            f"SCOPE: no handler heals the problem {key.id!r}; the problems are: {', '.join(sorted(problems))}"
        )
    return text
