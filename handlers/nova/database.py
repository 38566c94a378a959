"""Connections to ``nova_api`` and to the database of every cell.

:class:`NovaDatabases` finds the cells in ``cell_mappings`` and reads that list again every few seconds, so that a cell
added later is seen. Reading all cells is all or nothing: a cell that does not answer raises, it is never left out.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from typing import Self, TypeVar

from sqlalchemy import MetaData
from sqlalchemy.engine import Connection

from handlers.access.database import Database
from handlers.access.service_files import ConfigError
from handlers.base import Refused, Resources, Unavailable
from handlers.checks.schemas import lacking
from handlers.nova import options, queries, revisions, tables
from handlers.nova.cells import Cell, TemplateError, fill
from handlers.nova.names import HostNames

T = TypeVar("T")

API = "nova_api"

#: seconds for which the list of cells is believed
CELLS_TTL = 5.0
#: seconds for which the schemas are believed to be the same
PERMIT_TTL = 60.0


class NovaDatabases:
    """``nova_api`` and the cells.

    :param api_url: the URL of ``nova_api``
    :param cell_base: fills the templates of ``database_connection``
    :param transport_base: fills the templates of ``transport_url``
    """

    def __init__(self, api_url: str, cell_base: str | None = None, transport_base: str | None = None) -> None:
        self.api = Database(API, api_url)
        self.host_names = HostNames.of(api_url)
        self._cell_base = cell_base
        self._transport_base = transport_base
        self._lock = threading.Lock()
        self._rows: tuple[Cell, ...] = ()
        self._read_at: float | None = None
        self._databases: dict[str, Database] = {}
        self._permitted: dict[str, float] = {}

    @classmethod
    def from_resources(cls, resources: Resources) -> Self:
        """Make it from the options ``[nova]``.

        :raises ConfigError: when no URL of ``nova_api`` is known
        """
        conf = resources.conf
        return cls(options.api_database_url(conf), options.cell_database_url(conf), options.transport_url(conf))

    def cells(self) -> tuple[Cell, ...]:
        """Return every cell, cell0 and disabled ones too, with URLs as they stand in ``cell_mappings``.

        :raises Unavailable: when ``nova_api`` does not answer or lists no cell, which cannot be right
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
        """Make sure that anything may be changed for what these databases say; every heal begins with it.

        :param cells: the cells that the heal rests on, besides nova_api; all of them if not given
        :raises Refused: when one has a schema that this release does not know
        :raises Unavailable: when one does not answer
        """
        now = time.monotonic()
        for database in (self.api, *(self.database(cell) for cell in (self.cells() if cells is None else cells))):
            if now - self._permitted.get(database.url, -PERMIT_TTL) >= PERMIT_TTL:
                _permit(database)
                self._permitted[database.url] = now

    def warnings(self) -> Iterator[str]:
        """Yield why nothing will be changed for what these databases say, and what they lack; a cell that is away says nothing.

        :raises Unavailable: when ``nova_api`` does not answer
        """
        yield from limits_of(self.api, tables.api)
        for cell in self.cells():
            with suppress(Unavailable):
                yield from limits_of(self.database(cell), tables.cell)

    def host_cells(self) -> tuple[Cell, ...]:
        """Return the cells that can have hosts: all but cell0."""
        return tuple(cell for cell in self.cells() if not cell.is_cell0)

    def database(self, cell: Cell) -> Database:
        """Return the database of a cell; it is connected to on first use.

        :raises Unavailable: when its URL cannot be used
        """
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
        """Return the URL of a cell's broker, its template filled.

        :raises Unavailable: when it cannot be filled
        """
        try:
            return fill(cell.transport_url, self._transport_base, "[nova] transport_url")
        except TemplateError as error:
            raise Unavailable(cell.label, str(error)) from error

    def run_in_all(self, cells: Iterable[Cell], work: Callable[[Connection], T]) -> dict[Cell, T]:
        """Run the same work in each of these cells.

        :raises Unavailable: when any of them does not answer: a part of the truth is not handed out
        """
        return {cell: self.database(cell).run(work) for cell in cells}

    def run_in_available(
        self, cells: Iterable[Cell], work: Callable[[Connection], T]
    ) -> tuple[dict[Cell, T], Unavailable | None]:
        """Run the same work in each of these cells; return what those say that answer, and why another one does not.

        For lists of suspects and for counts only: what is missing here is not known, it is not absent.
        """
        found: dict[Cell, T] = {}
        down: Unavailable | None = None
        for cell in cells:
            try:
                found[cell] = self.database(cell).run(work)
            except Unavailable as error:
                down = error
        return found, down

    def close(self) -> None:
        """Close all idle connections."""
        with self._lock:
            for database in (self.api, *self._databases.values()):
                database.close()


def _permit(database: Database) -> None:
    if strange := _strange(database):
        raise Refused(strange)


def _strange(database: Database) -> str:
    """Say that a database has a schema that is not known here; nothing when it is."""
    found = database.run(queries.revisions)
    if found and found <= revisions.KNOWN:
        return ""
    return (
        f"{database.name} is at the schema {', '.join(sorted(found)) or 'unknown'}; this release knows those of Nova 25 "
        "(Yoga) to 34, and in another it looks but changes nothing"
    )


def limits_of(database: Database, wanted: MetaData) -> Iterator[str]:
    """Yield why nothing will be changed for what one of Nova's databases says, and what it lacks.

    :param wanted: the tables that are needed
    :raises Unavailable: when it does not answer
    """
    if missing := database.run(partial(lacking, wanted=wanted)):
        yield (
            f"{database.name} has no {', '.join(missing)}; tasks that need it cannot look: is its URL that of another "
            "database, or the user short of rights?"
        )
    if strange := _strange(database):
        yield strange
