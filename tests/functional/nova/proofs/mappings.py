"""Mappings of instances to cells, their build requests and marks of deletion."""

from __future__ import annotations

import sqlalchemy as sa

from handlers.base import Key
from handlers.nova import tables
from handlers.nova.mappings.heal_instance_mappings import HealInstanceMappings
from handlers.nova.mappings.map_instances import MapInstances
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
    archived,
    both,
    changed_just_now,
    delete_marked,
    drop,
    hold_on,
    purged,
    release,
    row_in,
    set_instance,
    set_mapping,
    set_up,
    young_build_request,
)
from tests.functional.nova.proofs.drift import Act, Change, Drift
from tests.functional.nova.proofs.stage import Stage
from tests.functional.nova.world import long_ago

Mapping = tuple[int | None, bool] | None
_FORGOTTEN = frozenset({"nova_api.instance_mappings", "nova_api.request_specs", "nova_api.instance_group_member"})


def _boot(stage: Stage, count: int = 1) -> list[str]:
    set_up(stage)
    with stage.cloud.ago(**LONG):
        return [stage.cloud.boot("a") for _ in range(count)]


def _instance(name: str) -> Key:
    return Key("instance", name)


def _cell1(stage: Stage) -> Key:
    c = tables.cell_mappings.c
    with stage.cloud.api.connect() as connection:
        return Key("cell", str(connection.scalar(sa.select(c.uuid).where(c.name == "cell1"))))


def _mapping(stage: Stage, instance: str) -> Mapping:
    c = tables.instance_mappings.c
    with stage.cloud.api.connect() as connection:
        row = connection.execute(sa.select(c.cell_id, c.queued_for_delete).where(c.instance_uuid == instance)).first()
    return None if row is None else (row.cell_id, bool(row.queued_for_delete))


def _mapped(cell_id: int, queued: bool) -> Act:
    return lambda stage, instance: _mapping(stage, instance) == (cell_id, queued)


def _young_row(stage: Stage, instance: str) -> None:
    """Let the row be without a host and younger than an hour."""
    set_instance(host=None, node=None, created_at=long_ago(minutes=5))(stage, instance)


# map_instances


def _unmapped(stage: Stage) -> tuple[Key, list[str]]:
    [instance] = _boot(stage)
    UNMAPPED(stage, instance)
    return _instance(instance), [instance]


def _unmapped_deleted(stage: Stage) -> tuple[Key, list[str]]:
    key, [instance] = _unmapped(stage)
    delete_marked(stage, instance)
    release(stage, instance)
    drop(tables.request_specs, "instance_uuid")(stage, instance)
    return key, [instance]


def _unmapped_many(stage: Stage) -> tuple[Key, list[str]]:
    instances = _boot(stage, 3)
    for instance in instances:
        UNMAPPED(stage, instance)
    return _cell1(stage), instances


_VISIBLE = "the visible row of the instance, with its project, in exactly one cell"
_SECOND = "unless the row is deleted, a request specification or an allocation of the instance"

INSTANCE_UNMAPPED = Drift(
    MapInstances,
    "instance-unmapped",
    _unmapped,
    lambda stage, instance: _mapping(stage, instance) == (2, False),
    frozenset({"nova_api.instance_mappings"}),
    needs=("cell2",),
    state="live",
    proof={
        _VISIBLE: {
            "the row is gone": purged,
            "the row is hidden": set_instance(hidden=True),
            "the row has no project": set_instance(project_id=None),
        },
        _SECOND: {"neither is there": both(drop(tables.request_specs, "instance_uuid"), release)},
    },
    contradiction={
        "a mapping": {
            "to the same cell": lambda stage, instance: _map(stage, instance, 2),
            "to another cell": lambda stage, instance: _map(stage, instance, 3),
            "to no cell": lambda stage, instance: _map(stage, instance, None),
        },
        "a row in another cell": {**ELSEWHERE, "a live hidden row in another cell": row_in("cell2", hidden=True)},
        "a young build request": {"of this moment": young_build_request},
    },
)

INSTANCE_UNMAPPED_DELETED = Drift(
    MapInstances,
    "instance-unmapped",
    _unmapped_deleted,
    lambda stage, instance: _mapping(stage, instance) == (2, True),
    frozenset({"nova_api.instance_mappings"}),
    needs=("cell2",),
    state="deleted",
    proof={
        _VISIBLE: {
            "the row is gone": purged,
            "the row is hidden": set_instance(hidden=True),
            "the row is live and alone": set_instance(deleted=0, deleted_at=None),
        }
    },
)

