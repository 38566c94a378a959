"""What all that keeps the amphorae's house has in common, handlers and inventories alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from oslo_config import cfg

from handlers.access import cloud_options
from handlers.octavia import options, settings


class OctaviaPlugin:
    """It is left out where Octavia is not configured, and works with the driver that ``[housekeeping]`` names."""

    relies_on: ClassVar[tuple[str, ...]] = ("octavia_database",)

    @classmethod
    def applies(cls, conf: cfg.ConfigOpts) -> bool:
        """Tell whether the configuration speaks of Octavia."""
        return options.configured(conf)

    @classmethod
    def options(cls) -> Mapping[str, Sequence[cfg.Opt]]:
        """What the driver needs."""
        return {
            settings.GROUP: settings.OPTIONS,
            options.GROUP: options.OPTIONS,
            cloud_options.GROUP: cloud_options.OPTIONS,
        }
