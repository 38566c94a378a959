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

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date, datetime
from functools import partial
from typing import Self

import sqlalchemy as sa
from oslo_config import cfg
from sqlalchemy.engine import Connection

from handlers.access.database import Database
from handlers.access.roles import PLACEMENT
from handlers.base import EVERY_TABLE, Conflict, Finding, Healed, Key, Mode, Privilege, Resources, Roles, Unavailable
from handlers.nova import options, tables
from handlers.nova.archive import statements
from handlers.nova.archive.cell_handler import CellHandler
from handlers.nova.archive.cycle import NAMED, Cycle, Settings, migrations
from handlers.nova.archive.schema import INSTANCES, Reference, Schema, old
from handlers.nova.cells import Cell
from handlers.nova.database import NovaDatabases
from handlers.nova.nodes import live_nodes
from handlers.nova.placement import Placement

OPTIONS = [
    *statements.OPTIONS,
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


class ArchiveDeletedRows(CellHandler):
    """See the module."""

    name = "archive_deleted_rows"
    title = "Move rows that were deleted long ago into Nova's shadow tables"
    kinds = ("cell", "instance")
    healable_problems = frozenset({"rows-to-archive"})
    default_mode = Mode.HEAL
    default_interval = 86400
    requires = ("nova_api", "placement")
    cost = (
        "A scan of each cell's tables for deleted rows and one request to Placement per compute node; then some thousand "
        "rows per second. Once a day, in a quiet hour, is fine."
    )
    rights = {
        "nova_api": {
            "instance_mappings": frozenset({Privilege.DELETE}),
            "request_specs": frozenset({Privilege.DELETE}),
            "instance_group_member": frozenset({Privilege.DELETE}),
        },
        "cell": {EVERY_TABLE: frozenset({Privilege.INSERT, Privilege.DELETE})},
    }
    roles = Roles((PLACEMENT,))

    def __init__(self, databases: NovaDatabases, placement: Placement, settings: Settings) -> None:
        super().__init__(databases, settings.after_days)
        self._placement = placement
        self._settings = settings

    @classmethod
    def options(cls) -> Mapping[str, Sequence[cfg.Opt]]:
        """Where Nova's databases and Placement are, and how much to archive how fast."""
        return {**super().options(), options.AUDIT: OPTIONS}

    @classmethod
    def from_resources(cls, resources: Resources) -> Self:
        """Make it on the shared databases and session."""
        databases, placement = resources.get(NovaDatabases.from_resources), resources.get(Placement.from_resources)
        return cls(databases, placement, Settings.read(resources.conf))

    def inspect(self, key: Key) -> Iterable[Finding]:
        """Count what is due in a cell and name what is blocked, or look for one deleted instance in all cells."""
        if key.kind == "instance":
            return self._inspect_instance(key)
        cell = self.cell(key.id)
        return [] if cell is None else self._inspect_cell(key, cell)

    def due(self, database: Database, schema: Schema, before: datetime) -> bool:
        """Tell whether a cell has deleted rows which are old enough, those that are blocked as well."""
        log = self._settings.task_log
        return database.run(partial(statements.any_due, schema=schema, before=before, task_log=log))

    def heal_while(self, finding: Finding, go_on: Callable[[], bool]) -> Healed:
        """Archive, in many transactions, each of which proves again what it moves."""
        cycle = Cycle(self._databases, *self.permitted(finding), self._settings)
        if finding.key.kind == "instance":
            return self._heal_instance(finding, cycle)
        cycle.everything(self._holders, go_on)
        return cycle.healed()

    def _heal_instance(self, finding: Finding, cycle: Cycle) -> Healed:
        found = self._inspect_instance(finding.key)
        if [(now.problem, now.evidence) for now in found] != [(finding.problem, finding.evidence)]:
            raise Conflict(f"{finding.key} is not as it was")
        cycle.trees(cycle.schema.tables[INSTANCES], [finding.evidence["id"]])
        return cycle.healed()

    def _inspect_cell(self, key: Key, cell: Cell) -> list[Finding]:
        database, schema = self.open(cell)
        log = self._settings.task_log

        def look(connection: Connection) -> tuple[date, dict[str, int], list[tuple[Reference, list[str]]]]:
            before = self.limit(connection)
            counts = statements.count_due(connection, schema, before, log)
            return before.date(), counts, list(statements.blocked(connection, schema, before, log, NAMED))

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
            before = self.limit(connection)
            query = sa.select(table.c.id).where(table.c.uuid == key.id, old(table, before))
            row = connection.execute(query).first()
            return None if row is None else (row.id, before)

        for cell, seen in self._databases.run_in_all(self._databases.cells(), look).items():
            if seen is not None:
                return [self._judge_instance(key, cell, *seen)]
        return []

    def _judge_instance(self, key: Key, cell: Cell, row: int, before: datetime) -> Finding:
        database, schema = self.open(cell)
        instances = schema.tables[INSTANCES]
        evidence = {"cell": cell.uuid, "before": before.date().isoformat(), "id": row, "instance": key.id}
        consumers = [key.id, *database.run(lambda connection: migrations(connection, [key.id]))]
        holding = [consumer for consumer in consumers if self._placement.allocation(consumer).providers]
        for reference in schema.blockers(instances):
            if database.run(partial(statements.refers, reference=reference, value=key.id)):
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


def _unarchivable(key: Key, cell: Cell, reference: Reference, rows: Sequence[str]) -> Finding:
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
