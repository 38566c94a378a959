"""Chooses the board that ``[task_flow]`` of Octavia's files names.

Octavia's default for the host does not apply: it would name an empty board on stackmend's own host.

Source: ``octavia/common/config.py`` (task_flow_opts).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from oslo_config import types

from handlers.access.service_files import ConfigError, ServiceFiles
from handlers.octavia.jobboard import in_etcd, in_redis, in_zookeeper
from handlers.octavia.jobboard.board import TIMEOUT, Board, UnreadableBoard
from handlers.octavia.jobboard.in_etcd import EtcdBoard
from handlers.octavia.jobboard.in_redis import RedisBoard
from handlers.octavia.jobboard.in_zookeeper import ZooKeeperBoard

#: Octavia's defaults
_DRIVER = "redis_taskflow_driver"
_PORT = 6379
_NAMESPACE = "octavia_jobboard"

_KINDS: Mapping[str, type[RedisBoard | ZooKeeperBoard | EtcdBoard]] = {
    _DRIVER: RedisBoard,
    "zookeeper_taskflow_driver": ZooKeeperBoard,
    "etcd_taskflow_driver": EtcdBoard,
}


def board_of(files: ServiceFiles) -> Board:
    """:raises UnreadableBoard: stackmend cannot read this board
    :raises ConfigError: a value in Octavia's files is malformed
    """
    section = _Section(files)
    driver = section.text("jobboard_backend_driver") or _DRIVER
    kind = _KINDS.get(driver)
    if kind is None:
        raise UnreadableBoard(f"stackmend cannot read Octavia's jobboard of the driver {driver}")
    if any(find_spec(package) is None for package in kind.packages):
        raise UnreadableBoard("stackmend cannot read Octavia's jobboard: install stackmend[jobboard]")
    hosts = section.items("jobboard_backend_hosts")
    if not hosts:
        raise UnreadableBoard(
            f"the host of Octavia's jobboard is unknown: copy the group [task_flow] of Octavia's own file to {files}, with "
            "jobboard_backend_hosts"
        )
    port = section.number("jobboard_backend_port", _PORT)
    namespace = section.text("jobboard_backend_namespace") or _NAMESPACE
    if kind is RedisBoard:
        return _in_redis(section, hosts, port, namespace)
    if kind is ZooKeeperBoard:
        names = ("keyfile", "keyfile_password", "certfile", "ca")
        tls = section.tls("jobboard_zookeeper_ssl_options", "use_ssl", names, flags=("verify_certs",))
        return ZooKeeperBoard(in_zookeeper.connector(hosts, port, tls), f"/{namespace}")
    tls = section.tls("jobboard_etcd_ssl_options", "use_ssl", ("ca_cert", "cert_key", "cert_cert"))
    options = {"timeout": float(section.number("jobboard_etcd_timeout", int(TIMEOUT))), **tls}
    if options.pop("use_ssl", False):
        options["protocol"] = "https"
    if (path := section.text("jobboard_etcd_api_path")) is not None:
        options["api_path"] = path
    return EtcdBoard(in_etcd.connector(hosts[0], port, options), namespace)


def _in_redis(section: _Section, hosts: list[str], port: int, namespace: str) -> Board:
    files = ("ssl_keyfile", "ssl_certfile", "ssl_ca_certs", "ssl_cert_reqs")
    options: dict[str, Any] = {
        "db": section.number("jobboard_redis_backend_db", 0),
        "socket_timeout": TIMEOUT,
        "socket_connect_timeout": TIMEOUT,
        **section.credentials("jobboard_backend"),
        **section.tls("jobboard_redis_backend_ssl_options", "ssl", files),
    }
    name = section.text("jobboard_redis_sentinel")
    if name is None:
        return RedisBoard(in_redis.connector(hosts[0], port, options), namespace)
    guarded = {
        "socket_timeout": TIMEOUT,
        **section.credentials("jobboard_redis_sentinel"),
        **section.tls("jobboard_redis_sentinel_ssl_options", "ssl", files),
    }
    sentinels = [(host, port) for host in hosts]
    return RedisBoard(in_redis.sentinel_connector(name, sentinels, options, guarded), namespace)


@dataclass(frozen=True, slots=True)
class _Section:
    """The group ``[task_flow]`` of Octavia's files."""

    files: ServiceFiles

    def text(self, name: str) -> str | None:
        return self.files.get("task_flow", name)

    def items(self, name: str) -> list[str]:
        return [item.strip() for item in (self.text(name) or "").split(",") if item.strip()]

    def number(self, name: str, default: int) -> int:
        value = self.text(name)
        if value is None:
            return default
        if not value.isdecimal():
            raise ConfigError(f"{self.files}: [task_flow] {name} = {value} is not a number")
        return int(value)

    def credentials(self, prefix: str) -> dict[str, str]:
        given = {name: self.text(f"{prefix}_{name}") for name in ("username", "password")}
        return {name: value for name, value in given.items() if value is not None}

    def tls(self, name: str, switch: str, names: tuple[str, ...], flags: tuple[str, ...] = ()) -> dict[str, Any]:
        """Return the TLS options of a client; empty unless the boolean option ``switch`` is true.

        :param names: options with a text
        :param flags: options with a boolean
        """
        text = self.text(name)
        if text is None:
            return {}
        try:
            given = {key: value for key, value in types.Dict(types.String())(text).items() if value not in {"", "None"}}
            boolean = types.Boolean()
            if not boolean(given.get(switch, "false")):
                return {}
            flagged = {flag: boolean(given[flag]) for flag in flags if flag in given}
        except ValueError:
            raise ConfigError(f"{self.files}: [task_flow] {name} is malformed") from None
        return {switch: True, **flagged, **{option: given[option] for option in names if option in given}}
