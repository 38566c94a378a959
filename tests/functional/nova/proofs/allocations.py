"""Allocations of instances and migrations in Placement."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from handlers.base import Key
from handlers.nova import tables
from handlers.nova.allocations.audit_allocations import AuditAllocations
from handlers.nova.allocations.audit_migrations import AuditMigrations
from handlers.nova.allocations.heal_allocations import HealAllocations
from tests.functional.nova.proofs.changes import (
    BUILD_REQUEST,
    ELSEWHERE,
    ELSEWHERE_LAST,
    LONG,
    MAPPED_TO_CELL2,
    MAPPED_TO_NO_CELL,
    MARKED,
    RUNNING_TASK,
    UNFINISHED,
    UNMAPPED,
    UNMARKED,
    UNMARKED_ELSEWHERE,
    add_migration,
    also_hold,
    alter,
    archived,
    changed_just_now,
    delete_marked,
    drop,
    hold_on,
    mark_deleted,
    migration,
    purged,
    release,
    row_in,
    set_instance,
    set_mapping,
    set_migration,
    set_up,
    write_again,
)
from tests.functional.nova.proofs.drift import Act, Change, Drift, Moment
from tests.functional.nova.proofs.stage import Stage
from tests.functional.nova.world import bind, unplug

_ALLOCATIONS = frozenset({"placement.allocations"})
_BETWEEN = (Moment.BETWEEN,)
_FULL = {"VCPU": 1, "MEMORY_MB": 512, "DISK_GB": 1}
_STRANGER = "5e000000-0000-4000-8000-000000000001"


def _boot(stage: Stage, count: int = 1) -> list[str]:
    set_up(stage)
    with stage.cloud.ago(**LONG):
        return [stage.cloud.boot("a") for _ in range(count)]


def _holds(*hosts: str) -> Callable[[Stage, str], bool]:
    def holds(stage: Stage, consumer: str) -> bool:
        return stage.cloud.allocation(consumer) == {stage.cloud.node(host).uuid: _FULL for host in hosts}

    return holds


def _no_node(stage: Stage, instance: str) -> None:
    mark_deleted(stage, tables.compute_nodes, "host", "a")


def _migration_of(stage: Stage, instance: str) -> str:
    """Return the instance's oldest migration."""
    return str(stage.cloud.migrations(instance)[0].uuid)


def _to_migration(act: Act) -> Act:
    """Let a change concern the instance's migration as a consumer."""
    return lambda stage, instance: act(stage, _migration_of(stage, instance))


def _owned_by(stage: Stage, consumer: str, project: str) -> None:
    now = stage.cloud.placement.request("GET", f"/allocations/{consumer}").body
    body = {
        "allocations": {name: {"resources": one["resources"]} for name, one in now["allocations"].items()},
        "project_id": project,
        "user_id": stage.cloud.USER,
        "consumer_generation": now["consumer_generation"],
    }
    assert stage.cloud.placement.request("PUT", f"/allocations/{consumer}", body).status == 204


def _other_owner(stage: Stage, consumer: str) -> None:
    _owned_by(stage, consumer, "a-third-project")


def _without_ports(stage: Stage, instance: str) -> None:
    unplug(stage.neutron, instance)


def _bound_to(host: str) -> Act:
    return lambda stage, instance: bind(stage.neutron, instance, host)


def _bound_elsewhere(host: str) -> Mapping[str, Act]:
    return {
        "there is no port": _without_ports,
        "it is unbound": _bound_to(""),
        "it is bound to the other host": _bound_to(host),
    }


def _second_port(stage: Stage, instance: str) -> None:
    """Add a port that Nova made and that is unbound, as a shelve offload leaves it that failed for the other one."""
    stage.neutron.add(device_id=instance, device_owner="compute:nova")


_UNBOUND: Mapping[str, Act] = {"beside a bound one": _second_port}


# heal_allocations


def _missing(stage: Stage) -> tuple[Key, list[str]]:
    [instance] = _boot(stage)
    release(stage, instance)
    return Key("instance", instance), [instance]


def _several_missing(stage: Stage) -> tuple[Key, list[str]]:
    instances = _boot(stage, 3)
    for instance in instances:
        release(stage, instance)
    return Key("node", stage.cloud.node("a").uuid), instances


