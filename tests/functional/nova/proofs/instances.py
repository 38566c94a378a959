"""Instances whose deletion does not end."""

from __future__ import annotations

from datetime import UTC, datetime

from handlers.base import Key
from handlers.nova import tables
from handlers.nova.instances.audit_stuck_instances import AuditStuckInstances
from tests.functional.nova.proofs.changes import (
    BUILD_REQUEST,
    ELSEWHERE,
    LONG,
    MAPPED_TO_CELL2,
    MAPPED_TO_NO_CELL,
    MARKED,
    RUNNING_TASK,
    UNMAPPED,
    UNMARKED,
    changed_just_now,
    delete_marked,
    purged,
    row_in,
    set_instance,
    set_up,
)
from tests.functional.nova.proofs.drift import Act, Change, Drift, Moment
from tests.functional.nova.proofs.stage import Stage
from tests.functional.nova.world import long_ago


def _deleting(stage: Stage) -> tuple[Key, list[str]]:
    set_up(stage)
    with stage.cloud.ago(**LONG):
        instance = stage.cloud.boot("a")
    set_instance(task_state="deleting")(stage, instance)
    MARKED(stage, instance)
    _service(last_seen_up=datetime.now(UTC).replace(tzinfo=None))(stage, instance)
    return Key("instance", instance), [instance]


def _service(**values: object) -> Act:
    services = tables.services
    statement = services.update().where(services.c.host == "a").values(values)
    return lambda stage, instance: stage.everywhere(services, statement)


DELETION = Drift(
    AuditStuckInstances,
    "deletion-without-end",
    _deleting,
    lambda stage, instance: bool(stage.cloud.instance(instance).deleted),
    frozenset(
        {
            *("cell1.instances", "cell1.instance_info_caches"),
            *("nova_api.instance_mappings", "placement.allocations", "neutron.ports"),
        }
    ),
    proof={
        "the live row of the instance with the task ``deleting``, unchanged for ``audit_stuck_instances_after``": {
            "it is gone": purged,
            "it is deleted": delete_marked,
            "it has another task": RUNNING_TASK,
            "it has no task": set_instance(task_state=None),
            "it has no host": set_instance(host=None),
            "it changed this moment": changed_just_now,
        },
        "the request of the owner, ``queued_for_delete`` in the mapping that names the cell": {
            "it is not set": UNMARKED,
            "the mapping names another cell": MAPPED_TO_CELL2,
            "the mapping names no cell": MAPPED_TO_NO_CELL,
            "the mapping is gone": UNMAPPED,
        },
    },
    contradiction={
        "a live row in another cell": {**ELSEWHERE, "a live hidden row": row_in("cell2", hidden=True)},
        "a build request": {"a build request": BUILD_REQUEST},
        "a host that does not report": {
            "for an hour": _service(last_seen_up=long_ago(hours=1)),
            "forced down": _service(forced_down=True),
            "a deleted service": _service(deleted=1),
        },
        "another task or ``updated_at`` of the row": {
            "another time": Change(set_instance(updated_at=long_ago(hours=2, minutes=30)), (Moment.BETWEEN,)),
        },
        "a nova-api that does not accept the request, after which the row is restored": {
            "it answers 500": lambda stage, instance: stage.compute.faults.update(DELETE=500),
            "it answers 409": lambda stage, instance: stage.compute.faults.update(DELETE=409),
        },
    },
)

DRIFTS = (DELETION,)
