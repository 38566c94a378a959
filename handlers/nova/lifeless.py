"""Lists instances that records of other services name, but that are alive in no cell."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice

from handlers.base import Incomplete, Key, Unavailable, keys_of
from handlers.nova import queries
from handlers.nova.archived_consumers import Archive
from handlers.nova.database import NovaDatabases


def lifeless(databases: NovaDatabases, archive: Archive, instances: Iterable[str]) -> Iterator[Key]:
    """Yield once the key of each of ``instances`` that is alive in no cell, and that Nova does not schedule now.

    :raises Incomplete: a cell did not answer, so that instances without a deleted row can be missing
    """
    down: Incomplete | None = None
    distinct = _distinct(instances)
    while batch := set(islice(distinct, queries.CHUNK)):
        suspects, silent = _among(databases, archive, batch)
        yield from keys_of("instance", sorted(suspects))
        down = down if silent is None else Incomplete(silent, down)
    if down is not None:
        raise down


def _distinct(instances: Iterable[str]) -> Iterator[str]:
    seen: set[str] = set()
    for instance in instances:
        if instance not in seen:
            seen.add(instance)
            yield instance


def _among(databases: NovaDatabases, archive: Archive, batch: set[str]) -> tuple[set[str], Unavailable | None]:
    batch = batch - databases.api.run(lambda connection: queries.building(connection, batch))
    seen, down = databases.run_in_available(databases.cells(), lambda connection: queries.lives(connection, batch))
    alive = {uuid for rows in seen.values() for uuid, lives in rows.items() if lives}
    dead = {uuid for rows in seen.values() for uuid, lives in rows.items() if not lives} - alive
    if down is not None:
        return dead, down
    archive.among(batch - alive - dead)  # one scan for all of them; the inspections find it remembered
    return batch - alive, None
