"""Assembles the status: meter, health, page and HTTP server."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector

from consumer.bus.source import Source
from consumer.conf.status import StatusSettings
from consumer.engine.holds import Board
from consumer.engine.meter import Meter
from consumer.engine.task import Task
from consumer.journal.database import Database
from consumer.status.cached import Cached
from consumer.status.health import Beats, alive, ready
from consumer.status.inventories import Inventories
from consumer.status.metrics import BusCollector, HoldCollector, JournalCollector, PrometheusMeter
from consumer.status.page import Page
from consumer.status.server import Answer, StatusServer, application, of_health

#: Only the page at /live reloads itself: a reader of the page at / may need more time.
_REFRESH = (("Refresh", "15"),)


class Status:
    """The meter, metrics and pages of one daemon. First give ``meter`` to the engine; then call :meth:`serve`.

    :param settings: with port 0, no server starts, and the meter records only beats
    """

    def __init__(self, settings: StatusSettings) -> None:
        self._settings = settings
        self._beats = Beats()
        self._registry = CollectorRegistry()
        self._server: StatusServer | None = None
        self._inventories: Inventories | None = None
        self.meter: Meter = PrometheusMeter(self._registry, self._beats) if settings.port else self._beats

    def serve(
        self,
        database: Database,
        tasks: Mapping[str, Task],
        sources: Callable[[], Sequence[Source]],
        inventories: Inventories,
        board: Board,
    ) -> None:
        """Start the server.

        :raises CannotListen: the address is not available
        """
        if not self._settings.port:
            return
        for collector in (JournalCollector(database, tasks), BusCollector(sources), HoldCollector(board)):
            self._registry.register(collector)
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        pages: dict[str, Callable[[], Answer]] = {
            "/healthz": lambda: of_health(alive(self._beats, sources())),
            "/readyz": Cached(lambda: of_health(ready(database, sources()))),
        }
        if self._settings.page:
            once = Cached(Page(database, tasks, sources, inventories, board).make)
            pages |= {"/": once, "/live": lambda: replace(once(), headers=_REFRESH)}
            inventories.start()
            self._inventories = inventories
        self._server = StatusServer(self._settings, application(self._registry, pages))
        self._server.start()

    def alive(self, sources: Sequence[Source]) -> bool:
        return alive(self._beats, sources).healthy

    def stop(self) -> None:
        if self._server is not None:
            self._server.stop()
        if self._inventories is not None:
            self._inventories.stop()
