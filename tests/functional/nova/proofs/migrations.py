"""Migrations in Nova's cells that have not ended."""

from __future__ import annotations

from handlers.base import Key
from handlers.nova import tables
from handlers.nova.migrations.audit_stuck_migrations import AuditStuckMigrations
from tests.functional.nova.proofs.changes import (
    BUILD_REQUEST,
    ELSEWHERE,
    LONG,
    MAPPED_TO_NO_CELL,
    RUNNING_TASK,
    add_migration,
    alter,
    changed_just_now,
    delete_marked,
    purged,
    row_in,
    set_instance,
    set_up,
)
from tests.functional.nova.proofs.drift import Act, Change, Changes, Drift, Moment
from tests.functional.nova.proofs.stage import Stage
from tests.functional.nova.world import long_ago

_MIGRATIONS = frozenset({"cell1.migrations"})


def _moving(stage: Stage) -> str:
    set_up(stage)
    with stage.cloud.ago(**LONG):
        instance = stage.cloud.boot("a")
    add_migration(stage, instance, stage.cloud.node("b"), "running", "live-migration", hours=3)
    return instance


def _deleted(stage: Stage) -> tuple[Key, list[str]]:
    instance = _moving(stage)
    with stage.cloud.ago(**LONG):
        stage.cloud.delete(instance)
    return Key("instance", instance), [instance]


def _superseded(stage: Stage) -> tuple[Key, list[str]]:
    instance = _moving(stage)
    add_migration(stage, instance, stage.cloud.node("d"), "completed", "live-migration", hours=3)
    set_instance(host="d", node="d")(stage, instance)
    return Key("instance", instance), [instance]


def _ended(stage: Stage, instance: str) -> bool:
    return "error" in [row.status for row in stage.cloud.migrations(instance)]


def _set(dest: str, **values: object) -> Act:
    """Set columns of the migration to this host."""

    def act(stage: Stage, instance: str) -> None:
        [uuid] = [row.uuid for row in stage.cloud.migrations(instance) if row.dest_compute == dest]
        alter(tables.migrations, "uuid", **values)(stage, uuid)

    return act


def _forget(dest: str) -> Act:
    table = tables.migrations
    return lambda stage, instance: stage.everywhere(table, table.delete().where(table.c.dest_compute == dest))


def _changed_just_now(stage: Stage, instance: str) -> None:
    _set("b", updated_at=long_ago(seconds=0))(stage, instance)


_OPEN: dict[str, Act] = {
    "it is gone": _forget("b"),
    "it is deleted": _set("b", deleted=1),
    "it has ended": _set("b", status="failed"),
    "it has no status": _set("b", status=None),
    "it changed this moment": _changed_just_now,
}
_EVACUATION = _set("b", status="pre-migrating", migration_type="evacuation")
_SCHEDULED: Changes = {"a build request": BUILD_REQUEST, "a mapping without a cell": MAPPED_TO_NO_CELL}
_REWRITTEN: Changes = {
    "another status": Change(_set("b", status="post-migrating"), (Moment.BETWEEN,)),
    "another time": Change(_set("b", updated_at=long_ago(hours=2, minutes=30)), (Moment.BETWEEN,)),
}

OF_DELETED = Drift(
    AuditStuckMigrations,
    "migration-of-deleted-instance",
    _deleted,
    _ended,
    _MIGRATIONS,
    proof={
        "the migration, not final, unchanged for a minute": _OPEN,
        "the row of the instance that is marked as deleted": {
            "it is gone": purged,
            "it is live, with a task": set_instance(deleted=0, deleted_at=None, task_state="migrating"),
            "it is live, without a task": set_instance(deleted=0, deleted_at=None),
            "it is hidden": set_instance(hidden=True),
            "it was deleted this moment": changed_just_now,
        },
    },
    contradiction={
        "an evacuation": {"in its row": _EVACUATION},
        "a live row in any cell": {**ELSEWHERE, "a live hidden row": row_in("cell2", hidden=True)},
        "a build request, or a mapping without a cell": _SCHEDULED,
        "another status or ``updated_at`` of the migration": _REWRITTEN,
    },
)

SUPERSEDED = Drift(
    AuditStuckMigrations,
    "migration-superseded",
    _superseded,
    _ended,
    _MIGRATIONS,
    proof={
        "the migration, not final, unchanged for ``audit_stuck_migrations_after``": _OPEN,
        "the live row of the instance without a task, unchanged as long": {
            "it is gone": purged,
            "it is deleted": Change(delete_marked, (Moment.BETWEEN,)),
            "it has no host": set_instance(host=None),
            "it changed this moment": changed_just_now,
        },
        "a younger migration that succeeded and led to the instance's host": {
            "it is gone": _forget("d"),
            "it failed": _set("d", status="failed"),
            "it is in error": _set("d", status="error"),
            "it is deleted": _set("d", deleted=1),
            "it led elsewhere": _set("d", dest_compute="b2"),
            "it is older": _set("d", id=-1),
        },
    },
    contradiction={
        "a task, or a resize that waits for the user": {
            "a task": RUNNING_TASK,
            "a resize": set_instance(vm_state="resized"),
            "a build": set_instance(vm_state="building"),
        },
        "a row in another cell": {**ELSEWHERE, "a live hidden row": row_in("cell2", hidden=True)},
        "a build request, or a mapping without a cell": _SCHEDULED,
        "a cross-cell migration": {"in its row": _set("b", cross_cell_move=True)},
        "an evacuation": {"in its row": _EVACUATION},
        "another status or ``updated_at`` of the migration": _REWRITTEN,
    },
)

DRIFTS = (OF_DELETED, SUPERSEDED)
