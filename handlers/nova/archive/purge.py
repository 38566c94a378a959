"""Deletes archived rows for good, once they are old enough.

**What drifts.** Shadow tables only grow. They slow down backups, and searches, because only their keys have an index.

**Why Nova lets it.** Purging is a command, ``nova-manage db purge``. It deletes a table's rows in one transaction, which Galera
can refuse; with ``--all``, it deletes all rows.

**What is read.** All shadow tables of each cell, cell0 too; the clock of the cell's database.

**What is changed.** Rows older than ``[audit] purge_after_days`` are deleted, in chunks by their key. The date of a row is in
the same column as for nova-manage: ``created_at`` of instance actions and their events, ``updated_at`` of ``task_log``. In
other tables, it is the first that exists of ``deleted_at``, ``updated_at``, ``created_at``. An instance's rows without a date,
such as ``clean_attempts`` in ``instance_system_metadata``, are deleted with the instance.

Budget and breaker count no rows; ``purge_rows_per_cycle`` and the window limit a purge.

**What is not changed.** All other rows without a date, and tables whose key is not a single column.

**Why a race does no harm.** No service of Nova reads these rows.

**Off** by default: a purged row is gone. The allocation of a purged consumer is never released automatically.

**Undo.** None; restore from a backup.

Sources: ``nova/db/main/api.py`` (purge_shadow_tables), ``nova/cmd/manage.py`` (purge).
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from functools import partial
from typing import Any, Self

import sqlalchemy as sa
from oslo_config import cfg
from sqlalchemy.engine import Connection
from sqlalchemy.sql import ColumnElement

from handlers.access.database import Database
from handlers.access.service_files import ConfigError
from handlers.base import EVERY_TABLE, Conflict, Finding, Healed, Key, Mode, Privilege, Resources, Unavailable
from handlers.nova import concerns, options
from handlers.nova.archive import shadow_tables, statements
from handlers.nova.archive.cell_handler import CellHandler, Scope
from handlers.nova.archive.schema import Schema
from handlers.nova.archive.schema import key as primary_key
from handlers.nova.database import NovaDatabases

OPTIONS = [
    *statements.OPTIONS,
    cfg.IntOpt(
        "purge_after_days",
        min=1,
        help="Archived rows that are at least this many days old are deleted for good. Unset: twice "
        "archive_deleted_rows_after_days. It must be more than that option.",
    ),
    cfg.IntOpt(
        "purge_rows_per_cycle",
        default=1_000_000,
        min=1,
        help="The largest number of archived rows of a cell that are deleted at one interval. The rest follows at the next.",
    ),
]


#: why a purge of a cell ended early, although it is complete for this interval
_ENOUGH = "[audit] purge_rows_per_cycle is reached; the rest follows at the next interval"
_UNDO = "none: purged rows are gone; restore them from a backup"


class Problem(StrEnum):
    DUE = "rows-to-purge"


class _Stopped(Exception):
    """The purge of a cell ended early: ``go_on`` returned False, or ``purge_rows_per_cycle`` was reached."""


class Purge(CellHandler):
    name = "purge"
    title = "Delete archived rows for good, once they are old enough"
    kinds = ("cell",)
    healable_problems = frozenset({Problem.DUE})
    # a cell's rows belong to many hosts and projects
    concerned_kinds = frozenset({"cell"})
    default_mode = Mode.OFF
    follows = ("archive_deleted_rows",)
    default_interval = 86400
    requires = ("nova_api",)
    cost = "A scan of each cell's shadow tables, which have no index on dates; once a day, in a quiet hour, is fine."
    rights = {"cell": {EVERY_TABLE: frozenset({Privilege.DELETE})}}

    def __init__(
        self,
        databases: NovaDatabases,
        after_days: int,
        rows: int = 1000,
        pause: float = 0.05,
        rows_per_cycle: int = 1_000_000,
    ) -> None:
        super().__init__(databases, after_days)
        self._rows = rows
        self._pause = pause
        self._rows_per_cycle = rows_per_cycle

    @classmethod
    def options(cls) -> Mapping[str, Sequence[cfg.Opt]]:
        return {options.GROUP: options.OPTIONS, options.AUDIT: OPTIONS}

    @classmethod
    def from_resources(cls, resources: Resources) -> Self:
        group = resources.conf[options.AUDIT]
        archived = group.archive_deleted_rows_after_days
        days = 2 * archived if group.purge_after_days is None else group.purge_after_days
        if days <= archived:
            raise ConfigError(
                f"[audit] purge_after_days is {days}, so that rows would be purged as soon as they are archived: write "
                f"more than the {archived} of archive_deleted_rows_after_days"
            )
        rows, pause = group.archive_deleted_rows_rows_per_transaction, group.archive_deleted_rows_pause_seconds
        return cls(resources.get(NovaDatabases.from_resources), days, rows, pause, group.purge_rows_per_cycle)

    def inspect(self, key: Key) -> Iterable[Finding]:
        cell = self._databases.find_cell(key.id)
        if cell is None:
            return []
        database, schema = self.open(cell)
        before, names = database.run(lambda connection: self._due(connection, schema, self.limit(connection)))
        if not names:
            return []
        scope = Scope(cell.uuid, before.date())
        summary = f"{cell.name or cell.uuid} has archived rows from before {scope.before} in {', '.join(names)}"
        bounds = f"-- in transactions of about {self._rows} rows, at most {self._rows_per_cycle} rows\n"
        plan = bounds + database.plan(shadow_tables.purging(schema, names, before))
        return [
            Finding(
                key,
                Problem.DUE,
                summary,
                scope.to_json(),
                undo=_UNDO,
                plan=plan,
                concerns=concerns.of_cell(cell),
            )
        ]

    def due(self, database: Database, schema: Schema, before: datetime) -> bool:
        return bool(database.run(lambda connection: self._due(connection, schema, before))[1])

    @staticmethod
    def _due(connection: Connection, schema: Schema, before: datetime) -> tuple[datetime, list[str]]:
        return before, [
            table.name
            for table, old in shadow_tables.purgeable(schema, before)
            if connection.execute(sa.select(primary_key(table)).where(old).limit(1)).first() is not None
        ]

    def heal_while(self, finding: Finding, go_on: Callable[[], bool]) -> Healed:
        opened = self.begin(finding)
        cell, database, schema, before = opened.cell, opened.database, opened.schema, opened.before
        gone: Counter[str] = Counter()
        stopped = ""
        try:
            for table, lacking in shadow_tables.undated(schema):
                work = partial(shadow_tables.purge_with_instances, schema=schema, shadow=table, before=before)
                for number in self._chunks(database, table, lacking, work, go_on, gone):
                    gone[table.name] += number
            for table, old in shadow_tables.purgeable(schema, before):
                work = partial(shadow_tables.purge, shadow=table, where=old)
                for number in self._chunks(database, table, old, work, go_on, gone):
                    gone[table.name] += number
        except _Stopped as error:
            stopped = str(error)
        except Unavailable as error:
            if not gone.total():
                raise
            stopped = str(error)
        if stopped and not gone.total():
            raise Conflict(f"no row of {cell.name or cell.uuid} was purged: {stopped}")
        return Healed(
            f"purged {gone.total()} archived rows of {cell.name or cell.uuid} from before {before:%Y-%m-%d}",
            before={"from_before": f"{before:%Y-%m-%d}"},
            after={"purged": dict(sorted((+gone).items()))} | ({"stopped": stopped} if stopped else {}),
            undo=_UNDO,
            complete=stopped in ("", _ENOUGH),
        )

    def _chunks(
        self,
        database: Database,
        table: sa.Table,
        where: ColumnElement[bool],
        work: Callable[..., int],
        go_on: Callable[[], bool],
        gone: Counter[str],
    ) -> Iterator[int]:
        last: Any = None
        while True:
            limit = min(self._rows, self._rows_per_cycle - gone.total())
            rows = database.run(partial(statements.page, table=table, where=where, after=last, limit=max(1, limit)))
            if not rows:
                return
            if limit <= 0:
                raise _Stopped(_ENOUGH)
            if not go_on():
                raise _Stopped(statements.STOPPED)
            keys = [row.key for row in rows]
            began = time.monotonic()
            number = database.run(partial(work, keys=keys))
            took = time.monotonic() - began
            yield number
            last = keys[-1]
            time.sleep(min(self._pause, took))
