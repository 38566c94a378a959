"""The state of an ask, and the use of an approval."""

from __future__ import annotations

from enum import StrEnum

from sqlalchemy import Connection, and_, delete, select

from consumer.journal.schema import ask, history


class State(StrEnum):
    WAITING = "waiting"
    APPROVED = "approved"
    DENIED = "denied"


def consume(connection: Connection, line_id: int) -> None:
    """Delete the approved ask that a heal used, also if the heal's result is unknown.

    :param line_id: the heal's history entry
    """
    line = select(history.c.handler, history.c.key, history.c.problem).where(history.c.id == line_id)
    row = connection.execute(line).first()
    if row is not None:
        same = and_(ask.c.handler == row.handler, ask.c.key == row.key, ask.c.problem == row.problem)
        connection.execute(delete(ask).where(same, ask.c.state == State.APPROVED))
