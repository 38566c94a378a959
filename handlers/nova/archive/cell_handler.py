from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from handlers.access.database import Database, utcnow
from handlers.base import Finding, Healed, Incomplete, Key, Unavailable
from handlers.nova.archive.schema import RecentSchemas, Schema
from handlers.nova.base import NovaHandler
from handlers.nova.cells import Cell
from handlers.nova.database import NovaDatabases


@dataclass(frozen=True, slots=True)
class Scope:
    """The rows of a cell that are older than the date ``before``.

    :param cell: the cell's uuid
    """

    cell: str
    before: date

    @classmethod
    def of(cls, finding: Finding) -> Scope:
        return cls(finding.evidence["cell"], date.fromisoformat(finding.evidence["before"]))

    def to_json(self) -> Mapping[str, Any]:
        """Return the scope as evidence, which stays the same all day."""
        return {"cell": self.cell, "before": self.before.isoformat()}

    @property
    def moment(self) -> datetime:
        return datetime.combine(self.before, time.min)


@dataclass(frozen=True, slots=True)
class OpenCell:
    """A cell into which a heal can write, and the time before which its rows are old."""

    cell: Cell
    database: Database
    schema: Schema
    before: datetime


class CellHandler(NovaHandler):
    """The base of a handler of cells' old rows: those that are at least ``after_days`` days old."""

    def __init__(self, databases: NovaDatabases, after_days: int) -> None:
        self._databases = databases
        self._after_days = after_days
        self._schemas = RecentSchemas()

    @abstractmethod
    def due(self, database: Database, schema: Schema, before: datetime) -> bool:
        """Return whether a cell has rows older than ``before`` to archive or purge.

        Each sweep calls this method, so it must be cheap.
        """

    def sweep(self) -> Iterator[Key]:
        return self.sweep_cells(self._databases.cells())

    def sweep_cells(self, cells: Collection[Cell]) -> Iterator[Key]:
        down: Incomplete | None = None
        for cell in cells:
            try:
                database, schema = self.open(cell)
                due = self.due(database, schema, database.run(self.limit))
            except Unavailable as error:
                down = Incomplete(error, down)
                continue
            if due:
                # Old rows are due every day, so they are no sign of a fault for the breaker.
                yield Key("cell", cell.uuid, weight=0)
        if down is not None:
            raise down

    def population(self) -> int:
        return len(self._databases.cells())

    def heal(self, finding: Finding) -> Healed:
        return self.heal_while(finding, lambda: True)

    def open(self, cell: Cell) -> tuple[Database, Schema]:
        database = self._databases.database(cell)
        return database, self._schemas.of(database)

    def limit(self, connection: Connection) -> datetime:
        """Return the time before which rows are old, by the clock of the cell's database."""
        now: datetime | None = connection.scalar(sa.select(utcnow()))
        if now is None:
            raise AssertionError("a database without a clock")
        return datetime.combine(now.date() - timedelta(days=self._after_days), time.min)

    def begin(self, finding: Finding) -> OpenCell:
        """Prove a finding again, and open its cell for the heal's writes.

        :raises Refused: the finding is not healable, or no heal may rely on the database
        :raises Conflict: the finding is no longer true
        """
        scope = Scope.of(self.prove_again(finding))
        cell = self._databases.cell(scope.cell)
        self._databases.require_known_schema([cell])
        return OpenCell(cell, *self.open(cell), scope.moment)