INSTANCES_UNMAPPED = Drift(
    MapInstances,
    "instances-unmapped",
    _unmapped_many,
    INSTANCE_UNMAPPED.healed,
    INSTANCE_UNMAPPED.changed,
    needs=("cell2",),
    one=INSTANCE_UNMAPPED,
    swept=False,
)


def _map(stage: Stage, instance: str, cell_id: int | None) -> None:
    values = {"instance_uuid": instance, "cell_id": cell_id, "project_id": "p", "queued_for_delete": True}
    stage.execute("nova_api", sa.insert(tables.instance_mappings).values(values))


# heal_instance_mappings


def _without_cell(stage: Stage) -> tuple[Key, list[str]]:
    [instance] = _boot(stage)
    MAPPED_TO_NO_CELL(stage, instance)
    BUILD_REQUEST(stage, instance)
    return _instance(instance), [instance]


def _with_request(stage: Stage) -> tuple[Key, list[str]]:
    [instance] = _boot(stage)
    BUILD_REQUEST(stage, instance)
    return _instance(instance), [instance]


def _unmarked(stage: Stage) -> tuple[Key, list[str]]:
    [instance] = _boot(stage)
    delete_marked(stage, instance)
    return _instance(instance), [instance]


def _marked(stage: Stage) -> tuple[Key, list[str]]:
    [instance] = _boot(stage)
    MARKED(stage, instance)
    return _instance(instance), [instance]


def _archive(stage: Stage, instances: list[str]) -> None:
    for instance in instances:
        with stage.cloud.ago(**LONG):
            stage.cloud.delete(instance)
        values = {"instance_uuid": instance, "group_id": 1, "created_at": long_ago()}
        stage.execute("nova_api", sa.insert(tables.instance_group_member).values(values))
        archived(stage, instance)


def _left_behind(stage: Stage) -> tuple[Key, list[str]]:
    instances = _boot(stage)
    _archive(stage, instances)
    return _instance(instances[0]), instances


def _orphaned(stage: Stage) -> tuple[Key, list[str]]:
    key, instances = _left_behind(stage)
    set_mapping(cell_id=None)(stage, instances[0])
    return key, instances


def _many_left_behind(stage: Stage) -> tuple[Key, list[str]]:
    instances = _boot(stage, 3)
    _archive(stage, instances)
    c = tables.instance_mappings.c
    with stage.cloud.api.connect() as connection:
        ids = list(connection.scalars(sa.select(c.id).where(c.instance_uuid.in_(instances)).order_by(c.id)))
    return Key("mappings", f"{ids[0]}-{ids[-1]}"), instances


def _without_request(stage: Stage, instance: str) -> bool:
    return instance not in stage.cloud.build_requests()


def _forgotten(stage: Stage, instance: str) -> bool:
    return _mapping(stage, instance) is None


def _lost_live_instances(stage: Stage, instance: str) -> None:
    """Let no live instance be in the cell that archived the instance."""
    values = {"deleted": tables.instances.c.id, "deleted_at": long_ago()}
    stage.execute("cell1", sa.update(tables.instances).where(tables.instances.c.deleted == 0).values(values))


_EMPTY_CELL = Change(_lost_live_instances, alone=False)
_HOSTED = "with a host or older than an hour"

WITHOUT_CELL = Drift(
    HealInstanceMappings,
    "mapping-without-cell",
    _without_cell,
    lambda stage, instance: _mapping(stage, instance) == (2, False) and _without_request(stage, instance),
    frozenset({"nova_api.instance_mappings", "nova_api.build_requests"}),
    needs=("cell2",),
    proof={
        "the mapping": {"it is gone": UNMAPPED},
        f"the row of the instance in exactly one cell, {_HOSTED}": {
            "the row is gone": purged,
            "the row is hidden": set_instance(hidden=True),
            "the row is young and without a host": _young_row,
        },
    },
    contradiction={
        "a visible or a live hidden row in another cell": {
            **ELSEWHERE,
            "a live hidden row": row_in("cell2", hidden=True),
        },
    },
)

STALE_REQUEST = Drift(
    HealInstanceMappings,
    "build-request-stale",
    _with_request,
    _without_request,
    frozenset({"nova_api.instance_mappings", "nova_api.build_requests"}),
    needs=("cell2",),
    proof={
        "the mapping that names the cell": {
            "it is gone": UNMAPPED,
            "it names no cell": MAPPED_TO_NO_CELL,
            "it names another cell": MAPPED_TO_CELL2,
        },
        f"the row of the instance there, {_HOSTED}": {
            "the row is gone": purged,
            "the row is hidden": set_instance(hidden=True),
            "the row is young and without a host": _young_row,
        },
    },
    contradiction={"a row without a host that is younger than an hour": {"of five minutes": _young_row}},
)

