"""One cycle of archiving in one cell: table by table, tree by tree, each transaction proved by itself, and what came of it.

See :mod:`handlers.nova.archive.archive_deleted_rows` for what and why; the statements are in :mod:`handlers.nova.archive.statements`.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any, Self

import sqlalchemy as sa
from oslo_config import cfg
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError

from handlers.access.database import Database
from handlers.base import Conflict, Healed, Refused, Unavailable
from handlers.nova import options, tables
from handlers.nova.archive import statements
from handlers.nova.archive.schema import INSTANCES, Schema
from handlers.nova.archive.statements import Blocked, Miscounted, Moved
from handlers.nova.cells import Cell
from handlers.nova.database import NovaDatabases

#: how many rows that cannot be moved a finding or the history names, at most
NAMED = 50
#: how many rows an instance has, until the first transaction has shown it
_ROWS_PER_INSTANCE = 20

_API_TABLES = (tables.instance_mappings, tables.request_specs, tables.instance_group_member)
_UNDO = (
    "in the database of {cell}, for one instance: INSERT INTO instances (<columns>) SELECT <columns> FROM shadow_instances "
    "WHERE uuid = '<uuid>'; the same with instance_uuid = '<uuid>' for each table that has that column, with action_id IN "
    "(SELECT id FROM shadow_instance_actions WHERE instance_uuid = '<uuid>') for instance_actions_events; other tables by "
    "id; then DELETE FROM the shadow tables with the same conditions, events first"
)


@dataclass(frozen=True, slots=True)
class Settings:
    """The options.

    :param rows: per transaction
    """

    after_days: int = 30
    rows: int = 1000
    pause: float = 0.05
    rows_per_cycle: int = 100_000
    task_log: bool = False

    @classmethod
    def read(cls, conf: cfg.ConfigOpts) -> Self:
        """Take them from the loaded configuration."""
        group, prefix = conf[options.AUDIT], "archive_deleted_rows_"
        names = ("after_days", "rows_per_transaction", "pause_seconds", "rows_per_cycle", "task_log")
        return cls(*(group[prefix + name] for name in names))


@dataclass(slots=True)
class Tally:
    """What a cycle did in one cell.

    :param failed: why rows were left, by table and key
    :param holding: instances left because they hold something in Placement
    :param stopped: why it ended early
    """

    rows: Counter[str] = field(default_factory=Counter)
    instances: int = 0
    api_rows: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    holding: list[str] = field(default_factory=list)
    stopped: str = ""

    def add(self, moved: Moved) -> None:
        """Count a transaction."""
        self.rows.update(moved.rows)
        self.instances += len(moved.instances)

    def result(self) -> dict[str, Any]:
        """Return it for the history."""
        found: dict[str, Any] = {"rows": dict(sorted(self.rows.items())), "instances": self.instances}
        found["api_rows_deleted"] = self.api_rows
        if self.failed:
            found |= {
                "not_archivable": dict(list(self.failed.items())[:NAMED]),
                "not_archivable_count": len(self.failed),
            }
        if self.holding:
            found |= {"holding_resources": self.holding[:NAMED], "holding_resources_count": len(self.holding)}
        if self.stopped:
            found["stopped"] = self.stopped
        return found


class Cycle:
    """One cycle in one cell."""

    def __init__(
        self,
        databases: NovaDatabases,
        cell: Cell,
        database: Database,
        schema: Schema,
        before: datetime,
        settings: Settings,
    ) -> None:
        self.schema = schema
        self._databases = databases
        self._cell = cell
        self._database = database
        self._before = before
        self._settings = settings
        self._tally = Tally()

    def everything(self, holders: Callable[[], frozenset[str]], go_on: Callable[[], bool]) -> None:
        """Archive all tables until nothing is due or the cycle's share is spent.

        :param holders: asks Placement, which is needed before any instance goes
        :param go_on: asked before each transaction
        """
        log = self._settings.task_log
        for reference, rows in self._database.run(
            lambda connection: list(statements.blocked(connection, self.schema, self._before, log, NAMED))
        ):
            why = f"{reference.child.name} refers to it ({reference.constraint})"
            self._tally.failed |= {f"{reference.parent.name} {row}": why for row in rows}
        try:
            for table in self.schema.archivable(log):
                self._table(table, holders, go_on)
                if self._tally.stopped:
                    break
        except Unavailable as error:
            if not self._tally.rows:
                raise
            self._tally.stopped = str(error)

    def trees(self, table: sa.Table, keys: Sequence[Any]) -> int:
        """Move the trees of these rows in one transaction, or one by one when that fails.

        :return: how many rows were moved
        """
        try:
            moved = self._database.run(
                lambda connection: statements.move(connection, self.schema, table, keys, self._before)
            )
        except (DBAPIError, Blocked, Miscounted) as error:
            if len(keys) > 1:
                return sum(self.trees(table, [key]) for key in keys)
            reason = getattr(error, "orig", None) or error
            self._tally.failed[f"{table.name} {keys[0]}"] = " ".join(str(reason).split())
            return 0
        self._tally.add(moved)
        if moved.instances:
            self._forget(moved.instances)
        return moved.total

    def healed(self) -> Healed:
        """Return what was done.

        :raises Refused: when nothing could be
        :raises Conflict: when it was stopped before it began
        """
        tally, name = self._tally, self._cell.name or self._cell.uuid
        total = sum(tally.rows.values())
        if not total and tally.stopped:
            raise Conflict(f"nothing of {name} was archived: {tally.stopped}")
        if not total and tally.failed:
            first, reason = next(iter(tally.failed.items()))
            raise Refused(f"{len(tally.failed)} rows of {name} cannot be archived, {first}: {reason}")
        if not total and tally.holding:
            raise Refused(
                f"{len(tally.holding)} deleted instances of {name} still hold resources in Placement, "
                f"{tally.holding[0]} for one: audit_allocations has to take them back first"
            )
        left = f"; {len(tally.failed)} cannot be" if tally.failed else ""
        return Healed(
            f"archived {total} rows of {name}, {tally.instances} instances among them, deleted before "
            f"{self._before:%Y-%m-%d}{left}",
            before={"deleted_before": f"{self._before:%Y-%m-%d}"},
            after=tally.result(),
            undo=_UNDO.format(cell=self._cell.label),
            complete=not tally.stopped,
        )

    def _table(self, table: sa.Table, holders: Callable[[], frozenset[str]], go_on: Callable[[], bool]) -> None:
        due = self.schema.due(table, self._before)
        instances = table.name == INSTANCES
        held: frozenset[str] | None = None
        last: Any = None
        limit = self._settings.rows
        if instances:
            limit = max(1, limit // _ROWS_PER_INSTANCE)
        while (left := self._settings.rows_per_cycle - sum(self._tally.rows.values())) > 0:
            rows = self._database.run(
                partial(statements.page, table=table, where=due, after=last, limit=min(limit, left))
            )
            if not rows:
                return
            if not go_on():
                self._tally.stopped = statements.TOLD
                return
            last = rows[-1].key
            if instances:
                held = holders() if held is None else held
                rows = self._released(rows, held)
            moved = self.trees(table, [row.key for row in rows]) if rows else 0
            if instances and moved:
                limit = max(1, min(self._settings.rows, self._settings.rows * len(rows) // moved))
            time.sleep(self._settings.pause)

    def _released(self, rows: Sequence[sa.Row[Any]], held: frozenset[str]) -> list[sa.Row[Any]]:
        owners = self._database.run(lambda connection: migrations(connection, [row.uuid for row in rows]))
        holding = {row.uuid for row in rows if row.uuid in held}
        holding |= {instance for migration, instance in owners.items() if migration in held}
        self._tally.holding += sorted(holding)
        return [row for row in rows if row.uuid not in holding]

    def _forget(self, instances: Sequence[str]) -> None:
        self._tally.api_rows += self._databases.api.run(
            lambda connection: statements.forget(
                connection, _API_TABLES, tables.instance_mappings, instances, self._cell.id
            )
        )


def migrations(connection: Connection, instances: Sequence[str]) -> dict[str, str]:
    """The migrations of these instances, with whose they are."""
    c = tables.migrations.c
    query = sa.select(c.uuid, c.instance_uuid).where(c.instance_uuid.in_(instances), c.uuid.is_not(None))
    return {row.uuid: row.instance_uuid for row in connection.execute(query)}
