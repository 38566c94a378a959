"""One run of archiving in one cell. Each transaction proves again that its rows are old."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Self

import sqlalchemy as sa
from oslo_config import cfg
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError

from handlers.base import Conflict, Healed, Refused, Unavailable
from handlers.nova import options, queries, tables
from handlers.nova.archive import statements
from handlers.nova.archive.cell_handler import OpenCell
from handlers.nova.archive.schema import INSTANCES
from handlers.nova.archive.statements import Blocked, Miscounted, Moved
from handlers.nova.database import NovaDatabases

#: the most rows that a finding or the history names
NAMED = 50
#: why a deleted instance with a host that is down stays
AWAITED = (
    "its host has not reported since the deletion, and may still have the guest. When nova-compute returns, it needs the row "
    "to destroy the guest. If the host never returns: openstack compute service delete ID"
)
#: rows of an instance, until the first transaction has shown the real number
_ROWS_PER_INSTANCE = 20


@dataclass(frozen=True, slots=True)
class Settings:
    """The options of archiving.

    One transaction moves about ``rows`` rows, because an instance moves with all its rows. After ``rows_per_cycle`` rows, a run
    begins no other transaction.
    """

    after_days: int = 30
    rows: int = 1000
    pause: float = 0.05
    rows_per_cycle: int = 100_000
    task_log: bool = False

    @classmethod
    def read(cls, conf: cfg.ConfigOpts) -> Self:
        group, prefix = conf[options.AUDIT], "archive_deleted_rows_"
        names = ("after_days", "rows_per_transaction", "pause_seconds", "rows_per_cycle", "task_log")
        return cls(*(group[prefix + name] for name in names))


@dataclass(slots=True)
class Tally:
    """The results of one run of archiving in one cell.

    :param failed: why a row did not move, by table and key
    :param holding: deleted instances that still have resources in Placement
    :param awaited: deleted instances whose guest can still be on a host that is down
    """

    rows: Counter[str] = field(default_factory=Counter)
    instances: int = 0
    api_rows: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    holding: list[str] = field(default_factory=list)
    awaited: list[str] = field(default_factory=list)
    stopped: str = ""

    def add(self, moved: Moved) -> None:
        self.rows.update(moved.rows)
        self.instances += len(moved.instances)

    def result(self) -> dict[str, Any]:
        found: dict[str, Any] = {"rows": dict(sorted(self.rows.items())), "instances": self.instances}
        found["api_rows_deleted"] = self.api_rows
        if self.failed:
            found |= {
                "not_archivable": dict(list(self.failed.items())[:NAMED]),
                "not_archivable_count": len(self.failed),
            }
        if self.holding:
            found |= {"holding_resources": self.holding[:NAMED], "holding_resources_count": len(self.holding)}
        if self.awaited:
            found |= {"awaiting_hosts": self.awaited[:NAMED], "awaiting_hosts_count": len(self.awaited)}
        if self.stopped:
            found["stopped"] = self.stopped
        return found


class Cycle:
    def __init__(self, databases: NovaDatabases, opened: OpenCell, settings: Settings, undo_text: str) -> None:
        self._databases = databases
        self._cell = opened.cell
        self._database = opened.database
        self._schema = opened.schema
        self._before = opened.before
        self._settings = settings
        self._undo = undo_text
        self._tally = Tally()

    def everything(self, holders: Callable[[], frozenset[str]], go_on: Callable[[], bool]) -> None:
        """Archive the cell's old rows. End early at the limit of a run, or when ``go_on`` returns False.

        :param holders: returns all consumers in Placement; called before the first instance moves
        """
        log = self._settings.task_log
        for reference, rows in self._database.run(
            lambda connection: list(statements.blocked(connection, self._schema, self._before, log, NAMED))
        ):
            why = f"{reference.child.name} refers to it ({reference.constraint})"
            self._tally.failed |= {f"{reference.parent.name} {row}": why for row in rows}
        try:
            for table in self._schema.archivable(log):
                self._table(table, holders, go_on)
                if self._tally.stopped:
                    break
        except Unavailable as error:
            if not self._tally.rows:
                raise
            self._tally.stopped = str(error)

    def one_instance(self, row: int) -> None:
        self._trees(self._schema.tables[INSTANCES], [row])

    def healed(self) -> Healed:
        """Return the results of the run.

        :raises Refused: no row moved, because the old rows must stay
        :raises Conflict: no row moved, because the run ended early
        """
        tally, name = self._tally, self._cell.name or self._cell.uuid
        total = sum(tally.rows.values())
        if not total and tally.stopped:
            raise Conflict(f"no row of {name} was archived: {tally.stopped}")
        if not total and tally.failed:
            first, reason = next(iter(tally.failed.items()))
            raise Refused(f"{len(tally.failed)} rows of {name} cannot be archived. The first is {first}: {reason}")
        if not total and tally.holding:
            raise Refused(
                f"{len(tally.holding)} deleted instances of {name} still hold resources in Placement. The first is "
                f"{tally.holding[0]}. audit_allocations has to release them first"
            )
        if not total and tally.awaited:
            raise Refused(
                f"{len(tally.awaited)} deleted instances of {name} stay. The first is {tally.awaited[0]}: {AWAITED}"
            )
        left = f"; {len(tally.failed)} rows cannot be archived" if tally.failed else ""
        return Healed(
            f"archived {total} rows of {name}, with {tally.instances} instances, deleted before {self._before:%Y-%m-%d}{left}",
            before={"deleted_before": f"{self._before:%Y-%m-%d}"},
            after=tally.result(),
            undo=self._undo,
            complete=not tally.stopped,
        )

    def _table(self, table: sa.Table, holders: Callable[[], frozenset[str]], go_on: Callable[[], bool]) -> None:
        due = self._schema.due(table, self._before)
        instances = table.name == INSTANCES
        consumers: frozenset[str] | None = None
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
                self._tally.stopped = statements.STOPPED
                return
            last = rows[-1].key
            if instances:
                consumers = holders() if consumers is None else consumers
                rows = self._not_awaited(self._without_allocations(rows, consumers))
            moved = self._trees(table, [row.key for row in rows]) if rows else 0
            if instances and moved:
                limit = max(1, min(self._settings.rows, self._settings.rows * len(rows) // moved))
            time.sleep(self._settings.pause)

    def _trees(self, table: sa.Table, keys: Sequence[Any]) -> int:
        """:return: how many rows of the cell moved"""
        try:
            moved = self._database.run(
                lambda connection: statements.move(connection, self._schema, table, keys, self._before)
            )
        except (DBAPIError, Blocked, Miscounted) as error:
            if len(keys) > 1:
                return sum(self._trees(table, [key]) for key in keys)
            reason = getattr(error, "orig", None) or error
            self._tally.failed[f"{table.name} {keys[0]}"] = " ".join(str(reason).split())
            return 0
        self._tally.add(moved)
        self._forget(moved.instances)
        return moved.total

    def _without_allocations(self, rows: Sequence[sa.Row[Any]], consumers: frozenset[str]) -> list[sa.Row[Any]]:
        owners = self._database.run(lambda connection: migrations(connection, [row.uuid for row in rows]))
        holding = {row.uuid for row in rows if row.uuid in consumers}
        holding |= {instance for migration, instance in owners.items() if migration in consumers}
        self._tally.holding += sorted(holding)
        return [row for row in rows if row.uuid not in holding]

    def _not_awaited(self, rows: Sequence[sa.Row[Any]]) -> list[sa.Row[Any]]:
        awaited = self._database.run(partial(statements.awaited, instances=[row.uuid for row in rows]))
        self._tally.awaited += sorted(awaited)
        return [row for row in rows if row.uuid not in awaited]

    def _forget(self, instances: Sequence[str]) -> None:
        if not instances:
            return
        others = [cell for cell in self._databases.cells() if cell.uuid != self._cell.uuid]
        found, down = self._databases.run_in_available(others, lambda connection: queries.lives(connection, instances))
        alive = {uuid for rows in found.values() for uuid, lives in rows.items() if lives}
        gone = [uuid for uuid in instances if uuid not in alive]
        if down is None and gone:
            with suppress(Miscounted):  # what stays is an orphaned mapping, for heal_instance_mappings
                self._tally.api_rows += self._databases.api.run(
                    lambda connection: statements.forget(connection, gone, self._cell.id)
                )


def migrations(connection: Connection, instances: Sequence[str]) -> dict[str, str]:
    c = tables.migrations.c
    query = sa.select(c.uuid, c.instance_uuid).where(c.instance_uuid.in_(instances), c.uuid.is_not(None))
    return {row.uuid: row.instance_uuid for row in connection.execute(query)}
