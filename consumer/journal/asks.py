"""The asks: findings that wait for an operator's approval, and the operators' decisions.

If a later inspection gives other evidence, a new ask with a new id replaces the old one. So an approval never counts for
evidence that its operator did not see.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, RowMapping, and_, delete, func, insert, select, update

from consumer.journal import hinting
from consumer.journal.approvals import State
from consumer.journal.database import Database, clean, now
from consumer.journal.schema import ask
from consumer.journal.work import Hint, Priority
from handlers.base import Finding, Json, Key


@dataclass(frozen=True, slots=True)
class Ask:
    """A finding that waits for approval, or the decision about the finding.

    :param expires_at: end of the ask or of its approval, in seconds since the epoch; a denial lasts longer
    :param reason: the operator's reason; before the decision, the facts that the operator must examine, if any
    """

    id: int
    handler: str
    key: str
    problem: str
    fingerprint: str
    state: State
    at: float
    expires_at: float
    weight: int
    summary: str
    evidence: Json
    plan: str
    undo: str
    operator: str
    reason: str
    expired: bool


#: Another write of a decision's transaction, about the decided asks.
AlsoAsks = Callable[[Connection, Sequence[Ask]], None]


def nothing(_connection: Connection, _decided: Sequence[Ask]) -> None:
    """Write nothing. This is the default of the parameter ``also`` in :func:`approve` and :func:`deny`."""


def standing(connection: Connection, handler: str, key: Key, problem: str, clock: float) -> Ask | None:
    """Return the ask about a problem of a key, even an expired ask; None without an ask."""
    query = select(ask).where(_of(handler, key), ask.c.problem == problem)
    row = connection.execute(query).mappings().one_or_none()
    return _ask(row, clock) if row else None


def put(
    connection: Connection, handler: str, finding: Finding, fingerprint: str, expires_at: float, clock: float
) -> int:
    """Store a finding as an ask, in place of an earlier ask about the same problem; return the ask's id."""
    connection.execute(delete(ask).where(_of(handler, finding.key), ask.c.problem == finding.problem))
    values = {
        "handler": handler,
        "key": str(finding.key),
        "problem": finding.problem,
        "fingerprint": fingerprint,
        "state": State.WAITING.value,
        "at": clock,
        "expires_at": expires_at,
        "weight": finding.weight,
        "summary": finding.summary,
        "evidence": json.dumps(finding.evidence, sort_keys=True, default=str, ensure_ascii=False),
        "plan": finding.plan or None,
        "undo": finding.undo or None,
        "reason": finding.refusal or None,
    }
    result = connection.execute(insert(ask).values(values))
    return int(result.inserted_primary_key[0])  # type: ignore[index]


def withdraw(connection: Connection, handler: str, key: Key) -> None:
    """Delete the asks about a key whose drift is gone, except denials."""
    connection.execute(delete(ask).where(_of(handler, key), ask.c.state != State.DENIED))


def listing(database: Database, handler: str | None = None, problem: str | None = None) -> list[Ask]:
    query = select(ask).order_by(ask.c.id)
    if handler:
        query = query.where(ask.c.handler == handler)
    if problem:
        query = query.where(ask.c.problem == problem)

    def read(connection: Connection) -> list[Ask]:
        clock = now(connection)
        return [_ask(row, clock) for row in connection.execute(query).mappings()]

    return database.transact(read)


#: The most asks among which :func:`waiting` looks.
_AMONG = 2000


def waiting(connection: Connection, limit: int) -> tuple[list[Ask], int]:
    """Return up to ``limit`` asks that wait for a decision, ordered by expiry, and how many asks wait.

    Only the newest 2,000 asks count.
    """
    clock = now(connection)
    newest = select(ask).order_by(ask.c.id.desc()).limit(_AMONG).subquery()
    open_ones = and_(newest.c.state == State.WAITING, newest.c.expires_at > clock)
    first = select(newest).where(open_ones).order_by(newest.c.expires_at, newest.c.id).limit(limit)
    found = [_ask(row, clock) for row in connection.execute(first).mappings()]
    number = connection.execute(select(func.count()).select_from(newest).where(open_ones)).scalar_one()
    return found, int(number)


