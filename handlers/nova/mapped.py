from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from sqlalchemy.engine import Connection

from handlers.nova import queries
from handlers.nova.cells import Cell
from handlers.nova.database import NovaDatabases
from handlers.nova.records import Instance

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Mapped(Generic[T]):
    """The records of an instance in ``nova_api`` and in all cells.

    :param cell: the cell of the instance's mapping, if any
    :param here: the instance's row in that cell
    :param more: further records in that cell, as :func:`read_mapped` read them
    :param copies: the instance's rows in all cells
    :param building: whether the instance has a build request, or no mapping to a cell
    """

    cell: Cell | None
    here: Instance | None
    more: T | None
    copies: tuple[Instance, ...]
    building: bool


def read_mapped(databases: NovaDatabases, instance: str, read: Callable[[Connection, str], T]) -> Mapped[T]:
    """Read an instance's records in ``nova_api`` and every cell; ``read`` returns further records in a cell."""

    def in_cell(connection: Connection) -> tuple[Instance | None, T]:
        more = read(connection, instance)
        return queries.instance(connection, instance), more

    requested, mapping = databases.api.run(lambda connection: queries.scheduling(connection, instance))
    seen = databases.run_in_all(databases.cells(), in_cell)
    home = next((cell for cell in seen if mapping is not None and cell.id == mapping.cell_id), None)
    here, more = seen[home] if home is not None else (None, None)
    copies = tuple(row for row, _ in seen.values() if row is not None)
    return Mapped(home, here, more, copies, requested or home is None)
