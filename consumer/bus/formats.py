"""Converts Nova's two notification formats to one.

Nova sends *versioned* notifications (``instance.delete.end``, versioned objects), *legacy* ones
(``compute.instance.delete.end``, a flat dictionary), or both. Handlers see only the versioned name and plain data.

Sources: legacy names from ``nova.rpc.LegacyValidatingNotifier.allowed_legacy_notification_event_types``; legacy payloads
from ``nova.notifications.base.info_from_instance``, ``nova.compute.utils`` and ``nova.scheduler.utils``; versioned names and
payload versions from ``nova.objects.fields.NotificationAction`` and ``nova.notifications.objects``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class Undecodable(ValueError):
    """A message cannot be decoded. The error's text is for operators."""


#: Legacy instance action -> versioned, where more than the prefix differs. The phase does not change.
#: nova-api sends ``force_delete`` instead of ``delete`` when the compute host is down.
_INSTANCE_ACTIONS = {
    "finish_resize": "resize_finish",
    "force_delete": "delete",
    "live.migration.abort": "live_migration_abort",
    "live.migration.force.complete": "live_migration_force_complete",
    "live_migration._post": "live_migration_post",
    "live_migration._rollback": "live_migration_rollback",
    "live_migration.post.dest": "live_migration_post_dest",
    "live_migration.pre": "live_migration_pre",
    "live_migration.rollback.dest": "live_migration_rollback_dest",
    "resize.confirm": "resize_confirm",
    "resize.prep": "resize_prep",
    "resize.revert": "resize_revert",
}

_AGGREGATE_ACTIONS = {
    "addhost": "add_host",
    "removehost": "remove_host",
    "updatemetadata": "update_metadata",
    "updateprop": "update_prop",
}

_PHASES = ("start", "end", "error")

#: Legacy names whose versioned name follows no rule. Legacy names without a phase mean the end.
_WHOLE_NAMES = {
    "compute.instance.rebuild.scheduled": "instance.rebuild_scheduled",
    "compute.instance.volume.attach": "instance.volume_attach.end",
    "compute.instance.volume.detach": "instance.volume_detach.end",
    "compute.libvirt.error": "libvirt.connect.error",
    "compute.metrics.update": "metrics.update",
    "compute_task.build_instances": "compute_task.build_instances.error",
    "compute_task.migrate_server": "compute_task.migrate_server.error",
    "compute_task.rebuild_server": "compute_task.rebuild_server.error",
    "servergroup.addmember": "server_group.add_member",
    "servergroup.create": "server_group.create",
    "servergroup.delete": "server_group.delete",
    "servergroup.update": "server_group.update",
}

#: Every irregular legacy name -> versioned name.
_IRREGULAR = (
    _WHOLE_NAMES
    | {
        f"compute.instance.{old}.{phase}": f"instance.{new}.{phase}"
        for old, new in _INSTANCE_ACTIONS.items()
        for phase in _PHASES
    }
    | {
        f"aggregate.{old}.{phase}": f"aggregate.{new}.{phase}"
        for old, new in _AGGREGATE_ACTIONS.items()
        for phase in _PHASES
    }
)

_LEGACY_PREFIX = "compute.instance."

#: Nova's contract: a minor version only adds fields, a major version may change anything.
#: Payloads with a major version above 1 in a released Nova; all others are decoded in major 1. Version 2.0 of both dropped
#: ``bandwidth``, which names no object, so both majors decode alike.
_KNOWN_MAJORS = {
    "InstanceExistsPayload": frozenset({1, 2}),
    "InstanceUpdatePayload": frozenset({1, 2}),
}
_FIRST_MAJOR = frozenset({1})

#: Nova's deepest notification has 5 levels; the interpreter's recursion limit is far higher.
_MAX_DEPTH = 64

#: oslo.versionedobjects writes ``<project>_object.data`` beside ``.name`` and ``.version``.
_DATA = "_object.data"

#: Legacy key -> versioned key of the same value.
_LEGACY_KEYS = {
    "aggregate_id": "id",
    "hostname": "host_name",
    "instance_id": "uuid",
    "server_group_id": "uuid",
    "state_description": "task_state",
}

