from __future__ import annotations

from sqlalchemy.engine import Connection

from handlers.nova import queries
from handlers.nova.bindings.rules import Facts
from handlers.nova.cells import Cell
from handlers.nova.database import NovaDatabases
from handlers.nova.mapped import read_mapped
from handlers.nova.records import Migration


def read(databases: NovaDatabases, instance: str) -> tuple[Cell | None, Facts]:
    found = read_mapped(databases, instance, _moves)
    return found.cell, Facts(found.here, found.copies, found.more or (), found.building, databases.host_names)


def _moves(connection: Connection, instance: str) -> tuple[Migration, ...]:
    return tuple(one for one in queries.migrations_of(connection, instance) if not one.deleted)
