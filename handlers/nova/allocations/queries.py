"""SQL for the handlers of allocations."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from handlers.nova import queries, records, tables
from handlers.nova.queries import IRONIC, chunks

#: how Nova marks the image's properties among an instance's system metadata
IMAGE = "image_"

#: project and user
Owner = tuple[str | None, str | None]


@dataclass(frozen=True, slots=True)
class Description:
    """The values that determine an instance's entitlement.

    :param network_info: ``instance_info_caches.network_info``; None without a cache
    """

    flavor: str | None
    image_properties: Mapping[str, str] = field(default_factory=dict)
    boot_from_volume: bool = False
    network_info: str | None = None


def descriptions(connection: Connection, uuids: Collection[str]) -> dict[str, Description]:
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
    """Return the instances whose root disk is a volume, or that have neither a recorded root disk nor an image."""
    disks, instances = tables.block_device_mapping.c, tables.instances.c
    roots = sa.select(disks.instance_uuid, disks.destination_type).where(
        disks.instance_uuid.in_(uuids), disks.deleted == 0, disks.boot_index == 0
    )
    found = {row.instance_uuid: row.destination_type == "volume" for row in connection.execute(roots)}
    images = sa.select(instances.uuid, instances.image_ref).where(instances.uuid.in_(uuids))
    return {row.uuid for row in connection.execute(images) if found.get(row.uuid, not row.image_ref)}


@dataclass(frozen=True, slots=True)
class Resident:
    """A live instance on a host.

    :param host: the host of its compute node; on Ironic, the instance's row can name a former host
    :param at_rest: whether the row shows the instance at rest, and neither hidden nor offloaded
    """

    uuid: str
    host: str
    node: str
    project_id: str | None
    user_id: str | None
    at_rest: bool
    flavor: str | None
    image_properties: Mapping[str, str]
    boot_from_volume: bool


def residents(connection: Connection, nodes: Collection[records.ComputeNode]) -> list[Resident]:
    i, extra = tables.instances.c, tables.instance_extra.c
    hosts, names, ironic = {node.host for node in nodes}, {node.node for node in nodes}, _ironic(connection, nodes)
    places = {_place(node.host, node.node) for node in nodes}
    moved = {_place(None, node.node): node.host for node in nodes if node.node in ironic}
    here = sa.and_(i.deleted == 0, i.node.in_(names), sa.or_(i.host.in_(hosts), i.node.in_(ironic)))
    flavored = tables.instances.outerjoin(
        tables.instance_extra, sa.and_(extra.instance_uuid == i.uuid, extra.deleted == 0)
    )
    resting = sa.case((sa.and_(*_resting()), 1), else_=0).label("resting")
    columns = (i.uuid, i.host, i.node, i.project_id, i.user_id, i.image_ref, extra.flavor, resting)
    rows = connection.execute(sa.select(*columns).select_from(flavored).where(here)).all()
    images, roots = _images_on(connection, here), _roots_on(connection, here)
    return [
        Resident(
            row.uuid,
            row.host if _place(row.host, row.node) in places else moved.get(_place(None, row.node), row.host),
            row.node,
            row.project_id,
            row.user_id,
            bool(row.resting),
            row.flavor,
            images.get(row.uuid, {}),
            roots.get(row.uuid, not row.image_ref),
        )
        for row in rows
    ]


def _images_on(connection: Connection, here: sa.ColumnElement[bool]) -> dict[str, dict[str, str]]:
    i, metadata = tables.instances.c, tables.instance_system_metadata.c
    query = (
        sa.select(metadata.instance_uuid, metadata.key, metadata.value)
        .select_from(tables.instances.join(tables.instance_system_metadata, metadata.instance_uuid == i.uuid))
        .where(here, metadata.deleted == 0, metadata.key.startswith(f"{IMAGE}hw", autoescape=True))
    )
    found: dict[str, dict[str, str]] = {}
    for row in connection.execute(query):
        found.setdefault(row.instance_uuid, {})[row.key.removeprefix(IMAGE)] = row.value or ""
    return found


def _roots_on(connection: Connection, here: sa.ColumnElement[bool]) -> dict[str, bool]:
    i, disks = tables.instances.c, tables.block_device_mapping.c
    query = (
        sa.select(disks.instance_uuid, disks.destination_type)
        .select_from(tables.instances.join(tables.block_device_mapping, disks.instance_uuid == i.uuid))
        .where(here, disks.deleted == 0, disks.boot_index == 0)
    )
    return {row.instance_uuid: row.destination_type == "volume" for row in connection.execute(query)}


def owners(connection: Connection, consumers: Collection[str]) -> dict[str, Owner]:
    """Return, by consumer, the project and user of instances and of the instances of migrations, deleted or not."""
    i, m = tables.instances.c, tables.migrations.c
    moved = tables.migrations.join(tables.instances, i.uuid == m.instance_uuid)
    found: dict[str, Owner] = {}
    for chunk in chunks(consumers):
        instances = sa.select(i.uuid, i.project_id, i.user_id).where(i.uuid.in_(chunk))
        migrations = sa.select(m.uuid, i.project_id, i.user_id).select_from(moved).where(m.uuid.in_(chunk))
        for query in (instances, migrations):
            found.update({row.uuid: (row.project_id, row.user_id) for row in connection.execute(query)})
    return found


def owned(connection: Connection, owner: Owner) -> set[str]:
    """Return the instances of a project and user that are at rest on a host."""
    c = tables.instances.c
    return set(
        connection.scalars(_at_rest().where(c.host.is_not(None), c.project_id == owner[0], c.user_id == owner[1]))
    )


def homeless(connection: Connection) -> set[str]:
    """Return the instances at rest whose host and node match no live compute node, by the rule of :func:`homes`."""
    c, nodes = tables.instances.c, tables.compute_nodes.c
    home = sa.exists().where(nodes.deleted == 0, nodes.host == c.host, nodes.hypervisor_hostname == c.node)
    ironic = sa.select(nodes.hypervisor_hostname).where(
        nodes.deleted == 0, nodes.hypervisor_type == IRONIC, nodes.hypervisor_hostname.is_not(None)
    )
    query = _at_rest().where(c.host.is_not(None), c.node.is_not(None), ~home, c.node.not_in(ironic))
    return set(connection.scalars(query))


def homes(connection: Connection, host: str, node: str) -> list[records.ComputeNode]:
    """Return the live compute nodes that match a host and node; normally one.

    On Ironic, only the node must match: when a node moves to another nova-compute, the instance's row keeps the former host.
    """
    found = queries.compute_nodes(connection, {"host": host, "hypervisor_hostname": node})
    return found or queries.compute_nodes(connection, {"hypervisor_type": IRONIC, "hypervisor_hostname": node})


def rightful(
    connection: Connection, nodes: Collection[records.ComputeNode], consumers: Collection[str]
) -> dict[str, set[str]]:
    """Return, by compute node, those of the consumers that have a right to the node's resources.

    They are the instances on the node, and the open migrations from or to it with their instances.
    """
    i, m = tables.instances.c, tables.migrations.c
    hosts, uuids = {node.host for node in nodes}, {_place(node.host, node.node): node.uuid for node in nodes}
    found: dict[str, set[str]] = {node.uuid: set() for node in nodes}
    ironic = _ironic(connection, nodes)
    by_node = {_place(None, node.node): node.uuid for node in nodes if node.node in ironic}
    here = sa.select(i.uuid, i.host, i.node).where(i.deleted == 0, sa.or_(i.host.in_(hosts), i.node.in_(ironic)))
    begun = sa.select(m.uuid, m.instance_uuid, m.source_compute, m.source_node, m.dest_compute, m.dest_node).where(
        m.deleted == 0, m.status.not_in(sorted(records.TERMINAL))
    )
    for chunk in chunks(consumers):
        # By the consumers, because before 2026.2 Nova has no index on the destinations of migrations.
        about = begun.where(sa.or_(m.uuid.in_(chunk), m.instance_uuid.in_(chunk)))
        instances, moves = queries.read_both(connection, here.where(i.uuid.in_(chunk)), about)
        for row in instances:
            home = uuids.get(_place(row["host"], row["node"])) or by_node.get(_place(None, row["node"]))
            if home is not None:
                found[home].add(row["uuid"])
        for row in moves:
            for name in ("source", "dest"):
                place = uuids.get(_place(row[f"{name}_compute"], row[f"{name}_node"]))
                if place is not None:
                    found[place].update(uuid for uuid in (row["uuid"], row["instance_uuid"]) if uuid is not None)
    return found


def _ironic(connection: Connection, nodes: Collection[records.ComputeNode]) -> set[str]:
    c = tables.compute_nodes.c
    query = sa.select(c.hypervisor_hostname).where(
        c.id.in_([node.id for node in nodes]), c.hypervisor_type == IRONIC, c.hypervisor_hostname.is_not(None)
    )
    return set(connection.scalars(query))


def _place(host: str | None, node: str | None) -> tuple[str, str]:
    # A sweep may take Node-1 and node-1 for one: the inspection compares as the database does.
    return (host or "").lower(), (node or "").lower()


def living(connection: Connection, consumers: Collection[str]) -> set[str]:
    i, m = tables.instances.c, tables.migrations.c
    found: set[str] = set()
    for chunk in chunks(consumers):
        found.update(
            connection.scalars(sa.select(i.uuid).where(i.uuid.in_(chunk), i.deleted == 0, i.host.is_not(None)))
        )
        moving = m.status.not_in(sorted(records.TERMINAL))
        found.update(connection.scalars(sa.select(m.uuid).where(m.uuid.in_(chunk), m.deleted == 0, moving)))
    return found


def those_at_rest(connection: Connection, instances: Collection[str]) -> set[str]:
    c = tables.instances.c
    found: set[str] = set()
    for chunk in chunks(instances):
        found.update(connection.scalars(_at_rest().where(c.uuid.in_(chunk))))
    return found


def _at_rest() -> sa.Select[tuple[str]]:
    return sa.select(tables.instances.c.uuid).where(*_resting())


def _resting() -> tuple[sa.ColumnElement[bool], ...]:
    c = tables.instances.c
    away = ("building", "resized", "deleted", "shelved_offloaded")
    return (
        c.deleted == 0,
        c.task_state.is_(None),
        sa.or_(c.vm_state.is_(None), c.vm_state.not_in(away)),
        sa.or_(c.hidden.is_(None), c.hidden == sa.false()),
    )
