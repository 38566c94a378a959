from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, RowMapping, delete, insert, or_, select

from consumer.journal.acts import Also, nothing
from consumer.journal.database import Database, clean, now
from consumer.journal.schema import exemption
from handlers.base import Finding


@dataclass(frozen=True, slots=True)
class Exemption:
    """Objects that no heal changes, by an operator's decision.

    :param scope: a key, or ``host:<name>``, ``project:<id>``, ``cell:<name>``, ``problem:<name>``
    :param until: the end, in seconds since the epoch; None if only an operator ends it
    """

    id: int
    scope: str
    at: float
    until: float | None
    operator: str
    reason: str
    ended: bool


def add(database: Database, scope: str, until: float | None, operator: str, reason: str, also: Also = nothing) -> int:
    """Store an exemption in place of an earlier one of the same scope; return its id.

    :param until: as in :class:`Exemption`
    """

    def store(connection: Connection) -> int:
        also(connection)
        known = connection.execute(select(exemption.c.id, exemption.c.scope))
        same = [row.id for row in known if _normal(row.scope) == _normal(scope)]
        connection.execute(delete(exemption).where(exemption.c.id.in_(same)))
        values = {"scope": scope, "at": now(connection), "until": until, "operator": clean(operator, 255)}
        result = connection.execute(insert(exemption).values(reason=reason, **values))
        return int(result.inserted_primary_key[0])  # type: ignore[index]

    return database.transact(store)


def listing(database: Database) -> list[Exemption]:

    def read(connection: Connection) -> list[Exemption]:
        clock = now(connection)
        rows = connection.execute(select(exemption).order_by(exemption.c.id)).mappings()
        return [_exemption(row, clock) for row in rows]

    return database.transact(read)


def lasting(connection: Connection, limit: int) -> list[Exemption]:
    """Return the newest exemptions that have not ended, at most ``limit``."""
    clock = now(connection)
    query = select(exemption).where(_lasts(clock)).order_by(exemption.c.id.desc()).limit(limit)
    return [_exemption(row, clock) for row in connection.execute(query).mappings()]


def remove(database: Database, ids: Collection[int], also: Also = nothing) -> int:
    def forget(connection: Connection) -> int:
        also(connection)
        return connection.execute(delete(exemption).where(exemption.c.id.in_(ids))).rowcount

    return database.transact(forget)


def covering(connection: Connection, finding: Finding, clock: float) -> Exemption | None:
    """Return an exemption that has not ended and names the finding's key, problem or ``concerns``; None without one."""
    scopes = {_normal(scope) for scope in (str(finding.key), f"problem:{finding.problem}", *finding.concerns)}
    rows = connection.execute(select(exemption).where(_lasts(clock)).order_by(exemption.c.id)).mappings()
    return next((_exemption(row, clock) for row in rows if _normal(row["scope"]) in scopes), None)


def _lasts(clock: float) -> ColumnElement[bool]:
    return or_(exemption.c.until.is_(None), exemption.c.until > clock)


def _normal(scope: str) -> str:
    """Casefold a scope and strip trailing spaces, because MySQL ignores both in host names."""
    return scope.rstrip(" ").casefold()


def _exemption(row: RowMapping, clock: float) -> Exemption:
    return Exemption(
        id=row["id"],
        scope=row["scope"],
        at=row["at"],
        until=row["until"],
        operator=row["operator"],
        reason=row["reason"],
        ended=row["until"] is not None and row["until"] <= clock,
    )
