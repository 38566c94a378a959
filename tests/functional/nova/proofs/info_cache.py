"""Nova's network caches of instances."""

from __future__ import annotations

import json

from handlers.base import Key
from handlers.nova import tables
from handlers.nova.info_cache.heal_info_cache import HealInfoCache
from tests.compute import remember
from tests.functional.nova.proofs.changes import (
    BUILD_REQUEST,
    ELSEWHERE,
    LONG,
    MAPPED_TO_CELL2,
    MAPPED_TO_NO_CELL,
    RUNNING_TASK,
    UNMAPPED,
    alter,
    changed_just_now,
    delete_marked,
    purged,
    row_in,
    set_instance,
    set_up,
)
from tests.functional.nova.proofs.drift import Act, Drift
from tests.functional.nova.proofs.stage import Stage
from tests.functional.nova.world import unplug


def _outdated(stage: Stage) -> tuple[Key, list[str]]:
    set_up(stage)
    with stage.cloud.ago(**LONG):
        instance = stage.cloud.boot("a")
        unplug(stage.neutron, instance)
    port = stage.neutron.add(device_id=instance, device_owner="compute:nova", binding_host_id="a")
    remember(stage.cloud, instance, [stage.neutron.ports[port]])
    stage.neutron.change(port, fixed_ips=[{"subnet_id": "s", "ip_address": "10.0.0.9"}])
    return Key("instance", instance), [instance]


def _renewed(stage: Stage, instance: str) -> bool:
    caches = tables.instance_info_caches
    row, _ = stage.cloud._store.find(caches, caches.c.instance_uuid == instance)
    return "10.0.0.9" in json.dumps(row.network_info)


def _alter_port(**values: object) -> Act:
    return lambda stage, instance: stage.neutron.change(list(stage.neutron.ports)[-1], **values)


def _copy(stage: Stage, instance: str) -> None:
    """Let the cache be right."""
    remember(stage.cloud, instance, [stage.neutron.ports[port] for port in stage.neutron.of(instance)])


def _stop_compute(stage: Stage, instance: str) -> None:
    stage.compute.neutron = None


OUTDATED = Drift(
    HealInfoCache,
    "cache-outdated",
    _outdated,
    _renewed,
    frozenset({"cell1.instance_info_caches"}),
    proof={
        "``device_id`` of the port, bound to the instance's host": {
            "it names no instance": _alter_port(device_id=""),
            "another service owns it": _alter_port(device_owner="network:dhcp"),
            "it is bound to another host": _alter_port(binding_host_id="b"),
            "it is not bound": _alter_port(binding_host_id=""),
            "it is gone": lambda stage, instance: stage.neutron.ports.clear(),
        },
        "an entry for the port that differs, in a cache with entries": {
            "it is right": _copy,
            "the cache is empty": alter(tables.instance_info_caches, "instance_uuid", network_info="[]"),
            "the cache is gone": alter(tables.instance_info_caches, "instance_uuid", network_info=None),
            "the cache cannot be read": alter(tables.instance_info_caches, "instance_uuid", network_info="{"),
        },
        "the live row of the instance without a task, unchanged for a minute": {
            "it is gone": purged,
            "it is deleted": delete_marked,
            "it has a task": RUNNING_TASK,
            "it has no host": set_instance(host=None),
            "it names another host": set_instance(host="d", node="d"),
            "it is being built": set_instance(vm_state="building"),
            "it changed this moment": changed_just_now,
        },
    },
    contradiction={
        "a binding that failed": {
            "in Neutron": _alter_port(**{"binding:vif_type": "binding_failed"}),
            "none yet": _alter_port(**{"binding:vif_type": "unbound"}),
        },
        "another ``vnic_type``": {"macvtap": _alter_port(**{"binding:vnic_type": "macvtap"})},
        "a row in another cell": {**ELSEWHERE, "a live hidden row": row_in("cell2", hidden=True)},
        "a build request, or a mapping to another cell": {
            "a build request": BUILD_REQUEST,
            "to cell2": MAPPED_TO_CELL2,
            "to no cell": MAPPED_TO_NO_CELL,
            "none at all": UNMAPPED,
        },
        "an entry that does not become right after the event": {"nova-compute does not read it": _stop_compute},
    },
)

DRIFTS = (OUTDATED,)
