"""Records the claim and heal of a reconciliation: in the journal (daemon), or in memory (one-shot command)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Protocol

from sqlalchemy import Connection

from consumer.engine.gates import GATES, Request, ask_all
from consumer.engine.task import Task
from consumer.journal import controls, history, work
from consumer.journal.database import Database, JournalUnavailable
from consumer.journal.history import Closing, Deferred, Line
from consumer.journal.work import Claim, Disposition


class Store(Protocol):
    """Records claims and history lines."""

    def open_line(self, request: Request, claim: Claim, line: Line) -> int | Deferred:
        """Ask all gates, then open the history line of a heal; return the line's id, or a gate's deferral."""

    def may_go_on(self, claim: Claim) -> bool:
        """Return whether a heal may make the next step."""

    def settle(self, claim: Claim, end: Disposition, lines: Sequence[Line | Closing] = ()) -> None:
        """Record the end of a reconciliation, and history lines."""


class JournalStore:
    """Records in the journal; a claim is a row of the journal."""

    def __init__(self, database: Database, tasks: Mapping[str, Task]) -> None:
        self._database = database
        self._tasks = tasks

    def may_go_on(self, claim: Claim) -> bool:
        """Return whether the mode is still heal, the handler is not stopped, and the lease certainly runs."""
        task = self._tasks.get(claim.handler)
        if task is None or not task.heals:
            return False
        try:
            return self._database.transact(
                lambda connection: (
                    work.is_held(connection, claim) and not controls.state(connection, claim.handler).stopped
                )
            )
        except JournalUnavailable:
            return False

    def open_line(self, request: Request, claim: Claim, line: Line) -> int | Deferred:
        """Open the line and write the line's id into the row, in one transaction."""
        ask = partial(_ask, request)
        return work.begin_healing(self._database, claim, line, ask)

    def settle(self, claim: Claim, end: Disposition, lines: Sequence[Line | Closing] = ()) -> None:
        """Settle the row and write the lines, in one transaction."""
        work.settle(self._database, claim, end, lines)


class MemoryStore:
    """Keeps claims in memory; the history records only heals.

    :param database: None for a command that may not heal
    """

    def __init__(self, database: Database | None) -> None:
        self._database = database

    def may_go_on(self, claim: Claim) -> bool:
        """Return whether the handler is not stopped."""
        if self._database is None:
            return False
        try:
            return not self._database.transact(partial(controls.state, name=claim.handler)).stopped
        except JournalUnavailable:
            return False

    def open_line(self, request: Request, claim: Claim, line: Line) -> int | Deferred:
        """Open the line, or keep the line that an earlier attempt left open."""
        if self._database is None:
            return Deferred("this command changes nothing", 0.0)
        return history.open_line(self._database, line, partial(_ask, request), claim.healing_id)

    def settle(self, claim: Claim, end: Disposition, lines: Sequence[Line | Closing] = ()) -> None:
        """Close the line of a heal. Findings are output, not history."""
        if self._database is None:
            return
        for line in lines:
            if isinstance(line, Closing):
                history.close(self._database, line)


def _ask(request: Request, connection: Connection, clock: float) -> Deferred | None:
    return ask_all(GATES, connection, request, clock)
