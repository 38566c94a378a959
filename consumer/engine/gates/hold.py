from __future__ import annotations

from sqlalchemy import Connection

from consumer.engine.gates.gate import Request
from consumer.engine.holds.board import Board
from consumer.journal.history import Deferred

#: How the reason of every deferral by a hold begins.
ON_HOLD = "on hold: "
#: Seconds until the key is inspected again; a lifted hold makes the key due at once.
_AGAIN = 600.0


class OnHold:
    """Defers a heal while a hold names the finding's key, one of its ``concerns``, or everything."""

    def __init__(self, board: Board) -> None:
        self._board = board

    def ask(self, connection: Connection, request: Request, clock: float) -> Deferred | None:
        found = self._board.covering(request.finding)
        return Deferred(f"{ON_HOLD}{found}", _AGAIN) if found else None
