"""The contract of a gate."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from sqlalchemy import Connection

from consumer.engine.task import Task
from consumer.journal.history import Deferred
from handlers.base import Finding


@dataclass(frozen=True, slots=True)
class Request:
    """A heal that asks to begin.

    :param line_id: the history line that an earlier attempt left open, if any
    """

    task: Task
    finding: Finding
    line_id: int | None = None


class Gate(Protocol):
    def ask(self, connection: Connection, request: Request, clock: float) -> Deferred | None:
        """Return why the heal may not begin now; None if it may.

        :param clock: the journal's time, seconds since the epoch
        """


def ask_all(gates: Iterable[Gate], connection: Connection, request: Request, clock: float) -> Deferred | None:
    """Return the first reason why a heal may not begin now; None if it may.

    No gate stops a heal that an earlier attempt began: a half-finished heal would leave the object worse off.
    """
    if request.finding.begun:
        return None
    answers = (gate.ask(connection, request, clock) for gate in gates)
    return next((deferred for deferred in answers if deferred is not None), None)
