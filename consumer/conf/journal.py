"""``[journal]``: where the work is kept, and for how long what is done."""

from __future__ import annotations

from dataclasses import dataclass, field

from oslo_config import cfg

GROUP = cfg.OptGroup("journal", title="The durable table of work and its history")

OPTS = [
    cfg.StrOpt(
        "connection",
        default="sqlite:////var/lib/stackmend/journal.sqlite",
        secret=True,
        help="Database URL of the journal. SQLite serves one replica and needs nothing else; for several replicas give "
        "MariaDB or PostgreSQL, for example mysql+pymysql://stackmend:password@controller/stackmend or "
        "postgresql+psycopg://stackmend:password@controller/stackmend, and run 'stackmend db upgrade' once.",
    ),
    cfg.IntOpt("history_days", default=90, min=1, help="Days for which the history is kept."),
    cfg.IntOpt("dead_days", default=14, min=1, help="Days for which messages that could not be understood are kept."),
    cfg.IntOpt(
        "dead_keep",
        default=100_000,
        min=0,
        help="How many messages that could not be understood are kept at most; beyond it the oldest go.",
    ),
]


@dataclass(frozen=True, slots=True)
class JournalSettings:
    """``[journal]`` as values; the URL holds a password and is kept out of any representation."""

    connection: str = field(repr=False)
    history_days: int = 90
    dead_days: int = 14
    dead_keep: int = 100_000


def register(conf: cfg.ConfigOpts) -> None:
    """Register the group."""
    conf.register_group(GROUP)
    conf.register_opts(OPTS, group=GROUP)


def settings(conf: cfg.ConfigOpts) -> JournalSettings:
    """Read the group."""
    group = conf.journal
    return JournalSettings(group.connection, group.history_days, group.dead_days, group.dead_keep)
