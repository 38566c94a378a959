from __future__ import annotations

from dataclasses import replace
from importlib.metadata import entry_points

from handlers.access.service_files import ConfigError
from handlers.base import Resources
from handlers.octavia import options
from handlers.octavia.database import OctaviaDatabase
from handlers.octavia.drivers.base import Driver
from handlers.octavia.drivers.noop import NoopDriver
from handlers.octavia.drivers.openstack import OpenStackDriver
from handlers.octavia.flow_times import flow_times
from handlers.octavia.settings import GROUP, HousekeepingSettings, settings

#: the entry points of drivers in other packages
ENTRY_POINTS = "stackmend.amphora_drivers"

_OWN: dict[str, type[Driver]] = {"noop": NoopDriver, "openstack": OpenStackDriver}


def housekeeping_settings(resources: Resources) -> HousekeepingSettings:
    """Return the options ``[housekeeping]``, with heartbeat times, failover limit and longest flow from ``octavia.conf``.

    :raises ConfigError: a configuration file of Octavia is malformed
    """
    conf = resources.conf
    return replace(
        settings(conf, options.amphora_settings(conf).heartbeat_timeout),
        longest_flow=flow_times(options.files(conf)).longest_silence,
    )


def chosen_driver(resources: Resources) -> Driver:
    """Make the driver that ``[housekeeping] driver`` names. All handlers share the one from ``resources.get(chosen_driver)``.

    :raises ConfigError: an option is missing or wrong, or the driver is not installed
    """
    made = _class(resources.conf[GROUP].driver).made
    return made(resources, resources.get(housekeeping_settings), resources.get(OctaviaDatabase.from_resources))


def _class(name: str) -> type[Driver]:
    if name in _OWN:
        return _OWN[name]
    installed = {entry.name: entry for entry in entry_points(group=ENTRY_POINTS)}
    if name not in installed:
        known = ", ".join(sorted({*_OWN, *installed}))
        raise ConfigError(f"[housekeeping] driver = {name} is not installed; the installed drivers are {known}")
    try:
        loaded = installed[name].load()
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"[housekeeping] driver = {name} cannot be loaded: {error}") from error
    if not (isinstance(loaded, type) and issubclass(loaded, Driver)):
        raise ConfigError(f"[housekeeping] driver = {name}: {installed[name].value} is not a subclass of {Driver}")
    return loaded
