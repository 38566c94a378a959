from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Self

import sqlalchemy as sa

from handlers.access.database import Database
from handlers.base import Finding, Handler, Healed, Key, Privilege, Resources
from handlers.nova import tables


class Writer(Handler):
    """A handler that deletes, locks and reads, but may only delete and read."""

    name = "writer"
    rights = {"nova_api": {"host_mappings": frozenset({Privilege.DELETE})}}

    def __init__(self, database: Database) -> None:
        self._database = database

    @classmethod
    def from_resources(cls, resources: Resources) -> Self:
        raise NotImplementedError

    def inspect(self, key: Key) -> list[Finding]:
        return []

    def sweep(self) -> Iterator[Key]:
        return iter(())

    def population(self) -> int:
        return 0

    def heal(self, finding: Finding) -> Healed:
        table = tables.host_mappings

        def write(connection: sa.Connection) -> None:
            connection.execute(sa.delete(table))
            connection.execute(sa.select(table.c.host).with_for_update())
            connection.execute(sa.select(table.c.host))

        self._database.run(write)
        return Healed("wrote")


def test_a_lock_without_a_right_is_found(tmp_path: Path, unpermitted: set[str]) -> None:
    database = Database("nova_api", f"sqlite:///{tmp_path}/nova_api.db")
    database.run(tables.api.create_all)
    Writer(database).heal(Finding(Key("host", "a"), "a-problem", "", {}))
    database.close()
    assert unpermitted == {"writer UPDATE host_mappings"}
    unpermitted.clear()
