"""Reads compute nodes and instances of all cells."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import Future, wait
from typing import TypeVar

from handlers.access import request_id
from handlers.base import Incomplete, Refused
from handlers.nova import queries
from handlers.nova.cells import Cell
from handlers.nova.database import NovaDatabases
from handlers.nova.former_nodes import former_nodes
from handlers.nova.placement import Placement
from handlers.nova.records import ComputeNode

S = TypeVar("S")
T = TypeVar("T")

#: batches that are read while the caller works on another one
_AHEAD = 2
#: compute nodes of a batch; it bounds the memory for their instances and allocations
GROUP = 25
#: compute nodes that are looked up one by one before all providers are listed
_SAMPLE = 3
#: seconds for which a Placement that belongs to this Nova is not asked again: as long as a known schema is not read again
OWN_FOR = 60.0


def live_nodes(databases: NovaDatabases) -> tuple[dict[str, tuple[Cell, ComputeNode]], Incomplete | None]:
    """Return the live compute nodes by uuid, each with its cell, and the error of the cells that did not answer, if any.

    Use this only for sweeps and samples, because a proof needs every cell's answer.
    """
    found, down = databases.run_in_available(databases.host_cells(), queries.compute_nodes)
    return {node.uuid: (cell, node) for cell, nodes in found.items() for node in nodes}, down


def require_own_placement(databases: NovaDatabases, placement: Placement) -> None:
    """Check that the configured Placement belongs to this Nova, before a heal relies on it.

    With a wrong region or endpoint, another Placement answers, which knows none of Nova's compute nodes.

    :raises Refused: no compute node's uuid is a provider in Placement
    :raises Unavailable: Placement or nova_api does not answer; or a cell does not, and the others have no compute node
    """
    nodes, down = live_nodes(databases)
    if not nodes and down is not None:
        raise down
    if any(placement.is_compute_node(node) for node in sorted(nodes)[:_SAMPLE]):
        return
    if nodes.keys() & placement.compute_providers().keys():
        return
    raise Refused(
        f"Placement knows none of Nova's {len(nodes)} compute nodes, so that it may be another cloud's or region's: "
        "set [openstack] region_name, or placement_endpoint_override"
    )


class OwnPlacement:
    """Remembers for :data:`OWN_FOR` seconds that Placement belongs to this Nova. Thread-safe."""

    def __init__(self, databases: NovaDatabases, placement: Placement) -> None:
        self._databases = databases
        self._placement = placement
        self._lock = threading.Lock()
        self._seen_at = float("-inf")

    def require(self) -> None:
        with self._lock:
            now = time.monotonic()
            if now - self._seen_at >= OWN_FOR:
                require_own_placement(self._databases, self._placement)
                self._seen_at = now


def live_instances(databases: NovaDatabases) -> int:
    """Count the live instances of the cells that answer."""
    counts, _ = databases.run_in_available(databases.host_cells(), queries.live_instances_count)
    return sum(counts.values())


def in_groups(nodes: Iterable[tuple[Cell, ComputeNode]]) -> Iterator[tuple[Cell, list[ComputeNode]]]:
    """Yield the compute nodes in groups: each group is a cell with up to :data:`GROUP` of the cell's nodes."""
    by_cell: dict[Cell, list[ComputeNode]] = {}
    for cell, node in nodes:
        by_cell.setdefault(cell, []).append(node)
    for cell, some in by_cell.items():
        yield from ((cell, some[start : start + GROUP]) for start in range(0, len(some), GROUP))


def read_ahead(read: Callable[[S], T], batches: Iterable[S]) -> Iterator[tuple[S, Future[T]]]:
    """Call ``read`` for each batch in threads, which read the next batches while the caller works on a batch.

    :return: the batches in order, each with a finished future, which has the result or the error of ``read``
    """
    with request_id.pool(_AHEAD, "read-ahead") as pool:
        waiting: deque[tuple[S, Future[T]]] = deque()
        for batch in batches:
            waiting.append((batch, pool.submit(read, batch)))
            if len(waiting) > _AHEAD:
                yield _ended(waiting.popleft())
        while waiting:
            yield _ended(waiting.popleft())


def _ended(batch: tuple[S, Future[T]]) -> tuple[S, Future[T]]:
    wait([batch[1]])
    return batch


def nodes_among(
    databases: NovaDatabases, column: str, values: Collection[str], *, deleted: bool = False
) -> list[ComputeNode]:
    """Return the live compute nodes of all cells that have one of ``values`` in ``column``.

    :param deleted: whether to return deleted nodes too
    """
    found = databases.run_in_all(
        databases.host_cells(),
        lambda connection: queries.compute_nodes_among(connection, column, values, deleted=deleted),
    )
    return [node for rows in found.values() for node in rows]


def known_places(databases: NovaDatabases, uuids: Collection[str]) -> dict[str, tuple[str, str]]:
    """Return the host and node name of these compute nodes by uuid, even if the nodes are deleted or archived."""
    if not uuids:
        return {}
    nodes = nodes_among(databases, "uuid", uuids, deleted=True)
    places = {node.uuid: (node.host, node.node) for node in nodes}
    unknown = set(uuids) - set(places)
    if unknown:
        found = databases.run_in_all(
            databases.host_cells(), lambda connection: former_nodes(connection, "uuid", unknown)
        )
        places |= {node.uuid: (node.host, node.node) for rows in found.values() for node in rows}
    return places
