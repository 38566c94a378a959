"""One-time-use PCI devices of deleted instances."""

from __future__ import annotations

from datetime import UTC, datetime

import sqlalchemy as sa

from handlers.base import Key
from handlers.nova import tables
from handlers.nova.devices.release_devices import ReleaseDevices
from tests.functional.nova.proofs.changes import (
    BUILD_REQUEST,
    ELSEWHERE,
    LONG,
    MAPPED_TO_NO_CELL,
    alter,
    both,
    changed_just_now,
    drop,
    mark_deleted,
    purged,
    row_in,
    set_instance,
    set_up,
)
from tests.functional.nova.proofs.drift import Act, Change, Drift, Moment
from tests.functional.nova.proofs.stage import Stage
from tests.functional.nova.world import archive, long_ago, set_traits

_ADDRESS = "0000:81:00.0"
_HOOK = {"audit": {"release_devices_hook": "/bin/true"}}


def _left(stage: Stage) -> tuple[Key, list[str]]:
    """Let a deleted instance leave a reserved device."""
    set_up(stage)
    cloud = stage.cloud
    with cloud.ago(**LONG):
        provider = cloud.add_device("a", _ADDRESS)
        instance = cloud.boot("a")
        cloud.use_device(instance, provider)
        cloud.delete(instance)
    _service(last_seen_up=datetime.now(UTC).replace(tzinfo=None))(stage, instance)
    return Key("instance", instance), [instance]


def _archived(stage: Stage) -> tuple[Key, list[str]]:
    key, [instance] = _left(stage)
    extra, shadow = tables.instance_extra, tables.shadow_instance_extra
    names = [column.name for column in extra.columns]
    rows = sa.select(*extra.columns).where(extra.c.instance_uuid == instance)
    stage.execute("cell1", sa.insert(shadow).from_select(names, rows))
    archive(stage.cloud, instance)
    return key, [instance]


def _provider(stage: Stage) -> str:
    url = f"/resource_providers?name=a_{_ADDRESS}"
    [row] = stage.cloud.placement.request("GET", url).body["resource_providers"]
    return str(row["uuid"])


def _released(stage: Stage, instance: str) -> bool:
    return stage.cloud.reserved(_provider(stage)) == 0


def _service(**values: object) -> Act:
    services = tables.services
    statement = services.update().where(services.c.host == "a").values(values)
    return lambda stage, instance: stage.everywhere(services, statement)


def _device(**values: object) -> Act:
    return lambda stage, instance: stage.everywhere(tables.pci_devices, sa.update(tables.pci_devices).values(values))


def _forget_device(stage: Stage, instance: str) -> None:
    stage.everywhere(tables.pci_devices, sa.delete(tables.pci_devices))


def _delete_node(stage: Stage, instance: str) -> None:
    mark_deleted(stage, tables.compute_nodes, "host", "a")


def _reserve(reserved: int) -> Act:
    return lambda stage, instance: stage.cloud.reserve_device(_provider(stage), reserved)


def _take_trait(stage: Stage, instance: str) -> None:
    set_traits(stage.cloud, _provider(stage), "COMPUTE_MANAGED_PCI_DEVICE")


def _rename(stage: Stage, instance: str) -> None:
    body = {"name": f"other_{_ADDRESS}"}
    assert stage.cloud.placement.request("PUT", f"/resource_providers/{_provider(stage)}", body).status == 200


def _allocate(stage: Stage, instance: str) -> None:
    """Give the device to an instance that is being built."""
    provider = _provider(stage)
    stage.cloud.reserve_device(provider, 0)
    stage.cloud.claim_device(stage.cloud.request(), provider)
    stage.cloud.reserve_device(provider, 1)


def _asked(text: str | None) -> Act:
    return alter(tables.instance_extra, "instance_uuid", pci_requests=text)


def _shelve_another(stage: Stage, instance: str) -> None:
    """Let a live instance without a host name the device."""
    [row] = stage.cloud._store.rows(
        stage.cloud.cells["cell1"], tables.instance_extra, tables.instance_extra.c.instance_uuid == instance
    )
    with stage.cloud.ago(**LONG):
        other = stage.cloud.boot("a")
        stage.cloud.shelve_offload(other)
    _asked(row.pci_requests)(stage, other)


def _fail(stage: Stage, instance: str) -> None:
    stage.options["audit"] = {"release_devices_hook": "/bin/false"}


_DELETED: dict[str, Act] = {
    "it is gone": purged,
    "it is live": set_instance(deleted=0, deleted_at=None),
    "it was deleted this moment": changed_just_now,
    "it named no provider": _asked("[]"),
    "it named another provider": _asked('[{"spec": [{"rp_uuids": "5e000000-0000-4000-8000-000000000002"}]}]'),
    "its requests are not known": _asked(None),
    "its requests cannot be read": _asked('{"rp_uuids": 1}'),
}

LEFT = Drift(
    ReleaseDevices,
    "reservation-left",
    _left,
    _released,
    frozenset({"placement.inventories"}),
    proof={
        "the provider of the device with trait ``HW_PCI_ONE_TIME_USE`` and without allocation, all of it reserved": {
            "it has no such trait": _take_trait,
            "it is not reserved": _reserve(0),
        },
        "the row of the instance that is marked as deleted or archived, with PCI requests that name the provider": _DELETED,
        "the device in ``pci_devices``, available, on the live compute node that is the root of the provider": {
            "it is gone": _forget_device,
            "it is deleted": _device(deleted=7),
            "it has another address": _device(address="0000:82:00.0"),
            "the compute node is deleted": _delete_node,
            "the compute node is gone": both(
                _forget_device, lambda stage, _: drop(tables.compute_nodes, "host")(stage, "a")
            ),
            "the provider has another name": _rename,
        },
        "your hook, which ends with status 0": {"it fails": _fail},
    },
    contradiction={
        "an allocation of the device": {"of a build": _allocate},
        "an instance or another status in ``pci_devices``": {
            "an instance": _device(instance_uuid="5e000000-0000-4000-8000-000000000001"),
            "it is claimed": _device(status="claimed"),
            "it is allocated": _device(status="allocated"),
            "it is removed": _device(status="removed"),
        },
        "a live instance whose PCI requests name the provider": {"a shelved one": _shelve_another},
        "a live row of the instance in any cell": {
            **ELSEWHERE,
            "a live hidden row": row_in("cell2", hidden=True),
        },
        "a build request, or a mapping without a cell": {
            "a build request": BUILD_REQUEST,
            "to no cell": MAPPED_TO_NO_CELL,
        },
        "a nova-compute that is down": {
            "for an hour": _service(last_seen_up=long_ago(hours=1)),
            "forced down": _service(forced_down=True),
            "a deleted service": _service(deleted=1),
        },
        "another generation of the provider": {
            "reserved again": Change(both(_reserve(0), _reserve(1)), (Moment.BETWEEN,)),
        },
    },
    options=_HOOK,
    needs=("cell2", "placement"),
)

ARCHIVED = Drift(
    ReleaseDevices,
    "reservation-left",
    _archived,
    _released,
    frozenset({"placement.inventories"}),
    options=_HOOK,
    state="archived",
    needs=("cell2", "placement"),
)

DRIFTS = (LEFT, ARCHIVED)
