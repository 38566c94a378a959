"""Finds which consumers of Placement are archived instances, or migrations of archived instances.

Unless it remembers the answers, :meth:`Archive.among` scans the shadow tables of every cell, some seconds per million rows. So
a sweep asks about many consumers at once.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Collection, Mapping
from typing import TypeVar

from handlers.nova import concerns, queries
from handlers.nova.database import NovaDatabases

T = TypeVar("T")

#: answers of each kind that are remembered: some megabytes
REMEMBERED = 20_000
#: seconds for which the object remembers that a consumer is not archived
UNKNOWN_FOR = 1800.0


class Archive:
    def __init__(self, databases: NovaDatabases) -> None:
        self._databases = databases
        self._archived: OrderedDict[str, frozenset[str]] = OrderedDict()
        self._owned: OrderedDict[str, str] = OrderedDict()
        self._unknown: OrderedDict[str, float] = OrderedDict()
        self._lock = threading.Lock()

    def among(self, consumers: Collection[str]) -> Mapping[str, frozenset[str]]:
        """Return those of the consumers that are archived, each with its concerns.

        Call this only for consumers without a row in ``instances`` or ``migrations``.
        """
        now = time.monotonic()
        with self._lock:
            known = {one: self._archived[one] for one in consumers if one in self._archived}
            unknown = {one for one in consumers if now - self._unknown.get(one, float("-inf")) < UNKNOWN_FOR}
        missing = set(consumers) - known.keys() - unknown
        if not missing:
            return known
        found = self._instances(missing)
        owners = self._owners(missing - found.keys())
        instances, alive = self._instances(set(owners.values())), self._alive(set(owners.values()))
        found |= {
            migration: instances[owner] | concerns.of_consumers(migration)
            for migration, owner in owners.items()
            if owner in instances and owner not in alive
        }
        with self._lock:
            _remember(self._owned, {migration: owner for migration, owner in owners.items() if migration in found})
            _remember(self._archived, found)
            _remember(self._unknown, dict.fromkeys(missing - found.keys(), now))
        return known | found

    def owner_of(self, consumer: str) -> str | None:
        """Return the instance of an archived migration that :meth:`among` has returned; None for an instance."""
        with self._lock:
            return self._owned.get(consumer)

    def _instances(self, consumers: set[str]) -> dict[str, frozenset[str]]:
        if not consumers:
            return {}
        cells = self._databases.cells()
        found = self._databases.run_in_all(cells, lambda connection: queries.archived_instances(connection, consumers))
        return {
            row.uuid: concerns.of_row(*row) | concerns.of_cell(cell) for cell, rows in found.items() for row in rows
        }

    def _owners(self, consumers: set[str]) -> dict[str, str]:
        if not consumers:
            return {}
        cells = self._databases.cells()
        found = self._databases.run_in_all(cells, lambda connection: queries.archived_migrations(connection, consumers))
        return {migration: owner for owners in found.values() for migration, owner in owners.items()}

    def _alive(self, instances: set[str]) -> set[str]:
        if not instances:
            return set()
        cells = self._databases.cells()
        found = self._databases.run_in_all(cells, lambda connection: queries.known_consumers(connection, instances))
        return set().union(*found.values())


def _remember(memory: OrderedDict[str, T], answers: Mapping[str, T]) -> None:
    for consumer, answer in answers.items():
        memory.pop(consumer, None)
        memory[consumer] = answer
    while len(memory) > REMEMBERED:
        memory.popitem(last=False)
