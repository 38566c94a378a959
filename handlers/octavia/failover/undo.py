"""Builds the undo of a step from facts that were read before the step.

The statements run on MariaDB and PostgreSQL.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from handlers.octavia import records
from handlers.octavia.cloud_objects import AMPHORA, PRESERVED
from handlers.octavia.failover.steps import THEN, AnyReading, Step, StepName
from handlers.octavia.preserved import pool

_Undo = Callable[[AnyReading, Step], str]


def undo_of(s: AnyReading, step: Step) -> str:
    return _UNDO[step.name](s, step)


def undo_of_heal(s: AnyReading, step: Step) -> str:
    """Return the undo of a step and of the further steps that the same heal may take, the last step first."""
    ports = tuple(port.id for port in s.connected)
    later = [f"after {name}: {undo_of(s, Step(name, '', objects=ports))}" for name in reversed(THEN.get(step.name, ()))]
    return "; ".join([*later, undo_of(s, step)])


def _server(s: AnyReading) -> str:
    return s.server.id if s.server is not None else ""


def _lease(s: AnyReading, _step: Step) -> str:
    at = s.now.strftime("%Y-%m-%d %H:%M:%S")
    statement = f"UPDATE amphora_health SET last_update='{at}' WHERE amphora_id='{s.amphora.id}'"
    return f"the lease ends by itself, or: {statement}"


def _let_go(s: AnyReading, _step: Step) -> str:
    """Return the undo; it resets ``busy`` only if the row serves again (:mod:`handlers.octavia.changes`)."""
    amphora = s.amphora
    restored = (
        f"only while the row is ERROR without a server: UPDATE amphora SET status='{amphora.status}', "
        f"compute_id='{amphora.compute_id}' WHERE id='{amphora.id}' AND status='ERROR' AND compute_id IS NULL"
    )
    if amphora.status not in records.SERVING:
        return restored
    return (
        f"{restored}; UPDATE amphora_health SET busy=FALSE WHERE amphora_id='{amphora.id}' AND EXISTS (SELECT 1 FROM amphora "
        f"WHERE id='{amphora.id}' AND status='{amphora.status}' AND compute_id='{amphora.compute_id}')"
    )


def _forget(s: AnyReading, _step: Step) -> str:
    amphora = s.amphora
    return (
        f"UPDATE amphora SET status='{amphora.status}', compute_id='{amphora.compute_id}' WHERE id='{amphora.id}' "
        "AND status='DELETED' AND compute_id IS NULL"
    )


def _unplug(s: AnyReading, step: Step) -> str:
    return (
        f"openstack server add port {_server(s)} PORT, for: {' '.join(step.objects)}. Nova deletes the port in the "
        "management network: create it again"
    )


def _detach(s: AnyReading, step: Step) -> str:
    rows = ", ".join(f"'{row}'" for row in step.objects)
    balancer = s.balancer.id if s.balancer is not None else ""
    return f"UPDATE amphora SET load_balancer_id='{balancer}' WHERE id IN ({rows}) AND status='DELETED'"


def _impossible(_s: AnyReading, step: Step) -> str:
    return f"{step.name} cannot be taken back"


_UNDO: Mapping[StepName, _Undo] = {
    StepName.LEASE: _lease,
    StepName.MARK: lambda s, _: f"openstack --os-compute-api-version 2.26 server unset --tag {PRESERVED} {_server(s)}",
    StepName.UNMARK: lambda s, _: pool.restoring(s.server) if s.server is not None else "its server is gone",
    StepName.STOP: lambda s, _: f"openstack server start {_server(s)}",
    StepName.IMAGE: lambda s, _: (
        f"openstack image list --property {AMPHORA}={s.amphora.id}, then openstack image delete IMAGE"
    ),
    StepName.SEAL: lambda _, step: f"openstack image set --unprotected {' '.join(step.objects)}",
    StepName.DROP_IMAGE: _impossible,
    StepName.DROP_SERVER: _impossible,
    StepName.UNPLUG: _unplug,
    StepName.QUARANTINE: lambda _, step: "; ".join(f"openstack port set --enable {port}" for port in step.objects),
    StepName.LET_GO: _let_go,
    StepName.FORGET: _forget,
    StepName.FAILOVER: _impossible,
    StepName.REBUILD: _impossible,
    StepName.LABEL: lambda s, _: f"stackmend amphora preserved release {s.amphora.id}, or delete",
    StepName.TRIM: _impossible,
    StepName.DETACH: _detach,
    StepName.SHELVE: lambda s, _: f"openstack server unshelve {_server(s)}",
}
