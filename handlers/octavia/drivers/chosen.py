"""The driver that ``[housekeeping] driver`` names, made once for all handlers."""

from __future__ import annotations

from handlers.base import Resources
from handlers.octavia import options
from handlers.octavia.database import OctaviaDatabase
from handlers.octavia.drivers.base import Driver
from handlers.octavia.drivers.noop import NoopDriver
from handlers.octavia.drivers.openstack import OpenStackDriver
from handlers.octavia.settings import GROUP, HousekeepingSettings, settings


def housekeeping_settings(resources: Resources) -> HousekeepingSettings:
    """Return the settings of ``[housekeeping]``, with what ``octavia.conf`` says of heartbeats.

    :raises ConfigError: when Octavia's files cannot be used
    """
    return settings(resources.conf, options.amphora_settings(resources.conf).heartbeat_timeout)


def chosen_driver(resources: Resources) -> Driver:
    """Return the driver; to be asked for as ``resources.get(chosen_driver)``, so that all handlers share one.

    :raises ConfigError: when it cannot be made
    """
    kept = resources.get(housekeeping_settings)
    database = resources.get(OctaviaDatabase.from_resources)
    if resources.conf[GROUP].driver == "noop":
        return NoopDriver.made(resources, kept, database)
    return OpenStackDriver.made(resources, kept, database)
