from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Protocol

from sqlalchemy import Connection

from consumer.engine.gates import Gate, Request, all_gates, ask_all, exempt
from consumer.engine.gates.hold import ON_HOLD
from consumer.engine.holds import Board
from consumer.engine.open_lines import OpenLines
from consumer.engine.task import Task
from consumer.journal import approvals, asks, claiming, controls, history, settling
from consumer.journal.database import Database, now
from consumer.journal.errors import JournalUnavailable
from consumer.journal.history import Answer, Closing, Deferred, Line, Outcome, Withheld
from consumer.journal.work import Claim, Disposition, Done
from handlers.base import Finding

#: Why a command without a journal begins no heal and no step of one.
_READ_ONLY = "this command changes nothing"


class Store(Protocol):
    """The interface of a store: it settles claims and writes history entries."""

    def open_line(self, request: Request, claim: Claim, line: Line) -> int | Deferred | Withheld:
        """Ask the gates; return an objection, or the id of the heal's history entry, which is then open."""

    def exemption(self, finding: Finding) -> str:
        """Return the reason for a finding's exemption; empty without an exemption."""

    def obstacle(self, claim: Claim, finding: Finding) -> str:
        """Return why a long heal must not make its next step; empty if the step may begin."""

    def settle(self, claim: Claim, end: Disposition, lines: Sequence[Line | Closing] = ()) -> None:
        """Settle a claim; write new history entries and close open ones."""


class JournalStore:
    """The daemon's store: claimed rows, findings and heals are in the journal."""

    def __init__(self, database: Database, tasks: Mapping[str, Task], board: Board | None = None) -> None:
        self._database = database
        self._tasks = tasks
        self._board = board or Board()
        self._gates = all_gates(self._board)

    def obstacle(self, claim: Claim, finding: Finding) -> str:
        task = self._tasks.get(claim.handler)
        if task is None or not task.heals:
            return f"the mode of {claim.handler} allows no heal now"
        if hold := self._board.covering(finding):
            return f"{ON_HOLD}{hold}"

        def renew(connection: Connection) -> str:
            if not claiming.renew(connection, claim):
                return "another replica may have the object, because this one's lease ended"
            return _stop(connection, claim.handler)

        return _answer(self._database, renew)

    def open_line(self, request: Request, claim: Claim, line: Line) -> int | Deferred | Withheld:
        ask = partial(_ask, self._gates, request)
        return settling.begin_healing(self._database, claim, line, ask)

    def exemption(self, finding: Finding) -> str:
        return _exemption(self._database, finding)

    def settle(self, claim: Claim, end: Disposition, lines: Sequence[Line | Closing] = ()) -> None:
        """In one transaction, settle the row, write history entries, and delete asks (except denials) whose drift is gone."""
        settling.settle(self._database, claim, end, lines, partial(_end_asks, claim, end, lines))


class MemoryStore:
    """The store of a one-shot command. Claims are in memory.

    :param database: the journal; None for a command that heals nothing
    :param gates: gates that only this command asks, besides the daemon's gates
    """

    def __init__(self, database: Database | None, gates: Sequence[Gate] = (), board: Board | None = None) -> None:
        self._database = database
        self._board = board or Board()
        self._gates = (*all_gates(self._board), *gates)
        self._open = None if database is None else OpenLines(database)

    def at_work(self) -> AbstractContextManager[None]:
        """Show daemons, until the ``with`` block ends, that this command still works on the heals that it began."""
        return nullcontext() if self._open is None else self._open.renewed()

    def leave(self, line_id: int) -> None:
        """Stop renewing a heal's history entry. If the entry stays open, a daemon later requests an inspection to close it."""
        if self._open is not None:
            self._open.discard(line_id)

    def obstacle(self, claim: Claim, finding: Finding) -> str:
        """Return why a hold, a stop of the handler, or a silent or missing journal prevents the next step; empty if none."""
        if self._database is None:
            return _READ_ONLY
        self._board.keep_fresh()
        if hold := self._board.covering(finding):
            return f"{ON_HOLD}{hold}"
        return _answer(self._database, partial(_stop, handler=claim.handler))

    def open_line(self, request: Request, claim: Claim, line: Line) -> int | Deferred | Withheld:
        if self._database is None or self._open is None:
            return Deferred(_READ_ONLY, 0.0)
        self._board.keep_fresh()
        opened = history.open_line(self._database, line, partial(_ask, self._gates, request), claim.healing_id)
        if isinstance(opened, int):
            self._open.add(opened)
        return opened

    def exemption(self, finding: Finding) -> str:
        return "" if self._database is None else _exemption(self._database, finding)

    def settle(self, claim: Claim, end: Disposition, lines: Sequence[Line | Closing] = ()) -> None:
        """Close the history entry of a heal. Findings get no entry, because the command prints them."""
        if self._database is None:
            return
        closings = [line for line in lines if isinstance(line, Closing)]
        if closings:
            self._database.transact(partial(_close, claim, end, closings))
            for closing in closings:
                self.leave(closing.line_id)


def _stop(connection: Connection, handler: str) -> str:
    control = controls.state(connection, handler)
    if not control.stopped:
        return ""
    return f"{handler} is {'paused' if control.paused else 'stopped'}: {control.reason or 'no reason given'}"


def _answer(database: Database, read: Callable[[Connection], str]) -> str:
    try:
        return database.transact(read)
    except JournalUnavailable as outage:
        return str(outage)


def _ask(gates: Sequence[Gate], request: Request, connection: Connection, clock: float) -> Answer:
    return ask_all(gates, connection, request, clock)


def _close(claim: Claim, end: Disposition, closings: Sequence[Closing], connection: Connection) -> None:
    history.write(connection, closings, now(connection))
    _end_asks(claim, end, closings, connection)


def _end_asks(claim: Claim, end: Disposition, lines: Sequence[Line | Closing], connection: Connection) -> None:
    for line in lines:
        if isinstance(line, Closing) and line.outcome is Outcome.HEALED:
            approvals.consume(connection, line.line_id)
    if isinstance(end, Done) and claim.reported is not None:
        asks.withdraw(connection, claim.handler, claim.key)


def _exemption(database: Database, finding: Finding) -> str:
    return database.transact(lambda connection: exempt.reason(connection, finding, now(connection)))
