"""The history: one line per thing found and per heal, append-only.

The line of a heal is opened (outcome ``healing``) before anything is written to the cloud and closed after, so a process
that was killed in between leaves a line that says so; whoever looks at the key next closes it. Opening a line also takes
from the handler's hourly budget, and is the only place where that happens.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, RowMapping, and_, delete, exists, func, insert, select, update

from consumer.journal.database import Database, JournalError, now
from consumer.journal.schema import history, task, work
from handlers.base import Finding, Healed, Json, Key

#: Outcomes of a heal: each has spent one of the hour's heals, whatever came of it.
HEALS = ("healing", "healed", "failed", "conflict")


class NotPermitted(JournalError):
    """No heal may begin now; the message says why.

    :param after: seconds until it makes sense to ask again
    """

    def __init__(self, reason: str, after: float) -> None:
        super().__init__(reason)
        self.after = after


@dataclass(frozen=True, slots=True)
class Origin:
    """Who wanted the look, for the history.

    :param hint: event type, ``sweep`` or ``operator``
    :param hinted_at: when the notification was sent, seconds since the epoch
    :param replica: which process looked
    """

    hint: str
    replica: str
    hint_id: str = ""
    hinted_at: float | None = None


@dataclass(frozen=True, slots=True)
class Line:
    """A new line.

    :param outcome: ``found`` (audit), ``refused`` (unhealable or unsafe), ``held`` (budget used up), ``parked``, ``healing``
    """

    handler: str
    key: Key
    outcome: str
    problem: str
    summary: str
    origin: Origin
    evidence: Json = field(default_factory=dict)
    error: str = ""

    @classmethod
    def of(cls, handler: str, finding: Finding, outcome: str, origin: Origin, error: str = "") -> Line:
        """Return the line of a finding."""
        evidence = finding.evidence
        return cls(handler, finding.key, outcome, finding.problem, finding.summary, origin, evidence, error)


@dataclass(frozen=True, slots=True)
class Closing:
    """The end of a heal's line.

    :param outcome: ``healed``, ``failed``, ``conflict``
    """

    line_id: int
    outcome: str
    healed: Healed | None = None
    error: str = ""


def write(connection: Connection, lines: Sequence[Line | Closing], clock: float) -> list[int]:
    """Write lines, each new one's id being returned, and close lines that are still open."""
    ids = []
    for line in lines:
        if isinstance(line, Line):
            result = connection.execute(insert(history).values(_row(line, clock)))
            ids.append(int(result.inserted_primary_key[0]))  # type: ignore[index]
        else:
            still_open = and_(history.c.id == line.line_id, history.c.outcome == "healing")
            connection.execute(update(history).where(still_open).values(_closed(line, clock)))
    return ids


def _dump(value: Json) -> str:
    return json.dumps(value, sort_keys=True, default=str, ensure_ascii=False)


def _row(line: Line, clock: float) -> dict[str, Any]:
    return {
        "at": clock,
        "handler": line.handler,
        "key": str(line.key),
        "outcome": line.outcome,
        "problem": line.problem,
        "summary": line.summary,
        "evidence": _dump(line.evidence),
        "error": line.error or None,
        "hint": line.origin.hint,
        "hint_id": line.origin.hint_id or None,
        "hinted_at": line.origin.hinted_at,
        "lag": None if line.origin.hinted_at is None else clock - line.origin.hinted_at,
        "replica": line.origin.replica,
    }


def _closed(line: Closing, clock: float) -> dict[str, Any]:
    values: dict[str, Any] = {"outcome": line.outcome, "closed_at": clock, "error": line.error or None}
    values["lag"] = clock - history.c.hinted_at
    if line.healed:
        change = line.healed
        values |= {"action": change.action, "undo": change.undo}
        values |= {"before": _dump(change.before), "after": _dump(change.after)}
    return values


def close(database: Database, closing: Closing) -> None:
    """Close the line of a heal."""
    database.transact(lambda connection: write(connection, [closing], now(connection)))


def open_unclaimed(database: Database, line: Line, per_hour: int) -> int:
    """Open the line of a heal that no row of work stands for: a one-shot command.

    :raises NotPermitted: when the handler is stopped or its hour's heals are used up
    """

    def begin(connection: Connection) -> int:
        clock = now(connection)
        permit(connection, line.handler, per_hour, clock)
        return write(connection, [line], clock)[0]

    return database.transact(begin)


def append(database: Database, lines: Sequence[Line]) -> None:
    """Write lines that belong to no row of work."""
    if lines:
        database.transact(lambda connection: write(connection, lines, now(connection)))


