"""Deletes expired console tokens of compute hosts that were removed.

**What drifts.** ``console_auth_tokens`` of a cell keeps the tokens of a removed host for ever.

**Why Nova lets it.** nova-compute deletes the expired tokens of its own host, and a removed host runs no nova-compute.

**What is read.** In each cell, the tokens that expired a day ago, and the nova-compute services of their hosts.

**What is changed.** ``DELETE`` of these tokens. Two records prove that a token is a leftover: its own time of expiry, and
the deleted service of its host. A live service of the host contradicts it. Without a deleted service, the token stays.

**Undo.** None is needed: the tokens had expired.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, timedelta

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.sql import ColumnElement

from handlers.access.database import Database, utcnow
from handlers.base import Conflict, Finding, Healed, Key, Mode, Privilege
from handlers.nova.base import DatabaseHandler
from handlers.nova.queries import COMPUTE
from handlers.nova.tables import services

DAY = timedelta(days=1)
#: tokens in one finding
LIMIT = 1000
#: ``expires`` is in seconds since 1970
TOKENS = sa.table(
    "console_auth_tokens", sa.column("id", sa.Integer), sa.column("host", sa.String), sa.column("expires", sa.Integer)
)


class ExpiredConsoles(DatabaseHandler):
    """Delete expired console tokens of compute hosts that were removed."""

    name = "expired_consoles"
    title = "Delete expired console tokens of compute hosts that were removed"
    kinds = ("cell",)
    healable_problems = frozenset({"tokens-expired"})
    default_mode = Mode.AUDIT
    default_interval = int(DAY.total_seconds())
    rights = {"cell": {TOKENS.name: frozenset({Privilege.DELETE})}}

    def sweep(self) -> Iterator[Key]:
        """Yield each cell that has such tokens."""
        found, down = self._databases.run_in_available(self._databases.host_cells(), _leftover_tokens)
        for cell, ids in found.items():
            if ids:
                yield Key("cell", cell.uuid, weight=len(ids))
        if down is not None:
            raise down

    def population(self) -> int:
        """Return the number of tokens in the cells that answer."""
        counts, _ = self._databases.run_in_available(self._databases.host_cells(), _count)
        return sum(counts.values())

    def inspect(self, key: Key) -> Iterator[Finding]:
        """Find such tokens in one cell."""
        database = self._database(key)
        if database is not None and (ids := database.run(_leftover_tokens)):
            summary = f"{database.name} has {len(ids)} expired console tokens of removed hosts"
            yield Finding(key, "tokens-expired", summary, {"ids": ids}, weight=len(ids))

    def heal(self, finding: Finding) -> Healed:
        """Delete the tokens of a finding that are still leftovers."""
        self._databases.require_known_schema()
        proved = self.prove_again(finding)
        database = self._database(proved.key)
        deleted = database.run(lambda connection: _delete(connection, proved.evidence["ids"])) if database else 0
        if not deleted:
            raise Conflict(f"the tokens of {proved.key} are gone")
        return Healed(
            f"deleted {deleted} console tokens", before=proved.evidence, undo="none is needed: they had expired"
        )

    def _database(self, key: Key) -> Database | None:
        """Return the database of a cell; None when the cell no longer exists."""
        cells = (cell for cell in self._databases.host_cells() if cell.uuid == key.id)
        return next((self._databases.database(cell) for cell in cells), None)


def _leftover_tokens(connection: Connection) -> list[int]:
    query = sa.select(TOKENS.c.id).where(_is_leftover(connection)).order_by(TOKENS.c.id).limit(LIMIT)
    return list(connection.scalars(query))


def _delete(connection: Connection, ids: list[int]) -> int:
    return connection.execute(sa.delete(TOKENS).where(TOKENS.c.id.in_(ids), _is_leftover(connection))).rowcount


def _count(connection: Connection) -> int:
    return connection.scalar(sa.select(sa.func.count()).select_from(TOKENS)) or 0


def _is_leftover(connection: Connection) -> ColumnElement[bool]:
    """Return the condition for a leftover, by the clock of the database."""
    now = connection.execute(sa.select(utcnow())).scalar_one()
    a_day_ago = int((now.replace(tzinfo=UTC) - DAY).timestamp())
    computes = sa.select(services.c.host).where(services.c.binary == COMPUTE)
    return sa.and_(
        TOKENS.c.expires < a_day_ago,
        TOKENS.c.host.in_(computes.where(services.c.deleted != 0)),
        TOKENS.c.host.not_in(computes.where(services.c.deleted == 0)),
    )
