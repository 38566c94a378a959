"""``[journal]``: the database of work and history."""

from __future__ import annotations

from dataclasses import dataclass, field

from oslo_config import cfg

GROUP = cfg.OptGroup("journal", title="The durable table of work and its history")

OPTS = [
    cfg.StrOpt(
        "connection",
        default="sqlite:////var/lib/stackmend/journal.sqlite",
        secret=True,
        help="Database URL of the journal. SQLite serves one replica and needs no setup. Several replicas need MariaDB or "
        "PostgreSQL, for example mysql+pymysql://stackmend:password@controller/stackmend or "
        "postgresql+psycopg://stackmend:password@controller/stackmend; then run 'stackmend db upgrade' once.",
    ),
    cfg.IntOpt(
        "max_waiting",
        default=1_000_000,
        min=0,
        help="The largest number of objects that wait for an inspection. Beyond it, stackmend reads no further notifications; "
        "they wait in RabbitMQ. Sweeps still add objects. 0 means unlimited.",
    ),
    cfg.IntOpt("history_days", default=90, min=1, help="Days before history entries are deleted."),
    cfg.IntOpt("dead_days", default=14, min=1, help="Days before dead letters (undecodable messages) are deleted."),
    cfg.IntOpt(
        "dead_keep",
        default=100_000,
        min=0,
        help="The largest number of stored dead letters; the oldest are deleted first.",
    ),
    cfg.IntOpt(
        "dead_bytes",
        default=256 * 1024 * 1024,
        min=1024 * 1024,
        help="The largest size of all stored dead letters, in bytes; the oldest are deleted first.",
    ),
]


@dataclass(frozen=True, slots=True)
class JournalSettings:
    """The values of ``[journal]``. ``repr`` omits the URL, which can contain a password."""

    connection: str = field(repr=False)
    history_days: int = 90
    dead_days: int = 14
    dead_keep: int = 100_000
    dead_bytes: int = 256 * 1024 * 1024
    max_waiting: int = 1_000_000


def register(conf: cfg.ConfigOpts) -> None:
    conf.register_group(GROUP)
    conf.register_opts(OPTS, group=GROUP)


def settings(conf: cfg.ConfigOpts) -> JournalSettings:
    group = conf.journal
    return JournalSettings(
        group.connection, group.history_days, group.dead_days, group.dead_keep, group.dead_bytes, group.max_waiting
    )
