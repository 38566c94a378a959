"""The history: entries about findings, heals, stops of handlers, and acts of operators.

A heal opens its entry (outcome ``healing``), with evidence and undo, before it writes to the cloud, and closes it afterwards.
If the heal's result stays unknown, as after ``kill -9``, the next inspection closes the entry, or the next heal uses it again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from sqlalchemy import ColumnElement, Connection, RowMapping, and_, delete, exists, func, insert, or_, select, update

from consumer.journal import approvals, outbox
from consumer.journal.database import Database, clean, now
from consumer.journal.schema import history, work
from handlers.base import Finding, Healed, Json, Key


class Outcome(StrEnum):
    """The outcome in a history entry.

    A heal with ``CONFLICT`` or ``REFUSED`` changed nothing. A heal with ``FAILED`` might have changed something.
    """

    FOUND = "found"
    REFUSED = "refused"
    PARKED = "parked"
    STOPPED = "stopped"
    ASKED = "asked"
    DENIED = "denied"
    EXEMPT = "exempt"
    HEALING = "healing"
    HEALED = "healed"
    FAILED = "failed"
    CONFLICT = "conflict"
    #: an operator's command that changed stackmend's state
    ACT = "act"


#: Outcomes that count against the hourly budget: these heals wrote, or may have written.
SPENDING = (Outcome.HEALING, Outcome.HEALED, Outcome.FAILED)


@dataclass(frozen=True, slots=True)
class Deferred:
    """A gate's answer: the heal must not begin now.

    :param after: seconds until the heal asks again
    :param known: False if the log must warn of the deferral
    """

    reason: str
    after: float
    known: bool = False


@dataclass(frozen=True, slots=True)
class Withheld:
    """A gate's answer: the finding is left to an operator, so the row becomes *reported*.

    :param outcome: ``ASKED``, ``DENIED`` or ``EXEMPT``
    """

    outcome: Outcome
    reason: str


@dataclass(frozen=True, slots=True)
class Allowed:
    """A gate's answer: the heal may begin.

    :param operator: the person who approved the heal, if it needs approval
    """

    operator: str = ""


#: A gate's answer to a heal that asks to begin.
Answer = Allowed | Deferred | Withheld

#: Asks every gate, in the transaction that opens a heal's history entry. It gets the connection and the database's time.
Ask = Callable[[Connection, float], Answer]


@dataclass(frozen=True, slots=True)
class Origin:
    """Why a key was inspected, and by which replica.

    :param hint: the source of the hint: an event type, ``sweep``, ``operator`` ...
    :param hint_id: the id of the notification, or the request id of the sweep
    :param hinted_at: when the notification was sent
    """

    hint: str
    replica: str
    hint_id: str = ""
    hinted_at: float | None = None
    operator: str = ""
    request_id: str = ""


@dataclass(frozen=True, slots=True)
class Line:
    """A new history entry."""

    handler: str
    key: Key
    outcome: Outcome
    problem: str
    summary: str
    origin: Origin
    evidence: Json = field(default_factory=dict)
    error: str = ""
    weight: int = 1
    undo: str = ""
    plan: str = ""

    @classmethod
    def of(cls, handler: str, finding: Finding, outcome: Outcome, origin: Origin, error: str = "") -> Line:
        return cls(
            handler,
            finding.key,
            outcome,
            finding.problem,
            finding.summary,
            origin,
            finding.evidence,
            error,
            finding.weight,
            finding.undo,
            finding.plan if finding.healable or finding.approvable else "",
        )

    def approved_by(self, operator: str) -> Line:
        """Return a copy that names the operator who approved the heal; if the name is empty, the entry itself."""
        return replace(self, origin=replace(self.origin, operator=operator)) if operator else self


@dataclass(frozen=True, slots=True)
class Closing:
    """The result of a heal, for the heal's open entry. If the entry is closed already, a new entry gets the result."""

    line_id: int
    outcome: Outcome
    healed: Healed | None = None
    error: str = ""


@dataclass(frozen=True, slots=True)
class Presumed(Closing):
    """The presumed result of a heal that left its entry open: its process died, or an error hid the result.

    The operator's approval of the heal ends with it.

    If the entry is closed already, its result stands.
    """


#: the change of a heal whose process died, when the next inspection finds another drift of the object
FOLLOWED = Healed("presumably took effect before an interruption; a new inspection finds another drift")

#: why such a heal counts as failed, when the next inspection finds the same problem with other evidence
UNKNOWN = "interrupted: it may have written; the same problem is still there, with other evidence"


