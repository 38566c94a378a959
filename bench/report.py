"""What a benchmark returns: figures for programs and a table for people."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rich.console import Console
from rich.table import Table
from rich.text import Text


class Failed(Exception):
    """A benchmark found that what it measured did not do its work, so there is no figure; the text says what."""


@dataclass(frozen=True, slots=True)
class Report:
    """The outcome of a benchmark.

    :param figures: by program and quantity; all that ``-f json`` prints
    :param title: what was measured, in a line
    :param columns: the table's headings; the first column holds names, the others numbers
    :param rows: the table's cells
    :param notes: lines below the table: goals, circumstances
    """

    figures: Mapping[str, Mapping[str, float]]
    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = field(default=())

    def as_json(self) -> str:
        """Return the figures as one JSON object."""
        return json.dumps(self.figures)

    def show(self, console: Console) -> None:
        """Print the table and the notes."""
        console.print(Text(self.title), soft_wrap=True)
        table = Table()
        for number, column in enumerate(self.columns):
            table.add_column(Text(column), justify="right" if number else "left")
        for row in self.rows:
            table.add_row(*map(Text, row))
        console.print(table)
        for note in self.notes:
            console.print(Text(note), soft_wrap=True)
