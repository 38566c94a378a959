"""Deletes archived rows for good, once they are old enough.

**What drifts.** Shadow tables only grow. They are in nobody's way but the backup's, and that of whoever looks something
up in them: they have no index but the key.

**Why Nova lets it.** Purging is ``nova-manage db purge``, by hand. It deletes a table in one transaction, however many
rows that are, which Galera refuses; without a date it deletes everything, and ``archive_deleted_rows --purge`` gives it
none.

**What is read.** All shadow tables of each cell, cell0 included, those of tables that Nova has given up as well; the day
``[audit] purge_after_days`` ago by the cell's own clock.

**What is changed.** Rows are deleted whose date is before that day, in chunks by their key, with the size and the pause
of archive_deleted_rows. The date is nova-manage's: ``created_at`` of instance actions and their events (which are never
deleted formally), ``updated_at`` of ``task_log``, otherwise ``deleted_at``, ``updated_at`` or ``created_at``, the first
that the table has. So the actions of an instance that lived long go before the instance. Each transaction is whole by
itself; being killed between two does no harm.

Rows of an archived instance that have no date go right before it, when it is old enough itself: Nova leaves one
(``clean_attempts``) where it had to clean up after an instance whose host was away.

**What is not changed.** Other rows without such a date. Tables without any of these columns, or without a key of one column.
A cell that does not answer.

**Off** unless an operator wants it: what is purged is gone. What can be lost is more than history: an allocation whose
consumer no table knows any more is never taken back by itself (see audit_allocations).

**Undo.** None; restore from a backup.

Sources: ``nova/db/main/api.py`` (purge_shadow_tables), ``nova/cmd/manage.py`` (purge).
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any, Self

import sqlalchemy as sa
from oslo_config import cfg
from sqlalchemy.engine import Connection
from sqlalchemy.sql import ColumnElement

from handlers.access.database import Database
from handlers.access.service_files import ConfigError
from handlers.base import EVERY_TABLE, Conflict, Finding, Healed, Key, Mode, Privilege, Resources, Unavailable
from handlers.nova import options
from handlers.nova.archive import shadow_tables, statements
from handlers.nova.archive.cell_handler import CellHandler
from handlers.nova.archive.schema import Schema
from handlers.nova.archive.schema import key as primary_key
from handlers.nova.database import NovaDatabases

OPTIONS = [
    *statements.OPTIONS,
    cfg.IntOpt(
        "purge_after_days",
        min=1,
        help="Archived rows that are this many days old, or older, are deleted for good. Not set: twice "
        "archive_deleted_rows_after_days. It must be more than that.",
    ),
]


class _Told(Exception):
    """It is not to go on."""


class Purge(CellHandler):
    """See the module."""

    name = "purge"
    title = "Delete archived rows for good, once they are old enough"
    kinds = ("cell",)
    healable_problems = frozenset({"rows-to-purge"})
    default_mode = Mode.OFF
    default_interval = 86400
    requires = ("nova_api",)
    cost = "A scan of each cell's shadow tables, which have no index on dates; once a day, in a quiet hour, is fine."
    rights = {"cell": {EVERY_TABLE: frozenset({Privilege.DELETE})}}

    def __init__(self, databases: NovaDatabases, after_days: int, rows: int = 1000, pause: float = 0.05) -> None:
        super().__init__(databases, after_days)
        self._rows = rows
        self._pause = pause

    @classmethod
    def options(cls) -> Mapping[str, Sequence[cfg.Opt]]:
        """Where Nova's databases are, and what to purge how fast."""
        return {options.GROUP: options.OPTIONS, options.AUDIT: OPTIONS}

    @classmethod
    def from_resources(cls, resources: Resources) -> Self:
        """Make it on the shared databases.

        :raises ConfigError: when rows would be purged as soon as they are archived
        """
        group = resources.conf[options.AUDIT]
        archived = group.archive_deleted_rows_after_days
        days = 2 * archived if group.purge_after_days is None else group.purge_after_days
        if days <= archived:
            raise ConfigError(
                f"[audit] purge_after_days is {days}, so that rows would be purged as soon as they are archived: write "
                f"more than the {archived} of archive_deleted_rows_after_days"
            )
        rows, pause = group.archive_deleted_rows_rows_per_transaction, group.archive_deleted_rows_pause_seconds
        return cls(resources.get(NovaDatabases.from_resources), days, rows, pause)

    def inspect(self, key: Key) -> Iterable[Finding]:
        """Count what is old enough in a cell's shadow tables."""
        cell = self.cell(key.id)
        if cell is None:
            return []
        database, schema = self.open(cell)

        def look(connection: Connection) -> tuple[datetime, dict[str, int]]:
            before = self.limit(connection)
            return before, {
                table.name: _count(connection, table, old) for table, old in shadow_tables.purgeable(schema, before)
            }

        before, counts = database.run(look)
        found = {name: number for name, number in counts.items() if number}
        if not found:
            return []
        what = ", ".join(f"{number} of {table}" for table, number in found.items())
        return [
            Finding(
                key,
                "rows-to-purge",
                f"{cell.name or cell.uuid} has archived rows from before {before:%Y-%m-%d}: {what}",
                {"cell": cell.uuid, "before": f"{before:%Y-%m-%d}"},
            )
        ]

    def due(self, database: Database, schema: Schema, before: datetime) -> bool:
        """Tell whether a cell has archived rows which are old enough."""

        def look(connection: Connection) -> bool:
            return any(
                connection.execute(sa.select(primary_key(table)).where(old).limit(1)).first() is not None
                for table, old in shadow_tables.purgeable(schema, before)
            )

        return database.run(look)

    def heal_while(self, finding: Finding, go_on: Callable[[], bool]) -> Healed:
        """Delete, in many transactions, each of which looks at the dates again."""
        cell, database, schema, before = self.permitted(finding)
        gone: Counter[str] = Counter()
        stopped = ""
        try:
            for table, lacking in shadow_tables.undated(schema):
                work = partial(shadow_tables.purge_with_instances, schema=schema, shadow=table, before=before)
                for number in self._chunks(database, table, lacking, work, go_on):
                    gone[table.name] += number
            for table, old in shadow_tables.purgeable(schema, before):
                work = partial(shadow_tables.purge, shadow=table, where=old)
                for number in self._chunks(database, table, old, work, go_on):
                    gone[table.name] += number
        except _Told:
            stopped = statements.TOLD
        except Unavailable as error:
            if not gone.total():
                raise
            stopped = str(error)
        if stopped and not gone.total():
            raise Conflict(f"nothing of {cell.name or cell.uuid} was purged: {stopped}")
        return Healed(
            f"purged {gone.total()} archived rows of {cell.name or cell.uuid} from before {before:%Y-%m-%d}",
            before={"from_before": f"{before:%Y-%m-%d}"},
            after={"purged": dict(sorted((+gone).items()))} | ({"stopped": stopped} if stopped else {}),
            undo="none: purged rows are gone; restore from a backup",
            complete=not stopped,
        )

    def _chunks(
        self,
        database: Database,
        table: sa.Table,
        where: ColumnElement[bool],
        work: Callable[..., int],
        go_on: Callable[[], bool],
    ) -> Iterator[int]:
        """Delete chunk by chunk; yield how many rows went with each.

        :param where: which rows come into question
        :param work: deletes those of a chunk that may go, given a connection and their keys
        :raises _Told: when there is more, and it is not to go on
        """
        last: Any = None
        while rows := database.run(partial(statements.page, table=table, where=where, after=last, limit=self._rows)):
            if not go_on():
                raise _Told
            keys = [row.key for row in rows]
            yield database.run(partial(work, keys=keys))
            last = keys[-1]
            time.sleep(self._pause)


def _count(connection: Connection, table: sa.Table, old: ColumnElement[bool]) -> int:
    return connection.scalar(sa.select(sa.func.count()).select_from(table).where(old)) or 0
