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
    """A request to begin a heal.

    :param line_id: the history entry that an earlier attempt at the heal left open, if any
    """

    task: Task
    finding: Finding
    line_id: int | None = None


class Gate(Protocol):
    def ask(self, connection: Connection, request: Request, clock: float) -> Answer | None:
        """Return a gate's answer: an objection to the heal, or an operator's approval; None without either.

        :param clock: the database's time, in seconds since the epoch
        """


def ask_all(gates: Iterable[Gate], connection: Connection, request: Request, clock: float) -> Answer:
    """Ask the gates in order; return the first objection. If none, return :class:`Allowed`, with the approving operator.

    If the finding is ``healable`` and ``begun``, an earlier heal began work that must not stop halfway. Then ask no gate.
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
