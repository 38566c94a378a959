"""The status page: one HTML text without scripts.

Inventories (objects that handlers keep in the cloud, such as preserved amphorae) need API calls, so they are cached for half a
minute. If the cloud does not answer, the page shows the error instead.
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
from consumer.engine.holds import Board
from consumer.engine.task import Task
from consumer.journal import backlog, controls, dead, history
from consumer.journal.backlog import Standing
from consumer.journal.database import Database, JournalError, now
from consumer.status.server import Answer
from consumer.text import one_line, span
from handlers.base import HandlerError, Inventory

#: The largest number of history entries, and of lines in other lists.
RECENT, MOST = 40, 50
#: Seconds for which the inventories are cached.
CACHED_FOR = 30.0


@dataclass(frozen=True, slots=True)
class Listing:
    """The objects of an inventory, such as the preserved amphorae, or the reason why they are unknown."""

    title: str
    columns: tuple[str, ...]
    items: tuple[Mapping[str, Any], ...]
    problem: str = ""


class Inventories:
    """Lists all inventories, and caches the listings.

    :param make: returns the inventories; called when the cache is too old
    """

    def __init__(self, make: Callable[[], Sequence[Inventory]]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._listings: tuple[Listing, ...] = ()
        self._read_at = float("-inf")

    def read(self) -> tuple[Listing, ...]:
        with self._lock:
            if time.monotonic() - self._read_at > CACHED_FOR:
                self._listings = tuple(_listing(inventory) for inventory in self._make())
                self._read_at = time.monotonic()
            return self._listings


def _listing(inventory: Inventory) -> Listing:
    try:
        items, problem = tuple(inventory.items()), ""
    except HandlerError as error:
        items, problem = (), str(error)
    return Listing(inventory.title, inventory.columns, items, problem)


class Page:
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
        jinja = Environment(
            loader=PackageLoader("consumer.status", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True
        )
        jinja.filters |= {"span": span, "clock": _clock, "line": _line}
        self._template = jinja.get_template("page.html")

    def make(self) -> Answer:
        """Return the page. If the journal does not answer, the page has only brokers and inventories."""
        facts: dict[str, Any] = {
            "version": __version__,
            "made_at": datetime.now(UTC).timestamp(),
            "brokers": self._sources(),
            "inventories": self._inventories.read(),
            "holds": self._board.standing(),
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
                "drift": depths.get((name, Standing.REPORTED), 0),
                "waiting": depths.get((name, Standing.PENDING), 0) + depths.get((name, Standing.RUNNING), 0),
                "parked": depths.get((name, Standing.PARKED), 0),
            }
            for name, task in self._tasks.items()
        ]
        return {
            "handlers": handlers,
            "reported": backlog.listing(self._database, state=Standing.REPORTED, limit=MOST),
            "parked": backlog.listing(self._database, state=Standing.PARKED, limit=MOST),
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
    """Return a value as text for one cell, without line breaks, control characters or passwords of URLs."""
    return one_line("" if value is None else str(value))
