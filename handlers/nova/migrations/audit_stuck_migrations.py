"""End migrations that no service of Nova carries on.

**What drifts.** A migration is not in a final status, but its instance is deleted, has moved again since, or has no task. Nova
counts the migration as in progress: it refuses to delete the compute service (409), and the resource tracker reserves
resources.

**Why Nova lets it.** Several services write a migration's row, and the last one writes the final status. If that service stops
or is installed anew, the status stays. Nova repairs only unconfirmed resizes, and only with ``resize_confirm_window``.

**What is read.** The instance's build request and mapping; in every cell its row and its migrations.

**What is changed.** One row: ``UPDATE migrations SET status = 'error'``. The condition has id, old status and ``updated_at``;
the instance must still be deleted or without a task.

**What is not changed.** A resize that waits for the user, an instance with a task, and a cross-cell resize. If no
younger migration succeeded, nothing proves where the guest runs: the finding has the statement for an operator. An evacuation
is only reported too: nova-compute on the former host needs its row to destroy the old guest.

**Why a race does no harm.** A deleted instance needs a minute without a change, a live one ``[audit]
audit_stuck_migrations_after``. If Nova writes the row after all, its status replaces ``error``.

**Undo.** The ``UPDATE`` with the old status.

Sources: ``nova/db/main/api.py`` (migration_get_in_progress_by_host_and_node), ``nova/compute/manager.py``
(_poll_unconfirmed_resizes, _post_live_migration, _init_instance, _destroy_evacuated_instances),
``nova/api/openstack/compute/services.py`` (delete).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Self

from oslo_config import cfg
from sqlalchemy.engine import Connection

from handlers.base import Finding, Healed, Key, Mode, Privilege, Resources, Trigger
from handlers.nova import concerns, keys, options
from handlers.nova.cells import Cell
from handlers.nova.database import NovaDatabases
from handlers.nova.migrations import facts, queries
from handlers.nova.migrations.rules import Case, Fail, Problem, decide
from handlers.nova.stuck import StuckHandler
from handlers.nova.verdicts import MOVED_SETTLE, Keep, Report, Wait

OPTIONS: list[cfg.Opt] = [
    cfg.IntOpt(
        "audit_stuck_migrations_after",
        default=7200,
        min=600,
        help="Seconds without a change of a migration and its instance, after which no flow of Nova can be at work. Set it to "
        "at least twice [DEFAULT] long_rpc_timeout of nova.conf.",
    ),
]

_SETTLED = MOVED_SETTLE + 5.0
_HINTS = (
    "instance.delete.end",
    "instance.live_migration_post.end",
    "instance.live_migration_rollback.end",
    "instance.resize_confirm.end",
    "instance.resize_revert.end",
    "instance.rebuild.end",
)


@dataclass(frozen=True, slots=True)
class Evidence:
    cell: str
    number: int
    migration: str | None
    status: str
    changed: str | None
    kind: str
    source: str | None
    dest: str | None
    instance: str
    host: str | None
    deleted: bool
    successor: str | None


class AuditStuckMigrations(StuckHandler):
    name = "audit_stuck_migrations"
    title = "End migrations that no service of Nova carries on"
    healable_problems = frozenset({Problem.OF_DELETED, Problem.SUPERSEDED})
    concerned_kinds = concerns.KINDS
    triggers = (
        *(Trigger(event, keys.instance, after=_SETTLED) for event in _HINTS),
        Trigger("service.update", keys.compute_host),
    )
    default_mode = Mode.AUDIT
    default_interval = 3600
    confirm_after = 5.0
    requires = ("nova_api",)
    cost = "One query per cell, which finds only instances with an unfinished migration; an hour is fine."
    rights = {"cell": {"migrations": frozenset({Privilege.UPDATE})}}

    @classmethod
    def options(cls) -> Mapping[str, Sequence[cfg.Opt]]:
        return {**super().options(), options.AUDIT: OPTIONS}

    @classmethod
    def from_resources(cls, resources: Resources) -> Self:
        after = resources.conf[options.AUDIT].audit_stuck_migrations_after
        return cls(resources.get(NovaDatabases.from_resources), after)

    def suspects(self, connection: Connection, host: str | None = None) -> list[str]:
        return queries.suspects(connection, host)

    def judge(self, key: Key, instance: str) -> Iterator[Finding | Wait]:
        for cell, case in facts.read(self._databases, instance, self._after):
            match decide(case):
                case Keep():
                    pass
                case Wait() as wait:
                    yield wait
                case Report() | Fail() as verdict:
                    yield self._finding(key, cell, case, verdict)

    def heal(self, finding: Finding) -> Healed:
        self._databases.require_known_schema()
        evidence = Evidence(**self.prove_again(finding).evidence)
        cell = self._databases.cell(evidence.cell)
        move = evidence.number, evidence.status, evidence.changed, evidence.instance, evidence.deleted
        self._databases.database(cell).run(lambda connection: queries.end(connection, *move))
        return Healed(
            f"set migration {evidence.migration} of instance {evidence.instance} to {queries.ENDED}",
            before={"status": evidence.status},
            after={"status": queries.ENDED},
            undo=finding.undo,
        )

    def _finding(self, key: Key, cell: Cell, case: Case, verdict: Report | Fail) -> Finding:
        move, here, successor = case.move, case.here, case.successor
        database = self._databases.database(cell)
        ending = queries.ending(move.id, move.status, move.changed, here.uuid, here.deleted)
        evidence = Evidence(
            cell.uuid,
            move.id,
            move.uuid,
            move.status,
            move.changed,
            move.kind,
            move.source,
            move.dest,
            here.uuid,
            here.host,
            here.deleted,
            None if successor is None else successor.uuid,
        )
        named = f"migration {move.uuid} of instance {here.uuid} is {move.status}"
        hosts = concerns.named("host", move.source, move.dest, *move.nodes)
        heals = isinstance(verdict, Fail)
        return Finding(
            key,
            verdict.problem,
            f"{named}, but {verdict.summary}",
            asdict(evidence),
            heals,
            f"{verdict.refusal} in the database of {cell.label}:\n{database.typed(ending)}"
            if isinstance(verdict, Report)
            else "",
            undo=f"-- in the database of {cell.label}\n{database.typed(queries.undo_of_end(move))}" if heals else "",
            plan=database.plan([ending]) if heals else "",
            concerns=hosts | concerns.of_cell(cell) | concerns.of_instance(here),
        )
