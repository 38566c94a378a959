"""Whether a consumer was once an instance, or a migration of one, that has been deleted and archived.

``shadow_instances`` and ``shadow_migrations`` have no index but their id, so every question is a full scan in each cell:
some seconds per million rows. Therefore a sweep asks for all its strangers in one scan, and what is found is remembered
(an archived instance never comes back, so that stays true); asking for one stranger then costs nothing.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Collection

from handlers.nova import queries
from handlers.nova.database import NovaDatabases

#: how many archived consumers are remembered: some megabytes
REMEMBERED = 20_000


class Archive:
    """The shadow tables of all cells; safe to share between threads."""

    def __init__(self, databases: NovaDatabases) -> None:
        self._databases = databases
        self._known: OrderedDict[str, None] = OrderedDict()
        self._lock = threading.Lock()

    def among(self, consumers: Collection[str]) -> set[str]:
        """Return those that are archived; ask only for consumers that no cell's live tables have.

        :raises Unavailable: when a cell does not answer
        """
        with self._lock:
            known = {consumer for consumer in consumers if consumer in self._known}
        missing = set(consumers) - known
        if not missing:
            return known
        found = self._instances(missing)
        owners = self._owners(missing - found)
        gone = self._instances(set(owners.values())) - self._alive(set(owners.values()))
        found |= {migration for migration, owner in owners.items() if owner in gone}
        with self._lock:
            self._known.update(dict.fromkeys(found))
            while len(self._known) > REMEMBERED:
                self._known.popitem(last=False)
        return known | found

    def _instances(self, consumers: set[str]) -> set[str]:
        if not consumers:
            return set()
        cells = self._databases.cells()
        found = self._databases.run_in_all(cells, lambda connection: queries.archived_instances(connection, consumers))
        return set().union(*found.values())

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
