"""The page: what an operator wants to see at a glance, as one HTML text without a script.

All of it is read at the moment of the request, but for what is kept in the cloud: that takes API calls, so it is asked for
at most every half minute, and a cloud that does not answer is said in its place.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from consumer import __version__
from consumer.bus.source import Source
from consumer.engine.task import Task
from consumer.journal import backlog, controls, dead, history
from consumer.journal.database import Database, JournalError, now
from consumer.status.server import Answer
from consumer.text import one_line, span
from handlers.base import HandlerError, Inventory

#: How many lines of the history, and of each list, are shown.
RECENT, MOST = 40, 50
#: Seconds for which what is kept in the cloud is shown without asking again.
KEPT_FOR = 30.0


@dataclass(frozen=True, slots=True)
class Shelf:
    """What an inventory holds, or why that is not known."""

    title: str
    columns: tuple[str, ...]
    items: tuple[Mapping[str, Any], ...]
    problem: str = ""


class Shelves:
    """The inventories, asked now and then.

    :param make: makes those that there are; asked again when it fails
    """

    def __init__(self, make: Callable[[], Sequence[Inventory]]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._shelves: tuple[Shelf, ...] = ()
        self._read_at = float("-inf")

    def read(self) -> tuple[Shelf, ...]:
        """Return what they hold."""
        with self._lock:
            if time.monotonic() - self._read_at > KEPT_FOR:
                self._shelves = tuple(_shelf(inventory) for inventory in self._make())
                self._read_at = time.monotonic()
            return self._shelves


def _shelf(inventory: Inventory) -> Shelf:
    try:
        items, problem = tuple(inventory.items()), ""
    except HandlerError as error:
        items, problem = (), str(error)
    return Shelf(inventory.title, inventory.columns, items, problem)


class Page:
    """Makes the page.

    :param tasks: what runs here
    :param sources: returns the listeners
    """

    def __init__(
        self, database: Database, tasks: Mapping[str, Task], sources: Callable[[], Sequence[Source]], shelves: Shelves
    ) -> None:
        self._database = database
        self._tasks = tasks
        self._sources = sources
        self._shelves = shelves
        jinja = Environment(
            loader=PackageLoader("consumer.status", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True
        )
        jinja.filters |= {"span": span, "clock": _clock, "line": _line}
        self._template = jinja.get_template("page.html")

    def make(self) -> Answer:
        """Return the page; when the journal does not answer, one that says so."""
        facts: dict[str, Any] = {
            "version": __version__,
            "made_at": datetime.now(UTC).timestamp(),
            "brokers": self._sources(),
            "shelves": self._shelves.read(),
        }
        try:
            facts |= {"journal": True, **self._journal()}
        except JournalError:
            facts |= {"journal": False}
        return Answer("200 OK", "text/html", self._template.render(facts))

    def _journal(self) -> dict[str, Any]:
        known, clock = controls.read(self._database), self._database.transact(now)
        depths = {(depth.handler, depth.state): depth.rows for depth in backlog.depths(self._database)}
        handlers = [
            {
                "name": name,
                "title": task.handler.title,
                "mode": task.settings.mode,
                "stopped": _stopped(known.get(name, controls.Control(name))),
                "sweep_age": _since(known.get(name), clock),
                "drift": depths.get((name, "reported"), 0),
                "waiting": depths.get((name, "pending"), 0) + depths.get((name, "running"), 0),
                "parked": depths.get((name, "parked"), 0),
            }
            for name, task in self._tasks.items()
        ]
        return {
            "handlers": handlers,
            "reported": backlog.listing(self._database, state="reported", limit=MOST),
            "parked": backlog.listing(self._database, state="parked", limit=MOST),
            "recent": list(reversed(history.listing(self._database, limit=RECENT))),
            "dead": dead.count(self._database),
        }


def _stopped(control: controls.Control) -> str:
    if not control.stopped:
        return ""
    return f"{'paused' if control.paused else 'stopped'}: {control.reason}" if control.reason else "paused"


def _since(control: controls.Control | None, clock: float) -> float | None:
    return None if control is None or control.swept_at is None else max(0.0, clock - control.swept_at)


def _clock(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S")


def _line(value: object) -> str:
    """Return text for one cell: no line breaks, no control characters, no credentials of URLs."""
    return one_line("" if value is None else str(value))
