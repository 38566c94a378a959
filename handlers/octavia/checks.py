from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping

from oslo_config import cfg

from handlers.access import cloud_options
from handlers.access.service_files import ConfigError, ServiceFiles
from handlers.base import Checked, Handler, HandlerError, Mode, Resources, Verdict
from handlers.checks import clocks, grants, roles
from handlers.checks.notifications import notifications
from handlers.octavia import options, queries, settings
from handlers.octavia.database import OctaviaDatabase
from handlers.octavia.drivers.chosen import chosen_driver, housekeeping_settings
from handlers.octavia.jobboard.board import Board, UnreadableBoard
from handlers.octavia.work_queue import WorkQueue

#: the longest time between two sweeps of failed_amphora, in seconds, with which silence can prove a failure
#: (:class:`handlers.octavia.failover.heartbeats.Listener`)
LONGEST_WATCH = 30

#: handlers with heals that need the proof that no flow works on an object
_NEED_QUEUE = frozenset({"amphora_certificates", "deactivated_amphorae", "stuck_load_balancers"})
#: handlers with heals that ask Octavia's API for a flow
_REQUEST = frozenset({"deactivated_amphorae", "failed_amphora", "stuck_load_balancers"})


def octavia_checks(resources: Resources, modes: Mapping[type[Handler], Mode]) -> Iterator[Checked]:
    conf = resources.conf
    if not options.configured(conf):
        return
    conf.register_opts(settings.OPTIONS, group=settings.GROUP)
    conf.register_opts(cloud_options.OPTIONS, group=cloud_options.GROUP)
    ours = {handler: mode for handler, mode in modes.items() if handler.group == settings.GROUP}
    yield from _database(resources, ours)
    if conf[settings.GROUP].driver == "openstack":
        yield from roles.check("octavia", resources, ours)
    yield _project(resources)
    yield from _clocks(resources)
    yield from _queue(resources, ours)
    yield from _files(resources, ours)


def _database(resources: Resources, modes: Mapping[type[Handler], Mode]) -> Iterator[Checked]:
    try:
        database = resources.get(OctaviaDatabase.from_resources)
        sentences = list(database.warnings())
    except ConfigError as error:
        yield Checked("octavia_database", Verdict.FAILURE, str(error))
        return
    except HandlerError as error:
        yield Checked(
            "octavia_database", Verdict.FAILURE, f"{error}; see [octavia] database_connection and config_file"
        )
        return
    if sentences:
        yield Checked("octavia_database", Verdict.WARNING, "; ".join(sentences))
    else:
        yield Checked("octavia_database", Verdict.OK, "its schema is known")
    healing = [handler for handler, mode in modes.items() if mode.heals]
    needs = grants.rights_of(healing, "octavia")
    yield from grants.check("octavia_database", database, needs, grants.rights_of(modes, "octavia"))


def _project(resources: Resources) -> Checked:
    try:
        driver = resources.get(chosen_driver)
        servers = len(driver.servers())
    except cfg.Error as error:
        return Checked("amphorae", Verdict.FAILURE, str(error))
    except HandlerError as error:
        return Checked("amphorae", Verdict.FAILURE, f"{error}; {roles.CREDENTIALS}")
    return Checked("amphorae", Verdict.OK, f"the project {driver.project()} has {servers} servers")


def _clocks(resources: Resources) -> Iterator[Checked]:
    try:
        beats = resources.get(OctaviaDatabase.from_resources).run(queries.healths)
    except (HandlerError, ConfigError):
        return  # another check reports it
    ahead = -statistics.median([beat.silent for beat in beats.values()] or [0.0])
    if ahead <= clocks.TOLERATED:
        return
    yield Checked(
        "heartbeats: clock",
        Verdict.WARNING,
        f"most heartbeats are {ahead:.0f} s in the future by the clock of Octavia's database, so a failed amphora looks alive "
        "for as long: let chrony or ntpd set the clocks of octavia-health-manager and of the database",
    )


def _queue(resources: Resources, modes: Mapping[type[Handler], Mode]) -> Iterator[Checked]:
    healing = {handler.name for handler, mode in modes.items() if mode.heals}
    names = " and ".join(sorted(healing & _NEED_QUEUE))
    requesting = " and ".join(sorted(healing & _REQUEST))
    if not names and not requesting:
        return
    try:
        queue = resources.get(WorkQueue.from_resources)
    except ConfigError as error:
        yield Checked("octavia work queue", Verdict.FAILURE, str(error))
        return
    if names and queue.refusal:
        text = (
            f"{names} only report objects on which a flow may work: {queue.refusal}. To accept this, set their modes to audit "
            f"in [{settings.GROUP}]"
        )
        yield Checked("octavia work queue", Verdict.WARNING, text)
    elif names and queue.board is not None:
        yield _jobboard(queue.board, names)
    if not requesting or resources.conf[settings.GROUP].driver != "openstack":
        return
    try:
        queue.require_worker()
    except HandlerError as error:
        yield Checked("octavia worker", Verdict.FAILURE, f"{requesting} cannot ask Octavia for a failover: {error}")
    else:
        yield Checked("octavia worker", Verdict.OK, "a worker consumes Octavia's work queue")


