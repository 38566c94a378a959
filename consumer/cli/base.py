"""Base classes of commands, and the format of their output.

A table is for people: its columns have titles, and control characters are escaped. The other formats are for programs: their
columns have lower-case names.
"""

from __future__ import annotations

import argparse
import json
import os
import pwd
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cliff import command, lister, show
from cliff.columns import FormattableColumn

from consumer.cli.errors import ERROR, OK, CommandError
from consumer.cli.needs import Audience, Needs
from consumer.text import one_line, plural, printable, span

if TYPE_CHECKING:
    from consumer.cli.main import Program
    from consumer.cli.session import Session


class JsonCell(FormattableColumn[Any]):
    """A dictionary or list: one line of text in a table, a structure in JSON and YAML."""

    def human_readable(self) -> str:
        return printable(json.dumps(self._value, sort_keys=True, ensure_ascii=False)) if self._value else ""


class SpanCell(FormattableColumn[Any]):
    """A duration: text such as ``2 h`` in a table, otherwise seconds."""

    def human_readable(self) -> str:
        return span(self._value)


def cell(value: Any) -> Any:
    """Convert a value to the cell of a table; escape control characters except line breaks."""
    if isinstance(value, Mapping | list | tuple):
        return JsonCell(value)
    if isinstance(value, str):
        return printable(value, keep="\n")
    return "" if value is None else value


def _machine(value: Any) -> Any:
    return value if isinstance(value, FormattableColumn) or not isinstance(value, tuple) else list(value)


