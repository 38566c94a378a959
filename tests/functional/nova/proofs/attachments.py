"""Attachments in Cinder of deleted instances."""

from __future__ import annotations

from collections.abc import Callable

import sqlalchemy as sa

from handlers.base import Key
from handlers.nova import tables
from handlers.nova.attachments.audit_attachments import AuditAttachments
from handlers.nova.simulation import NovaSimulation
from tests.functional.nova.proofs.changes import (
    BUILD_REQUEST,
    ELSEWHERE,
    LONG,
    MAPPED_TO_CELL2,
    MAPPED_TO_NO_CELL,
    UNMAPPED,
    UNMARKED,
    add,
    alter,
    archived,
    changed_just_now,
    purged,
    row_in,
    set_instance,
    set_up,
)
from tests.functional.nova.proofs.drift import Act, Change, Changes, Drift, Moment
from tests.functional.nova.proofs.stage import Stage
from tests.functional.nova.world import long_ago

OTHER = "77777777-0000-4000-8000-000000000000"


def _leak(cloud: NovaSimulation) -> str:
    with cloud.ago(**LONG):
        instance = cloud.boot("a")
        cloud.attach_volume(instance)
        cloud.delete(instance, leak_attachments=True)
    return instance


def _connected(stage: Stage) -> tuple[Key, list[str]]:
    set_up(stage)
    stage.cloud.heartbeat("a")
    instance = _leak(stage.cloud)
    return Key("instance", instance), [instance]


def _reserved(stage: Stage) -> tuple[Key, list[str]]:
    key, instances = _connected(stage)
    stage.cinder.disconnect(_one(stage))
    return key, instances


def _archived(stage: Stage) -> tuple[Key, list[str]]:
    """Archive it as nova-manage does: the mapping goes too."""
    key, instances = _connected(stage)
    archived(stage, instances[0])
    UNMAPPED(stage, instances[0])
    return key, instances


def _one(stage: Stage) -> str:
    return next(iter(stage.cinder.attachments))


def _alter(**values: object) -> Act:
    return lambda stage, instance: stage.cinder.attachments[_one(stage)].update(values)


def _service(**values: object) -> Act:
    services = tables.services
    statement = sa.update(services).where(services.c.host == "a").values(values)
    return lambda stage, instance: stage.everywhere(services, statement)


def _move(table: sa.Table, kind: str, status: str, deleted: int = 7) -> Act:
    """Add a migration that Nova deleted with its instance."""

    def act(stage: Stage, instance: str) -> None:
        values = {"id": 7, "uuid": OTHER, "instance_uuid": instance, "migration_type": kind, "status": status}
        hosts = {"source_compute": "b", "dest_compute": "a"}
        stage.execute(
            "cell1", sa.insert(table).values({**values, **hosts, "deleted": deleted, "created_at": long_ago()})
        )

    return act


def _mapping(cell: int | None, marked: bool) -> Act:
    values = {"project_id": "p", "cell_id": cell, "queued_for_delete": marked}
    return add("nova_api", tables.instance_mappings, "instance_uuid", **values)


def _taken_over(stage: Stage, instance: str) -> None:
    """Let a live instance name the attachment."""
    [other, *_] = [row.uuid for row in stage.cloud.live_instances() if row.host == "c"]
    attachment = stage.cinder.attachments[_one(stage)]
    values = {"instance_uuid": other, "volume_id": attachment["volume_id"], "attachment_id": attachment["id"]}
    stage.execute("cell2", sa.insert(tables.block_device_mapping).values({**values, "deleted": 0}))


def _in_use(attachment: str | None, written: Callable[[str], str] = str) -> Act:
    """Let a live instance use the volume by an attachment that Cinder does not have.

    :param written: returns the volume's id as Nova stores it
    """

    def act(stage: Stage, instance: str) -> None:
        [other, *_] = [row.uuid for row in stage.cloud.live_instances() if row.host == "c"]
        volume = written(stage.cinder.attachments[_one(stage)]["volume_id"])
        values = {"instance_uuid": other, "volume_id": volume, "deleted": 0}
        stage.execute("cell2", sa.insert(tables.block_device_mapping).values(**values, attachment_id=attachment))

    return act


def _gone(stage: Stage, instance: str) -> None:
    stage.cinder.attachments.clear()


