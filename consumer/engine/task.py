"""A handler with its settings: what a replica runs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from zoneinfo import ZoneInfo

from oslo_config import cfg

from consumer.conf import WrongConfiguration, tasks
from consumer.conf.tasks import TaskSettings
from handlers.base import Handler, Key, Resources

#: The kind of the keys that stand for a handler's timer.
SWEEP = "sweep"


@dataclass(frozen=True, slots=True)
class Task:
    """A handler that is not off.

    :param heals: whether it may change anything; else it audits
    """

    handler: Handler
    settings: TaskSettings

    @property
    def name(self) -> str:
        """The handler's name."""
        return self.handler.name

    @property
    def heals(self) -> bool:
        """Whether it may change anything."""
        return self.settings.mode == "heal"

    @property
    def timer(self) -> Key:
        """The key of its timer row."""
        return Key(SWEEP, self.name)

    def is_open(self, zone: ZoneInfo) -> bool:
        """Tell whether its window is open now."""
        return self.settings.window.is_open(datetime.now(zone))


def choose(
    classes: Iterable[type[Handler]], only: Collection[str] = (), group: str | None = None
) -> list[type[Handler]]:
    """Return the handlers that a command means.

    :param only: names; none for all
    :param group: only those of this option group
    :raises WrongConfiguration: when a name is unknown
    """
    known = {handler.name: handler for handler in classes if group in (None, handler.group)}
    unknown = sorted(set(only) - set(known))
    if unknown:
        raise WrongConfiguration(f"no handler is called {', '.join(unknown)}; there are: {', '.join(sorted(known))}")
    return [handler for name, handler in known.items() if not only or name in only]


#: Which mode a task runs in, given the configured one.
ModeOf = Callable[[str], str]


def as_configured(mode: str) -> str:
    """Run as the configuration says."""
    return mode


def at_most_audit(mode: str) -> str:
    """Never heal; what is off stays off."""
    return "off" if mode == "off" else "audit"


def always(mode: str) -> ModeOf:
    """Run in this mode, whatever the configuration says: what an operator asked for by name."""
    return lambda _configured: mode


def make(
    conf: cfg.ConfigOpts, resources: Resources, classes: Iterable[type[Handler]], mode_of: ModeOf = as_configured
) -> list[Task]:
    """Make the tasks of those handlers that are not off.

    :raises WrongConfiguration: when an option that a handler needs is missing or wrong
    """
    made = []
    for handler in classes:
        configured = tasks.settings(conf, handler)
        settings = replace(configured, mode=mode_of(configured.mode))
        if settings.mode == "off":
            continue
        try:
            made.append(Task(handler.from_resources(resources), settings))
        except cfg.Error as error:
            raise WrongConfiguration(f"{handler.name}: {error}") from error
    return made