def _wrong_provider(stage: Stage) -> tuple[Key, list[str]]:
    [instance] = _boot(stage)
    add_migration(stage, instance, stage.cloud.node("b"), "failed")
    hold_on("b")(stage, instance)
    bind(stage.neutron, instance, "a")
    return Key("instance", instance), [instance]


def _wrong_owner(stage: Stage) -> tuple[Key, list[str]]:
    [instance] = _boot(stage)
    _owned_by(stage, instance, "another-project")
    return Key("instance", instance), [instance]


def _owed(stage: Stage, instance: str) -> None:
    """Let a migration that was rolled back hold the resources of the node."""
    made = add_migration(stage, instance, stage.cloud.node("b"), "failed")
    hold_on("a")(stage, made)


_TASK: Mapping[str, Act] = {"a task": RUNNING_TASK, **UNFINISHED}
_ELSEWHERE_MAPPED: Mapping[str, Act] = {
    "to cell2": MAPPED_TO_CELL2,
    "to no cell": MAPPED_TO_NO_CELL,
    "none at all": UNMAPPED,
}
_QUEUED: Mapping[str, Act] = {"it is set": MARKED}
_OF_ANOTHER: Mapping[str, Act] = {
    "another project": set_mapping(project_id="a-third-project"),
    "another user": set_mapping(user_id="a-third-user"),
}

ALLOCATION_MISSING = Drift(
    HealAllocations,
    "allocation-missing",
    _missing,
    _holds("a"),
    _ALLOCATIONS,
    proof={
        "the live row of the instance with host and node": {
            "the row is gone": purged,
            "the row is deleted": delete_marked,
            "the row has no host": set_instance(host=None),
            "the row has no node": set_instance(node=None),
            "the row is of this moment": changed_just_now,
        },
        "the binding of the instance's ports to its host, in Neutron": _bound_elsewhere("b"),
        "the live compute node": {"it is deleted": Change(_no_node, alone=False)},
        "the flavor of the instance": {
            "it is gone": alter(tables.instance_extra, "instance_uuid", flavor=None),
            "it cannot be read": alter(tables.instance_extra, "instance_uuid", flavor="{}"),
        },
    },
    contradiction={
        "an allocation": {"of its node": hold_on("a", VCPU=2), "of another node": hold_on("b")},
        "a task, an unfinished or unconfirmed migration": _TASK,
        "a row in another cell": {**ELSEWHERE, "a live hidden row": row_in("cell2", hidden=True)},
        "a build request, or a mapping to another cell": {"a build request": BUILD_REQUEST, **_ELSEWHERE_MAPPED},
        "``queued_for_delete`` or another owner in the mapping": {**_QUEUED, **_OF_ANOTHER},
        "an allocation of a rolled-back migration": {"of its node": _owed},
        "a last live migration in ``error``": {"to another node": migration("b", "error", "live-migration")},
        "an unbound port of the instance": _UNBOUND,
    },
)

ALLOCATIONS_MISSING = Drift(
    HealAllocations,
    "allocations-missing",
    _several_missing,
    _holds("a"),
    _ALLOCATIONS,
    one=ALLOCATION_MISSING,
)

WRONG_PROVIDER = Drift(
    HealAllocations,
    "wrong-provider",
    _wrong_provider,
    _holds("a"),
    _ALLOCATIONS,
    proof={
        "the row of the instance on its node": {
            "the row is gone": purged,
            "the row is deleted": delete_marked,
            "the row names another node": set_instance(host="d", node="d"),
            "the row has no host": set_instance(host=None),
        },
        "an ended migration that names both nodes and led to this one": {
            "there is none": drop(tables.migrations, "instance_uuid"),
            "it is deleted": set_migration(deleted=1),
            "it led to the other node": set_migration(status="completed"),
            "it has not ended": set_migration(status="running"),
            "it names another node": set_migration(dest_compute="d", dest_node="d"),
            "it began elsewhere": set_migration(source_compute="d", source_node="d"),
        },
        "the binding of the instance's ports to its host, in Neutron": _bound_elsewhere("b"),
    },
    contradiction={
        "a younger migration that led elsewhere, or a live migration in ``error``": {
            **ELSEWHERE_LAST,
            "the migration itself is a live one in error": set_migration(
                status="error", migration_type="live-migration"
            ),
        },
        "a task, an unfinished or unconfirmed migration": _TASK,
        "a build request, or a mapping to another cell": {"a build request": BUILD_REQUEST, **_ELSEWHERE_MAPPED},
        "``queued_for_delete`` or another owner in the mapping": {**_QUEUED, **_OF_ANOTHER},
        "an unbound port of the instance": _UNBOUND,
    },
)