def find(database: Database, ids: Collection[int]) -> list[Ask]:
    def read(connection: Connection) -> list[Ask]:
        clock = now(connection)
        rows = connection.execute(select(ask).where(ask.c.id.in_(ids)).order_by(ask.c.id)).mappings()
        return [_ask(row, clock) for row in rows]

    return database.transact(read)


def approve(
    database: Database, ids: Sequence[int], operator: str, reason: str = "", also: AlsoAsks = nothing
) -> list[Ask]:
    """Approve asks whose ``expires_at`` is in the future, even denied asks; request an inspection of their keys.

    :return: the asks that this call approved
    """

    def decide(connection: Connection) -> list[Ask]:
        clock = now(connection)
        alive = and_(ask.c.id.in_(ids), ask.c.expires_at > clock, ask.c.state != State.APPROVED)
        found = _locked(connection, alive, clock)
        _decide(connection, [one.id for one in found], State.APPROVED, operator, reason, clock)
        hinting.put(connection, [_hint(one) for one in found], clock)
        also(connection, found)
        return found

    return database.transact(decide)


def deny(database: Database, ids: Sequence[int], operator: str, reason: str, also: AlsoAsks = nothing) -> list[Ask]:
    def decide(connection: Connection) -> list[Ask]:
        clock = now(connection)
        mine = and_(ask.c.id.in_(ids), ask.c.state != State.DENIED)
        found = _locked(connection, mine, clock)
        _decide(connection, [one.id for one in found], State.DENIED, operator, reason, clock)
        also(connection, found)
        return found

    return database.transact(decide)


def expire(database: Database, older_than: float) -> int:
    """Delete up to 1,000 asks that expired more than ``older_than`` seconds ago; return their number. Denials stay."""

    def forget(connection: Connection) -> int:
        end = now(connection) - older_than
        ids = (
            connection.execute(
                select(ask.c.id).where(ask.c.expires_at < end, ask.c.state != State.DENIED.value).limit(1000)
            )
            .scalars()
            .all()
        )
        return connection.execute(delete(ask).where(ask.c.id.in_(ids))).rowcount if ids else 0

    return database.transact(forget)


def _locked(connection: Connection, chosen: ColumnElement[bool], clock: float) -> list[Ask]:
    """Lock the chosen asks, so that only this transaction can decide or replace them."""
    rows = connection.execute(select(ask).where(chosen).order_by(ask.c.id).with_for_update()).mappings()
    return [_ask(row, clock) for row in rows]


def _decide(
    connection: Connection, ids: Collection[int], state: State, operator: str, reason: str, clock: float
) -> None:
    values = {"state": state.value, "operator": clean(operator, 255), "reason": reason or None, "decided_at": clock}
    connection.execute(update(ask).where(ask.c.id.in_(ids)).values(values))


def _hint(one: Ask) -> Hint:
    return Hint(one.handler, Key.parse(one.key), Priority.OPERATOR, "approval")


def _of(handler: str, key: Key) -> ColumnElement[bool]:
    return and_(ask.c.handler == handler, ask.c.key == str(key))


def _ask(row: RowMapping, clock: float) -> Ask:
    return Ask(
        id=row["id"],
        handler=row["handler"],
        key=row["key"],
        problem=row["problem"],
        fingerprint=row["fingerprint"],
        state=State(row["state"]),
        at=row["at"],
        expires_at=row["expires_at"],
        weight=row["weight"],
        summary=row["summary"],
        evidence=json.loads(row["evidence"]),
        plan=row["plan"] or "",
        undo=row["undo"] or "",
        operator=row["operator"] or "",
        reason=row["reason"] or "",
        expired=row["expires_at"] <= clock and row["state"] != State.DENIED,
    )
