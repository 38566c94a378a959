"""Reads the records of one-time-use PCI devices, from Placement first, then from Nova's databases."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import replace
from functools import partial
from typing import NamedTuple

from sqlalchemy.engine import Connection

from handlers.nova import queries
from handlers.nova.database import NovaDatabases
from handlers.nova.devices.queries import archived_named, archived_users, device, named, users
from handlers.nova.devices.rules import Case, Device, Place, User, is_reserved
from handlers.nova.placement import Placement, Provider
from handlers.nova.records import ComputeNode

#: ``os_traits.HW_PCI_ONE_TIME_USE``; nova-compute gives it to each device with ``one_time_use`` (Nova 2025.2)
ONE_TIME_USE = "HW_PCI_ONE_TIME_USE"
#: domain:bus:slot.function; any other text could do harm in a hook
_ADDRESS = re.compile(r"[0-9A-F]{4,8}:[0-9A-F]{2}:[0-9A-F]{2}\.[0-7]")


class Records(NamedTuple):
    """The records about a device in the cell of its compute node, as in :class:`Place`."""

    node: ComputeNode
    device: Device | None
    up: bool | None
    users: tuple[User, ...]


def named_by(databases: NovaDatabases, instance: str) -> frozenset[str]:
    for look in (named, archived_named):
        rows = databases.run_in_all(databases.host_cells(), partial(look, instance=instance))
        found = [providers for providers in rows.values() if providers is not None]
        if found:
            return frozenset[str]().union(*found)
    return frozenset()


def read(databases: NovaDatabases, placement: Placement, providers: Iterable[str], hooked: bool) -> list[Case]:
    """Return a case for each of ``providers`` that is a one-time-use device."""
    return [
        _case(databases, placement, provider, hooked)
        for one in sorted(providers)
        for provider in placement.marked(ONE_TIME_USE, uuid=one).values()
    ]


def reserved(placement: Placement) -> list[Provider]:
    """Return the providers of one-time-use devices that are reserved and have no allocation."""
    marked = placement.marked(ONE_TIME_USE)
    stocks = placement.inventories_of_each(marked)
    held = placement.consumers_of_each([uuid for uuid, stock in stocks.items() if is_reserved(stock)])
    return [marked[uuid] for uuid, consumers in held.items() if not consumers]


def users_of(connection: Connection, hosts: Collection[str], providers: Collection[str]) -> list[User]:
    """Return the instances on one of ``hosts``, or without a host, whose PCI requests name providers.

    If live and deleted instances do not name all of ``providers``, archived instances follow. Each part begins with the
    youngest deletion.
    """
    found = users(connection, hosts)
    unexplained = set(providers).difference(*(user.providers for user in found))
    return [*found, *(archived_users(connection, hosts) if unexplained else [])]


def _case(databases: NovaDatabases, placement: Placement, provider: Provider, hooked: bool) -> Case:
    # The generation is that of the inventories. An allocation that follows changes it, so that the write fails.
    inventories = placement.inventories(provider.uuid)
    consumers = placement.holders(provider.uuid)
    found = databases.run_in_all(databases.host_cells(), lambda connection: _in_cell(connection, provider))
    places = [Place(cell, *records) for cell, records in found.items() if records is not None]
    case = Case(provider, inventories, consumers, places[0] if len(places) == 1 else None, (), False, hooked)
    if case.last is None:
        return case
    last = case.last.row.uuid
    building = bool(databases.api.run(lambda connection: queries.building(connection, {last})))
    rows = databases.run_in_all(databases.cells(), lambda connection: queries.instance(connection, last))
    return replace(case, copies=tuple(row for row in rows.values() if row is not None), building=building)


def _in_cell(connection: Connection, provider: Provider) -> Records | None:
    nodes = queries.compute_nodes(connection, {"uuid": provider.root})
    if not nodes or provider.root == provider.uuid:
        return None
    node = nodes[0]
    # ``nova/compute/pci_placement_translator.py`` (_get_rp_name_for_address)
    _, _, address = provider.name.rpartition("_")
    fits = provider.name == f"{node.node}_{address}" and _ADDRESS.fullmatch(address)
    row = device(connection, node.id, address) if fits else None
    asked = users_of(connection, {node.host}, {provider.uuid})
    mine = tuple(user for user in asked if provider.uuid in user.providers)
    return Records(node, row, queries.host_up(connection, node.host), mine)
