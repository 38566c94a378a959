"""The base classes of Octavia's handlers and inventories."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from oslo_config import cfg

from handlers.access import cloud_options
from handlers.base import Finding, Handler, ObjectKind
from handlers.octavia import exempt_tags, options, settings
from handlers.octavia.drivers.base import Driver
from handlers.octavia.objects import OBJECTS


class OctaviaPlugin:
    service: ClassVar[str] = "octavia"
    relies_on: ClassVar[tuple[str, ...]] = ("octavia_database",)
    #: its own options in the group ``[housekeeping]``
    own_options: ClassVar[Sequence[cfg.Opt]] = ()

    @classmethod
    def applies(cls, conf: cfg.ConfigOpts) -> bool:
        return options.configured(conf)

    @classmethod
    def options(cls) -> Mapping[str, Sequence[cfg.Opt]]:
        return {
            settings.GROUP: [*settings.OPTIONS, *cls.own_options],
            options.GROUP: options.OPTIONS,
            cloud_options.GROUP: cloud_options.OPTIONS,
        }


class OctaviaHandler(OctaviaPlugin, Handler):
    objects: ClassVar[tuple[ObjectKind, ...]] = OBJECTS
    _driver: Driver

    def exempting_tag(self, finding: Finding) -> str:
        database = self._driver.database
        return exempt_tags.holder(database, finding) if database.exempt_by_tag else ""
