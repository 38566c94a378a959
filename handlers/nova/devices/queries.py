"""SQL about PCI devices and the instances that asked for them.

PCI requests name resource providers since Nova 2023.1, if ``[filter_scheduler] pci_in_placement`` is set
(``nova/compute/utils.py``, update_pci_request_with_placement_allocations).
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from handlers.access.database import seconds_since
from handlers.nova import tables
from handlers.nova.devices.rules import Device, User
from handlers.nova.queries import NOW, chunks
from handlers.nova.records import Instance

#: the word in ``pci_requests`` before the providers
NAMES = "rp_uuids"
_SOURCES = ((tables.instances, tables.instance_extra), (tables.shadow_instances, tables.shadow_instance_extra))


def device(connection: Connection, node: int, address: str) -> Device | None:
    """Return the device of a compute node at a PCI address, in any letter case; None if there is none."""
    c = tables.pci_devices.c
    query = sa.select(c.address, c.vendor_id, c.product_id, c.status, c.instance_uuid)
    row = connection.execute(
        query.where(c.compute_node_id == node, sa.func.lower(c.address) == address.lower(), c.deleted == 0)
    ).first()
    return None if row is None else Device(*row)


def users(connection: Connection, hosts: Collection[str]) -> list[User]:
    """Return the live and deleted instances on one of ``hosts``, or without a host, whose PCI requests name providers.

    :return: the youngest deletion first, live instances last
    """
    c = tables.instances.c
    return _ordered(
        one
        for chunk in chunks(hosts)
        for one in _users(connection, sa.or_(c.host.in_(chunk), c.host.is_(None)), *_SOURCES[0])
    )


def archived_users(connection: Connection, hosts: Collection[str]) -> list[User]:
    """Return the archived instances on ``hosts`` whose PCI requests name providers. The query scans the whole table."""
    c = tables.shadow_instances.c
    return _ordered(
        one
        for chunk in chunks(hosts)
        for one in _users(connection, sa.and_(c.deleted != 0, c.host.in_(chunk)), *_SOURCES[1])
    )


def named(connection: Connection, instance: str) -> frozenset[str] | None:
    """Return the uuids of the providers that a deleted instance's PCI requests name; None if the cell has no such row."""
    return _named(connection, instance, *_SOURCES[0])


def archived_named(connection: Connection, instance: str) -> frozenset[str] | None:
    """Return the result of :func:`named` for an archived instance. The query scans the whole table."""
    return _named(connection, instance, *_SOURCES[1])


def _named(connection: Connection, instance: str, rows: sa.Table, extras: sa.Table) -> frozenset[str] | None:
    there = rows.outerjoin(extras, extras.c.instance_uuid == rows.c.uuid)
    query = sa.select(rows.c.deleted, extras.c.pci_requests).select_from(there).where(rows.c.uuid == instance)
    found = connection.execute(query).all()
    if not found:
        return None
    return frozenset[str]().union(*(_providers(row.pci_requests) for row in found if row.deleted))


def _users(
    connection: Connection, where: sa.ColumnElement[bool], rows: sa.Table, extras: sa.Table
) -> Iterator[tuple[datetime | None, User]]:
    i, e = rows.c, extras.c
    columns = (i.uuid, i.project_id, i.user_id, i.host, i.node, i.vm_state, i.task_state, i.deleted, i.hidden)
    query = (
        sa.select(*columns, i.created_at, i.updated_at, i.deleted_at, e.pci_requests, NOW)
        .join_from(rows, extras, e.instance_uuid == i.uuid)
        .where(e.pci_requests.contains(NAMES), where)
    )
    for row in connection.execute(query):
        age = seconds_since(connection, row.now, row.created_at, row.updated_at, row.deleted_at)
        states = row.vm_state, row.task_state, bool(row.deleted), bool(row.hidden)
        instance = Instance(row.uuid, row.project_id, row.user_id, row.host, row.node, *states, age)
        yield row.deleted_at, User(instance, _providers(row.pci_requests))


def _ordered(found: Iterator[tuple[datetime | None, User]]) -> list[User]:
    def youngest(one: tuple[datetime | None, User]) -> tuple[datetime, str]:
        moment, user = one
        return moment or datetime.min, user.row.uuid

    return [user for _, user in sorted(found, key=youngest, reverse=True)]


def _providers(text: str | None) -> frozenset[str]:
    """Return the providers that PCI requests name, from Nova's JSON (``nova/objects/instance_pci_requests.py``, to_json)."""
    try:
        specs = [spec for request in json.loads(text or "[]") for spec in request["spec"]]
        return frozenset(one for spec in specs for one in spec.get(NAMES, "").split(",") if one)
    except (ValueError, LookupError, TypeError, AttributeError):
        return frozenset()
