"""Puts meter, probes, page and server together, as ``[status]`` wants them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector

from consumer.bus.source import Source
from consumer.conf.status import StatusSettings
from consumer.engine.meter import Meter
from consumer.engine.task import Task
from consumer.journal.database import Database
from consumer.status.health import Beats, alive, ready
from consumer.status.metrics import BusCollector, JournalCollector, PrometheusMeter
from consumer.status.page import Page, Shelves
from consumer.status.server import Answer, StatusServer, application, of_verdict


class Status:
    """What one daemon tells. Its ``meter`` is the engine's; ``serve`` begins once the engine is there.

    :param settings: port 0: nothing is counted but heartbeats, and nothing listens
    """

    def __init__(self, settings: StatusSettings) -> None:
        self._settings = settings
        self._beats = Beats()
        self._registry = CollectorRegistry()
        self._server: StatusServer | None = None
        self.meter: Meter = PrometheusMeter(self._registry, self._beats) if settings.port else self._beats

    def serve(
        self, database: Database, tasks: Mapping[str, Task], sources: Callable[[], Sequence[Source]], shelves: Shelves
    ) -> None:
        """Begin to answer, if so configured.

        :param sources: returns the listeners there are now
        :raises CannotListen: when the address cannot be had
        """
        if not self._settings.port:
            return
        for collector in (JournalCollector(database, tasks), BusCollector(sources)):
            self._registry.register(collector)
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        pages: dict[str, Callable[[], Answer]] = {
            "/healthz": lambda: of_verdict(alive(self._beats, sources())),
            "/readyz": lambda: of_verdict(ready(database, sources())),
        }
        if self._settings.page:
            pages["/"] = Page(database, tasks, sources, shelves).make
        self._server = StatusServer(self._settings, application(self._registry, pages))
        self._server.start()

    def alive(self, sources: Sequence[Source]) -> bool:
        """Tell whether every loop goes round."""
        return alive(self._beats, sources).well

    def stop(self) -> None:
        """Stop answering."""
        if self._server is not None:
            self._server.stop()
