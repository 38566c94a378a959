"""``[status]``: what the daemon tells of itself over HTTP."""

from __future__ import annotations

from dataclasses import dataclass

from oslo_config import cfg

GROUP = cfg.OptGroup("status", title="Metrics, health and a page to look at")

OPTS = [
    cfg.PortOpt(
        "port",
        default=0,
        help="Port of /metrics (Prometheus), /healthz (its threads are alive) and /readyz (journal and brokers answer); "
        "0: nothing listens. 9795 suits.",
    ),
    cfg.HostAddressOpt(
        "bind",
        default="127.0.0.1",
        help="Address to listen on. There is no password and no TLS: let it be reached only from where you watch.",
    ),
    cfg.BoolOpt(
        "page",
        default=False,
        help="Serve a page at / as well: what is watched, drift, the last heals, what is kept, what is parked. Read-only. "
        "It names hosts, instances and load balancers, no secrets.",
    ),
]


class CannotListen(Exception):
    """The address is taken or not ours."""


@dataclass(frozen=True, slots=True)
class StatusSettings:
    """``[status]`` as values.

    :param port: 0 for none
    """

    bind: str = "127.0.0.1"
    port: int = 0
    page: bool = False


def register(conf: cfg.ConfigOpts) -> None:
    """Register the group."""
    conf.register_group(GROUP)
    conf.register_opts(OPTS, group=GROUP)


def settings(conf: cfg.ConfigOpts) -> StatusSettings:
    """Read the group."""
    return StatusSettings(str(conf.status.bind), conf.status.port, conf.status.page)
