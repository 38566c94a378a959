"""What Nova's side of a deployment must have: databases of a known schema, a Placement that lets us in, notifications."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from oslo_config import cfg
from sqlalchemy import MetaData

from handlers.access.cloud import Cloud
from handlers.access.database import Database
from handlers.access.service_files import ConfigError
from handlers.base import Checked, Handler, HandlerError, Mode, Resources, Verdict
from handlers.checks import clocks, grants, roles
from handlers.checks.notifications import notifications
from handlers.nova import options, tables
from handlers.nova.database import NovaDatabases, limits_of
from handlers.nova.placement import VERSION, Placement

#: formats of Nova's notifications that are understood (``[notifications] notification_format``); all of them
FORMATS = frozenset({"versioned", "unversioned", "both"})


def nova_checks(resources: Resources, modes: Mapping[type[Handler], Mode]) -> Iterator[Checked]:
    """Check Nova's databases, Placement and Nova's own files, whatever the modes of its handlers.

    :param modes: every handler's mode
    """
    options.register(resources.conf)
    ours = {handler: mode for handler, mode in modes.items() if handler.group == options.AUDIT}
    yield from _databases(resources, ours)
    yield from roles.check("nova", resources, ours)
    yield from _placement(resources)
    yield from _files(resources)


def _databases(resources: Resources, modes: Mapping[type[Handler], Mode]) -> Iterator[Checked]:
    try:
        databases = resources.get(NovaDatabases.from_resources)
        cells = databases.cells()
    except (HandlerError, ConfigError) as error:
        yield Checked("nova_api", Verdict.FAILURE, str(error))
        return
    yield _schema(databases.api, tables.api)
    healing = [handler for handler, mode in modes.items() if mode is Mode.HEAL]
    needs = grants.rights_of(healing, "nova_api")
    yield from grants.check(databases.api.name, databases.api, needs, grants.rights_of(modes, "nova_api"))
    for cell in cells:
        try:
            database = databases.database(cell)
            yield _schema(database, tables.cell)
            needs = grants.rights_of(healing, "cell")
            yield from grants.check(database.name, database, needs, grants.rights_of(modes, "cell"))
        except HandlerError as error:
            yield Checked(
                cell.label, Verdict.FAILURE, f"{error}; while it does not answer, nothing is healed that it could belie"
            )


def _schema(database: Database, known: MetaData) -> Checked:
    try:
        sentences = list(limits_of(database, known))
    except HandlerError as error:
        text = f"{error}; while it does not answer, nothing is healed that it could belie"
        return Checked(database.name, Verdict.FAILURE, text)
    if sentences:
        return Checked(database.name, Verdict.WARNING, "; ".join(sentences))
    return Checked(database.name, Verdict.OK, "its schema is known")


def _placement(resources: Resources) -> Iterator[Checked]:
    try:
        resources.get(Placement.from_resources).named("stackmend-check")
        headers = resources.get(Cloud.from_resources).service("placement").read("/").headers
    except (HandlerError, cfg.Error) as error:
        text = f"{error}; where it is and who we are there say [openstack] placement_endpoint_override and auth_type"
        yield Checked("placement", Verdict.FAILURE, text)
        return
    yield Checked("placement", Verdict.OK, f"it answers at version {VERSION}, and lets us in")
    if clock := clocks.check("placement", headers):
        yield clock


def _files(resources: Resources) -> Iterator[Checked]:
    files = options.files(resources.conf)
    if not files.files:
        return
    style = files.get("notifications", "notification_format") or "unversioned"
    if style not in FORMATS:
        text = f"[notifications] notification_format = {style} is none; write versioned"
        yield Checked(f"{files}: format", Verdict.FAILURE, text)
    elif style == "unversioned":
        yield from notifications(resources.bus, files, "oslo_messaging_notifications", "topics", "notifications")
        text = "this format does not tell of hosts and aggregates: write there [notifications] notification_format = versioned"
        yield Checked(f"{files}: format", Verdict.WARNING, text)
    else:
        yield from notifications(
            resources.bus, files, "notifications", "versioned_notifications_topics", "versioned_notifications"
        )
