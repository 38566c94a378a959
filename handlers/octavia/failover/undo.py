"""Builds the undo of a step from facts that were read before the step.

The statements run on the database that ``typed`` is of, at any later time: each changes a row only while the row is as the step
left it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import sqlalchemy as sa

from handlers.access.database import utcnow
from handlers.access.sql_text import Writing
from handlers.octavia import records, tables
from handlers.octavia.cloud_objects import AMPHORA, PRESERVED
from handlers.octavia.failover.steps import THEN, AnyReading, Step, StepName
from handlers.octavia.preserved import pool

_Undo = Callable[[AnyReading, Step], str]
#: writes a statement as an operator types it, on one line
Typed = Callable[[Writing], str]


def undo_of(s: AnyReading, step: Step, typed: Typed) -> str:
    """Return the undo of a step.

    :param typed: :meth:`handlers.octavia.database.OctaviaDatabase.typed`
    """
    return _lease(s, typed) if step.name is StepName.LEASE else _UNDO[step.name](s, step)


def undo_of_heal(s: AnyReading, step: Step, typed: Typed) -> str:
    """Return the undo of a step and of the further steps that the same heal may take, the last step first."""
    ports = tuple(port.id for port in s.connected)
    further = (Step(name, "", objects=ports) for name in reversed(THEN.get(step.name, ())))
    later = [f"after {each.name}: {undo_of(s, each, typed)}" for each in further]
    return "; ".join([*later, undo_of(s, step, typed)])


def _server(s: AnyReading) -> str:
    return s.server.id if s.server is not None else ""


def _lease(s: AnyReading, typed: Typed) -> str:
    """Return an undo that ends only a lease that still runs, and gives the amphora a ``heartbeat_timeout`` to beat.

    A time before the present would let Octavia's health manager replace an amphora that lives.
    """
    c = tables.amphora_health.c
    ending = sa.update(tables.amphora_health).where(c.amphora_id == s.amphora.id, c.last_update > utcnow())
    return f"the lease ends by itself, or: {typed(ending.values(last_update=utcnow()))}"


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
        "AND status='DELETED' AND compute_id IS NULL AND load_balancer_id IS NULL"
    )


def _unplug(s: AnyReading, step: Step) -> str:
    return (
        f"openstack server add port {_server(s)} PORT, for: {' '.join(step.objects)}. Nova deletes the port in the "
        "management network: create it again"
    )


def _detach(s: AnyReading, step: Step) -> str:
    rows = ", ".join(f"'{row}'" for row in step.objects)
    balancer = s.balancer.id if s.balancer is not None else ""
    return (
        f"UPDATE amphora SET load_balancer_id='{balancer}' WHERE id IN ({rows}) AND status='DELETED' "
        "AND load_balancer_id IS NULL"
    )


def _impossible(_s: AnyReading, step: Step) -> str:
    return f"{step.name} cannot be taken back"


_UNDO: Mapping[StepName, _Undo] = {
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
