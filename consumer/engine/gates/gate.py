"""The contract of a gate."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from sqlalchemy import Connection

from consumer.engine.task import Task
from consumer.journal.history import Allowed, Answer
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
    def ask(self, connection: Connection, request: Request, clock: float) -> Answer | None:
        """Return an objection or an approval; None if the gate has neither.

        :param clock: the journal's time, seconds since the epoch
        """


def ask_all(gates: Iterable[Gate], connection: Connection, request: Request, clock: float) -> Answer:
    """Return the first reason why a heal may not begin now; if there is none, the approval.

    No gate stops a heal that an earlier attempt began: a half-finished heal would leave the object worse off.
    """
    allowed = Allowed()
    if request.finding.begun and request.finding.healable:
        return allowed
    for gate in gates:
        match gate.ask(connection, request, clock):
            case None:
                continue
            case Allowed() as approval:
                allowed = approval
            case objection:
                return objection
    return allowed
