"""How commands print and how they fail.

Tables are for people: titles as column names, times and evidence as text, and no control characters, for names out of a
cloud or a message may hold any. The other formats are for programs: names in lower case, and in JSON and YAML also what
would not fit on a line.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cliff import command, lister, show
from cliff.columns import FormattableColumn

from consumer.cli.errors import OK, CommandError
from consumer.text import one_line, printable, span

if TYPE_CHECKING:
    from consumer.cli.main import Program
    from consumer.cli.session import Session


class JsonCell(FormattableColumn[Any]):
    """Evidence and the like: text in a table, structure in JSON."""

    def human_readable(self) -> str:
        return printable(json.dumps(self._value, sort_keys=True, ensure_ascii=False)) if self._value else ""


class SpanCell(FormattableColumn[Any]):
    """Seconds, which a person reads as hours or days."""

    def human_readable(self) -> str:
        return span(self._value)


def cell(value: Any) -> Any:
    """Return a value as a cell: structure and text made fit for a terminal."""
    if isinstance(value, Mapping | list | tuple):
        return JsonCell(value)
    if isinstance(value, str):
        return printable(value, keep="\n")
    return "" if value is None else value


def _machine(value: Any) -> Any:
    return value if isinstance(value, FormattableColumn) or not isinstance(value, tuple) else list(value)


class Command(command.Command):
    """A command that prints sentences."""

    app: Program
    #: shown below the help; ``%(prog)s`` is the program's name
    example = ""

    @property
    def session(self) -> Session:
        """Configuration, handlers and journal."""
        return self.app.session

    def get_epilog(self) -> str:
        """Return the example."""
        return self.example % {"prog": self.app.NAME} if self.example else ""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Return the parser, which keeps the line breaks of description and example."""
        parser = super().get_parser(prog_name)
        parser.formatter_class = argparse.RawDescriptionHelpFormatter
        return parser

    def say(self, text: str) -> None:
        """Print a sentence for whoever asked."""
        self.app.stdout.write(printable(text) + "\n")

    def remark(self, text: str) -> None:
        """Print a sentence beside the output, unless ``--quiet``."""
        if self.app.options.verbose_level:
            self.app.stderr.write(one_line(text) + "\n")


class Lister(Command, lister.Lister):
    """A command that prints rows.

    ``exit_code`` may be set by ``rows``.
    """

    #: titles of the columns of a table
    titles: Sequence[str] = ()
    #: titles of those that only JSON and YAML have, unless asked for with ``-c``
    more_titles: Sequence[str] = ()
    exit_code = OK

    def rows(self, parsed_args: argparse.Namespace) -> Iterable[Sequence[Any]]:
        """Return the rows: values in the order of ``titles`` and ``more_titles``."""
        raise NotImplementedError

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Iterable[Any]]:
        """Return column names and rows in the shape of the format that was asked for."""
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
        """Print; a table without rows is nothing at all."""
        rows = list(data)
        if rows or parsed_args.formatter != "table" or parsed_args.print_empty:
            return super().produce_output(parsed_args, column_names, rows)
        return OK

    def run(self, parsed_args: argparse.Namespace) -> int:
        """Run the command and return its exit code."""
        return super().run(parsed_args) or self.exit_code


class ShowOne(Command, show.ShowOne):
    """A command that prints one thing, field by field.

    ``exit_code`` may be set by ``fields``.
    """

    exit_code = OK

    def fields(self, parsed_args: argparse.Namespace) -> Mapping[str, Any]:
        """Return values by title."""
        raise NotImplementedError

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Iterable[Any]]:
        """Return titles and values in the shape of the format that was asked for."""
        fields = self.fields(parsed_args)
        titles, [row] = shaped(parsed_args.formatter, list(fields), [list(fields.values())])
        return titles, row

    def run(self, parsed_args: argparse.Namespace) -> int:
        """Run the command and return its exit code."""
        return super().run(parsed_args) or self.exit_code


def shaped(formatter: str, titles: Sequence[str], rows: Sequence[Sequence[Any]]) -> tuple[list[str], list[list[Any]]]:
    """Return titles and rows as this format wants them."""
    if formatter in ("json", "yaml"):
        return [machine_name(title) for title in titles], [[_machine(value) for value in row] for row in rows]
    names = list(titles) if formatter == "table" else [machine_name(title) for title in titles]
    cells = [[cell(value) for value in row] for row in rows]
    if formatter == "table":
        return names, cells
    # csv and value print what a cell is for a machine, and a dictionary would be printed as Python.
    return names, [[str(value) if isinstance(value, JsonCell) else value for value in row] for row in cells]


def _check_columns(wanted: Iterable[str], titles: Sequence[str]) -> None:
    """Refuse unknown columns before anything is done, not after."""
    known = [machine_name(title) for title in titles]
    unknown = [name for name in wanted if machine_name(name) not in known]
    if unknown:
        raise CommandError(f"there is no column {', '.join(unknown)}; there are: {', '.join(known)}")


def machine_name(title: str) -> str:
    """Return a column's name for programs."""
    return title.lower().replace(" ", "_")


def known_ids(wanted: Sequence[int], there: Iterable[int], what: str) -> list[int]:
    """Return the wanted ids, each once.

    :param there: those of them that exist
    :param what: ``row of work``, for the message
    :raises CommandError: when one does not exist; then nothing is done to any
    """
    chosen = list(dict.fromkeys(wanted))
    unknown = [str(number) for number in chosen if number not in set(there)]
    if unknown:
        raise CommandError(f"no {what} has the id {', '.join(unknown)}; nothing was done")
    return chosen


def row_id(text: str) -> int:
    """Read the id of a row.

    :raises argparse.ArgumentTypeError: when it is none
    """
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise argparse.ArgumentTypeError(f"{text!r} is not an id; ids are the numbers in the listing's first column")
    return int(text)


def positive(text: str) -> int:
    """Read a number of rows.

    :raises argparse.ArgumentTypeError: when it is not above 0
    """
    number = row_id(text)
    if number < 1:
        raise argparse.ArgumentTypeError("it must be 1 or more")
    return number
