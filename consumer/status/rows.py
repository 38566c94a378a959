"""The tables of the status page, as values from the journal and from memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection

from consumer.bus.source import Source
from consumer.engine.holds import Board
from consumer.engine.task import Task
from consumer.journal import asks, backlog, controls, dead, exemptions, history, replicas
from consumer.journal.asks import Ask
from consumer.journal.backlog import Glance
from consumer.journal.controls import Control
from consumer.journal.database import Database, now
from consumer.journal.exemptions import Exemption
from consumer.journal.history import Entry
from consumer.journal.hours import Hour
from consumer.journal.replicas import Replica
from consumer.status import plots
from consumer.status.plots import Plot, Sums
from consumer.text import span

#: The most history entries, lines of another list, and rows of one handler in one state.
RECENT, LINES, EACH = 40, 50, 10
#: The most rows of one handler and state that are counted.
COUNTED = 10_000


@dataclass(frozen=True, slots=True)
class HandlerRow:
    """A handler on the status page: its rows in the journal, and its last 24 hours."""

    name: str
    title: str
    mode: str
    sweep_age: float | None
    rows: Glance
    sums: Sums
    plot: Plot


@dataclass(frozen=True, slots=True)
class Wait:
    """A reason why heals wait.

    :param scope: the handler, or the scope of a hold
    :param source: the option, service or command that gives the reason
    :param serious: whether a person must act
    """

    scope: str
    reason: str
    source: str
    serious: bool = False


@dataclass(frozen=True, slots=True)
class BrokerRow:
    """A broker, as its listener last saw it. Ages are in seconds.

    :param problem: why stackmend does not read from the broker, or cannot store messages; otherwise empty
    :param backlog: messages in ``queues`` that the broker has not sent yet; None if not counted yet
    """

    name: str
    problem: str
    queues: tuple[str, ...]
    missing: tuple[str, ...]
    received: int
    wanted: int
    dead: int
    backlog: int | None
    backlog_age: float | None
    last_message_age: float | None


@dataclass(frozen=True, slots=True)
class JournalRows:
    """All tables of the status page that come from the journal.

    :param read_at: when the tables were read, by the database's clock
    :param asked: how many of the newest 2,000 asks wait, including those that ``asks`` leaves out
    """

    read_at: float
    handlers: tuple[HandlerRow, ...]
    waits: tuple[Wait, ...]
    asks: tuple[Ask, ...]
    asked: int
    exemptions: tuple[Exemption, ...]
    replicas: tuple[Replica, ...]
    recent: tuple[Entry, ...]
    dead: int
    hours: tuple[Hour, ...]

    def handlers_with_reports(self) -> list[HandlerRow]:
        return [row for row in self.handlers if row.rows.reports]

    def handlers_with_failures(self) -> list[HandlerRow]:
        return [row for row in self.handlers if row.rows.failures]


def of_journal(database: Database, tasks: Mapping[str, Task], hours: tuple[Hour, ...]) -> JournalRows:
    """:raises JournalError: the journal does not answer"""
    known = controls.read(database)

    def read(
        connection: Connection,
    ) -> tuple[float, list[HandlerRow], list[Wait], tuple[list[Ask], int], list[Exemption]]:
        clock = now(connection)
        handlers: list[HandlerRow] = []
        waits: list[Wait] = []
        for name, task in tasks.items():
            rows = backlog.glance(connection, name, COUNTED, EACH)
            handlers.append(_handler(task, known.get(name), rows, hours, clock))
            waits += _waits(connection, task, known.get(name), clock)
        return clock, handlers, waits, asks.waiting(connection, LINES), exemptions.lasting(connection, LINES)

    clock, handlers, waits, (waiting, asked), exempt = database.read(read)
    return JournalRows(
        read_at=clock,
        handlers=tuple(handlers),
        waits=tuple(waits),
        asks=tuple(waiting),
        asked=asked,
        exemptions=tuple(exempt),
        replicas=tuple(replicas.listing(database)[:LINES]),
        recent=tuple(reversed(history.listing(database, limit=RECENT))),
        dead=dead.count(database),
        hours=hours,
    )


def _handler(task: Task, control: Control | None, rows: Glance, hours: Sequence[Hour], clock: float) -> HandlerRow:
    swept_at = control.swept_at if control else None
    return HandlerRow(
        task.name,
        task.handler.title,
        task.settings.mode,
        None if swept_at is None else max(0.0, clock - swept_at),
        rows,
        plots.sums(hours, task.name),
        plots.findings(hours, task.name),
    )


def _waits(connection: Connection, task: Task, control: Control | None, clock: float) -> Iterator[Wait]:
    if control is not None and control.paused:
        yield Wait(task.name, control.reason or "no reason given", "stackmend handler pause", serious=True)
    elif control is not None and control.broken:
        # Sweeps resume a handler that the breaker stopped, but not one whose database fell below its watermark.
        yield Wait(
            task.name, control.reason, "breaker" if control.recovers else "watermark", serious=not control.recovers
        )
    if not task.heals:
        return
    group, settings = task.handler.group, task.settings
    if not task.is_open:
        opens = f"the window opens in {span(task.until_open())} ({settings.window})"
        yield Wait(task.name, opens, f"[{group}] {task.name}_window")
    # This reads the heals of one hour, of which the budget itself allows few.
    bound = settings.heals_per_hour
    if bound > 0 and history.spent(connection, task.name, clock) >= bound:
        yield Wait(
            task.name, f"the budget of {bound} objects in an hour is used up", f"[{group}] {task.name}_heals_per_hour"
        )


def of_holds(board: Board) -> list[Wait]:
    return [Wait(one.hold.scope, one.hold.reason, one.source, serious=not one.readable) for one in board.standing()]


def of_brokers(sources: Sequence[Source], monotonic: float, clock: float) -> list[BrokerRow]:
    """Return the brokers as their listeners last saw them; ``monotonic`` and ``clock`` are the present time."""
    return [_broker(source, monotonic, clock) for source in sources]


def _broker(source: Source, monotonic: float, clock: float) -> BrokerRow:
    backlog, last = source.backlog, source.last_message_at
    return BrokerRow(
        source.broker.name,
        source.problem if source.problem or source.connected else "not connected",
        source.queues,
        source.missing,
        source.received,
        source.wanted,
        source.dead,
        None if backlog is None else backlog.messages,
        None if backlog is None else max(0.0, monotonic - backlog.at),
        None if last is None else max(0.0, clock - last.timestamp()),
    )