class Once(argparse.Action):
    """Stores an option's value, and refuses a second value; argparse alone would silently drop the first."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        given: frozenset[str] = getattr(namespace, "_given", frozenset())
        if option_string and self.dest in given:
            parser.error(f"argument {option_string}: give it only once")
        namespace._given = given | {self.dest}
        setattr(namespace, self.dest, values)


class Command(command.Command):
    app: Program
    #: shown below the help; ``%(prog)s`` is the program's name
    example = ""
    #: the readers of the log
    audience = Audience.COMMAND

    def named_handlers(self, parsed_args: argparse.Namespace) -> Sequence[str]:
        """Return the names of the handlers that the command uses; empty for all handlers."""
        return ()

    def run(self, parsed_args: argparse.Namespace) -> int:
        self.app.needs = Needs(self.audience, self.named_handlers(parsed_args))
        return super().run(parsed_args)

    @property
    def session(self) -> Session:
        return self.app.session

    def get_epilog(self) -> str:
        return self.example % {"prog": self.app.NAME} if self.example else ""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.formatter_class = argparse.RawDescriptionHelpFormatter
        parser.register("action", None, Once)
        return parser

    def write_line(self, text: str) -> None:
        self.app.stdout.write(printable(text) + "\n")

    def remark(self, text: str) -> None:
        """Print a sentence on stderr, unless ``--quiet``."""
        if self.app.options.verbose_level:
            self.app.stderr.write(one_line(text) + "\n")

    def all_done(self, wanted: int, done: int, noun: str) -> int:
        """Return OK if the command changed all ``wanted`` objects. Otherwise print how many disappeared; return ERROR."""
        if done >= wanted:
            return OK
        self.remark(f"{plural(wanted - done, noun)} disappeared meanwhile")
        return ERROR


class Lister(Command, lister.Lister):
    """Base class of commands that print a table; :meth:`rows` may set ``exit_code``."""

    #: titles of a table's columns
    titles: Sequence[str] = ()
    #: titles of the columns that only JSON, YAML and ``-c`` show
    more_titles: Sequence[str] = ()
    exit_code = OK

    def rows(self, parsed_args: argparse.Namespace) -> Iterable[Sequence[Any]]:
        """Return the rows of the table. Each row has a value for each of ``titles``, then for each of ``more_titles``."""
        raise NotImplementedError

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Iterable[Any]]:
        titles = [*self.titles, *self.more_titles]
        _check_columns(parsed_args.columns, titles)
        rows = [list(row) for row in self.rows(parsed_args)]
        if parsed_args.formatter not in ("json", "yaml") and not parsed_args.columns:
            titles = list(self.titles)
            rows = [row[: len(titles)] for row in rows]
        return shaped(parsed_args.formatter, titles, rows)

    def produce_output(
        self, parsed_args: argparse.Namespace, column_names: Sequence[str], data: Iterable[Sequence[Any]]
    ) -> int:
        rows = list(data)
        if rows or parsed_args.formatter != "table" or parsed_args.print_empty:
            return super().produce_output(parsed_args, column_names, rows)
        return OK

    def run(self, parsed_args: argparse.Namespace) -> int:
        return super().run(parsed_args) or self.exit_code


class ShowOne(Command, show.ShowOne):
    """Base class of commands that print one object, a field per line; :meth:`fields` may set ``exit_code``."""

    exit_code = OK

    def fields(self, parsed_args: argparse.Namespace) -> Mapping[str, Any]:
        raise NotImplementedError

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Iterable[Any]]:
        fields = self.fields(parsed_args)
        titles, [row] = shaped(parsed_args.formatter, list(fields), [list(fields.values())])
        return titles, row

    def run(self, parsed_args: argparse.Namespace) -> int:
        return super().run(parsed_args) or self.exit_code


def shaped(formatter: str, titles: Sequence[str], rows: Sequence[Sequence[Any]]) -> tuple[list[str], list[list[Any]]]:
    if formatter in ("json", "yaml"):
        return [machine_name(title) for title in titles], [[_machine(value) for value in row] for row in rows]
    names = list(titles) if formatter == "table" else [machine_name(title) for title in titles]
    cells = [[cell(value) for value in row] for row in rows]
    if formatter == "table":
        return names, cells
    # csv and value print the machine-readable form of a cell, which for a dictionary is Python syntax.
    return names, [[str(value) if isinstance(value, JsonCell) else value for value in row] for row in cells]


def _check_columns(wanted: Iterable[str], titles: Sequence[str]) -> None:
    known = [machine_name(title) for title in titles]
    unknown = [name for name in wanted if machine_name(name) not in known]
    if unknown:
        raise CommandError(f"unknown column {', '.join(unknown)}; the columns are: {', '.join(known)}")


def machine_name(title: str) -> str:
    return title.lower().replace(" ", "_")


def person() -> str:
    """Return the name of the user who runs the command, or who called sudo.

    ``SUDO_USER`` counts only for root, because other users can set it to any name.
    """
    uid = os.getuid()
    if uid == 0 and (caller := os.environ.get("SUDO_USER")):
        return caller
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"


def add_by(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--by", default=person(), metavar="NAME", help="Your name for the record; default: %(default)s."
    )


def operator(parsed_args: argparse.Namespace) -> str:
    """Return the operator's name for the history: the value of ``--by`` and, if it differs, the operating system's user."""
    by, user = one_line(parsed_args.by), person()
    return by if by == user else f"{by} (as {user})"


def known_ids(wanted: Sequence[int], there: Iterable[int], what: str) -> list[int]:
    """Return the wanted ids without duplicates.

    :param what: the error message's noun for an object with an id, such as ``row of work``
    :raises CommandError: a wanted id does not exist
    """
    chosen = list(dict.fromkeys(wanted))
    unknown = [str(number) for number in chosen if number not in set(there)]
    if unknown:
        raise CommandError(f"no {what} has the id {', '.join(unknown)}; nothing was done")
    return chosen


def row_id(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise argparse.ArgumentTypeError(f"{text!r} is not an id; ids are the numbers in the listing's first column")
    return int(text)


def positive(text: str) -> int:
    number = row_id(text)
    if number < 1:
        raise argparse.ArgumentTypeError("it must be 1 or more")
    return number
