"""Moves rows that were deleted long ago into Nova's shadow tables.

**What drifts.** Nova rarely removes a row of a cell: it marks the row as deleted. Tables grow, and queries slow down.

**Why Nova lets it.** Archiving is a command, ``nova-manage db archive_deleted_rows``. An instance with a row in
``share_mapping`` cannot be moved and stops every run. The command also archives instances that hold resources in Placement,
which Nova then never releases.

**What is read.** The schema of each cell, cell0 too. The rows that were deleted at least ``[audit]
archive_deleted_rows_after_days`` ago, by the cell's clock. The consumers of every provider in Placement. If Placement does not
answer, or lists no compute node of Nova, no row moves.

**What is changed.** A deleted row and all rows that refer to it are a tree, which moves whole or not at all. A transaction
moves trees with about ``archive_deleted_rows_rows_per_transaction`` rows. It locks their roots, checks that the roots are still
old, and compares the counts of INSERT and DELETE. Columns that a shadow table lacks are lost, as with nova-manage.

Then the handler deletes an archived instance's mapping, request specification and group memberships. Three conditions must
hold: the archived row is not hidden, the mapping names this cell, and all other cells answer, without a live row of the
instance.

Budget and breaker count no rows, because counting is slow. ``archive_deleted_rows_rows_per_cycle`` limits a run.

**What is not changed.** An instance stays while it, or one of its migrations, has resources in Placement: ``audit_allocations``
comes first. An instance also stays while its last host, or one from which it was evacuated, has been down since the deletion.
When nova-compute returns there, it destroys the guest only if it finds the row. If a table without a shadow table has a row
that refers to a deleted row, stackmend only reports the deleted row (``row-unarchivable``). ``task_log`` stays, unless
``archive_deleted_rows_task_log`` is set.

**Why a race does no harm.** A crash before the write to nova_api leaves an orphaned mapping, which heal_instance_mappings
finds.

**Undo.** Statements that bring the rows back from the shadow tables, until a purge. For a single instance, they also restore
the rows of nova_api.

Sources: ``nova/db/main/api.py`` (archive_deleted_rows, _get_fk_stmts), ``nova/cmd/manage.py`` (archive_deleted_rows),
``nova/objects/instance_mapping.py``, ``nova/objects/instance_group.py`` (destroy_members_bulk),
``nova/compute/manager.py`` (_cleanup_running_deleted_instances, _destroy_evacuated_instances).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from enum import StrEnum
from functools import partial
from typing import Any, Self

import sqlalchemy as sa
from oslo_config import cfg
from sqlalchemy.engine import Connection

from handlers.access.database import Database
from handlers.access.roles import PLACEMENT
from handlers.base import EVERY_TABLE, Finding, Healed, Key, Mode, Privilege, Refused, Resources, Roles
from handlers.nova import concerns, options, tables
from handlers.nova.archive import statements, undo
from handlers.nova.archive.cell_handler import CellHandler, Scope
from handlers.nova.archive.cycle import AWAITED, NAMED, Cycle, Settings, migrations
from handlers.nova.archive.schema import INSTANCES, Reference, Schema, old
from handlers.nova.archive.schema import key as primary_key
from handlers.nova.cells import Cell
from handlers.nova.database import NovaDatabases
from handlers.nova.nodes import require_own_placement
from handlers.nova.placement import Placement

OPTIONS = [
    *statements.OPTIONS,
    cfg.IntOpt(
        "archive_deleted_rows_rows_per_cycle",
        default=100000,
        min=1,
        help="About how many rows of a cell are archived at one interval. The others follow at the next one.",
    ),
    cfg.BoolOpt(
        "archive_deleted_rows_task_log",
        default=False,
        help="Whether to archive the records of the usage audit (task_log) too. Nova never deletes them, so the date of "
        "their last change counts. Set it only when their readers are done with them after that time.",
    ),
]


class Problem(StrEnum):
    DUE = "rows-to-archive"
    UNARCHIVABLE = "row-unarchivable"


@dataclass(frozen=True, slots=True)
class DeletedRow:
    """A row of ``instances`` that was deleted long ago."""

    id: int
    hidden: bool
    concerns: frozenset[str]


@dataclass(frozen=True, slots=True)
class DeletedInstance:
    scope: Scope
    row: int
    instance: str

    def to_json(self) -> Mapping[str, Any]:
        return {**self.scope.to_json(), "id": self.row, "instance": self.instance}


class ArchiveDeletedRows(CellHandler):
    name = "archive_deleted_rows"
    title = "Move rows that were deleted long ago into Nova's shadow tables"
    kinds = ("cell", "instance")
    healable_problems = frozenset({Problem.DUE})
    # a cell's rows belong to many hosts and projects
    concerned_kinds = frozenset({"cell"})
    default_mode = Mode.HEAL
    follows = ("audit_allocations",)
    default_interval = 86400
    requires = ("nova_api", "placement")
    cost = (
        "A search in each cell's tables for deleted rows and one request to Placement per provider; then some thousand "
        "rows per second. Once a day, in a quiet hour, is fine."
    )
    rights = {
        "nova_api": {
            "instance_mappings": frozenset({Privilege.DELETE}),
            "request_specs": frozenset({Privilege.DELETE}),
            "instance_group_member": frozenset({Privilege.DELETE}),
        },
        # PostgreSQL demands UPDATE for the lock of SELECT ... FOR UPDATE
        "cell": {EVERY_TABLE: frozenset({Privilege.INSERT, Privilege.DELETE, Privilege.UPDATE})},
    }
    roles = Roles((PLACEMENT,))

    def __init__(self, databases: NovaDatabases, placement: Placement, settings: Settings) -> None:
        super().__init__(databases, settings.after_days)
        self._placement = placement
        self._settings = settings

    @classmethod
    def options(cls) -> Mapping[str, Sequence[cfg.Opt]]:
        return {**super().options(), options.AUDIT: OPTIONS}

    @classmethod
    def from_resources(cls, resources: Resources) -> Self:
        databases, placement = resources.get(NovaDatabases.from_resources), resources.get(Placement.from_resources)
        return cls(databases, placement, Settings.read(resources.conf))

    def inspect(self, key: Key) -> Iterable[Finding]:
        match key.kind:
            case "instance":
                return self._inspect_instance(key)
            case "cell":
                cell = self._databases.find_cell(key.id)
                return [] if cell is None else self._inspect_cell(key, cell)
            case _:
                raise Refused(f"archive_deleted_rows has no keys such as {key}")

    def due(self, database: Database, schema: Schema, before: datetime) -> bool:
        log = self._settings.task_log
        return database.run(partial(statements.any_due, schema=schema, before=before, task_log=log))

    def heal_while(self, finding: Finding, go_on: Callable[[], bool]) -> Healed:
        require_own_placement(self._databases, self._placement)
        cycle = Cycle(self._databases, self.begin(finding), self._settings, finding.undo)
        match finding.key.kind:
            case "instance":
                cycle.one_instance(finding.evidence["id"])
            case "cell":
                cycle.everything(self._holders, go_on)
            case _:
                raise Refused(f"archive_deleted_rows has no keys such as {finding.key}")
        return cycle.healed()

    def _inspect_cell(self, key: Key, cell: Cell) -> list[Finding]:
        database, schema = self.open(cell)
        log = self._settings.task_log

        def read(connection: Connection) -> tuple[datetime, list[sa.Table], list[tuple[Reference, list[str]]], str]:
            before = self.limit(connection)
            due = statements.tables_due(connection, schema, before, log)
            blocked = list(statements.blocked(connection, schema, before, log, NAMED))
            reached = statements.with_those_below(schema, due, log)
            return before, due, blocked, undo.of_cell(connection, schema, reached, cell.label)

        before, due, blocked, back = database.run(read)
        findings = []
        if due:
            names = ", ".join(table.name for table in due)
            finding = Finding(
                key,
                Problem.DUE,
                f"{cell.name or cell.uuid} has rows deleted before {before.date()} in {names}, which can be archived",
                Scope(cell.uuid, before.date()).to_json(),
                undo=back,
                plan=self._plan_of_cell(cell, database, schema, due, before),
                concerns=concerns.of_cell(cell),
            )
            findings.append(finding)
        return findings + [_unarchivable(key, cell, reference, rows) for reference, rows in blocked]

    def _plan_of_cell(
        self, cell: Cell, database: Database, schema: Schema, due: Sequence[sa.Table], before: datetime
    ) -> str:
        reached = statements.with_those_below(schema, due, self._settings.task_log)
        moves = (one for table in reached for one in statements.moving(schema, table, schema.due(table, before)))
        plan = [
            f"-- in transactions of about {self._settings.rows} rows, at most {self._settings.rows_per_cycle} rows; "
            "instances with resources in Placement, or on a host that is down since, stay",
            database.plan(moves),
        ]
        if schema.tables[INSTANCES] in due:
            uuids: list[sa.ColumnElement[str]] = [sa.literal_column("UUIDS")]
            plan += [
                "-- UUIDS: the moved instances that are not hidden and have no live row in another cell",
                self._databases.api.plan(statements.forgetting(uuids, cell.id)),
            ]
        return "\n".join(plan)

    def _inspect_instance(self, key: Key) -> list[Finding]:
        table = tables.instances

        def read(connection: Connection) -> tuple[DeletedRow, date] | None:
            before = self.limit(connection)
            columns = (table.c.id, table.c.project_id, table.c.host, table.c.node, table.c.hidden)
            row = connection.execute(sa.select(*columns).where(table.c.uuid == key.id, old(table, before))).first()
            if row is None:
                return None
            names = concerns.of_row(key.id, row.project_id, row.host, row.node)
            return DeletedRow(row.id, bool(row.hidden), names), before.date()

        for cell, seen in self._databases.run_in_all(self._databases.cells(), read).items():
            if seen is not None:
                row, before = seen
                evidence = DeletedInstance(Scope(cell.uuid, before), row.id, key.id)
                finding = self._judge_instance(key, cell, evidence, row.hidden)
                return [replace(finding, concerns=row.concerns | concerns.of_cell(cell))]
        return []

    def _judge_instance(self, key: Key, cell: Cell, evidence: DeletedInstance, hidden: bool) -> Finding:
        database, schema = self.open(cell)
        for reference in schema.blockers(schema.tables[INSTANCES]):
            if database.run(partial(statements.refers, reference=reference, value=key.id)):
                return _unarchivable(key, cell, reference, [key.id])
        consumers = [key.id, *database.run(lambda connection: migrations(connection, [key.id]))]
        holding = [consumer for consumer in consumers if self._placement.allocation(consumer).providers]
        summary = f"instance {key.id} of {cell.name or cell.uuid} was deleted before {evidence.scope.before}"
        if holding:
            return Finding(
                key,
                Problem.DUE,
                summary,
                {**evidence.to_json(), "consumers": holding},
                healable=False,
                refusal="it still has resources in Placement: audit_allocations has to release them first",
            )
        if database.run(partial(statements.awaited, instances=[key.id])):
            return Finding(key, Problem.DUE, summary, evidence.to_json(), healable=False, refusal=AWAITED)
        back = database.run(lambda connection: undo.of_instance(connection, schema, key.id, cell.label))
        api_rows = "" if hidden else self._databases.api.run(partial(undo.of_api_rows, instance=key.id))
        return Finding(
            key,
            Problem.DUE,
            summary,
            evidence.to_json(),
            undo="\n".join(part for part in (back, api_rows) if part),
            plan=self._plan_of_instance(cell, evidence, database, schema, hidden),
        )

    def _plan_of_instance(
        self, cell: Cell, evidence: DeletedInstance, database: Database, schema: Schema, hidden: bool
    ) -> str:
        root = schema.tables[INSTANCES]
        one = sa.and_(root.c.id == evidence.row, old(root, evidence.scope.moment))
        forgetting = statements.forgetting([sa.literal(evidence.instance)], cell.id)
        moves = database.plan(statements.moving(schema, root, one))
        return moves if hidden else f"{moves}\n{self._databases.api.plan(forgetting)}"

    def _holders(self) -> frozenset[str]:
        return frozenset[str]().union(*(self._placement.holders(provider) for provider in self._placement.providers()))


def _unarchivable(key: Key, cell: Cell, reference: Reference, rows: Sequence[str]) -> Finding:
    child, parent = reference.child.name, reference.parent.name
    some = f"at least {len(rows)}" if len(rows) == NAMED else str(len(rows))
    return Finding(
        key,
        Problem.UNARCHIVABLE,
        f"{some} deleted rows of {parent} in {cell.name or cell.uuid} cannot be archived: {child} refers to them",
        {"cell": cell.uuid, "table": parent, "by": child, "constraint": reference.constraint, "rows": list(rows)},
        healable=False,
        refusal=f"{child} has no shadow table. If its rows are leftovers, delete them, and the others can be archived: "
        f"{_deletion(reference, rows)}",
    )


def _deletion(reference: Reference, rows: Sequence[str]) -> str:
    child, column, parent = reference.child.name, reference.column.name, reference.parent
    name = "uuid" if "uuid" in parent.c else primary_key(parent).name
    values = ", ".join(f"'{row}'" for row in rows)
    if name != reference.parent_column.name:
        values = f"SELECT {reference.parent_column.name} FROM {parent.name} WHERE {name} IN ({values})"
    return f"DELETE FROM {child} WHERE {column} IN ({values});"
