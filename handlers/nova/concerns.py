"""Makes the concerns of findings: the keys by which an exemption can name a finding's objects.

A needless key can withhold a heal, but a missing key lets a heal change an exempt object. So a compute node gives two keys
``host:``, for its host and for its hypervisor's name.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from handlers.nova import queries, tables
from handlers.nova.cells import Cell
from handlers.nova.database import NovaDatabases
from handlers.nova.placement import Placement
from handlers.nova.records import Instance

#: the kinds of keys that these functions make; they name all objects of these kinds that a finding concerns
KINDS = frozenset({"cell", "consumer", "host", "instance", "project"})


def named(kind: str, *names: str | None) -> frozenset[str]:
    return frozenset(f"{kind}:{name}" for name in names if name)


def of_consumers(*uuids: str | None) -> frozenset[str]:
    return named("consumer", *uuids) | named("instance", *uuids)


def of_cell(cell: Cell) -> frozenset[str]:
    return named("cell", cell.name, cell.uuid)


def of_row(uuid: str, project: str | None, host: str | None, node: str | None) -> frozenset[str]:
    return of_consumers(uuid) | named("project", project) | named("host", host, node)


def of_instance(instance: Instance) -> frozenset[str]:
    return of_row(instance.uuid, instance.project_id, instance.host, instance.node)


class OfProviders:
    """Finds the concerns of resource providers: the hosts and cells of their compute nodes, even of deleted nodes.

    The first call of :meth:`of` reads all ``expected`` providers. Thread-safe.
    """

    def __init__(self, databases: NovaDatabases, placement: Placement, expected: Iterable[str]) -> None:
        self._databases = databases
        self._placement = placement
        self._expected = frozenset(expected)
        self._known: dict[str, frozenset[str]] = {}
        self._lock = threading.Lock()

    def of(self, providers: Iterable[str]) -> frozenset[str]:
        asked = frozenset(providers)
        with self._lock:
            if not asked <= self._known.keys():
                self._read(sorted((asked | self._expected) - self._known.keys()))
            return frozenset[str]().union(*(self._known[one] for one in asked))

    def _read(self, providers: Collection[str]) -> None:
        roots: dict[str, str] = {}
        names: dict[str, str] = {}
        for provider in providers:
            if provider not in roots:
                tree = self._placement.tree(provider)
                roots |= {uuid: member.root for uuid, member in tree.items()}
                names |= {uuid: member.name for uuid, member in tree.items() if uuid == member.root}
        nodes = _nodes(self._databases, {*providers, *(roots[one] for one in providers if one in roots)})
        for provider in providers:
            root = roots.get(provider, provider)
            found = (nodes.get(uuid.lower(), frozenset()) for uuid in (provider, root))
            self._known[provider] = named("host", names.get(root)).union(*found)


def of_nodes(databases: NovaDatabases, uuids: Iterable[str]) -> frozenset[str]:
    """Return the keys of the hosts and cells of these compute nodes, even if the nodes are deleted or archived."""
    return frozenset[str]().union(*_nodes(databases, set(uuids)).values())


def _nodes(databases: NovaDatabases, uuids: Collection[str]) -> dict[str, frozenset[str]]:
    if not uuids:
        return {}
    found = databases.run_in_all(databases.host_cells(), lambda connection: _places(connection, uuids))
    keys: dict[str, frozenset[str]] = {}
    for cell, places in found.items():
        for uuid, *names in places:
            keys[uuid] = keys.get(uuid, frozenset()) | of_cell(cell) | named("host", *names)
    return keys


def _places(connection: Connection, uuids: Collection[str]) -> list[tuple[str, str | None, str | None]]:
    nodes, shadows = tables.compute_nodes.c, tables.shadow_compute_nodes.c
    found: list[queries.Values] = []
    for chunk in queries.chunks(uuids):
        current, archived = queries.read_both(
            connection,
            sa.select(nodes.uuid, nodes.host, nodes.hypervisor_hostname).where(nodes.uuid.in_(chunk)),
            sa.select(shadows.uuid, shadows.host, shadows.hypervisor_hostname).where(
                shadows.uuid.in_(chunk), shadows.deleted != 0
            ),
        )
        found += [*current, *archived]
    return [(row["uuid"].lower(), row["host"], row["hypervisor_hostname"]) for row in found]
