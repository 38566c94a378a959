"""The options of the group ``[octavia]``. By default, most values come from Octavia's configuration files."""

from __future__ import annotations

from dataclasses import dataclass

from oslo_config import cfg

from handlers.access import service_files
from handlers.access.service_files import ConfigError, ServiceFiles

GROUP = "octavia"

#: seconds of silence after which Octavia replaces an amphora, where ``octavia.conf`` does not set them
HEARTBEAT_TIMEOUT = 60
#: seconds between two heartbeats, where ``octavia.conf`` has no value
HEARTBEAT_INTERVAL = 10.0

OPTIONS = [
    cfg.ListOpt(
        "config_file",
        default=[],
        help="Octavia's configuration files (or directories of ``*.conf``), in order; later ones win. stackmend reads "
        "[database] connection, [DEFAULT] transport_url, control_exchange and executor_thread_pool_size, "
        "[oslo_messaging_notifications] transport_url, driver and topics, [oslo_messaging_rabbit] ssl and its files, "
        "[oslo_messaging] topic, [controller_worker] ``amp_*`` and event_notifications, [health_manager] "
        "heartbeat_timeout, heartbeat_interval and failover_threshold, [task_flow] jobboard_enabled and its other "
        "``jobboard_*``, and the retries and timeouts of [haproxy_amphora], [controller_worker], [compute] and "
        "[networking]. It also reads [nova] random_amphora_name_length, region and endpoint of [nova], [neutron] and "
        "[glance], and the credentials of [service_auth] or [keystone_authtoken].",
    ),
    cfg.BoolOpt(
        "jobboard",
        help="Whether Octavia has a jobboard, instead of [task_flow] jobboard_enabled of config_file. stackmend reads "
        "the jobboard, by the other options of that group, and needs: pip install 'stackmend[jobboard]'. Where it cannot, or "
        "where neither option is set, heals that need an idle work queue only report.",
    ),
    cfg.StrOpt(
        "database_connection",
        secret=True,
        help="URL of Octavia's database, instead of [database] connection of config_file.",
    ),
    cfg.StrOpt(
        "transport_url",
        secret=True,
        help="URL of the broker on which Octavia publishes notifications, instead of [oslo_messaging_notifications] or "
        "[DEFAULT] transport_url of config_file.",
    ),
    cfg.StrOpt(
        "project_id",
        help="Id of the project in which Octavia boots amphorae, instead of that of [service_auth] of config_file.",
    ),
    cfg.StrOpt("amp_image_tag", help="Tag of the image of amphorae, instead of [controller_worker] of config_file."),
    cfg.StrOpt(
        "amp_image_owner_id",
        help="Id of the project that owns the image of amphorae, instead of [controller_worker] of config_file.",
    ),
    cfg.StrOpt("amp_flavor_id", help="Id of the flavor of amphorae, instead of [controller_worker] of config_file."),
    cfg.BoolOpt(
        "exempt_by_tag",
        default=False,
        help="Whether the owner of a load balancer can exempt it from heals, by the tag stackmend:exempt. Every tenant can "
        "then stop the heals of its own load balancers and their amphorae.",
    ),
]


@dataclass(frozen=True, slots=True)
class AmphoraSettings:
    """The options by which Octavia boots amphorae and watches their heartbeats.

    Networks and security groups are ids.
    """

    image_tag: str | None
    image_owner: str | None
    flavor: str | None
    boot_networks: tuple[str, ...]
    security_groups: tuple[str, ...]
    ssh_key: str | None
    heartbeat_timeout: int


def register(conf: cfg.ConfigOpts) -> None:
    conf.register_opts(OPTIONS, GROUP)


def by_group() -> dict[str, list[cfg.Opt]]:
    """Return the options by group, for the sample file and the loaded configuration (entry point ``stackmend.options``)."""
    return {GROUP: OPTIONS}


def configured(conf: cfg.ConfigOpts) -> bool:
    register(conf)
    return bool(conf[GROUP].config_file or conf[GROUP].database_connection)


def files(conf: cfg.ConfigOpts) -> ServiceFiles:
    return ServiceFiles("[octavia] config_file", conf[GROUP].config_file)


def database_url(conf: cfg.ConfigOpts) -> str:
    given = conf[GROUP].database_connection
    return service_files.database_url(
        given,
        lambda: files(conf),
        "[octavia] database_connection",
        "database",
        "mysql+pymysql://octavia:PASSWORD@HOST/octavia",
    )


def notification_url(conf: cfg.ConfigOpts) -> str | None:
    """Return the URL of the broker on which Octavia publishes notifications; None if no option and no file names a broker."""
    if conf[GROUP].transport_url:
        return str(conf[GROUP].transport_url)
    octavia = files(conf)
    return octavia.get("oslo_messaging_notifications", "transport_url") or octavia.get("DEFAULT", "transport_url")


def amphora_settings(conf: cfg.ConfigOpts) -> AmphoraSettings:
    """:raises ConfigError: ``heartbeat_timeout`` in Octavia's files is not a number"""
    octavia = files(conf)

    def worker(name: str) -> str | None:
        return octavia.get("controller_worker", name)

    timeout = octavia.get("health_manager", "heartbeat_timeout")
    if timeout is not None and not timeout.isdecimal():
        raise ConfigError(f"[health_manager] heartbeat_timeout in {octavia} is not a number of seconds")
    return AmphoraSettings(
        conf[GROUP].amp_image_tag or worker("amp_image_tag"),
        conf[GROUP].amp_image_owner_id or worker("amp_image_owner_id"),
        conf[GROUP].amp_flavor_id or worker("amp_flavor_id"),
        _list(worker("amp_boot_network_list")),
        _list(worker("amp_secgroup_list")),
        worker("amp_ssh_key_name"),
        int(timeout) if timeout is not None else HEARTBEAT_TIMEOUT,
    )


def heartbeat_interval(conf: cfg.ConfigOpts) -> float:
    """Return the seconds between two heartbeats of an amphora.

    :raises ConfigError: the value in Octavia's files is not a number
    """
    return float(_health_manager(conf, "heartbeat_interval") or HEARTBEAT_INTERVAL)


def failover_threshold(conf: cfg.ConfigOpts) -> int:
    """Return the number of silent amphorae at which Octavia's health manager stops all failovers; 0 when Octavia has no limit.

    :raises ConfigError: the value in Octavia's files is not a number
    """
    return _health_manager(conf, "failover_threshold") or 0


def _health_manager(conf: cfg.ConfigOpts, name: str) -> int | None:
    register(conf)
    octavia = files(conf)
    value = octavia.get("health_manager", name)
    if value is not None and not value.isdecimal():
        raise ConfigError(f"[health_manager] {name} in {octavia} is not a number")
    return int(value) if value is not None else None


def _list(value: str | None) -> tuple[str, ...]:
    return tuple(item.strip() for item in (value or "").split(",") if item.strip())
