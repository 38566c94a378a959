"""The status page: one HTML text without scripts.

It needs no call of an API or a broker. It shows the journal (:mod:`~.rows`, :mod:`~.past`) and what other threads of the daemon
last saw. If the journal does not answer, it shows the rows that were last read, with their age.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from oslo_utils import strutils

from consumer import __version__
from consumer.bus.source import Source
from consumer.engine.holds import Board
from consumer.engine.task import Task
from consumer.journal.database import Database
from consumer.journal.errors import JournalError
from consumer.status import plots, rows
from consumer.status.inventories import Inventories
from consumer.status.past import Past
from consumer.status.rows import COUNTED, JournalRows
from consumer.status.server import Answer
from consumer.text import one_line, span

#: The most characters of a value that are shown, and that are searched for secrets: a plan or an undo can be much longer.
_LONGEST, _SEARCHED = 4000, 8000


class Page:
    """Only one thread may call :meth:`make` at a time."""

    def __init__(
        self,
        database: Database,
        tasks: Mapping[str, Task],
        sources: Callable[[], Sequence[Source]],
        inventories: Inventories,
        board: Board,
    ) -> None:
        self._database = database
        self._tasks = tasks
        self._sources = sources
        self._inventories = inventories
        self._board = board
        self._past = Past(database)
        self._last: JournalRows | None = None
        self._last_at = 0.0
        jinja = Environment(
            loader=PackageLoader("consumer.status", "."),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            finalize=cell,
        )
        jinja.filters |= {"span": span, "clock": _clock, "number": _number}
        self._template = jinja.get_template("page.html")

    def make(self) -> Answer:
        """Return the page. If the journal never answered, the page has only brokers, holds and inventories."""
        answers = self._read()
        clock, monotonic = time.time(), time.monotonic()
        facts = {
            "version": __version__,
            "made_at": clock,
            "brokers": rows.of_brokers(self._sources(), monotonic, clock),
            "inventories": [(listing, listing.age(monotonic)) for listing in self._inventories.known()],
            "holds": rows.of_holds(self._board),
            "lines": rows.LINES,
            "holds_age": self._board.age(),
            "journal": self._last,
            "journal_answers": answers,
            "journal_age": monotonic - self._last_at,
            "plots": [] if self._last is None else _plots(self._last),
        }
        return Answer("200 OK", "text/html", self._template.render(facts))

    def _read(self) -> bool:
        try:
            self._last = rows.of_journal(self._database, self._tasks, self._past.read())
        except JournalError:
            return False
        self._last_at = time.monotonic()
        return True


def _plots(journal: JournalRows) -> list[tuple[str, plots.Plot]]:
    return [
        ("Heals per hour", plots.heals(journal.hours)),
        ("Median lag", plots.median_lag(journal.hours)),
        ("Longest lag", plots.longest_lag(journal.hours)),
    ]


def cell(value: object) -> object:
    """Return a value of the template as one line of bounded length; mask recognised passwords, escape control characters.

    Jinja calls this function for every value, and escapes the result. HTML of stackmend's templates is returned unchanged.
    """
    if isinstance(value, Markup):
        return value
    text = "" if value is None else str(value)
    # A password may cross the first cut, but the second removes it.
    line = one_line(str(strutils.mask_password(" ".join(text.split())[:_SEARCHED])))
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]} ... (cut)"


def _clock(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S")


def _number(count: int) -> str:
    return f"{count:,}" if count < COUNTED else f"{COUNTED:,} or more"
