"""The driver that ``[housekeeping] driver`` names; all handlers share it."""

from __future__ import annotations

from dataclasses import replace

from handlers.base import Resources
from handlers.octavia import options
from handlers.octavia.database import OctaviaDatabase
from handlers.octavia.drivers.base import Driver
from handlers.octavia.drivers.noop import NoopDriver
from handlers.octavia.drivers.openstack import OpenStackDriver
from handlers.octavia.flow_times import flow_times
from handlers.octavia.settings import GROUP, HousekeepingSettings, settings


def housekeeping_settings(resources: Resources) -> HousekeepingSettings:
    """Return the settings of ``[housekeeping]``, with the heartbeats and flow times of ``octavia.conf``.

    :raises ConfigError: when Octavia's files are malformed
    """
    conf = resources.conf
    return replace(
        settings(conf, options.amphora_settings(conf).heartbeat_timeout),
        longest_flow=flow_times(options.files(conf)).longest_silence,
        spare_owner=options.database_mark(conf),
    )


def chosen_driver(resources: Resources) -> Driver:
    """Return the driver; call it by ``resources.get(chosen_driver)``, so that all handlers share one.

    :raises ConfigError: when an option is missing or wrong
    """
    found = resources.get(housekeeping_settings)
    database = resources.get(OctaviaDatabase.from_resources)
    if resources.conf[GROUP].driver == "noop":
        return NoopDriver.made(resources, found, database)
    return OpenStackDriver.made(resources, found, database)
