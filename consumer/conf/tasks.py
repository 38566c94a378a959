"""The options that every handler has: ``<task>_mode``, ``_interval``, ``_window``, ``_heals_per_hour``.

Their group is ``[audit]`` for Nova and ``[housekeeping]`` for Octavia. A handler can name another option for its interval,
which replaces ``<task>_interval``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from oslo_config import cfg, types

from consumer.conf.window import Window
from handlers.base import Handler, Mode


class _WindowType(types.ConfigType):
    def __init__(self) -> None:
        super().__init__(type_name="window")

    def __call__(self, value: object) -> Window:
        return Window.parse(str(value))

    def __repr__(self) -> str:
        return "Window"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _WindowType)

    def __hash__(self) -> int:
        return hash(_WindowType)

    def _formatter(self, value: object) -> str:
        return str(value)


@dataclass(frozen=True, slots=True)
class TaskSettings:
    """Settings of one handler.

    :param interval: seconds between two sweeps; 0 for no regular sweeps
    :param heals_per_hour: the hourly budget; 0 for no limit
    """

    mode: Mode
    interval: int
    window: Window
    heals_per_hour: int
    ask_hours: float = 72.0


def options(handler: type[Handler]) -> list[cfg.Opt]:
    name = handler.name
    interval = cfg.IntOpt(
        f"{name}_interval",
        default=handler.default_interval,
        min=0,
        help=f"{handler.title}: seconds between two sweeps, varied at random by 10 %. With 0, sweeps run only at the start, "
        f"after an outage of the bus, and on command. {handler.cost}".strip(),
    )
    return [
        cfg.StrOpt(
            f"{name}_mode",
            default=str(handler.default_mode),
            choices=[
                (Mode.OFF.value, "inactive"),
                (Mode.AUDIT.value, "reports drift, changes nothing"),
                (Mode.ASK.value, "heals proved drift that an operator approves with 'work approve'"),
                (Mode.HEAL.value, "heals proved drift"),
            ],
            help=f"{handler.title}: the mode.",
        ),
        *([] if handler.interval_option else [interval]),
        cfg.Opt(
            f"{name}_window",
            type=_WindowType(),
            default="",
            help=f"{handler.title}: the time window, for example 'Sat,Sun 01:00-05:00' or 'Mon-Fri 22:00-06:00'; separate "
            "several windows with ';'; empty means always. The time zone is [engine] timezone. Outside the window no heal "
            "starts, and a heal of several steps stops after its current step; the rest waits for the next window. Outside "
            "the window the command 'sweep' only reports. The command 'heal' ignores the window.",
        ),
        cfg.IntOpt(
            f"{name}_heals_per_hour",
            default=handler.default_heals_per_hour,
            min=0,
            help=f"{handler.title}: objects healed in any hour, over all replicas; 0 means unlimited. "
            "Default: [engine] heals_per_hour.",
        ),
    ]


def register(conf: cfg.ConfigOpts, handlers: Iterable[type[Handler]]) -> None:
    for handler in handlers:
        conf.register_opts(options(handler), group=handler.group)
        for group, opts in handler.options().items():
            conf.register_opts(opts, group=group)


def settings(conf: cfg.ConfigOpts, handler: type[Handler]) -> TaskSettings:
    group, name = conf[handler.group], handler.name
    own_bound = group[f"{name}_heals_per_hour"]
    return TaskSettings(
        mode=Mode(group[f"{name}_mode"]),
        interval=group[handler.interval_option or f"{name}_interval"],
        window=group[f"{name}_window"],
        heals_per_hour=conf.engine.heals_per_hour if own_bound is None else own_bound,
        ask_hours=conf.engine.ask_hours,
    )
