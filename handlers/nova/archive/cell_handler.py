"""What the tasks have in common that go through a cell's tables by date: archiving and purging.

Both sweep cell by cell, each with the schema it has, and count their days by the cell's own clock.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from datetime import datetime

from sqlalchemy.engine import Connection

from handlers.access.database import Database
from handlers.base import Conflict, Finding, Healed, Key, Refused, Unavailable
from handlers.nova.archive import statements
from handlers.nova.archive.schema import Schema
from handlers.nova.base import NovaHandler
from handlers.nova.cells import Cell
from handlers.nova.database import NovaDatabases


class CellHandler(NovaHandler):
    """Work on a cell's rows that are so many days old.

    :param after_days: how old they must be, in whole days
    """

    def __init__(self, databases: NovaDatabases, after_days: int) -> None:
        self._databases = databases
        self._after_days = after_days

    @abstractmethod
    def due(self, database: Database, schema: Schema, before: datetime) -> bool:
        """Tell whether a cell has rows from before this moment, cheaply."""

    def sweep(self) -> Iterator[Key]:
        """Yield the cells that have rows which are old enough."""
        down: Unavailable | None = None
        for cell in self._databases.cells():
            try:
                database, schema = self.open(cell)
                due = self.due(database, schema, database.run(self.limit))
            except Unavailable as error:
                down = error
                continue
            if due:
                yield Key("cell", cell.uuid)
        if down is not None:
            raise down

    def population(self) -> int:
        """How many cells there are."""
        return len(self._databases.cells())

    def heal(self, finding: Finding) -> Healed:
        """Do all that is due, or the cycle's share of it."""
        return self.heal_while(finding, lambda: True)

    def cell(self, uuid: str) -> Cell | None:
        """Return the cell of this uuid."""
        return next((cell for cell in self._databases.cells() if cell.uuid == uuid), None)

    def open(self, cell: Cell) -> tuple[Database, Schema]:
        """Return a cell's database with its schema.

        :raises Unavailable: when it does not answer
        """
        database = self._databases.database(cell)
        return database, Schema.read(database)

    def limit(self, connection: Connection) -> datetime:
        """Return before which moment rows are old enough, by the clock of this database."""
        return statements.midnight(statements.days_ago(connection, self._after_days))

    def permitted(self, finding: Finding) -> tuple[Cell, Database, Schema, datetime]:
        """Return what a finding is about, once its heal may begin: the cell, opened, and the moment before which rows may go.

        :raises Refused: when it may not be healed
        :raises Conflict: when the cell is gone, or the rows are not old enough by now's clock
        :raises Unavailable: when the cell does not answer, or may not be changed
        """
        if not finding.healable:
            raise Refused(finding.refusal)
        cell = self.cell(finding.evidence["cell"])
        if cell is None:
            raise Conflict(f"the cell {finding.evidence['cell']} is gone")
        self._databases.require_known_schema([cell])
        database, schema = self.open(cell)
        before = statements.midnight(finding.evidence["before"])
        if before > database.run(self.limit):
            raise Conflict(f"what is from before {before:%Y-%m-%d} is not old enough now")
        return cell, database, schema, before
