"""``[engine]``: how work is done, and how much of it may be done before a person is asked."""

from __future__ import annotations

from dataclasses import dataclass
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from oslo_config import cfg, types

GROUP = cfg.OptGroup("engine", title="Workers, retries, budgets")


class _Zone(types.String):
    """The name of a time zone."""

    def __init__(self) -> None:
        super().__init__(type_name="time zone")

    def __call__(self, value: object) -> str:
        name = str(super().__call__(value))
        try:
            ZoneInfo(name)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise ValueError(f"{name!r} is not a time zone; write one such as UTC or Europe/Berlin") from None
        return name


OPTS = [
    cfg.IntOpt("workers", default=8, min=1, max=256, help="How many objects are looked at and healed at a time."),
    cfg.FloatOpt(
        "lease_seconds",
        default=20,
        min=2,
        help="Seconds after which another replica may take over the work of one that died. Extended while work runs.",
    ),
    cfg.FloatOpt(
        "poll_seconds",
        default=1,
        min=0.05,
        help="Seconds between two looks into the journal for work that another replica took in or that has become due.",
    ),
    cfg.IntOpt("max_attempts", default=8, min=1, help="Failed looks or heals of one object after which it is parked."),
    cfg.FloatOpt("backoff_seconds", default=2, min=0.01, help="The first wait after a failure; it doubles each time."),
    cfg.FloatOpt("backoff_max_seconds", default=900, min=1, help="The longest wait after a failure."),
    cfg.FloatOpt(
        "patience_seconds",
        default=3600,
        min=1,
        help="How long an object that Nova or Octavia is working on is watched before it is left to the next sweep; the hours "
        "in which the window of the task is closed do not count.",
    ),
    cfg.IntOpt(
        "heals_per_hour",
        default=200,
        min=0,
        help="Heals of one handler in any hour, over all replicas; 0 for no bound. What exceeds it waits. "
        "<task>_heals_per_hour overrides it for one task.",
    ),
    cfg.IntOpt(
        "breaker_count",
        default=100,
        min=0,
        help="A sweep in heal mode that finds more than this many objects wrong, and more than breaker_percent of all, "
        "stops its handler until 'stackmend handler resume': a wrong database URL or a restored backup looks like that.",
    ),
    cfg.IntOpt("breaker_percent", default=10, min=0, max=100, help="See breaker_count."),
    cfg.FloatOpt(
        "stop_seconds",
        default=8,
        min=0,
        help="Seconds that running heals get to finish when the service is stopped; what is not finished is done by the "
        "next to come.",
    ),
    cfg.Opt("timezone", type=_Zone(), default="UTC", help="Time zone of the windows (<task>_window)."),
    cfg.BoolOpt(
        "announce",
        default=False,
        help="Send notifications of findings and heals (stackmend.finding, stackmend.heal.end, stackmend.heal.error) "
        "through oslo.messaging's notifier.",
    ),
    cfg.StrOpt(
        "announce_transport_url",
        secret=True,
        help="Broker to which they are sent, as rabbit://user:password@host:5672/; without it the one of "
        "[oslo_messaging_notifications] or [DEFAULT] transport_url.",
    ),
    cfg.ListOpt("announce_topics", default=["stackmend_notifications"], help="Topics to which they are sent."),
]


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """``[engine]`` as values; the options' help says what each means."""

    workers: int = 8
    lease_seconds: float = 20.0
    poll_seconds: float = 1.0
    max_attempts: int = 8
    backoff_seconds: float = 2.0
    backoff_max_seconds: float = 900.0
    patience_seconds: float = 3600.0
    heals_per_hour: int = 200
    breaker_count: int = 100
    breaker_percent: int = 10
    stop_seconds: float = 8.0
    timezone: str = "UTC"


def register(conf: cfg.ConfigOpts) -> None:
    """Register the group."""
    conf.register_group(GROUP)
    conf.register_opts(OPTS, group=GROUP)


def settings(conf: cfg.ConfigOpts) -> EngineSettings:
    """Read the group."""
    group = conf.engine
    return EngineSettings(**{name: getattr(group, name) for name in EngineSettings.__dataclass_fields__})
