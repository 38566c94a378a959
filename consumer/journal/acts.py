"""Acts: operators' commands that change stackmend's own state, such as a pause. Each act gets a history entry."""

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
    """Write nothing. This is the default of ``also``, a parameter that adds a write to a transaction of the journal."""


@dataclass(frozen=True, slots=True)
class Act:
    """A command of an operator that changed stackmend's own state.

    :param command: the command's name: ``handler pause``
    :param about: the handler or, without a handler, the command's first word: ``exempt``
    :param summary: the act in the past tense, without the operator: ``paused discover_hosts``
    """

    command: str
    about: str
    key: Key
    summary: str
    evidence: Json = field(default_factory=dict)
    undo: str = ""


def recorder(operator: str, *acts: Act) -> Also:
    """Return a function that writes these acts to the history, over the connection that it gets."""
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
