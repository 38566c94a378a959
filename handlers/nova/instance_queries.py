"""The SQL statements that ask a cell what an instance is entitled to, and which instances live on a node.

As in :mod:`handlers.nova.queries`: each takes a connection within a transaction and can be run again.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from handlers.nova import records, tables

#: how Nova marks the image's properties among an instance's system metadata
IMAGE = "image_"


@dataclass(frozen=True, slots=True)
class Description:
    """What an instance carries with it, as it is stored.

    :param flavor: ``instance_extra.flavor``
    :param image_properties: by their names in Glance
    :param boot_from_volume: whether its root disk is a volume
    :param network_info: ``instance_info_caches.network_info``; None when there is no cache
    """

    flavor: str | None
    image_properties: Mapping[str, str] = field(default_factory=dict)
    boot_from_volume: bool = False
    network_info: str | None = None


def descriptions(connection: Connection, uuids: Collection[str]) -> dict[str, Description]:
    """What instances carry with them; only of live ones, deleted rows do not count."""
    extra, caches = tables.instance_extra.c, tables.instance_info_caches.c
    metadata = tables.instance_system_metadata.c
    flavors = sa.select(extra.instance_uuid, extra.flavor).where(extra.instance_uuid.in_(uuids), extra.deleted == 0)
    networks = sa.select(caches.instance_uuid, caches.network_info).where(
        caches.instance_uuid.in_(uuids), caches.deleted == 0
    )
    images = sa.select(metadata.instance_uuid, metadata.key, metadata.value).where(
        metadata.instance_uuid.in_(uuids),
        metadata.deleted == 0,
        metadata.key.startswith(f"{IMAGE}hw", autoescape=True),
    )
    flavor = {row.instance_uuid: row.flavor for row in connection.execute(flavors)}
    network = {row.instance_uuid: row.network_info for row in connection.execute(networks)}
    properties: dict[str, dict[str, str]] = {}
    for row in connection.execute(images):
        properties.setdefault(row.instance_uuid, {})[row.key.removeprefix(IMAGE)] = row.value or ""
    volumes = _booted_from_volume(connection, uuids)
    return {
        uuid: Description(flavor.get(uuid), properties.get(uuid, {}), uuid in volumes, network.get(uuid))
        for uuid in uuids
    }


def _booted_from_volume(connection: Connection, uuids: Collection[str]) -> set[str]:
    """Those whose root disk is a volume, and where no row says so, those without an image, as Nova assumes."""
    disks, instances = tables.block_device_mapping.c, tables.instances.c
    roots = sa.select(disks.instance_uuid, disks.destination_type).where(
        disks.instance_uuid.in_(uuids), disks.deleted == 0, disks.boot_index == 0
    )
    found = {row.instance_uuid: row.destination_type == "volume" for row in connection.execute(roots)}
    images = sa.select(instances.uuid, instances.image_ref).where(instances.uuid.in_(uuids))
    return {row.uuid for row in connection.execute(images) if found.get(row.uuid, not row.image_ref)}


def residents(connection: Connection, node: records.ComputeNode) -> set[str]:
    """The instances that live on a node and are at rest there, so that they should hold something of it."""
    c = tables.instances.c
    return set(connection.scalars(_at_rest().where(c.host == node.host, c.node == node.node)))


def homeless(connection: Connection) -> set[str]:
    """The instances at rest whose host and node name no compute node that is there."""
    c, nodes = tables.instances.c, tables.compute_nodes.c
    home = sa.exists().where(nodes.deleted == 0, nodes.host == c.host, nodes.hypervisor_hostname == c.node)
    return set(connection.scalars(_at_rest().where(c.host.is_not(None), c.node.is_not(None), ~home)))


def _at_rest() -> sa.Select[tuple[str]]:
    c = tables.instances.c
    away = ("building", "resized", "deleted", "shelved_offloaded")
    return sa.select(c.uuid).where(
        c.deleted == 0,
        c.task_state.is_(None),
        sa.or_(c.vm_state.is_(None), c.vm_state.not_in(away)),
        sa.or_(c.hidden.is_(None), c.hidden == sa.false()),
    )
