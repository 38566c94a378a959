"""Compute nodes and instances over all cells, for handlers that set them against what Placement knows."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TypeVar

from handlers.base import Unavailable
from handlers.nova import queries
from handlers.nova.cells import Cell
from handlers.nova.database import NovaDatabases
from handlers.nova.former_nodes import former_nodes
from handlers.nova.records import ComputeNode

S = TypeVar("S")
T = TypeVar("T")

#: parts that are looked at while the caller is at another one
_AHEAD = 2
#: nodes of a part; memory is needed for what lives on them and is held of them
GROUP = 25


def live_nodes(databases: NovaDatabases) -> tuple[dict[str, tuple[Cell, ComputeNode]], Unavailable | None]:
    """Return the live compute nodes by uuid, of the cells that answer, and the error of one that does not.

    For sweeps only, which may be wrong in both directions: proofs ask all cells or none.
    """
    found, down = databases.run_in_available(databases.host_cells(), queries.compute_nodes)
    return {node.uuid: (cell, node) for cell, nodes in found.items() for node in nodes}, down


def live_instances(databases: NovaDatabases) -> int:
    """Return how many instances live in the cells that answer: the population of sweeps over instances."""
    counts, _ = databases.run_in_available(databases.host_cells(), queries.live_instances_count)
    return sum(counts.values())


def in_groups(nodes: Iterable[tuple[Cell, ComputeNode]]) -> Iterator[tuple[Cell, list[ComputeNode]]]:
    """Yield nodes in parts that are asked about at once, each of one cell."""
    by_cell: dict[Cell, list[ComputeNode]] = {}
    for cell, node in nodes:
        by_cell.setdefault(cell, []).append(node)
    for cell, some in by_cell.items():
        yield from ((cell, some[start : start + GROUP]) for start in range(0, len(some), GROUP))


def looked_at(look: Callable[[S], T], parts: Iterable[S]) -> Iterator[tuple[S, Future[T]]]:
    """Look at parts one after another, at the next one already while the caller is at one; most of a look is waiting.

    :return: each part with its look, which has ended and whose result raises what the look raised
    """
    with ThreadPoolExecutor(_AHEAD, thread_name_prefix="look") as pool:
        waiting: deque[tuple[S, Future[T]]] = deque()
        for part in parts:
            waiting.append((part, pool.submit(look, part)))
            if len(waiting) > _AHEAD:
                yield _ended(waiting.popleft())
        while waiting:
            yield _ended(waiting.popleft())


def _ended(part: tuple[S, Future[T]]) -> tuple[S, Future[T]]:
    wait([part[1]])
    return part


def nodes_among(
    databases: NovaDatabases, column: str, values: Collection[str], *, deleted: bool = False
) -> list[ComputeNode]:
    """Return the compute nodes of all cells whose column is one of these values; deleted ones only when asked for.

    :raises Unavailable: when a cell does not answer
    """
    found = databases.run_in_all(
        databases.host_cells(),
        lambda connection: queries.compute_nodes_among(connection, column, values, deleted=deleted),
    )
    return [node for rows in found.values() for node in rows]


def known_places(databases: NovaDatabases, uuids: Collection[str]) -> dict[str, tuple[str, str]]:
    """Return host and node of those of these uuids that are, or once were, a compute node's: archived ones too.

    :raises Unavailable: when a cell does not answer
    """
    if not uuids:
        return {}
    nodes = nodes_among(databases, "uuid", uuids, deleted=True)
    places = {node.uuid: (node.host, node.node) for node in nodes}
    strange = set(uuids) - set(places)
    if strange:
        found = databases.run_in_all(
            databases.host_cells(), lambda connection: former_nodes(connection, "uuid", strange)
        )
        places |= {node.uuid: (node.host, node.node) for rows in found.values() for node in rows}
    return places