WRONG_OWNER = Drift(
    HealAllocations,
    "wrong-owner",
    _wrong_owner,
    lambda stage, instance: (
        stage.cloud.placement.request("GET", f"/allocations/{instance}").body["project_id"] == stage.cloud.PROJECT
    ),
    _ALLOCATIONS,
    proof={
        "project and user in the row of the instance": {
            "it has no project": set_instance(project_id=None),
            "it has no user": set_instance(user_id=None),
            "the row is gone": purged,
            "the row is deleted": delete_marked,
        },
        "the same project and user in its mapping": {**_OF_ANOTHER, "there is none": UNMAPPED},
        "its allocation on its own node": {
            "it is released": release,
            "it is of another node": hold_on("b"),
        },
    },
    contradiction={
        "another generation of the allocation": {"another project's": Change(_other_owner, _BETWEEN)},
        "a task or a migration": _TASK,
        "``queued_for_delete`` in the mapping": _QUEUED,
    },
)


# audit_allocations


def _deleted(stage: Stage) -> tuple[Key, list[str]]:
    [instance] = _boot(stage)
    with stage.cloud.ago(**LONG):
        stage.cloud.delete(instance, leak_allocation=True)
    return Key("consumer", instance), [instance]


def _archived(stage: Stage) -> tuple[Key, list[str]]:
    key, instances = _deleted(stage)
    archived(stage, instances[0])
    return key, instances


def _leftover(stage: Stage) -> tuple[Key, list[str]]:
    [instance] = _boot(stage)
    with stage.cloud.ago(**LONG):
        made = stage.cloud.start_migration(instance, "b")
        stage.cloud.finish_migration(made)
        stage.cloud.confirm_migration(made, leak_allocation=True)
    return Key("consumer", made), [instance]


def _in_cell0(stage: Stage) -> tuple[Key, list[str]]:
    set_up(stage)
    cloud = stage.cloud
    with cloud.ago(**LONG):
        instance = cloud.request()
        cloud.claim(instance, "a")
        cloud.create_instance(instance, "cell0")
        cloud.map_instance(instance, "cell0")
        cloud.set_instance(instance, vm_state="error", task_state=None)
    return Key("consumer", instance), [instance]


def _evacuated(stage: Stage) -> tuple[Key, list[str]]:
    [instance] = _boot(stage)
    with stage.cloud.ago(**LONG):
        stage.cloud.evacuate(instance, "b")
    bind(stage.neutron, instance, "b")
    return Key("consumer", instance), [instance]


def _nothing(stage: Stage, consumer: str) -> bool:
    return not stage.cloud.allocation(consumer)


_NO_ROW: Mapping[str, Act] = {"the row is gone": purged}
_WRITTEN_AGAIN = {"written again": Change(write_again, _BETWEEN)}

DELETED = Drift(
    AuditAllocations,
    "instance-deleted",
    _deleted,
    _nothing,
    _ALLOCATIONS,
    proof={
        "the allocation": {"it is released": release},
        "the row of the instance that is marked as deleted": {
            **_NO_ROW,
            "the row is live": set_instance(deleted=0, deleted_at=None, vm_state="active"),
            "the row is hidden": set_instance(hidden=True),
            "the row was deleted this moment": changed_just_now,
        },
    },
    contradiction={
        "a live row in any cell": {**ELSEWHERE, "a live hidden row": row_in("cell2", hidden=True)},
        "a build request": {"one of any age": BUILD_REQUEST},
        "a mapping without a cell": {"it names none": MAPPED_TO_NO_CELL},
        "a mapping to another cell without ``queued_for_delete``": {"to cell2": UNMARKED_ELSEWHERE},
        "another generation of the allocation": _WRITTEN_AGAIN,
    },
)

