"""Ports of deleted instances in Neutron."""

from __future__ import annotations

import json

from handlers.base import Key
from handlers.nova import tables
from handlers.nova.ports.audit_ports import AuditPorts
from tests.functional.nova.proofs.changes import (
    BUILD_REQUEST,
    ELSEWHERE,
    LONG,
    MAPPED_TO_NO_CELL,
    UNMARKED_ELSEWHERE,
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

_PORTS = frozenset({"neutron.ports"})


def _deleted(stage: Stage) -> tuple[Key, list[str]]:
    set_up(stage)
    cloud = stage.cloud
    with cloud.ago(**LONG):
        instance = cloud.boot("a")
        cloud.delete(instance)
    stage.neutron.add(device_id=instance, device_owner="compute:nova", binding_host_id="a")
    return Key("instance", instance), [instance]


def _made_by_nova(stage: Stage) -> tuple[Key, list[str]]:
    key, instances = _deleted(stage)
    _remember(preserve_on_delete=False)(stage, instances[0])
    return key, instances


def _archived(stage: Stage) -> tuple[Key, list[str]]:
    key, instances = _deleted(stage)
    _remember(preserve_on_delete=True)(stage, instances[0])
    cell, caches = stage.cloud.cells["cell1"], tables.instance_info_caches
    [cache] = stage.cloud._store.rows(cell, caches, caches.c.instance_uuid == instances[0])
    archived(stage, instances[0])
    stage.execute("cell1", tables.cell.tables["shadow_instance_info_caches"].insert().values(dict(cache._mapping)))
    return key, instances


def _port(stage: Stage) -> str:
    return list(stage.neutron.ports)[-1]


def _alter_port(**values: object) -> Act:
    return lambda stage, instance: stage.neutron.change(_port(stage), **values)


def _remember(**values: object) -> Act:
    """Let the network cache have this entry about the port."""

    def act(stage: Stage, instance: str) -> None:
        text = json.dumps([{"id": _port(stage), **values}])
        alter(tables.instance_info_caches, "instance_uuid", network_info=text)(stage, instance)

    return act


def _forbid_deletion(stage: Stage, instance: str) -> None:
    stage.options["audit"] = {"audit_ports_delete": False}


_BOUND = {
    "it names no instance": _alter_port(device_id=""),
    "it names another instance": _alter_port(device_id="77777777-0000-4000-8000-000000000000"),
    "another service owns it": _alter_port(device_owner="network:dhcp"),
    "it is gone": lambda stage, instance: stage.neutron.ports.clear(),
}
_CACHE: dict[str, Act] = {
    "it is gone": alter(tables.instance_info_caches, "instance_uuid", network_info=None),
    "it cannot be read": alter(tables.instance_info_caches, "instance_uuid", network_info="{"),
    "it names other ports": alter(tables.instance_info_caches, "instance_uuid", network_info='[{"id": "x"}]'),
    "it does not show the port's origin": _remember(),
}
_CONTRADICTIONS: dict[str, Changes] = {
    "a live row in any cell": {
        **ELSEWHERE,
        "a live hidden row": row_in("cell2", hidden=True),
    },
    "a build request, or a mapping without a cell": {
        "a build request": BUILD_REQUEST,
        "a mapping without a cell": MAPPED_TO_NO_CELL,
    },
    "a mapping to another cell without ``queued_for_delete``": {"to cell2": UNMARKED_ELSEWHERE},
    "another revision of the port": {"another name": Change(_alter_port(name="new"), (Moment.BETWEEN,))},
    "a device of Cyborg": {"in the profile": _alter_port(**{"binding:profile": {"arq_uuid": "x"}})},
}
_BOUND_WORDS = "``device_id`` and ``device_owner`` of the port"
_ROW_WORDS = "the row of the instance that is marked as deleted, or archived"
_CACHE_WORDS = "Nova's network cache of the instance"

UNBIND = Drift(
    AuditPorts,
    "port-of-deleted-instance",
    _deleted,
    lambda stage, instance: stage.neutron.ports[_port(stage)]["device_id"] == "",
    _PORTS,
    state="unbind",
    proof={
        _BOUND_WORDS: _BOUND,
        _ROW_WORDS: {
            "it is gone": purged,
            "it is live": set_instance(deleted=0, deleted_at=None, vm_state="active"),
            "it is soft-deleted": set_instance(deleted=0, deleted_at=None, vm_state="soft-delete"),
            "it is hidden": set_instance(hidden=True),
            "it was deleted this moment": changed_just_now,
        },
        _CACHE_WORDS: {**_CACHE, "it is empty, and the instance never ran": set_instance(launched_at=None)},
    },
    contradiction=_CONTRADICTIONS,
)

UNBIND_ARCHIVED = Drift(
    AuditPorts,
    "port-of-deleted-instance",
    _archived,
    UNBIND.healed,
    _PORTS,
    state="archived",
    proof={
        _BOUND_WORDS: _BOUND,
        _ROW_WORDS: {
            "it is purged": lambda stage, instance: stage.everywhere(
                tables.shadow_instances, tables.shadow_instances.delete()
            ),
            "it is hidden": alter(tables.shadow_instances, "uuid", hidden=True),
            "it is not marked": alter(tables.shadow_instances, "uuid", deleted=0),
        },
        _CACHE_WORDS: {
            "it is purged": lambda stage, instance: stage.execute(
                "cell1", tables.cell.tables["shadow_instance_info_caches"].delete()
            ),
        },
    },
    contradiction=_CONTRADICTIONS,
)

DELETE = Drift(
    AuditPorts,
    "port-of-deleted-instance",
    _made_by_nova,
    lambda stage, instance: not stage.neutron.of(instance),
    _PORTS,
    options={"audit": {"audit_ports_delete": True}},
    state="delete",
    proof={
        _BOUND_WORDS: _BOUND,
        _CACHE_WORDS: _CACHE,
        "to delete it also your permission, ``[audit] audit_ports_delete``": {"without it": _forbid_deletion},
    },
    contradiction=_CONTRADICTIONS,
)

DRIFTS = (UNBIND, UNBIND_ARCHIVED, DELETE)