_NAMED_WORDS = "``instance`` of the attachment"
_NAMED: Changes = {
    "it is none": _alter(instance=None),
    "it is another one": _alter(instance=OTHER),
    "the attachment is gone": _gone,
}
_ROW_WORDS = "the row of the instance that is marked as deleted, or archived, unchanged for ``audit_attachments_after``"
_MARK_WORDS = "unless it is archived, the mark of deletion, ``queued_for_delete``, in the mapping to that cell"
_HOST_WORDS = "for a connected attachment: nova-compute on the host of that row, up"
_CLEAN_WORDS = "for a connected attachment: the mark of that nova-compute that it has cleaned up, ``cleaned``"
_HOST: Changes = {
    "for an hour not": _service(last_seen_up=long_ago(hours=1)),
    "forced down": _service(forced_down=True),
    "deleted": _service(deleted=9),
    "of another binary": _service(binary="nova-conductor"),
}
_LIVE: Changes = {**ELSEWHERE, "a live hidden row": row_in("cell2", hidden=True)}
_BUILDING: Changes = {"a build request": BUILD_REQUEST, "a mapping without a cell": MAPPED_TO_NO_CELL}
_BUILDING_AGAIN: Changes = {"a build request": BUILD_REQUEST, "a mapping without a cell": _mapping(None, True)}
_SHARED: Changes = {
    "of another cell": _taken_over,
    "by an attachment that is gone": _in_use(OTHER),
    "by no attachment": _in_use(None),
    "of a volume in capital letters": _in_use(OTHER, str.upper),
}
_CHANGED: Changes = {
    "another status": Change(_alter(status="attaching"), (Moment.BETWEEN,)),
    "another time": Change(_alter(attached_at="2026-11-29T13:00:00.000000"), (Moment.BETWEEN,)),
}


def _moves(table: sa.Table) -> Changes:
    return {
        "a running one": _move(table, "live-migration", "running"),
        "a live one in error": _move(table, "live-migration", "error"),
        "a resize that waits": _move(table, "migration", "finished"),
        "an evacuation whose host did not return": _move(table, "evacuation", "done"),
    }


def _contradictions(table: sa.Table, building: Changes) -> dict[str, Changes]:
    return {
        "a live row in any cell": _LIVE,
        "a build request, or a mapping without a cell": building,
        "a live instance that names the attachment, or uses the volume by an attachment that Cinder does not have": _SHARED,
        "for a connected attachment: a migration or evacuation that did not end": _moves(table),
        "another state of the attachment": _CHANGED,
    }


def _deleted(stage: Stage, instance: str) -> bool:
    return not stage.cinder.attachments


CONNECTED = Drift(
    AuditAttachments,
    "attachment-of-deleted-instance",
    _connected,
    _deleted,
    frozenset({"cinder.attachments", "cinder.volumes"}),
    state="connected",
    proof={
        _NAMED_WORDS: _NAMED,
        _ROW_WORDS: {
            "it is gone": purged,
            "it is live": set_instance(deleted=0, deleted_at=None, vm_state="active"),
            "it is soft-deleted": set_instance(deleted=0, deleted_at=None, vm_state="soft-delete"),
            "it is hidden": set_instance(hidden=True),
            "it changed this moment": changed_just_now,
        },
        _MARK_WORDS: {"it is not set": UNMARKED, "in another cell": MAPPED_TO_CELL2, "no mapping": UNMAPPED},
        _HOST_WORDS: {**_HOST, "the row has no host": set_instance(host=None)},
        _CLEAN_WORDS: {"it is not set": set_instance(cleaned=0)},
    },
    contradiction=_contradictions(tables.migrations, _BUILDING),
)

RESERVED = Drift(
    AuditAttachments,
    "attachment-of-deleted-instance",
    _reserved,
    _deleted,
    CONNECTED.changed,
    state="reserved",
    proof={words: CONNECTED.proof[words] for words in (_NAMED_WORDS, _ROW_WORDS, _MARK_WORDS)},
    contradiction={
        words: changes for words, changes in CONNECTED.contradiction.items() if not words.startswith("for a connected")
    },
)

ARCHIVED = Drift(
    AuditAttachments,
    "attachment-of-deleted-instance",
    _archived,
    _deleted,
    CONNECTED.changed,
    state="archived",
    proof={
        _NAMED_WORDS: _NAMED,
        _MARK_WORDS: {"it is not set": _mapping(2, False), "in another cell": _mapping(3, True)},
        _ROW_WORDS: {
            "it is purged": lambda stage, instance: stage.everywhere(
                tables.shadow_instances, tables.shadow_instances.delete()
            ),
            "it is hidden": alter(tables.shadow_instances, "uuid", hidden=True),
            "it is not marked": alter(tables.shadow_instances, "uuid", deleted=0),
            "it changed this moment": alter(tables.shadow_instances, "uuid", updated_at=long_ago(seconds=0)),
        },
        _HOST_WORDS: {**_HOST, "the row has no host": alter(tables.shadow_instances, "uuid", host=None)},
        _CLEAN_WORDS: {"it is not set": alter(tables.shadow_instances, "uuid", cleaned=0)},
    },
    contradiction=_contradictions(tables.shadow_migrations, _BUILDING_AGAIN),
)

DRIFTS = (CONNECTED, RESERVED, ARCHIVED)