ARCHIVED = Drift(
    AuditAllocations,
    "instance-archived",
    _archived,
    _nothing,
    _ALLOCATIONS,
    proof={
        "the allocation": {"it is released": release},
        "the row of the instance in a shadow table, marked as deleted": {
            "the row is purged": Change(drop(tables.shadow_instances, "uuid"), (Moment.BEFORE,)),
            "the row is not marked": Change(alter(tables.shadow_instances, "uuid", deleted=0), (Moment.BEFORE,)),
            "the row is hidden": Change(alter(tables.shadow_instances, "uuid", hidden=True), (Moment.BEFORE,)),
        },
    },
    contradiction={
        "a row in any cell": {
            **ELSEWHERE,
            "a live row in its own cell": row_in("cell1", host="a", node="a"),
            "a live hidden row": row_in("cell2", hidden=True),
        },
        "a build request": {"one of any age": BUILD_REQUEST},
        "a mapping without a cell": {"it names none": MAPPED_TO_NO_CELL},
        "a mapping without ``queued_for_delete``": {"to its cell": UNMARKED, "to cell2": UNMARKED_ELSEWHERE},
        "another generation of the allocation": _WRITTEN_AGAIN,
    },
)

LEFTOVER = Drift(
    AuditAllocations,
    "migration-leftover",
    _leftover,
    lambda stage, instance: _nothing(stage, _migration_of(stage, instance)),
    _ALLOCATIONS,
    proof={
        "the migration, ended": {
            "it is gone": drop(tables.migrations, "instance_uuid"),
            "it runs": set_migration(status="running"),
            "it waits to be confirmed": set_migration(status="finished"),
        },
        "the instance's own allocation of the node where it lives": {
            "it is released": release,
            "it is of another node": hold_on("d"),
        },
    },
    contradiction={
        "a youngest migration that led elsewhere, or a live migration in ``error``, when another node is held": {
            "a younger migration to d": migration("d", "completed", "live-migration", minutes=30),
            "a younger live migration in error": migration("d", "error", "live-migration", minutes=30),
        },
        "an unfinished or unconfirmed migration": {
            "a running migration": migration("d", "running"),
            "a migration that waits to be confirmed": migration("d", "finished"),
        },
        "a task of the instance": {"a task": RUNNING_TASK},
        "another generation of the allocation": {"written again": Change(_to_migration(write_again), _BETWEEN)},
    },
)

IN_CELL0 = Drift(
    AuditAllocations,
    "instance-in-cell0",
    _in_cell0,
    _nothing,
    _ALLOCATIONS,
    proof={
        "the mapping to cell0": {
            "it is gone": UNMAPPED,
            "it names no cell": MAPPED_TO_NO_CELL,
            "it names another cell": MAPPED_TO_CELL2,
        },
        "the row of the instance in cell0 without a host": {
            **_NO_ROW,
            "it has a host": set_instance(host="a", node="a"),
            "it is hidden": set_instance(hidden=True),
        },
    },
    contradiction={
        "a row in another cell": {
            "a live row": row_in("cell2"),
            "a live row on its host": row_in("cell1", host="a", node="a"),
            "a live hidden row": row_in("cell2", hidden=True),
        },
        "a task": {"a task": RUNNING_TASK},
        "a build request": {"one of any age": BUILD_REQUEST},
        "another generation of the allocation": _WRITTEN_AGAIN,
    },
)

