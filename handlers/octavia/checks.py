"""What Octavia's side of a deployment must have: a database of a known schema, its APIs, and settings that leave time."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from oslo_config import cfg

from handlers.access import cloud_options
from handlers.access.service_files import ConfigError
from handlers.base import Checked, HandlerError, Resources
from handlers.checks import grants, roles
from handlers.checks.notifications import notifications
from handlers.octavia import options, settings
from handlers.octavia.database import OctaviaDatabase
from handlers.octavia.drivers.chosen import chosen_driver, housekeeping_settings
from handlers.octavia.grants import OCTAVIA, ROLES


def octavia_checks(resources: Resources, modes: Mapping[str, str]) -> Iterator[Checked]:
    """Look at Octavia's database, its APIs and its own files; at nothing where the configuration does not speak of it.

    :param modes: the handlers that are not off
    """
    conf = resources.conf
    if not options.configured(conf):
        return
    conf.register_opts(settings.OPTIONS, group=settings.GROUP)
    conf.register_opts(cloud_options.OPTIONS, group=cloud_options.GROUP)
    yield from _database(resources, [name for name, mode in modes.items() if mode == "heal"])
    if conf[settings.GROUP].driver != "noop":
        yield from roles.check("octavia", resources, ROLES, modes)
    yield _project(resources)
    yield from _files(resources, modes)


def _database(resources: Resources, healing: Collection[str]) -> Iterator[Checked]:
    try:
        database = resources.get(OctaviaDatabase.from_resources)
        sentences = list(database.limits())
    except (HandlerError, ConfigError) as error:
        yield Checked("octavia_database", "failure", str(error))
        return
    if sentences:
        yield Checked("octavia_database", "warning", "; ".join(sentences))
    else:
        yield Checked("octavia_database", "ok", "its schema is known")
    needs = [OCTAVIA[name] for name in healing if name in OCTAVIA]
    yield from grants.check("octavia_database", database, needs, OCTAVIA.values())


def _project(resources: Resources) -> Checked:
    try:
        driver = resources.get(chosen_driver)
        servers = len(driver.servers())
    except (HandlerError, cfg.Error) as error:
        return Checked("amphorae", "failure", str(error))
    return Checked("amphorae", "ok", f"the project {driver.project()} has {servers} servers")


def _files(resources: Resources, modes: Mapping[str, str]) -> Iterator[Checked]:
    conf = resources.conf
    files = options.files(conf)
    if not files.files:
        return
    yield from notifications(conf, files, "oslo_messaging_notifications", "topics", "notifications")
    if (files.get("controller_worker", "event_notifications") or "true").lower() in {"false", "0", "no", "off"}:
        text = "Octavia does not tell of load balancers: write there [controller_worker] event_notifications = True"
        yield Checked(f"{files}: events", "warning", text)
    if "failed_amphora" in modes:
        yield _heartbeats(resources, str(files))
        yield _threshold(files.get("health_manager", "failover_threshold"), str(files))


def _heartbeats(resources: Resources, where: str) -> Checked:
    """Whether a silent amphora counts as failed before Octavia's health manager deletes it."""
    timeout = options.amphora_settings(resources.conf).heartbeat_timeout
    after = resources.get(housekeeping_settings).stale_after
    if after < timeout:
        text = f"an amphora counts as failed after {after:.0f} s of silence, {timeout - after:.0f} s before Octavia deletes it"
        return Checked(f"{where}: heartbeats", "ok", text)
    return Checked(
        f"{where}: heartbeats",
        "warning",
        f"Octavia deletes a silent amphora after {timeout} s, before it counts as failed here ({after:.0f} s), so that it "
        "cannot be preserved: write there [health_manager] heartbeat_timeout = 60",
    )


def _threshold(value: str | None, where: str) -> Checked:
    """What Octavia's own breaker means for who fails amphorae over."""
    subject = f"{where}: failover_threshold"
    if value == "1":
        text = "Octavia's health manager fails nothing over by itself: while stackmend is down, nobody does"
        return Checked(subject, "warning", text)
    return Checked(subject, "ok", "Octavia's health manager fails over what stackmend leaves to it")
