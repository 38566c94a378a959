"""SQL about deleted instances and their volumes."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from handlers.access.database import seconds_since, utcnow
from handlers.base import Key
from handlers.nova import queries, tables
from handlers.nova.attachments.rules import Disk, Remains, User
from handlers.nova.records import Migration


def remains_of(connection: Connection, instance: str) -> list[Remains]:
    """Return an instance's deleted rows in a cell, each with the state of its host and the instance's migrations."""
    return _remains(connection, tables.instances, instance, queries.migrations_of(connection, instance))


def archived_remains_of(connection: Connection, instance: str) -> list[Remains]:
    """Return an instance's archived rows as :func:`remains_of` does. The queries scan whole shadow tables."""
    moves = [*queries.migrations_of(connection, instance), *queries.archived_migrations_of(connection, instance)]
    return _remains(connection, tables.shadow_instances, instance, moves)


def _remains(connection: Connection, table: sa.Table, instance: str, moves: list[Migration]) -> list[Remains]:
    c = table.c
    query = sa.select(c.host, c.cleaned, c.hidden, c.created_at, c.updated_at, c.deleted_at, queries.NOW)
    return [
        Remains(
            bool(row.hidden),
            row.host,
            bool(row.cleaned),
            seconds_since(connection, row.now, row.created_at, row.updated_at, row.deleted_at),
            None if row.host is None else queries.host_up(connection, row.host),
            tuple(moves),
        )
        for row in connection.execute(query.where(c.uuid == instance, c.deleted != 0)).all()
    ]


def users(connection: Connection, volumes: Collection[str], instance: str) -> set[User]:
    """Return the block device mappings of live instances other than ``instance`` to ``volumes``.

    Nova stores a volume's id in the letter case of the user's request, Cinder in lower case.
    """
    written = {*volumes, *(volume.upper() for volume in volumes)}
    b, i = tables.block_device_mapping.c, tables.instances.c
    query = (
        sa.select(b.volume_id, b.attachment_id)
        .select_from(tables.block_device_mapping.join(tables.instances, i.uuid == b.instance_uuid))
        .where(b.deleted == 0, i.deleted == 0, b.instance_uuid != instance)
    )
    return {
        User(row.volume_id.lower(), row.attachment_id)
        for chunk in queries.chunks(written)
        for row in connection.execute(query.where(b.volume_id.in_(chunk)))
    }


def disks(connection: Connection, owner: Key) -> list[Disk]:
    """Return the live instances' block device mappings that name one instance, or one volume.

    :param owner: the key of this instance or volume
    """
    b = tables.block_device_mapping.c
    query = _mapped(b.id, b.instance_uuid, b.volume_id, b.attachment_id, b.boot_index)
    rows = connection.execute(query.where(b[_OWNERS[owner.kind]] == owner.id).order_by(b.id)).all()
    instances = {row.uuid: row for row in queries.instances(connection, {row.instance_uuid for row in rows})}
    return [
        Disk(row.id, instances[row.instance_uuid], row.volume_id, row.attachment_id, row.boot_index == 0)
        for row in rows
        if row.instance_uuid in instances
    ]


def mapped_volumes(connection: Connection) -> list[tuple[str, str]]:
    b = tables.block_device_mapping.c
    return [(row.volume_id, row.instance_uuid) for row in connection.execute(_mapped(b.volume_id, b.instance_uuid))]


def youngest_volumes(connection: Connection) -> list[str]:
    b = tables.block_device_mapping.c
    return list(connection.scalars(_mapped(b.volume_id).order_by(b.id.desc()).limit(_SAMPLE)))


def unmapping(disk: Disk) -> sa.Update:
    c = tables.block_device_mapping.c
    same = (c.id == disk.id, c.deleted == 0, c.volume_id == disk.volume)
    return sa.update(tables.block_device_mapping).where(*same).values(deleted=c.id, deleted_at=utcnow())


#: mappings of a cell by which stackmend recognises the Cinder of this Nova
_SAMPLE = 5
_OWNERS = {"instance": "instance_uuid", "volume": "volume_id"}


def _mapped(*columns: sa.ColumnElement[Any]) -> sa.Select[Any]:
    b, i = tables.block_device_mapping.c, tables.instances.c
    joined = tables.block_device_mapping.join(tables.instances, i.uuid == b.instance_uuid)
    volumes = (b.destination_type == "volume", b.volume_id.is_not(None))
    return sa.select(*columns).select_from(joined).where(b.deleted == 0, i.deleted == 0, *volumes)
