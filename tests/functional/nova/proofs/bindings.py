"""Bindings of ports in Neutron."""

from __future__ import annotations

from handlers.base import Key
from handlers.nova import tables
from handlers.nova.bindings.audit_bindings import AuditBindings
from tests.functional.nova.proofs.changes import (
    BUILD_REQUEST,
    ELSEWHERE,
    LONG,
    MAPPED_TO_CELL2,
    MAPPED_TO_NO_CELL,
    RUNNING_TASK,
    UNFINISHED,
    UNMAPPED,
    add_migration,
    changed_just_now,
    delete_marked,
    drop,
    migration,
    purged,
    row_in,
    set_instance,
    set_migration,
    set_up,
)
from tests.functional.nova.proofs.drift import Act, Change, Drift, Moment
from tests.functional.nova.proofs.stage import Stage
from tests.functional.nova.world import unplug


def _left(stage: Stage) -> tuple[Key, list[str]]:
    """Live-migrate an instance from a to b, and leave the binding to a."""
    set_up(stage)
    with stage.cloud.ago(**LONG):
        instance = stage.cloud.boot("a")
        unplug(stage.neutron, instance)
    add_migration(stage, instance, stage.cloud.node("b"), "completed", "live-migration", hours=2)
    set_instance(host="b", node="b")(stage, instance)
    stage.neutron.bind(stage.neutron.add(device_id=instance, device_owner="compute:nova", binding_host_id="b"), "a")
    return Key("instance", instance), [instance]


def _port(stage: Stage) -> str:
    return list(stage.neutron.ports)[-1]


def _alter_port(**values: object) -> Act:
    return lambda stage, instance: stage.neutron.change(_port(stage), **values)


INACTIVE = Drift(
    AuditBindings,
    "binding-inactive",
    _left,
    lambda stage, instance: stage.neutron.hosts(_port(stage)) == ("b", set()),
    frozenset({"neutron.ports"}),
    proof={
        "the binding, INACTIVE, beside an active one to the instance's host": {
            "it is gone": _alter_port(_inactive={}),
            "it is the active one": lambda stage, instance: stage.neutron.activate(_port(stage), "a"),
            "there is no active one": _alter_port(binding_host_id=""),
            "the active one is to another host": _alter_port(binding_host_id="d"),
            "another service owns the port": _alter_port(device_owner="network:dhcp"),
            "another instance has the port": _alter_port(device_id="77777777-0000-4000-8000-000000000000"),
            "the port is gone": lambda stage, instance: stage.neutron.ports.clear(),
        },
        "the live row of the instance there without a task, unchanged for a minute": {
            "it is gone": purged,
            "it is deleted": delete_marked,
            "it has a task": RUNNING_TASK,
            "it has no host": set_instance(host=None),
            "it names another host": set_instance(host="d", node="d"),
            "it changed this moment": changed_just_now,
        },
        "an ended live migration that names the host of the binding": {
            "it is gone": drop(tables.migrations, "instance_uuid"),
            "it is deleted": set_migration(deleted=1),
            "it names another host": set_migration(source_compute="d"),
            "it is a resize": set_migration(migration_type="resize", status="confirmed"),
        },
        "the youngest migration, after which the instance lives on its host": {
            "it led elsewhere": migration("d", "completed", "live-migration", minutes=30),
            "it is a live one in error": migration("d", "error", "live-migration", minutes=30),
            "it was rolled back elsewhere": migration("b", "failed", "live-migration", source="d", minutes=30),
        },
    },
    contradiction={
        "an unfinished migration, or a resize that waits for the user": UNFINISHED,
        "a row in another cell": {**ELSEWHERE, "a live hidden row": row_in("cell2", hidden=True)},
        "a build request, or a mapping to another cell": {
            "a build request": BUILD_REQUEST,
            "to cell2": MAPPED_TO_CELL2,
            "to no cell": MAPPED_TO_NO_CELL,
            "none at all": UNMAPPED,
        },
        "another revision of the port": {"another name": Change(_alter_port(name="new"), (Moment.BETWEEN,))},
    },
)

DRIFTS = (INACTIVE,)