MARK_MISSING = Drift(
    HealInstanceMappings,
    "mark-of-deletion-wrong",
    _unmarked,
    lambda stage, instance: _mapping(stage, instance) == (2, True),
    frozenset({"nova_api.instance_mappings"}),
    needs=("cell2",),
    state="set",
    proof={
        "to set it: the mapping that names the cell": {
            "it is gone": UNMAPPED,
            "it names no cell": MAPPED_TO_NO_CELL,
            "it names another cell": MAPPED_TO_CELL2,
        },
        "to set it: the deleted or soft-deleted row of the instance there": {
            "the row is gone": purged,
            "the row is live": set_instance(deleted=0, deleted_at=None),
            "the row is hidden": set_instance(hidden=True),
        },
    },
    contradiction={
        "a change in the last minute": {"of this moment": changed_just_now},
    },
)

MARK_WRONG = Drift(
    HealInstanceMappings,
    "mark-of-deletion-wrong",
    _marked,
    lambda stage, instance: _mapping(stage, instance) == (2, False),
    frozenset({"nova_api.instance_mappings"}),
    state="clear",
    proof={
        "to clear it: the live row of the instance there": {
            "the row is gone": purged,
            "the row is deleted": delete_marked,
            "the row is soft-deleted": set_instance(vm_state="soft-delete"),
            "the row is hidden": set_instance(hidden=True),
        },
        "to clear it: an allocation of the instance": {"it is released": release},
    },
    contradiction={
        "a task of the instance": {
            "a deletion": set_instance(task_state="deleting"),
            "another task": RUNNING_TASK,
        },
        "a change in the last minute": {"of this moment": changed_just_now},
    },
)

_ROWS = {
    **ELSEWHERE,
    "a deleted row in its own cell": row_in("cell1", deleted=7, deleted_at=long_ago(), vm_state="deleted"),
    "a hidden row in another cell": row_in("cell2", hidden=True, deleted=7),
}
_AGAINST_FORGETTING = {
    "a build request": {"an old one": BUILD_REQUEST, "a young one": young_build_request},
    "a row of the instance in any cell": _ROWS,
    "an allocation": {"on its host": hold_on("a"), "on a host of another cell": hold_on("c")},
}
_PURGED_SHADOW = drop(tables.shadow_instances, "uuid")
_MARK = "the mark of deletion, ``queued_for_delete``"

ORPHANED = Drift(
    HealInstanceMappings,
    "mapping-orphaned",
    _orphaned,
    _forgotten,
    _FORGOTTEN,
    proof={
        _MARK: {"it is not set": UNMARKED, "it is NULL": set_mapping(queued_for_delete=None)},
        "an archived row of the instance in a cell": {"it is purged": _PURGED_SHADOW},
    },
    contradiction={
        **_AGAINST_FORGETTING,
        "no live instance in the cell that archived it": {"all are deleted": _EMPTY_CELL},
    },
)

LEFT_BEHIND = Drift(
    HealInstanceMappings,
    "mapping-left-behind",
    _left_behind,
    _forgotten,
    _FORGOTTEN,
    proof={
        _MARK: {"it is not set": UNMARKED, "it is NULL": set_mapping(queued_for_delete=None)},
        "an archived row of the instance in the cell of the mapping": {
            "it is purged": _PURGED_SHADOW,
            "it is in another cell": MAPPED_TO_CELL2,
        },
    },
    contradiction={
        **_AGAINST_FORGETTING,
        "no live instance in that cell": {"all are deleted": _EMPTY_CELL},
    },
)

ALL_LEFT_BEHIND = Drift(
    HealInstanceMappings,
    "mappings-left-behind",
    _many_left_behind,
    _forgotten,
    _FORGOTTEN,
    one=LEFT_BEHIND,
    swept=False,
)

DRIFTS = (
    INSTANCE_UNMAPPED,
    INSTANCE_UNMAPPED_DELETED,
    INSTANCES_UNMAPPED,
    WITHOUT_CELL,
    STALE_REQUEST,
    MARK_MISSING,
    MARK_WRONG,
    ORPHANED,
    LEFT_BEHIND,
    ALL_LEFT_BEHIND,
)
