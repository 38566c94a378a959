"""Moves rows that were deleted long ago out of Nova's tables, into its shadow tables.

**What drifts.** Nova never removes a row of a cell: it marks it as deleted. The tables grow with every instance that ever
was, and all queries of Nova with them.

**Why Nova lets it.** Archiving is ``nova-manage db archive_deleted_rows``, a command for a timer that somebody has to
write. It selects the oldest rows first, all in one transaction; one row that cannot be moved (an instance with a leftover
in ``share_mapping``) stops it there, at every run; so does a deleted security group that still has rules, which it copies
twice, once for each foreign key. It asks nobody whether an instance still holds resources in Placement; once archived,
Nova itself will not take those back.

**What is read.** The schema of each cell, cell0 included, with its foreign keys; the rows that were deleted before a day
(``[audit] archive_deleted_rows_after_days``, by the cell's own clock, whole days); and who holds anything of any compute
node in Placement: one request per node and cycle, not per instance. When Placement does not answer nothing is archived.

**What is changed.** A deleted instance moves with all rows that refer to it, directly or not, whatever their own mark
says: a tree, children first, whole or not at all. Other deleted rows (services, compute nodes with their devices,
volumes that were detached from an instance that lives, security groups ...) move likewise; but what belongs to a deleted
row waits for that row. Several trees share a transaction of about ``archive_deleted_rows_rows_per_transaction`` rows, as
a statement per table and row is what makes nova-manage slow; when one fails its trees are tried one by one, and only
what really cannot be moved is left. In each transaction the rows are locked and looked at again (still deleted, still
old enough); INSERT and DELETE must count the same rows. Columns that a shadow table lacks are lost, as with nova-manage.

After each transaction, what nova_api keeps about its instances goes too: mapping, request specification and group
membership, unless the mapping names another cell (a copy left by a move between cells), or none. Not in one transaction
with the cell, which nothing can: what an interruption in between leaves is an orphaned mapping, for
heal_instance_mappings to find; looking for it here would cost a scan of the shadow tables.

Being killed at any point does no harm: what is committed is archived, what is not is as it was.

**What is not changed.** An instance that holds resources in Placement, itself or one of its migrations: that is for
audit_allocations first. Trees that cannot be moved: reported with the constraint that holds them (``row-unarchivable``).
They cost at most one vain attempt per cycle and block nobody, since the selection goes on behind them by key; nothing
is remembered. ``task_log``, whose rows are never deleted, unless ``archive_deleted_rows_task_log`` is set. Tables that Nova
has given up. A cell that does not answer.

**No notification** starts this: a row would wait a month in the journal for what a query by date finds just as well.

**Undo.** The rows are in the shadow tables until they are purged; the statements that bring one instance back are in the
history. What nova_api had of it is gone: ``nova-manage cell_v2 map_instances`` makes the mapping again.

Sources: ``nova/db/main/api.py`` (archive_deleted_rows, _get_fk_stmts), ``nova/cmd/manage.py`` (archive_deleted_rows),
``nova/objects/instance_mapping.py``, ``nova/objects/instance_group.py`` (destroy_members_bulk).
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from functools import partial
from typing import Any, Self

import sqlalchemy as sa
from oslo_config import cfg
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError

from handlers import cloud_options
from handlers.base import Conflict, Finding, Healed, Key, Refused, Resources, Unavailable
from handlers.database import Database
from handlers.nova import archival, options, tables
from handlers.nova.archival import Blocked, Miscounted, Moved, Schema
from handlers.nova.cells import Cell
from handlers.nova.database import NovaDatabases
from handlers.nova.nodes import live_nodes
from handlers.nova.placement import Placement
from handlers.nova.task import NovaTask

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

OPTIONS = [
    *archival.OPTIONS,
    cfg.IntOpt(
        "archive_deleted_rows_rows_per_cycle",
        default=100000,
        min=1,
        help="How many rows of a cell are archived at one interval, about. The rest follows at the next one.",
    ),
    cfg.BoolOpt(
        "archive_deleted_rows_task_log",
        default=False,
        help="Whether to archive the records of the usage audit (task_log), too. They are never deleted, so they are "
        "archived by the date of their last change. Not before whoever reads them has done so.",
    ),
]


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
        group, prefix = conf[archival.GROUP], "archive_deleted_rows_"
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


class ArchiveDeletedRows(NovaTask):
    """See the module."""

    name = "archive_deleted_rows"
    title = "Move rows that were deleted long ago into Nova's shadow tables"
    kinds = ("cell", "instance")
    default_mode = "heal"
    default_interval = 86400
    requires = ("nova_api", "placement")
    cost = (
        "A scan of each cell's tables for deleted rows and one request to Placement per compute node; then some thousand "
        "rows per second. Once a day, in a quiet hour, is fine."
    )

    def __init__(self, databases: NovaDatabases, placement: Placement, settings: Settings) -> None:
        self._databases = databases
        self._placement = placement
        self._settings = settings

    @classmethod
    def options(cls) -> Mapping[str, Sequence[cfg.Opt]]:
        """Where Nova's databases and Placement are, and how much to archive how fast."""
        return {
            options.GROUP: options.OPTIONS,
            cloud_options.GROUP: cloud_options.OPTIONS,
            archival.GROUP: OPTIONS,
        }

    @classmethod
    def from_resources(cls, resources: Resources) -> Self:
        """Make it on the shared databases and session."""
        databases, placement = resources.get(NovaDatabases.from_resources), resources.get(Placement.from_resources)
        return cls(databases, placement, Settings.read(resources.conf))

    def inspect(self, key: Key) -> Iterable[Finding]:
        """Count what is due in a cell and name what is blocked, or look for one deleted instance in all cells."""
        if key.kind == "instance":
            return self._inspect_instance(key)
        cell = find_cell(self._databases, key.id)
        return [] if cell is None else self._inspect_cell(key, cell)

    def sweep(self) -> Iterator[Key]:
        """Yield the cells that have rows which are old enough."""
        down: Unavailable | None = None
        for cell in self._databases.cells():
            try:
                database, schema = self._open(cell)
                before = database.run(self._limit)
                due = database.run(
                    partial(archival.any_due, schema=schema, before=before, task_log=self._settings.task_log)
                )
            except Unavailable as error:
                down = error
                continue
            if due:
                yield Key("cell", cell.uuid)
        if down is not None:
            raise down

    def population(self) -> int:
        """How many cells there are."""
        return len(self._databases.cells())

    def heal(self, finding: Finding) -> Healed:
        """Archive all that is due, or the cycle's share of it."""
        return self.heal_while(finding, lambda: True)

    def heal_while(self, finding: Finding, go_on: Callable[[], bool]) -> Healed:
        """Archive, in many transactions, each of which proves again what it moves."""
        if not finding.healable:
            raise Refused(finding.refusal)
        cell = find_cell(self._databases, finding.evidence["cell"])
        if cell is None:
            raise Conflict(f"the cell {finding.evidence['cell']} is gone")
        self._databases.permit_changes([cell])
        database, schema = self._open(cell)
        before = archival.midnight(finding.evidence["before"])
        if before > database.run(self._limit):
            raise Conflict(f"what was deleted before {before:%Y-%m-%d} is not old enough now")
        run = _Run(self._databases, cell, database, schema, before, self._settings)
        if finding.key.kind == "instance":
            return self._heal_instance(finding, run)
        run.everything(self._holders, go_on)
        return run.healed()

    def _heal_instance(self, finding: Finding, run: _Run) -> Healed:
        found = self._inspect_instance(finding.key)
        if [(now.problem, now.evidence) for now in found] != [(finding.problem, finding.evidence)]:
            raise Conflict(f"{finding.key} is not as it was")
        run.trees(run.schema.tables[archival.INSTANCES], [finding.evidence["id"]])
        return run.healed()

    def _open(self, cell: Cell) -> tuple[Database, Schema]:
        database = self._databases.database(cell)
        return database, Schema.read(database)

    def _limit(self, connection: Connection) -> datetime:
        return archival.midnight(archival.days_ago(connection, self._settings.after_days))

    def _inspect_cell(self, key: Key, cell: Cell) -> list[Finding]:
        database, schema = self._open(cell)
        log = self._settings.task_log

        def look(connection: Connection) -> tuple[date, dict[str, int], list[tuple[archival.Reference, list[str]]]]:
            before = self._limit(connection)
            counts = archival.count_due(connection, schema, before, log)
            return before.date(), counts, list(archival.blocked(connection, schema, before, log, NAMED))

        before, counts, blocked = database.run(look)
        name = cell.name or cell.uuid
        findings = []
        if counts:
            what = ", ".join(f"{number} of {table}" for table, number in counts.items())
            summary = (
                f"{name} has rows deleted before {before}, which can be archived with all that belongs to them: {what}"
            )
            findings.append(Finding(key, "rows-to-archive", summary, {"cell": cell.uuid, "before": before.isoformat()}))
        return findings + [_unarchivable(key, cell, reference, rows) for reference, rows in blocked]

    def _inspect_instance(self, key: Key) -> list[Finding]:
        table = tables.instances

        def look(connection: Connection) -> tuple[int, datetime] | None:
            before = self._limit(connection)
            query = sa.select(table.c.id).where(table.c.uuid == key.id, archival.old(table, before))
            row = connection.execute(query).first()
            return None if row is None else (row.id, before)

        for cell, seen in self._databases.run_in(self._databases.cells(), look).items():
            if seen is not None:
                return [self._judge_instance(key, cell, *seen)]
        return []

    def _judge_instance(self, key: Key, cell: Cell, row: int, before: datetime) -> Finding:
        database, schema = self._open(cell)
        instances = schema.tables[archival.INSTANCES]
        evidence = {"cell": cell.uuid, "before": before.date().isoformat(), "id": row, "instance": key.id}
        consumers = [key.id, *database.run(lambda connection: _migrations(connection, [key.id]))]
        holding = [consumer for consumer in consumers if self._placement.allocation(consumer).providers]
        for reference in schema.blockers(instances):
            if database.run(partial(archival.refers, reference=reference, value=key.id)):
                return _unarchivable(key, cell, reference, [key.id])
        if holding:
            return Finding(
                key,
                "instance-holds-resources",
                f"instance {key.id} is deleted, but still holds resources in Placement",
                evidence | {"consumers": holding},
                healable=False,
                refusal="audit_allocations has to take them back first",
            )
        return Finding(
            key, "rows-to-archive", f"instance {key.id} of {cell.name} was deleted before {before:%Y-%m-%d}", evidence
        )

    def _holders(self) -> frozenset[str]:
        """Return all consumers that hold something of any compute node."""
        providers = self._placement.compute_providers()
        nodes, down = live_nodes(self._databases)
        if not providers and (nodes or down is not None):
            raise Unavailable("placement", f"lists no compute node's provider, while the cells have {len(nodes)} nodes")
        return frozenset[str]().union(*(self._placement.holders(provider) for provider in providers))


