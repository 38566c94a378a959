"""``[engine]``: workers, retries, and limits on heals."""

from __future__ import annotations

from dataclasses import dataclass
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from oslo_config import cfg, types

from consumer.conf import holds

GROUP = cfg.OptGroup("engine", title="Workers, retries, budgets")


class _Zone(types.String):
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
    cfg.IntOpt(
        "workers",
        default=8,
        min=1,
        max=256,
        help="Objects that are inspected and healed at the same time. Some of the workers are reserved for each service "
        "and its events; with fewer than 4, one slow dependency can delay everything.",
    ),
    cfg.FloatOpt(
        "lease_seconds",
        default=20,
        min=2,
        help="Seconds after which another replica may take over the work of a dead one. Extended while work runs.",
    ),
    cfg.FloatOpt(
        "poll_seconds",
        default=1,
        min=0.05,
        help="Seconds between two queries for work that became due or came from another replica.",
    ),
    cfg.FloatOpt(
        "claim_seconds",
        default=3600,
        min=60,
        help="Seconds after which the work on one object, a step of a long heal, or a sweep counts as hung. Then another "
        "replica may take it over, and /healthz reports it.",
    ),
    cfg.IntOpt("max_attempts", default=8, min=1, help="Failed attempts after which an object is parked."),
    cfg.FloatOpt(
        "backoff_seconds",
        default=2,
        min=0.01,
        help="The wait after the first failure is random, at most twice this number of seconds; the maximum doubles each time.",
    ),
    cfg.FloatOpt("backoff_max_seconds", default=900, min=1, help="The longest wait after a failure, in seconds."),
    cfg.FloatOpt(
        "patience_seconds",
        default=3600,
        min=1,
        help="Seconds for which stackmend watches an object that Nova or Octavia is changing, before it leaves the object to "
        "the next sweep. Time outside the task's window does not count.",
    ),
    cfg.IntOpt(
        "heals_per_hour",
        default=200,
        min=0,
        help="Objects that one handler may heal in any hour, over all replicas; 0 means unlimited. Further heals wait. "
        "<task>_heals_per_hour overrides it for one task.",
    ),
    cfg.IntOpt(
        "breaker_count",
        default=100,
        min=0,
        help="A sweep in mode ask or heal stops its handler if more objects have drift than this number, and more than "
        "breaker_percent of all objects. A wrong database URL causes that. Known drift that may not be healed does not count. "
        "Two sweeps in a row that find less start the handler again; so does 'stackmend handler resume'.",
    ),
    cfg.IntOpt("breaker_percent", default=10, min=0, max=100, help="See breaker_count."),
    cfg.FloatOpt(
        "ask_hours",
        default=72,
        min=0.01,
        help="Hours for which a finding of a handler in mode ask waits for approval. An approval ends at the same time. Later "
        "proofs of the same drift ask again.",
    ),
    cfg.FloatOpt(
        "stop_seconds",
        default=8,
        min=0,
        help="Seconds that running heals get to finish when the daemon stops. The next daemon finishes the others.",
    ),
    cfg.Opt("timezone", type=_Zone(), default="UTC", help="Time zone of the windows (<task>_window)."),
    cfg.BoolOpt(
        "announce",
        default=False,
        help="Send notifications of findings and heals (stackmend.finding, stackmend.heal.end, stackmend.heal.error) "
        "with oslo.messaging.",
    ),
    cfg.StrOpt(
        "announce_transport_url",
        secret=True,
        help="Broker for these notifications, as rabbit://user:password@host:5672/. If unset, transport_url of "
        "[oslo_messaging_notifications] or [DEFAULT].",
    ),
    cfg.ListOpt("announce_topics", default=["stackmend_notifications"], help="Topics of these notifications."),
    *holds.OPTS,
]


@dataclass(frozen=True, slots=True)
class EngineSettings:
    workers: int = 8
    lease_seconds: float = 20.0
    claim_seconds: float = 3600.0
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
    conf.register_group(GROUP)
    conf.register_opts(OPTS, group=GROUP)


def settings(conf: cfg.ConfigOpts) -> EngineSettings:
    group = conf.engine
    return EngineSettings(**{name: getattr(group, name) for name in EngineSettings.__dataclass_fields__})
