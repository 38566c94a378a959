from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import ClassVar, Self

from oslo_config import cfg

from handlers.access import cloud_options
from handlers.base import Finding, Handler, Key, ObjectKind, Resources
from handlers.nova import exempt_tags, options
from handlers.nova.cells import Cell
from handlers.nova.database import NovaDatabases
from handlers.nova.objects import OBJECTS
from handlers.nova.placement import Placement


class NovaHandler(Handler):
    """A handler of drift in Nova. It applies only if ``[nova]`` is configured."""

    group: ClassVar[str] = options.AUDIT
    service: ClassVar[str] = "nova"
    relies_on: ClassVar[tuple[str, ...]] = ("nova_api", "cell", "placement")
    objects: ClassVar[tuple[ObjectKind, ...]] = OBJECTS
    _databases: NovaDatabases

    def exempting_tag(self, finding: Finding) -> str:
        return exempt_tags.holder(self._databases, finding) if self._databases.exempt_by_tag else ""

    def require(self, dependency: str) -> None:
        self._databases.require(dependency)

    def sweep_rest(self, missing: frozenset[str]) -> Iterator[Key] | None:
        cells = self._databases.cells_named(missing)
        return None if cells is None else self.sweep_cells(cells)

    def sweep_cells(self, cells: Collection[Cell]) -> Iterator[Key] | None:
        """Return the suspects of these cells, to complete a sweep; None if only a whole sweep can list them."""
        return None

    @classmethod
    def applies(cls, conf: cfg.ConfigOpts) -> bool:
        options.register(conf)
        return bool(conf[options.GROUP].config_file or conf[options.GROUP].api_database_connection)

    @classmethod
    def options(cls) -> Mapping[str, Sequence[cfg.Opt]]:
        return {options.GROUP: options.OPTIONS, cloud_options.GROUP: cloud_options.OPTIONS}


class DatabaseHandler(NovaHandler):
    relies_on: ClassVar[tuple[str, ...]] = ("nova_api", "cell")

    def __init__(self, databases: NovaDatabases) -> None:
        self._databases = databases

    @classmethod
    def options(cls) -> Mapping[str, Sequence[cfg.Opt]]:
        return {options.GROUP: options.OPTIONS}

    @classmethod
    def from_resources(cls, resources: Resources) -> Self:
        return cls(resources.get(NovaDatabases.from_resources))


class PlacementHandler(NovaHandler):
    def __init__(self, databases: NovaDatabases, placement: Placement) -> None:
        self._databases = databases
        self._placement = placement

    @classmethod
    def from_resources(cls, resources: Resources) -> Self:
        return cls(resources.get(NovaDatabases.from_resources), resources.get(Placement.from_resources))
