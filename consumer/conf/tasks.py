"""Options that every handler has, made from what it declares: ``<task>_mode``, ``_interval``, ``_window``, ``_heals_per_hour``.

They stand in the group the specification gave the task: ``[audit]`` for Nova's, ``[housekeeping]`` for Octavia's. A handler
whose interval the specification gave another name has that option in place of ``<task>_interval``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from oslo_config import cfg, types

from consumer.conf.window import Window
from handlers.base import Handler


class _WindowType(types.ConfigType):
    """A window as an option's value."""

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

    :param interval: seconds between two sweeps; 0 for none
    :param heals_per_hour: 0 for no bound
    """

    mode: str
    interval: int
    window: Window
    heals_per_hour: int


def options(handler: type[Handler]) -> list[cfg.Opt]:
    """Return the options that every handler has, for this one."""
    name = handler.name
    interval = cfg.IntOpt(
        f"{name}_interval",
        default=handler.default_interval,
        min=0,
        help=f"{handler.title}: seconds between two sweeps (10 % are added or taken at random); 0: only at start, "
        f"after an outage of the bus, and on command. "
        f"{handler.cost}".strip(),
    )
    return [
        cfg.StrOpt(
            f"{name}_mode",
            default=handler.default_mode,
            choices=[
                ("off", "does nothing"),
                ("audit", "finds and reports, changes nothing"),
                ("heal", "heals what is proved"),
            ],
            help=f"{handler.title}: whether it runs.",
        ),
        *([] if handler.interval_option else [interval]),
        cfg.Opt(
            f"{name}_window",
            type=_WindowType(),
            default="",
            help=f"{handler.title}: when it may run, as 'Sat,Sun 01:00-05:00' or 'Mon-Fri 22:00-06:00', several with ';'; "
            "empty for always. In the zone of [engine] timezone. When it closes, no further heal is begun, and one of many "
            "steps ends after the step that it is at; what is left waits for it to open. A one-shot 'sweep' outside of it "
            "looks and heals nothing; 'heal' of one object does not ask for it.",
        ),
        cfg.IntOpt(
            f"{name}_heals_per_hour",
            default=handler.default_heals_per_hour,
            min=0,
            help=f"{handler.title}: heals in any hour, over all replicas; 0 for no bound. [engine] heals_per_hour if unset.",
        ),
    ]


def register(conf: cfg.ConfigOpts, handlers: Iterable[type[Handler]]) -> None:
    """Register the options of these handlers, their own included."""
    for handler in handlers:
        conf.register_opts(options(handler), group=handler.group)
        for group, opts in handler.options().items():
            conf.register_opts(opts, group=group)


def settings(conf: cfg.ConfigOpts, handler: type[Handler]) -> TaskSettings:
    """Read the settings of a handler."""
    group, name = conf[handler.group], handler.name
    own_bound = group[f"{name}_heals_per_hour"]
    return TaskSettings(
        mode=group[f"{name}_mode"],
        interval=group[handler.interval_option or f"{name}_interval"],
        window=group[f"{name}_window"],
        heals_per_hour=conf.engine.heals_per_hour if own_bound is None else own_bound,
    )
