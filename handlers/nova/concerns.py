"""Makes the concerns of findings.

A needless key can withhold a heal; a missing one lets a heal change an exempt object. So a compute node has ``host`` keys for
its host and for its hypervisor's name.
"""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy.engine import Connection

from handlers.nova import queries
from handlers.nova.cells import Cell
from handlers.nova.database import NovaDatabases
from handlers.nova.former_nodes import former_nodes
from handlers.nova.placement import Placement
from handlers.nova.records import Instance

#: the kinds of objects of which these functions name all that a finding belongs to
KINDS = frozenset({"cell", "consumer", "host", "instance", "project"})


def named(kind: str, *names: str | None) -> frozenset[str]:
    return frozenset(f"{kind}:{name}" for name in names if name)


def of_consumers(*uuids: str | None) -> frozenset[str]:
    """Return the keys ``consumer:<uuid>`` and ``instance:<uuid>`` for each uuid of an instance or migration."""
    return named("consumer", *uuids) | named("instance", *uuids)


def of_cell(cell: Cell) -> frozenset[str]:
    return named("cell", cell.name, cell.uuid)


def of_row(uuid: str, project: str | None, host: str | None, node: str | None) -> frozenset[str]:
    return of_consumers(uuid) | named("project", project) | named("host", host, node)


def of_instance(instance: Instance) -> frozenset[str]:
    return of_row(instance.uuid, instance.project_id, instance.host, instance.node)


def of_providers(databases: NovaDatabases, placement: Placement, providers: Iterable[str]) -> frozenset[str]:
    """Return the keys of the compute nodes, live or deleted, to which these providers belong, and of the nodes' cells."""
    roots: dict[str, str] = {}
    names: set[str] = set()
    for provider in sorted(providers):
        if provider not in roots:
            tree = placement.tree(provider)
            roots |= {uuid: member.root for uuid, member in tree.items()}
            names |= {member.name for uuid, member in tree.items() if uuid == member.root}
    return named("host", *names) | of_nodes(databases, {*roots.values(), *providers})


def of_nodes(databases: NovaDatabases, uuids: Iterable[str]) -> frozenset[str]:
    """Return the keys of the hosts and cells of compute nodes: live, deleted or archived."""
    wanted = sorted(uuids)
    if not wanted:
        return frozenset()
    found = databases.run_in_all(databases.host_cells(), lambda connection: _places(connection, wanted))
    return frozenset[str]().union(
        *(of_cell(cell) | named("host", *names) for cell, places in found.items() for names in places)
    )


def _places(connection: Connection, uuids: list[str]) -> list[tuple[str, str]]:
    live = queries.compute_nodes_among(connection, "uuid", uuids)
    return [
        *((node.host, node.node) for node in live),
        *((node.host, node.node) for node in former_nodes(connection, "uuid", uuids)),
    ]
