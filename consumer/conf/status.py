"""``[status]``: metrics, health and a status page over HTTP."""

from __future__ import annotations

from dataclasses import dataclass

from oslo_config import cfg

GROUP = cfg.OptGroup("status", title="Metrics, health and a status page")

OPTS = [
    cfg.PortOpt(
        "port",
        default=0,
        help="Port of /metrics (Prometheus), /healthz (the main threads run) and /readyz (journal and brokers answer), for "
        "example 9795; 0 disables them.",
    ),
    cfg.HostAddressOpt(
        "bind",
        default="127.0.0.1",
        help="Address to listen on. The server has no password and no TLS: allow access only from your monitoring hosts.",
    ),
    cfg.BoolOpt(
        "page",
        default=False,
        help="Also serve a read-only status page at / (and at /live, which reloads itself): a day of findings, heals and lag, "
        "why heals wait, asks, drift, exemptions, brokers, replicas, inventories. It contains names of hosts, instances and "
        "load balancers, but no secrets. With it, the daemon lists the inventories once a minute.",
    ),
]


class CannotListen(Exception):
    """stackmend cannot listen on the address in ``[status]``."""


@dataclass(frozen=True, slots=True)
class StatusSettings:
    """:param port: 0 starts no HTTP server"""

    bind: str = "127.0.0.1"
    port: int = 0
    page: bool = False


def register(conf: cfg.ConfigOpts) -> None:
    conf.register_group(GROUP)
    conf.register_opts(OPTS, group=GROUP)


def settings(conf: cfg.ConfigOpts) -> StatusSettings:
    return StatusSettings(str(conf.status.bind), conf.status.port, conf.status.page)