#: Keys for which legacy payloads write an empty string instead of null.
_LEGACY_BLANKS = frozenset({"deleted_at", "launched_at", "progress", "task_state", "terminated_at"})

#: Keys at the top of a legacy ``compute.instance.update``; the versioned payload has them in ``state_update``.
_STATE_UPDATE = ("old_state", "state", "old_task_state", "new_task_state")


def normalise(name: str) -> str:
    """Return the versioned name of a legacy event type of Nova; other event types stay unchanged."""
    irregular = _IRREGULAR.get(name)
    if irregular is not None:
        return irregular
    if name.startswith(_LEGACY_PREFIX):
        return name.removeprefix("compute.")
    return name


def raw_names(wanted: frozenset[str]) -> frozenset[str]:
    irregular = {old for old, new in _IRREGULAR.items() if new in wanted}
    regular = {f"compute.{name}" for name in wanted if name.startswith("instance.")}
    return frozenset(wanted | irregular | {name for name in regular if normalise(name) in wanted})


def format_of(name: str, payload: Mapping[str, Any]) -> str:
    """Return ``versioned`` or ``unversioned`` (nova.conf's names); an empty text for other services and a few legacy events."""
    if any(key.endswith(_DATA) for key in payload):
        return "versioned"
    return "unversioned" if _is_legacy(name) else ""


def normalise_payload(name: str, payload: Mapping[str, Any]) -> dict[str, Any]:
    """Return the payload as plain nested data. A legacy payload gets some field names of the versioned format.

    :param name: the event type as received
    :raises Undecodable: the payload is malformed, or its major version is unknown
    """
    if any(key.endswith(_DATA) for key in payload):
        _check_version(payload)
        data = _unwrapped(payload, _MAX_DEPTH)
        if not isinstance(data, dict):
            raise Undecodable("the data of the payload's object is not a dictionary")
        return data
    plain = _unwrapped(payload, _MAX_DEPTH)
    return _from_legacy(name, plain) if _is_legacy(name) else plain


def _check_version(payload: Mapping[str, Any]) -> None:
    prefix = next(key for key in payload if key.endswith(_DATA)).removesuffix("data")
    name, version = payload.get(f"{prefix}name"), payload.get(f"{prefix}version")
    if not isinstance(name, str) or not isinstance(version, str):
        raise Undecodable("the payload's object has no name or no version")
    major = version.partition(".")[0]
    known = _KNOWN_MAJORS.get(name, _FIRST_MAJOR)
    if not (major.isascii() and major.isdecimal() and len(major) < 5 and int(major) in known):
        understood = " and ".join(map(str, sorted(known)))
        raise Undecodable(f"{name[:100]} has version {version[:20]!r}; this release decodes major version {understood}")


def _unwrapped(value: Any, depth: int) -> Any:
    if not depth:
        raise Undecodable(f"the payload is nested deeper than {_MAX_DEPTH} levels")
    if isinstance(value, dict):
        for key in value:
            if key.endswith(_DATA):
                return _unwrapped(value[key], depth - 1)
        return {key: _unwrapped(item, depth - 1) for key, item in value.items()}
    if isinstance(value, list):
        return [_unwrapped(item, depth - 1) for item in value]
    return value


def _is_legacy(name: str) -> bool:
    return name.startswith((_LEGACY_PREFIX, "aggregate.", "compute_task.", "servergroup.", "scheduler."))


def _from_legacy(name: str, payload: dict[str, Any]) -> dict[str, Any]:
    plain = {_LEGACY_KEYS.get(key, key): value for key, value in payload.items()}
    for key in _LEGACY_BLANKS & plain.keys():
        if plain[key] == "":
            plain[key] = None
    if "old_state" in plain:
        plain["state_update"] = {key: plain.get(key) for key in _STATE_UPDATE}
    if name.startswith("compute_task.") and "uuid" in plain:
        plain["instance_uuid"] = plain.pop("uuid")
    if name.startswith("scheduler."):
        plain.setdefault("instance_uuid", _requested_instance(payload))
    return plain


def _requested_instance(payload: dict[str, Any]) -> Any:
    value: Any = payload
    for key in ("request_spec", "instance_properties", "uuid"):
        value = value.get(key) if isinstance(value, dict) else None
    return value