def write(connection: Connection, lines: Sequence[Line | Closing], clock: float) -> list[int]:
    """Insert new entries, and close open entries; return the ids of the new entries.

    :param clock: the database's time, in seconds since the epoch
    """
    ids = []
    for line in lines:
        if isinstance(line, Line):
            result = connection.execute(insert(history).values(_row(line, clock)))
            ids.append(int(result.inserted_primary_key[0]))  # type: ignore[index]
            outbox.add(connection, ids[-1], line.outcome.value, clock)
        elif connection.execute(update(history).where(_is_open(line.line_id)).values(_closed(line, clock))).rowcount:
            outbox.add(connection, line.line_id, line.outcome.value, clock)
            if isinstance(line, Presumed):
                approvals.consume(connection, line.line_id)  # the heal perhaps wrote
        elif not isinstance(line, Presumed):
            ids += _write_beside(connection, line, clock)
    return ids


def _is_open(line_id: int) -> ColumnElement[bool]:
    return and_(history.c.id == line_id, history.c.outcome == Outcome.HEALING)


def _write_beside(connection: Connection, line: Closing, clock: float) -> list[int]:
    """Insert a copy of a closed entry with another result; return its id. Insert nothing if the entry has this result."""
    before = connection.execute(select(history).where(history.c.id == line.line_id)).mappings().one_or_none()
    result = {"action": None, "before": None, "after": None, **_closed(line, clock)}
    if before is None or all(before[name] == result[name] for name in ("outcome", "action", "error")):
        return []
    result["lag"] = None if before["hinted_at"] is None else clock - before["hinted_at"]
    values = {name: value for name, value in before.items() if name != "id"} | result
    inserted = connection.execute(insert(history).values(values))
    line_id = int(inserted.inserted_primary_key[0])  # type: ignore[index]
    outbox.add(connection, line_id, line.outcome.value, clock)
    return [line_id]


def _dump(value: Json) -> str:
    return json.dumps(value, sort_keys=True, default=str, ensure_ascii=False)


