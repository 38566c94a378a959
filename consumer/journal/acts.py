"""The acts of operators: a history entry for each command that changes stackmend's own state, such as a pause."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from sqlalchemy import Connection

from consumer.journal import history
from consumer.journal.database import Database, now
from consumer.journal.history import Line, Origin, Outcome
from handlers.base import Json, Key

#: Another write of a journal function's transaction.
Also = Callable[[Connection], None]


def nothing(_connection: Connection) -> None:
    """Write nothing: the default of ``also``, a further write of a transaction."""


@dataclass(frozen=True, slots=True)
class Act:
    """A command of an operator that changed stackmend's own state.

    :param command: its words: ``handler pause``
    :param about: the handler, or the noun of the command: ``purge``, ``exemption``
    :param summary: the act in the past tense, without the operator: ``paused purge``
    :param undo: the command that reverses it
    """

    command: str
    about: str
    key: Key
    summary: str
    evidence: Json = field(default_factory=dict)
    undo: str = ""


def recorder(operator: str, *acts: Act) -> Also:
    """Return a function that writes these acts to the history, through the connection that it gets."""
    return lambda connection: write(connection, operator, acts)


def write(connection: Connection, operator: str, acts: Sequence[Act]) -> None:
    origin = Origin("operator", "", operator=operator)
    lines = [
        Line(
            act.about,
            act.key,
            Outcome.ACT,
            act.command,
            f"{operator} {act.summary}",
            origin,
            act.evidence,
            undo=act.undo,
        )
        for act in acts
    ]
    history.write(connection, lines, now(connection))


def record(database: Database, operator: str, *acts: Act) -> None:
    database.transact(recorder(operator, *acts))
