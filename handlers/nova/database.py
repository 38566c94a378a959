from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Self, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from handlers.access.database import Database
from handlers.access.schemas import KnownSchemas
from handlers.access.service_files import ConfigError
from handlers.base import Conflict, Incomplete, Refused, Resources, Unavailable
from handlers.nova import clocks, options, queries, revisions, tables
from handlers.nova.cells import Cell, TemplateError, fill
from handlers.nova.clocks import Clocks
from handlers.nova.names import HostNames

T = TypeVar("T")

API = "nova_api"

#: seconds for which the list of cells is not read again
CELLS_TTL = 5.0


class NovaDatabases:
    """The databases of ``nova_api`` and the cells.

    :param cell_base: the URL that fills templates in ``cell_mappings.database_connection``
    :param transport_base: the URL that fills templates in ``cell_mappings.transport_url``
    :param exempt_by_tag: whether tags exempt servers from heals (:mod:`handlers.nova.exempt_tags`)
    """

    def __init__(
        self,
        api_url: str,
        cell_base: str | None = None,
        transport_base: str | None = None,
        *,
        exempt_by_tag: bool = False,
    ) -> None:
        self.exempt_by_tag = exempt_by_tag
        self.api = Database(API, api_url)
        self.host_names = HostNames.of(api_url)
        self._cell_base = cell_base
        self._transport_base = transport_base
        self._lock = threading.Lock()
        self._rows: tuple[Cell, ...] = ()
        self._read_at: float | None = None
        self._databases: dict[str, Database] = {}
        self.schemas = KnownSchemas(revisions.KNOWN, revisions.RELEASES)
        self.clocks = Clocks()

    @classmethod
    def from_resources(cls, resources: Resources) -> Self:
        """:raises ConfigError: no URL of ``nova_api`` is known"""
        conf = resources.conf
        urls = (options.api_database_url(conf), options.cell_database_url(conf), options.transport_url(conf))
        return cls(*urls, exempt_by_tag=conf[options.GROUP].exempt_by_tag)

    def cells(self) -> tuple[Cell, ...]:
        """Return every cell, including cell0 and disabled cells.

        :raises Unavailable: ``nova_api`` does not answer or lists no cell
        """
        with self._lock:
            if self._read_at is not None and time.monotonic() - self._read_at < CELLS_TTL:
                return self._rows
        rows = tuple(self.api.run(queries.cells))
        if not rows:
            raise Unavailable(API, "cell_mappings is empty; is this the URL of nova_api?")
        with self._lock:
            self._rows, self._read_at = rows, time.monotonic()
        return rows

    def require_known_schema(self, cells: Iterable[Cell] | None = None) -> None:
        """Check the databases before a heal that relies on nova_api and on ``cells``, by default on all cells.

        :raises Refused: a server refuses writes, stackmend does not know a schema, or a cell's clock is too far from Nova's
        """
        databases = [self.database(cell) for cell in (self.cells() if cells is None else cells)]
        self.schemas.require([self.api, *databases])
        for database in databases:
            if objection := self.clock_objection(database):
                raise Refused(objection)

    def clock_objection(self, database: Database) -> str:
        """Return why no heal may rely on the times in a cell's database; empty if Nova's clocks are close to its clock."""
        seconds = self.clocks.difference(database) or 0.0
        if seconds <= clocks.LARGEST:
            return ""
        return (
            f"{database.name}: the clock of a Nova service differs from the database's clock by at least {seconds:.0f} s. "
            f"Heals are refused beyond {clocks.LARGEST:.0f} s: let chrony or ntpd set all clocks"
        )

    def warnings(self) -> Iterator[str]:
        """Yield a sentence for each fault of a schema or clock that prevents inspections or heals. Skip silent cells."""
        yield from self.schemas.warnings(self.api, tables.api)
        for cell in self.cells():
            with suppress(Unavailable):
                database = self.database(cell)
                yield from self.schemas.warnings(database, tables.cell)
                if objection := self.clock_objection(database):
                    yield objection

    def host_cells(self) -> tuple[Cell, ...]:
        return tuple(cell for cell in self.cells() if not cell.is_cell0)

    def cell(self, uuid: str) -> Cell:
        """Return the cell that a finding's evidence names.

        :raises Conflict: the cell is gone
        """
        cell = self.find_cell(uuid)
        if cell is None:
            raise Conflict(f"the cell {uuid} is gone")
        return cell

    def find_cell(self, uuid: str) -> Cell | None:
        return next((cell for cell in self.cells() if cell.uuid == uuid), None)

    def database(self, cell: Cell) -> Database:
        """:raises Unavailable: the URL of the database cannot be used"""
        try:
            url = fill(cell.database_url, self._cell_base, "[nova] database_connection")
            with self._lock:
                known = self._databases.get(cell.uuid)
                if known is None or known.url != url:
                    self._databases[cell.uuid] = Database(cell.label, url)
                    if known is not None:
                        known.close()
                return self._databases[cell.uuid]
        except (TemplateError, ConfigError) as error:
            raise Unavailable(cell.label, str(error)) from error

    def transport(self, cell: Cell) -> str:
        """Return the URL of a cell's broker.

        :raises Unavailable: the template of the URL cannot be filled
        """
        try:
            return fill(cell.transport_url, self._transport_base, "[nova] transport_url")
        except TemplateError as error:
            raise Unavailable(cell.label, str(error)) from error

    def cells_named(self, labels: frozenset[str]) -> tuple[Cell, ...] | None:
        found = tuple(cell for cell in self.cells() if cell.label in labels)
        return found if {cell.label for cell in found} == labels else None

    def require(self, dependency: str) -> None:
        """Query the cell whose label is ``dependency``; do nothing without such a cell.

        :raises Unavailable: the cell's database does not answer
        """
        for cell in self.cells():
            if cell.label == dependency:
                self.database(cell).run(lambda connection: connection.execute(sa.text("SELECT 1")))

    def run_in_all(self, cells: Iterable[Cell], work: Callable[[Connection], T]) -> dict[Cell, T]:
        """Call ``work`` with a connection to each cell's database; return the results by cell.

        :raises Unavailable: a cell does not answer
        """
        return {cell: self.observe_clocks(cell).run(work) for cell in cells}

    def run_in_available(
        self, cells: Iterable[Cell], work: Callable[[Connection], T]
    ) -> tuple[dict[Cell, T], Incomplete | None]:
        """Call ``work`` as in :meth:`run_in_all`; return the results by cell, and the error of silent cells, if any.

        With an error, use the results only for suspects and counts, because the rows of some cells are missing.
        """
        found: dict[Cell, T] = {}
        down: Incomplete | None = None
        for cell in cells:
            try:
                found[cell] = self.database(cell).run(work)
            except Unavailable as error:
                down = Incomplete(error, down)
        return found, down

    def observe_clocks(self, cell: Cell) -> Database:
        """Measure how far a cell's clock is from Nova's clocks; return the cell's database.

        This database then subtracts the difference from ages. nova_api subtracts the largest difference of all cells.
        """
        database = self.database(cell)
        self.clocks.observe(database)
        database.clock_margin = self.clocks.difference(database) or 0.0
        with self._lock:
            self.api.clock_margin = max(one.clock_margin for one in self._databases.values())
        return database

    def close(self) -> None:
        with self._lock:
            for database in (self.api, *self._databases.values()):
                database.close()