def permit(connection: Connection, handler: str, per_hour: int, clock: float) -> None:
    """Make sure that a heal may begin now; the caller opens its line in this transaction.

    This is where a pause and the breaker bind: what replicas remember of them may be a second old.

    :param per_hour: heals in the hour that ends now, over all replicas; 0 for no bound
    :raises NotPermitted: when an operator or the breaker stopped the handler, or the heals are used up
    """
    # The update locks the handler's row, so that two replicas count one after the other.
    connection.execute(update(task).where(task.c.name == handler).values(serial=task.c.serial + 1))
    stopped = select(task.c.paused, task.c.broken).where(task.c.name == handler)
    if any(any(row) for row in connection.execute(stopped)):
        raise NotPermitted(f"{handler} is stopped; 'stackmend handler list' says why", after=2)
    if 0 < per_hour <= spent(connection, handler, clock):
        used_up = f"the {per_hour} heals of {handler} for this hour are used up ([engine] heals_per_hour)"
        raise NotPermitted(used_up, after=60)


def spent(connection: Connection, handler: str, clock: float) -> int:
    """Return how many heals the handler began in the hour that ends at ``clock``."""
    hour = and_(history.c.handler == handler, history.c.outcome.in_(HEALS), history.c.at > clock - 3600)
    return int(connection.execute(select(func.count()).where(hour)).scalar_one())


def budget_left(database: Database, handler: str, per_hour: int) -> int | None:
    """Return how many heals are left in this hour, None for no bound."""
    if per_hour <= 0:
        return None
    return database.transact(lambda connection: max(0, per_hour - spent(connection, handler, now(connection))))


@dataclass(frozen=True, slots=True)
class Entry:
    """A line as it is read.

    :param age: seconds since it was written
    :param lag: seconds from the notification to the end of the heal, or to the finding
    """

    id: int
    at: float
    handler: str
    key: str
    outcome: str
    problem: str
    summary: str
    evidence: Json
    action: str
    before: Json
    after: Json
    undo: str
    error: str
    hint: str
    hint_id: str
    hinted_at: float | None
    closed_at: float | None
    lag: float | None
    replica: str


def listing(
    database: Database,
    *,
    since: float | None = None,
    handler: str | None = None,
    key: str | None = None,
    outcomes: Sequence[str] = (),
    limit: int = 1000,
) -> list[Entry]:
    """Return lines, oldest first; of too many, the newest.

    :param since: seconds since the epoch
    """
    query = select(history).order_by(history.c.id.desc()).limit(limit)
    if since is not None:
        query = query.where(history.c.at >= since)
    if handler:
        query = query.where(history.c.handler == handler)
    if key:
        query = query.where(history.c.key == key)
    if outcomes:
        query = query.where(history.c.outcome.in_(outcomes))
    rows = database.transact(lambda connection: connection.execute(query).mappings().all())
    return [_entry(row) for row in reversed(rows)]


def find(database: Database, line_id: int) -> Entry | None:
    """Return one line."""
    query = select(history).where(history.c.id == line_id)
    row = database.transact(lambda connection: connection.execute(query).mappings().one_or_none())
    return _entry(row) if row else None


def _entry(row: RowMapping) -> Entry:
    def load(text: str | None) -> Json:
        value: Json = json.loads(text) if text else {}
        return value

    return Entry(
        id=row["id"],
        at=row["at"],
        handler=row["handler"],
        key=row["key"],
        outcome=row["outcome"],
        problem=row["problem"],
        summary=row["summary"],
        evidence=load(row["evidence"]),
        action=row["action"] or "",
        before=load(row["before"]),
        after=load(row["after"]),
        undo=row["undo"] or "",
        error=row["error"] or "",
        hint=row["hint"],
        hint_id=row["hint_id"] or "",
        hinted_at=row["hinted_at"],
        closed_at=row["closed_at"],
        lag=row["lag"],
        replica=row["replica"],
    )


@dataclass(frozen=True, slots=True)
class Orphan:
    """An open line that no row of work stands for: a one-shot command died while it healed."""

    line_id: int
    handler: str
    key: Key


def orphans(database: Database, older_than: float) -> list[Orphan]:
    """Return lines opened more than ``older_than`` seconds ago, still open, with no row of work behind them."""

    def read(connection: Connection) -> list[Orphan]:
        line = history.alias()
        stands = exists().where(work.c.healing_id == line.c.id)
        old = and_(line.c.outcome == "healing", line.c.at < now(connection) - older_than, ~stands)
        rows = connection.execute(select(line.c.id, line.c.handler, line.c.key).where(old).limit(1000))
        return [Orphan(row[0], row[1], Key.parse(row[2])) for row in rows]

    return database.transact(read)


def expire(database: Database, older_than: float) -> int:
    """Delete closed lines older than so many seconds; return how many."""

    def forget(connection: Connection) -> int:
        old = and_(history.c.at < now(connection) - older_than, history.c.outcome != "healing")
        ids = list(connection.execute(select(history.c.id).where(old).limit(1000)).scalars())
        return connection.execute(delete(history).where(history.c.id.in_(ids))).rowcount if ids else 0

    return database.transact(forget)