def _jobboard(board: Board, names: str) -> Checked:
    try:
        jobs = len(board.jobs())
    except (HandlerError, UnreadableBoard) as error:
        return Checked(
            "octavia jobboard", Verdict.WARNING, f"{names} only report objects on which a flow may work: {error}"
        )
    return Checked("octavia jobboard", Verdict.OK, f"it has {jobs} jobs")


def _files(resources: Resources, modes: Mapping[type[Handler], Mode]) -> Iterator[Checked]:
    conf = resources.conf
    files = options.files(conf)
    if not files.files:
        return
    yield from notifications(resources.bus, files, "oslo_messaging_notifications", "topics", "notifications")
    if (files.get("controller_worker", "event_notifications") or "true").lower() in {"false", "0", "no", "off"}:
        text = "Octavia sends no notifications of load balancers: write there [controller_worker] event_notifications = True"
        yield Checked(f"{files}: events", Verdict.WARNING, text)
    if any(handler.name == "deactivated_amphorae" and mode is not Mode.OFF for handler, mode in modes.items()):
        yield from _names(files)
    if any(handler.name == "failed_amphora" and mode is not Mode.OFF for handler, mode in modes.items()):
        yield _heartbeats(resources, str(files))
        yield _threshold(files.get("health_manager", "failover_threshold"), str(files))
        yield from _watch(conf)


def _names(files: ServiceFiles) -> Iterator[Checked]:
    value = files.get("nova", "random_amphora_name_length") or "0"
    if value.strip() == "0":
        return
    yield Checked(
        f"{files}: names of servers",
        Verdict.WARNING,
        f"[nova] random_amphora_name_length = {value} gives amphorae random names. So deactivated_amphorae removes no amphora "
        "that has a server, and sees no server that Octavia left behind: remove the option there, and replace the amphorae",
    )


def _heartbeats(resources: Resources, where: str) -> Checked:
    timeout = options.amphora_settings(resources.conf).heartbeat_timeout
    preservation = resources.get(housekeeping_settings)
    after = preservation.stale_after
    if not preservation.preserves:
        text = f"an amphora counts as failed after {after:.0f} s of silence; none is preserved"
        return Checked(f"{where}: heartbeats", Verdict.OK, text)
    if after < timeout:
        text = f"an amphora counts as failed after {after:.0f} s of silence, {timeout - after:.0f} s before Octavia deletes it"
        return Checked(f"{where}: heartbeats", Verdict.OK, text)
    return Checked(
        f"{where}: heartbeats",
        Verdict.WARNING,
        f"Octavia deletes a silent amphora after {timeout} s, before it counts as failed here ({after:.0f} s), so that it "
        f"cannot be preserved: {_earlier(resources.conf[settings.GROUP].heartbeat_margin, preservation, where)}",
    )


def _earlier(margin: int, preservation: settings.HousekeepingSettings, where: str) -> str:
    """Return advice to set options, with which stackmend finds a silent amphora before Octavia fails it over.

    :param margin: seconds of ``heartbeat_margin`` in stackmend's configuration; 0 when unset
    :param where: the file of Octavia that has ``heartbeat_timeout``
    """
    least, wanted = preservation.heard_within, margin or settings.MARGIN
    found = [] if margin else [f"[{settings.GROUP}] heartbeat_margin = {wanted} in stackmend's configuration"]
    if preservation.heartbeat_timeout <= least:
        found.append(f"[health_manager] heartbeat_timeout = {least + wanted:.0f} in {where}")
    return f"write {' and '.join(found)}"


def _watch(conf: cfg.ConfigOpts) -> Iterator[Checked]:
    option = "failed_amphora_interval"
    if option not in conf[settings.GROUP] or conf[settings.GROUP][option] <= LONGEST_WATCH:
        return
    yield Checked(
        f"[{settings.GROUP}] {option}",
        Verdict.WARNING,
        f"with more than {LONGEST_WATCH} s, silent amphorae are left to Octavia's health manager: write {option} = 5",
    )


def _threshold(value: str | None, where: str) -> Checked:
    subject = f"{where}: failover_threshold"
    if value == "1":
        text = (
            "Octavia's health manager fails no amphora over: while stackmend is down, failed amphorae stay: write there "
            "[health_manager] failover_threshold = 3"
        )
        return Checked(subject, Verdict.WARNING, text)
    return Checked(subject, Verdict.OK, "Octavia's health manager fails amphorae over that stackmend leaves to it")
