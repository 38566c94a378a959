from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress

from oslo_config import cfg
from sqlalchemy import MetaData

from handlers.access.cloud import Cloud
from handlers.access.database import Database
from handlers.access.service_files import ConfigError
from handlers.base import Checked, Handler, HandlerError, Mode, Resources, Verdict
from handlers.checks import clocks, grants, roles
from handlers.checks.notifications import notifications
from handlers.nova import options, replaced, tables
from handlers.nova.clocks import LARGEST, TOLERATED
from handlers.nova.database import NovaDatabases
from handlers.nova.placement import VERSION, Placement

#: the values of ``[notifications] notification_format``
FORMATS = frozenset({"versioned", "unversioned", "both"})


def nova_checks(resources: Resources, modes: Mapping[type[Handler], Mode]) -> Iterator[Checked]:
    options.register(resources.conf)
    ours = {handler: mode for handler, mode in modes.items() if handler.group == options.AUDIT}
    yield from _databases(resources, ours)
    yield from roles.check("nova", resources, ours)
    yield from _placement(resources)
    yield from _files(resources)
    yield from replaced.check(options.files(resources.conf), ours)


def _databases(resources: Resources, modes: Mapping[type[Handler], Mode]) -> Iterator[Checked]:
    try:
        databases = resources.get(NovaDatabases.from_resources)
        cells = databases.cells()
    except ConfigError as error:
        yield Checked("nova_api", Verdict.FAILURE, str(error))
        return
    except HandlerError as error:
        yield Checked("nova_api", Verdict.FAILURE, f"{error}; {_SEE_API}")
        return
    yield _schema(databases, databases.api, tables.api, _SEE_API)
    healing = [handler for handler, mode in modes.items() if mode.heals]
    needs = grants.rights_of(healing, "nova_api")
    yield from grants.check(databases.api.name, databases.api, needs, grants.rights_of(modes, "nova_api"))
    for cell in cells:
        try:
            database = databases.database(cell)
            yield _schema(databases, database, tables.cell, _SEE_CELL)
            needs = grants.rights_of(healing, "cell")
            yield from grants.check(database.name, database, needs, grants.rights_of(modes, "cell"))
        except HandlerError as error:
            yield Checked(cell.label, Verdict.FAILURE, f"{error}{_CONSEQUENCE}; {_SEE_CELL}")
    yield from _clocks(databases)


_CONSEQUENCE = "; until it answers, no heal that relies on it starts"
_SEE_API = "see [nova] api_database_connection and config_file"
_SEE_CELL = "see database_connection of the cell in the table cell_mappings of nova_api"


def _schema(databases: NovaDatabases, database: Database, known: MetaData, see: str) -> Checked:
    try:
        sentences = list(databases.schemas.warnings(database, known))
    except HandlerError as error:
        return Checked(database.name, Verdict.FAILURE, f"{error}{_CONSEQUENCE}; {see}")
    if sentences:
        return Checked(database.name, Verdict.WARNING, "; ".join(sentences))
    return Checked(database.name, Verdict.OK, "its schema is known")


def _clocks(databases: NovaDatabases) -> Iterator[Checked]:
    found = []
    for cell in databases.host_cells():
        with suppress(HandlerError):
            found.append(databases.database(cell))
    databases.clocks.measure(found)
    for database in found:
        yield judge_clock(database.name, databases.clocks.difference(database))


def judge_clock(name: str, seconds: float | None) -> Checked:
    """Return the verdict on the clock difference between Nova's services and a database.

    :param seconds: the difference; None if not measured
    """
    subject = f"{name}: clocks"
    if seconds is None:
        return Checked(subject, Verdict.OK, "not compared: no service of Nova reported during the check")
    if seconds <= TOLERATED:
        return Checked(subject, Verdict.OK, "Nova's services agree with the database")
    differs = f"the clock of a Nova service differs from the database's clock by at least {seconds:.0f} s"
    cure = "let chrony or ntpd set all clocks"
    if seconds <= LARGEST:
        return Checked(subject, Verdict.WARNING, f"{differs}, so every proof waits so much longer: {cure}")
    return Checked(subject, Verdict.FAILURE, f"{differs}. Heals are refused beyond {LARGEST:.0f} s: {cure}")


def _placement(resources: Resources) -> Iterator[Checked]:
    try:
        roles.who(resources.get(Cloud.from_resources))
    except (HandlerError, cfg.Error) as error:
        yield Checked("placement", Verdict.FAILURE, f"{error}; {roles.CREDENTIALS}")
        return
    try:
        resources.get(Placement.from_resources).named("stackmend-check")
        headers = resources.get(Cloud.from_resources).service("placement").read("/").headers
    except (HandlerError, cfg.Error) as error:
        text = f"{error}; see [openstack] placement_endpoint_override and auth_type"
        yield Checked("placement", Verdict.FAILURE, text)
        return
    yield Checked("placement", Verdict.OK, f"it answers at version {VERSION} and accepts the credentials")
    if clock := clocks.check("placement", headers):
        yield clock


def _files(resources: Resources) -> Iterator[Checked]:
    files = options.files(resources.conf)
    if not files.files:
        return
    style = files.get("notifications", "notification_format") or "unversioned"
    if style not in FORMATS:
        text = f"[notifications] notification_format = {style} is no format; write versioned"
        yield Checked(f"{files}: format", Verdict.FAILURE, text)
    elif style == "unversioned":
        yield from notifications(resources.bus, files, "oslo_messaging_notifications", "topics", "notifications")
        text = "this format has no events of hosts: write there [notifications] notification_format = versioned"
        yield Checked(f"{files}: format", Verdict.WARNING, text)
    else:
        yield from notifications(
            resources.bus, files, "notifications", "versioned_notifications_topics", "versioned_notifications"
        )