class _Run:
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
            lambda connection: list(archival.blocked(connection, self.schema, self._before, log, NAMED))
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
                lambda connection: archival.move(connection, self.schema, table, keys, self._before)
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
        instances = table.name == archival.INSTANCES
        held: frozenset[str] | None = None
        last: Any = None
        limit = self._settings.rows
        if instances:
            limit = max(1, limit // _ROWS_PER_INSTANCE)
        while (left := self._settings.rows_per_cycle - sum(self._tally.rows.values())) > 0:
            rows = self._database.run(
                partial(archival.page, table=table, where=due, after=last, limit=min(limit, left))
            )
            if not rows:
                return
            if not go_on():
                self._tally.stopped = archival.TOLD
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
        owners = self._database.run(lambda connection: _migrations(connection, [row.uuid for row in rows]))
        holding = {row.uuid for row in rows if row.uuid in held}
        holding |= {instance for migration, instance in owners.items() if migration in held}
        self._tally.holding += sorted(holding)
        return [row for row in rows if row.uuid not in holding]

    def _forget(self, instances: Sequence[str]) -> None:
        self._tally.api_rows += self._databases.api.run(
            lambda connection: archival.forget(
                connection, _API_TABLES, tables.instance_mappings, instances, self._cell.id
            )
        )


def find_cell(databases: NovaDatabases, uuid: str) -> Cell | None:
    """Return the cell of this uuid."""
    return next((cell for cell in databases.cells() if cell.uuid == uuid), None)


def _migrations(connection: Connection, instances: Sequence[str]) -> dict[str, str]:
    """The migrations of these instances, with whose they are."""
    c = tables.migrations.c
    query = sa.select(c.uuid, c.instance_uuid).where(c.instance_uuid.in_(instances), c.uuid.is_not(None))
    return {row.uuid: row.instance_uuid for row in connection.execute(query)}


def _unarchivable(key: Key, cell: Cell, reference: archival.Reference, rows: Sequence[str]) -> Finding:
    child, parent = reference.child.name, reference.parent.name
    some = f"at least {len(rows)}" if len(rows) == NAMED else str(len(rows))
    return Finding(
        key,
        "row-unarchivable",
        f"{some} deleted rows of {parent} in {cell.name or cell.uuid} cannot be archived: {child} refers to them",
        {"cell": cell.uuid, "table": parent, "by": child, "constraint": reference.constraint, "rows": list(rows)},
        healable=False,
        refusal=f"{child} has no shadow table; when these rows of it are leftovers, delete them "
        f"(DELETE FROM {child} WHERE {reference.column.name} = ...), and the others follow",
    )
