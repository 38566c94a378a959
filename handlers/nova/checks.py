"""What Nova's side of a deployment must have: databases of a known schema, a Placement that lets us in, notifications."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from oslo_config import cfg
from sqlalchemy import MetaData

from handlers.access.cloud import Cloud
from handlers.access.database import Database
from handlers.access.service_files import ConfigError
from handlers.base import Checked, HandlerError, Resources
from handlers.checks import clocks, grants, roles
from handlers.checks.notifications import notifications
from handlers.nova import options, tables
from handlers.nova.database import NovaDatabases, limits_of
from handlers.nova.grants import API, CELL, ROLES
from handlers.nova.placement import VERSION, Placement

#: formats of Nova's notifications that are understood (``[notifications] notification_format``); all of them
FORMATS = frozenset({"versioned", "unversioned", "both"})


def nova_checks(resources: Resources, modes: Mapping[str, str]) -> Iterator[Checked]:
    """Look at Nova's databases, at Placement and at Nova's own files.

    :param modes: the handlers that are not off; Nova is looked at whatever they are
    """
    options.register(resources.conf)
    healing = [name for name, mode in modes.items() if mode == "heal"]
    yield from _databases(resources, healing)
    yield from roles.check("nova", resources, ROLES, modes)
    yield from _placement(resources)
    yield from _files(resources.conf)


def _databases(resources: Resources, healing: Collection[str]) -> Iterator[Checked]:
    try:
        databases = resources.get(NovaDatabases.from_resources)
        cells = databases.cells()
    except (HandlerError, ConfigError) as error:
        yield Checked("nova_api", "failure", str(error))
        return
    yield _schema(databases.api, tables.api)
    needs = [API[name] for name in healing if name in API]
    yield from grants.check(databases.api.name, databases.api, needs, API.values())
    for cell in cells:
        try:
            database = databases.database(cell)
            yield _schema(database, tables.cell)
            needs = [CELL[name] for name in healing if name in CELL]
            yield from grants.check(database.name, database, needs, CELL.values())
        except HandlerError as error:
            yield Checked(
                cell.label, "failure", f"{error}; while it does not answer, nothing is healed that it could belie"
            )


def _schema(database: Database, known: MetaData) -> Checked:
    try:
        sentences = list(limits_of(database, known))
    except HandlerError as error:
        text = f"{error}; while it does not answer, nothing is healed that it could belie"
        return Checked(database.name, "failure", text)
    if sentences:
        return Checked(database.name, "warning", "; ".join(sentences))
    return Checked(database.name, "ok", "its schema is known")


def _placement(resources: Resources) -> Iterator[Checked]:
    try:
        resources.get(Placement.from_resources).named("stackmend-check")
        headers = resources.get(Cloud.from_resources).service("placement").read("/").headers
    except (HandlerError, cfg.Error) as error:
        text = f"{error}; where it is and who we are there say [openstack] placement_endpoint_override and auth_type"
        yield Checked("placement", "failure", text)
        return
    yield Checked("placement", "ok", f"it answers at version {VERSION}, and lets us in")
    if clock := clocks.check("placement", headers):
        yield clock


def _files(conf: cfg.ConfigOpts) -> Iterator[Checked]:
    files = options.files(conf)
    if not files.files:
        return
    style = files.get("notifications", "notification_format") or "unversioned"
    if style not in FORMATS:
        text = f"[notifications] notification_format = {style} is none; write versioned"
        yield Checked(f"{files}: format", "failure", text)
    elif style == "unversioned":
        yield from notifications(conf, files, "oslo_messaging_notifications", "topics", "notifications")
        text = "this format does not tell of hosts and aggregates: write there [notifications] notification_format = versioned"
        yield Checked(f"{files}: format", "warning", text)
    else:
        yield from notifications(
            conf, files, "notifications", "versioned_notifications_topics", "versioned_notifications"
        )
