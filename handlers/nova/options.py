"""The options ``[nova]``. ``config_file``, the path of a ``nova.conf``, is usually enough."""

from __future__ import annotations

import re

from oslo_config import cfg, types

from handlers.access import service_files
from handlers.access.service_files import ServiceFiles

GROUP = "nova"
#: the option group of every handler of Nova, from the specification of nova-audit
AUDIT = "audit"


class _Pattern(types.String):
    def __init__(self) -> None:
        super().__init__(type_name="regular expression")

    def __call__(self, value: object) -> str:
        text = str(super().__call__(value))
        try:
            re.compile(text)
        except re.error as error:
            raise ValueError(f"{text!r} is not a regular expression: {error}") from None
        return text


OPTIONS = [
    cfg.ListOpt(
        "config_file",
        default=[],
        help="Nova's configuration files (or directories of ``*.conf``), in order; later ones win. stackmend reads "
        "[api_database] connection, [database] connection, [DEFAULT] transport_url, [oslo_messaging_notifications] "
        "transport_url, [oslo_messaging_rabbit] ssl and its files, and the credentials of [placement] or "
        "[keystone_authtoken]. Use the file of a host that has all of them.",
    ),
    cfg.StrOpt(
        "api_database_connection",
        secret=True,
        help="URL of the database nova_api, instead of [api_database] connection of config_file.",
    ),
    cfg.StrOpt(
        "database_connection",
        secret=True,
        help="Fills the templates of the cells' database URLs, instead of [database] connection of config_file. Needed "
        "only when cell_mappings holds templates such as mysql+pymysql://{username}:{password}@{hostname}/nova_cell2.",
    ),
    cfg.StrOpt(
        "transport_url",
        secret=True,
        help="URL of the broker on which Nova publishes notifications, instead of [oslo_messaging_notifications] or "
        "[DEFAULT] transport_url of config_file; it also fills the templates of the cells' broker URLs.",
    ),
    cfg.Opt(
        "hold_disabled_reason",
        type=_Pattern(),
        help="A regular expression, for example (?i)maintenance. Heals of a host wait while its nova-compute is disabled with "
        "a reason that matches. If a cell does not answer, all heals wait. Without the option, disabled services hold nothing.",
    ),
    cfg.BoolOpt(
        "exempt_by_tag",
        default=False,
        help="Whether the owner of a server can exempt it from heals, by the tag or the metadata stackmend:exempt. Every "
        "tenant can then stop the heals of its own servers.",
    ),
]


def register(conf: cfg.ConfigOpts) -> None:
    conf.register_opts(OPTIONS, GROUP)


def files(conf: cfg.ConfigOpts) -> ServiceFiles:
    return ServiceFiles("[nova] config_file", conf[GROUP].config_file)


def api_database_url(conf: cfg.ConfigOpts) -> str:
    """:raises ConfigError: neither ``[nova] api_database_connection`` nor Nova's configuration files name the URL"""
    given = conf[GROUP].api_database_connection
    return service_files.database_url(
        given,
        lambda: files(conf),
        "[nova] api_database_connection",
        "api_database",
        "mysql+pymysql://nova:PASSWORD@HOST/nova_api",
    )


def has_databases(conf: cfg.ConfigOpts) -> bool:
    return bool(conf[GROUP].api_database_connection) or files(conf).has("api_database", "connection")


def cell_database_url(conf: cfg.ConfigOpts) -> str | None:
    return conf[GROUP].database_connection or files(conf).get("database", "connection")


def transport_url(conf: cfg.ConfigOpts) -> str | None:
    return conf[GROUP].transport_url or files(conf).get("DEFAULT", "transport_url")


def notification_url(conf: cfg.ConfigOpts) -> str | None:
    if conf[GROUP].transport_url:
        return str(conf[GROUP].transport_url)
    nova = files(conf)
    return nova.get("oslo_messaging_notifications", "transport_url") or nova.get("DEFAULT", "transport_url")