LEFT_ON_ANOTHER_NODE = Drift(
    AuditAllocations,
    "left-on-another-node",
    _evacuated,
    _holds("b"),
    _ALLOCATIONS,
    proof={
        "an ended migration after which the instance is no longer on that node": {
            "there is none": drop(tables.migrations, "instance_uuid"),
            "it is deleted": set_migration(deleted=1),
            "it has not ended": set_migration(status="running"),
            "it failed": set_migration(status="failed"),
            "it names another node": set_migration(source_compute="d", source_node="d"),
        },
        "the instance's allocation of the node where it lives": {
            "it is of the other node only": hold_on("a"),
            "the row names a third node": set_instance(host="d", node="d"),
        },
        "the binding of the instance's ports to its host, in Neutron": _bound_elsewhere("a"),
    },
    contradiction={
        "a youngest migration that led elsewhere, or a live migration in ``error``": {
            "a younger migration to d": migration("d", "completed", "live-migration", minutes=30),
            "a younger live migration in error": migration("a", "error", "live-migration", minutes=30),
        },
        "an unfinished or unconfirmed migration": {
            "a running migration": migration("d", "running"),
            "a migration that waits to be confirmed": migration("d", "finished"),
            "a resized instance": set_instance(vm_state="resized"),
        },
        "a task": {"a task": RUNNING_TASK},
        "a mapping to another cell": _ELSEWHERE_MAPPED,
        "a row in another cell": ELSEWHERE,
        "an unbound port of the instance": _UNBOUND,
        "another generation of the allocation": _WRITTEN_AGAIN,
    },
)


# audit_migrations


def _rolled_back(stage: Stage) -> tuple[Key, list[str]]:
    [instance] = _boot(stage)
    with stage.cloud.ago(**LONG):
        made = stage.cloud.start_migration(instance, "b", live=True)
        stage.cloud.fail_migration(made, leak_allocation=True)
    bind(stage.neutron, instance, "a")
    return Key("instance", instance), [instance]


def _second_migration(stage: Stage, instance: str) -> None:
    made = add_migration(stage, instance, stage.cloud.node("b"), "failed")
    hold_on("a")(stage, made)


MIGRATION_HOLDS = Drift(
    AuditMigrations,
    "migration-holds-the-allocation",
    _rolled_back,
    lambda stage, instance: _holds("a")(stage, instance) and _nothing(stage, _migration_of(stage, instance)),
    _ALLOCATIONS,
    proof={
        "the migration, failed, cancelled, reverted or in ``error``, which began on the node of the instance": {
            "it is gone": drop(tables.migrations, "instance_uuid"),
            "it succeeded": set_migration(status="completed"),
            "it runs": set_migration(status="running"),
            "it began on another node": set_migration(source_compute="d", source_node="d"),
        },
        "the row of the instance on that node": {
            "the row is gone": purged,
            "the row is deleted": delete_marked,
            "the row names another node": set_instance(host="d", node="d"),
            "the row has no host": set_instance(host=None),
        },
        "the allocation of the migration there, with the amounts of the instance's flavor": {
            "it is released": _to_migration(release),
            "it is of another node": _to_migration(hold_on("d")),
            "it has other amounts": _to_migration(hold_on("a", VCPU=2, MEMORY_MB=512, DISK_GB=1)),
            "the flavor has other amounts": lambda stage, instance: stage.cloud.set_flavor(instance, vcpus=2),
            "the flavor is gone": alter(tables.instance_extra, "instance_uuid", flavor=None),
        },
        "the binding of the instance's ports to its host, in Neutron": _bound_elsewhere("b"),
    },
    contradiction={
        "a younger migration that succeeded": {"to another node": migration("d", "completed", "live-migration")},
        "a live migration in ``error``": {"the migration itself": set_migration(status="error")},
        "another migration with an allocation": {"of the same node": _second_migration},
        "an allocation of the instance that no migration explains": {"of a third node": also_hold("d")},
        "a task": {"a task": RUNNING_TASK},
        "an unfinished migration": {"a running migration": migration("d", "running")},
        "a build request, or a mapping to another cell": {"a build request": BUILD_REQUEST, **_ELSEWHERE_MAPPED},
        "``queued_for_delete`` in the mapping": _QUEUED,
        "an unbound port of the instance": _UNBOUND,
        "another generation of either allocation": {
            "of the instance": Change(write_again, _BETWEEN),
            "of the migration": Change(_to_migration(write_again), _BETWEEN),
        },
    },
)

DRIFTS = (
    ALLOCATION_MISSING,
    ALLOCATIONS_MISSING,
    WRONG_PROVIDER,
    WRONG_OWNER,
    DELETED,
    ARCHIVED,
    LEFTOVER,
    IN_CELL0,
    LEFT_ON_ANOTHER_NODE,
    MIGRATION_HOLDS,
)
