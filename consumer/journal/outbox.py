"""Adds messages for sinks in the transaction that writes a history entry, so that the transaction stores both or neither."""

from __future__ import annotations

from sqlalchemy import Connection, insert, literal, select

from consumer.journal.schema import delivery, webhook

_COLUMNS = ("sink", "line_id", "outcome", "at", "not_before", "attempts")


def add(connection: Connection, line_id: int, outcome: str, clock: float) -> None:
    """Add a message about the history entry ``line_id`` for each sink that gets this outcome."""
    values = (literal(line_id), literal(outcome), literal(clock), literal(clock), literal(0))
    rows = select(webhook.c.sink, *values).where(webhook.c.outcome == outcome)
    connection.execute(insert(delivery).from_select(_COLUMNS, rows))
