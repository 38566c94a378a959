"""Report instances whose task or build never ends, and repeat lost deletions.

**What drifts.** An instance is being deleted, built or changed, and no service works on it any more. Its owner cannot use it.
While it has the task ``deleting``, Nova ignores another request to delete it.

**Why Nova lets it.** nova-api writes the task and then sends a message. If RabbitMQ loses the message, the task stays.
nova-compute resumes only some tasks when it starts.

**What is read.** The instance's build request and mapping; in every cell its row and the service of its host.

**What is changed.** An instance with the task ``deleting``, if nova-compute is up and the mapping has ``queued_for_delete``. If
the row is unchanged, the heal clears ``task_state``, sets ``terminated_at``, and sends ``DELETE /servers/{id}``. If nova-api
does not accept the request, the heal restores both columns. If stackmend is killed between the two writes, the next inspection
recognises the begun heal by ``terminated_at`` and completes it: Nova sets this column only when it deletes an instance.

**What is not changed.** Any other task: if the task still runs, clearing it can make Nova stop a healthy guest. The finding has
the command or statement for an operator. While the host's nova-compute is down, the handler reports no task but ``deleting``:
nova-compute may take up the task when it starts.

**Why a race does no harm.** The row must be unchanged for ``[audit] audit_stuck_instances_after``. If the first deletion still
runs, nova-compute begins the second deletion afterwards and finds no instance.

**Undo.** None: the owner asked for the deletion, and a deleted server cannot return.

Sources: ``nova/compute/api.py`` (_delete), ``nova/compute/manager.py`` (_init_instance, terminate_instance),
``nova/servicegroup/drivers/db.py``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Self

import sqlalchemy as sa
from oslo_config import cfg
from sqlalchemy.engine import Connection

from handlers.access import cloud_options
from handlers.access.compute import Compute, deleting_server
from handlers.access.roles import SERVERS
from handlers.base import Conflict, Finding, HandlerError, Healed, Key, Mode, Privilege, Resources, Roles, Trigger
from handlers.nova import concerns, keys, options
from handlers.nova.cells import Cell
from handlers.nova.database import NovaDatabases
from handlers.nova.instances import facts, queries
from handlers.nova.instances.rules import ByHand, Case, Problem, Repeat, decide
from handlers.nova.stuck import StuckHandler
from handlers.nova.verdicts import Keep, Report, Wait

OPTIONS: list[cfg.Opt] = [
    cfg.IntOpt(
        "audit_stuck_instances_after",
        default=7200,
        min=600,
        help="Seconds without a change of an instance, after which no task of Nova can still run. Set it above the longest "
        "time that a snapshot, a migration or the cleaning of a bare metal node takes here.",
    ),
]

#: seconds from the beginning of an operation to the first inspection; most operations have ended by then
_BEGUN = 900.0
_HINTS = (
    "instance.delete.start",
    "instance.create.start",
    "instance.rebuild.start",
    "instance.resize_prep.start",
    "instance.unshelve.start",
)


@dataclass(frozen=True, slots=True)
class Evidence:
    cell: str
    instance: str
    host: str | None
    vm_state: str | None
    task_state: str | None
    changed: str | None
    queued: bool
    host_up: bool | None


class AuditStuckInstances(StuckHandler):
    name = "audit_stuck_instances"
    title = "Report instances whose task or build never ends, and repeat deletions"
    healable_problems = frozenset({Problem.DELETING})
    concerned_kinds = concerns.KINDS
    triggers = (
        *(Trigger(event, keys.instance, after=_BEGUN) for event in _HINTS),
        Trigger("service.update", keys.compute_host),
    )
    default_mode = Mode.AUDIT
    default_interval = 1800
    confirm_after = 5.0
    requires = ("nova_api",)
    rights = {"cell": {"instances": frozenset({Privilege.UPDATE})}}
    roles = Roles((), (SERVERS,))
    cost = "One query per cell, which reads the live instances; half an hour is fine for a hundred thousand."

    def __init__(self, databases: NovaDatabases, compute: Compute, after: float) -> None:
        super().__init__(databases, after)
        self._compute = compute

    @classmethod
    def options(cls) -> Mapping[str, Sequence[cfg.Opt]]:
        return {
            options.GROUP: options.OPTIONS,
            cloud_options.GROUP: cloud_options.OPTIONS,
            options.AUDIT: OPTIONS,
        }

    @classmethod
    def from_resources(cls, resources: Resources) -> Self:
        after = resources.conf[options.AUDIT].audit_stuck_instances_after
        return cls(resources.get(NovaDatabases.from_resources), resources.get(Compute.from_resources), after)

    def suspects(self, connection: Connection, host: str | None = None) -> list[str]:
        return queries.suspects(connection, self._after, host)

    def judge(self, key: Key, instance: str) -> Iterator[Finding | Wait]:
        for cell, case in facts.read(self._databases, instance, self._after):
            match decide(case):
                case Keep():
                    pass
                case Wait() as wait:
                    yield wait
                case Report() as report:
                    yield self._report(key, cell, case, report)
                case Repeat():
                    yield self._repetition(key, cell, case)

    def heal(self, finding: Finding) -> Healed:
        self._databases.require_known_schema()
        evidence = Evidence(**self.prove_again(finding).evidence)
        cell = self._databases.cell(evidence.cell)
        instance, host, task, changed = evidence.instance, evidence.host, evidence.task_state, evidence.changed
        database = self._databases.database(cell)
        if not database.run(lambda connection: queries.begin_deletion(connection, instance, host, task, changed)):
            raise Conflict(f"instance {instance} changed")
        try:
            self._compute.delete_server(instance)
        except HandlerError:
            database.run(lambda connection: queries.restore_deletion(connection, instance, host, changed))
            raise
        return Healed(
            f"repeated the deletion of server {instance} on {host}",
            before={"vm_state": evidence.vm_state, "task_state": evidence.task_state},
            after={"task_state": evidence.task_state},
            undo=finding.undo,
        )

    def _report(self, key: Key, cell: Cell, case: Case, report: Report) -> Finding:
        refusal = report.refusal
        if isinstance(report, ByHand):
            typed = self._databases.database(cell).typed(_clearing(case))
            refusal = f"{refusal} in the database of {cell.label}:\n{typed}"
        text = f"instance {case.row.uuid} {report.summary}"
        evidence = _evidence(cell, case)
        return Finding(key, report.problem, text, evidence, False, refusal, concerns=_concerns(cell, case))

    def _repetition(self, key: Key, cell: Cell, case: Case) -> Finding:
        row = case.row
        return Finding(
            key,
            Problem.DELETING,
            f"instance {row.uuid} is being deleted on {row.host}, and nothing carries the deletion on",
            _evidence(cell, case),
            undo="none: a deleted server cannot return",
            plan=f"{self._databases.database(cell).plan([_beginning(case)])}\n{deleting_server(row.uuid)}",
            concerns=_concerns(cell, case),
            begun=case.begun,
        )


def _beginning(case: Case) -> sa.Update:
    row = case.row
    return queries.beginning(row.uuid, row.host, row.task_state, row.changed)


def _clearing(case: Case) -> sa.Update:
    row = case.row
    return queries.clearing(row.uuid, row.host, row.task_state or "", row.changed)


def _evidence(cell: Cell, case: Case) -> dict[str, object]:
    row = case.row
    states = row.host, row.vm_state, row.task_state, row.changed
    return asdict(Evidence(cell.uuid, row.uuid, *states, case.queued, case.host_up))


def _concerns(cell: Cell, case: Case) -> frozenset[str]:
    row = case.row
    return concerns.of_cell(cell) | concerns.of_row(row.uuid, row.project_id, row.host, row.node)
