"""Options of ``[engine]`` for holds."""

from __future__ import annotations

from dataclasses import dataclass

from oslo_config import cfg

OPTS = [
    cfg.StrOpt(
        "hold_file",
        help="While this file exists, heals wait. A line such as 'host:compute-7 memory test' or 'cell:cell1 upgrade' holds "
        "the heals of that host or cell. A line that begins with # is a comment. Any other line holds all heals; so does an "
        "empty file, and a file that cannot be read or is not a regular file, such as a pipe. Each replica reads the file of "
        "its own host. For example /run/stackmend/hold.",
    ),
    cfg.StrOpt(
        "hold_hosts_file",
        help="A file with the hosts in maintenance, one in each line; a reason may follow. Heals of these hosts wait. Without "
        "the file, or if it is not a regular file, all heals wait.",
    ),
    cfg.StrOpt(
        "hold_url",
        secret=True,
        help="URL of Prometheus, for hold_query; for example http://prometheus:9090.",
    ),
    cfg.MultiStrOpt(
        "hold_query",
        default=[],
        help="A query of Prometheus; may be repeated. While it returns a series, heals wait. The label host or cell narrows "
        "the hold; without them, all heals wait. If Prometheus gives no complete answer, all heals wait. For example "
        'ALERTS{alertname="Maintenance",alertstate="firing"}.',
    ),
    cfg.FloatOpt("hold_seconds", default=15, min=1, max=300, help="Seconds between two readings of all holds."),
]


@dataclass(frozen=True, slots=True)
class HoldSettings:
    hold_file: str | None = None
    hold_hosts_file: str | None = None
    hold_url: str | None = None
    hold_query: tuple[str, ...] = ()
    hold_seconds: float = 15.0


def settings(conf: cfg.ConfigOpts) -> HoldSettings:
    """:raises ValueError: ``hold_query`` is set without ``hold_url``"""
    group = conf.engine
    if group.hold_query and not group.hold_url:
        raise ValueError("[engine] hold_query needs [engine] hold_url, for example http://prometheus:9090")
    return HoldSettings(
        group.hold_file, group.hold_hosts_file, group.hold_url, tuple(group.hold_query), group.hold_seconds
    )