def _row(line: Line, clock: float) -> dict[str, Any]:
    return {
        "at": clock,
        "handler": line.handler,
        "key": str(line.key),
        "outcome": line.outcome.value,
        "weight": line.weight,
        "undo": line.undo or None,
        "plan": line.plan or None,
        "operator": clean(line.origin.operator, 255) or None,
        "request_id": line.origin.request_id or None,
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
    values: dict[str, Any] = {"outcome": line.outcome.value, "closed_at": clock, "error": line.error or None}
    values["lag"] = clock - history.c.hinted_at
    if line.healed:
        change = line.healed
        values["action"] = change.action
        if change.undo:
            values["undo"] = change.undo
        values |= {"before": _dump(change.before), "after": _dump(change.after)}
    return values


def close(database: Database, closing: Closing) -> None:
    database.transact(lambda connection: write(connection, [closing], now(connection)))


def open_line(database: Database, line: Line, ask: Ask, line_id: int | None = None) -> int | Deferred | Withheld:
    """Call ``ask``, which asks the gates. If they allow a one-shot command's heal, open the heal's history entry.

    :param line_id: the entry that an earlier heal of the key left open, if any (:func:`begun`)
    :return: the entry's id, or a gate's objection
    """

    def begin(connection: Connection) -> int | Deferred | Withheld:
        clock = now(connection)
        answer = ask(connection, clock)
        if not isinstance(answer, Allowed):
            return answer
        return begun(connection, line.approved_by(answer.operator), clock, line_id)

    return database.transact(begin)


def begun(connection: Connection, line: Line, clock: float, line_id: int | None) -> int:
    """Return the id of a heal's open entry: ``line_id`` if that entry is open for the same drift, otherwise a new entry's id.

    If the entry ``line_id`` is open for another drift, close it. It keeps its own undo.
    """
    query = select(history.c.problem, history.c.evidence)
    opened = None if line_id is None else connection.execute(query.where(_is_open(line_id))).first()
    if line_id is None or opened is None:
        return write(connection, [line], clock)[0]
    if opened == (line.problem, _dump(line.evidence)):
        return line_id
    return write(connection, [_interrupted(line_id, same=opened.problem == line.problem), line], clock)[0]


def _interrupted(line_id: int, *, same: bool) -> Presumed:
    if same:
        return Presumed(line_id, Outcome.FAILED, error=UNKNOWN)
    return Presumed(line_id, Outcome.HEALED, FOLLOWED)


def renew(database: Database, line_ids: Collection[int]) -> None:
    """Record in open entries that their heals still run."""

    def write_time(connection: Connection) -> None:
        running = and_(history.c.id.in_(line_ids), history.c.outcome == Outcome.HEALING)
        connection.execute(update(history).where(running).values(closed_at=now(connection)))

    if line_ids:
        database.transact(write_time)


def append(database: Database, lines: Sequence[Line]) -> None:
    if lines:
        database.transact(lambda connection: write(connection, lines, now(connection)))


def oldest_spent(connection: Connection, handler: str, clock: float) -> float:
    """Find the handler's oldest heal that counts against the budget in the hour before ``clock``.

    :return: when the heal began; ``clock`` without such a heal
    """
    hour = [history.c.handler == handler, history.c.outcome.in_(SPENDING), history.c.at > clock - 3600]
    oldest = connection.execute(select(func.min(history.c.at)).where(*hour)).scalar()
    return clock if oldest is None else float(oldest)


def spent(connection: Connection, handler: str, clock: float, but: int | None = None) -> int:
    """Return how many objects count against the handler's budget in the hour before ``clock``.

    :param but: the id of a history entry that does not count
    """
    hour = [history.c.handler == handler, history.c.outcome.in_(SPENDING), history.c.at > clock - 3600]
    if but is not None:
        hour.append(history.c.id != but)
    return int(connection.execute(select(func.coalesce(func.sum(history.c.weight), 0)).where(*hour)).scalar_one())


def budget_left(database: Database, handler: str, per_hour: int) -> int | None:
    """Return how many more objects the hourly budget lets the handler heal now; None without a budget."""
    if per_hour <= 0:
        return None
    return database.transact(lambda connection: max(0, per_hour - spent(connection, handler, now(connection))))


@dataclass(frozen=True, slots=True)
class Entry:
    """A stored history entry. Times are seconds since the epoch.

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
    weight: int = 1
    plan: str = ""
    operator: str = ""
    request_id: str = ""


def listing(
    database: Database,
    *,
    since: float | None = None,
    handler: str | None = None,
    key: str | None = None,
    outcomes: Sequence[str] = (),
    request_id: str | None = None,
    limit: int = 1000,
) -> list[Entry]:
    """Return the entries that match all arguments, oldest first; of more than ``limit``, only the newest."""
    query = select(history).order_by(history.c.id.desc()).limit(limit)
    if since is not None:
        query = query.where(history.c.at >= since)
    if handler:
        query = query.where(history.c.handler == handler)
    if key:
        query = query.where(history.c.key == key)
    if request_id:
        query = query.where(history.c.request_id == request_id)
    if outcomes:
        query = query.where(history.c.outcome.in_(outcomes))
    rows = database.transact(lambda connection: connection.execute(query).mappings().all())
    return [entry_of(row) for row in reversed(rows)]


def find(database: Database, line_id: int) -> Entry | None:
    query = select(history).where(history.c.id == line_id)
    row = database.transact(lambda connection: connection.execute(query).mappings().one_or_none())
    return entry_of(row) if row else None


def entry_of(row: RowMapping) -> Entry:
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
        closed_at=None if row["outcome"] == Outcome.HEALING else row["closed_at"],
        lag=row["lag"],
        replica=row["replica"],
        weight=row["weight"],
        plan=row["plan"] or "",
        operator=row["operator"] or "",
        request_id=row["request_id"] or "",
    )


@dataclass(frozen=True, slots=True)
class Orphan:
    """An open history entry that no row of the work table names: a one-shot command probably died during the heal."""

    line_id: int
    handler: str
    key: Key


def orphans(database: Database, older_than: float) -> list[Orphan]:
    """Return the orphans that are older than ``older_than`` seconds, and that no process renewed in that time."""

    def read(connection: Connection) -> list[Orphan]:
        line = history.alias()
        stands = exists().where(work.c.healing_id == line.c.id)
        last = now(connection) - older_than
        silent = or_(line.c.closed_at.is_(None), line.c.closed_at < last)
        old = and_(line.c.outcome == Outcome.HEALING, line.c.at < last, silent, ~stands)
        rows = connection.execute(select(line.c.id, line.c.handler, line.c.key).where(old).limit(1000))
        return [Orphan(row[0], row[1], Key.parse(row[2])) for row in rows if is_key(row[2])]

    return database.transact(read)


def is_key(text: str) -> bool:
    try:
        Key.parse(text)
    except ValueError:
        return False
    return True


def expire(database: Database, older_than: float) -> int:
    def forget(connection: Connection) -> int:
        old = and_(history.c.at < now(connection) - older_than, history.c.outcome != Outcome.HEALING)
        ids = list(connection.execute(select(history.c.id).where(old).limit(1000)).scalars())
        return connection.execute(delete(history).where(history.c.id.in_(ids))).rowcount if ids else 0

    return database.transact(forget)
