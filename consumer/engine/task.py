from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from zoneinfo import ZoneInfo

from oslo_config import cfg

from consumer.conf import WrongConfiguration, tasks
from consumer.conf import engine as engine_conf
from consumer.conf.tasks import TaskSettings
from consumer.journal.work import SWEEP
from handlers.base import Handler, Key, Mode, Resources

#: Returns the present time, aware, in the zone of the windows.
Clock = Callable[[], datetime]


@dataclass(frozen=True, slots=True)
class Task:
    """A handler with its settings. Its mode is ``off`` only after a reload of the configuration."""

    handler: Handler
    settings: TaskSettings
    clock: Clock

    @property
    def name(self) -> str:
        return self.handler.name

    @property
    def runs(self) -> bool:
        return self.settings.mode != "off"

    @property
    def heals(self) -> bool:
        return self.settings.mode.heals

    @property
    def timer(self) -> Key:
        return Key(SWEEP, self.name)

    @property
    def is_open(self) -> bool:
        return self.settings.window.is_open(self.clock())

    def until_open(self, ahead: float = 0.0) -> float:
        """Return the seconds from a time until the window is open; 0 if the window is open at that time.

        :param ahead: the time, in seconds from now
        """
        now = self.clock()
        then = now.astimezone(UTC) + timedelta(seconds=ahead)
        opening = self.settings.window.next_opening(then.astimezone(now.tzinfo))
        return max(0.0, (opening.astimezone(UTC) - then).total_seconds())


def choose(
    classes: Iterable[type[Handler]], only: Collection[str] = (), group: str | None = None
) -> list[type[Handler]]:
    """Return the handlers that a command names.

    :param only: names of handlers; empty for all
    :param group: the option group of the handlers; None for any
    :raises WrongConfiguration: a name is unknown
    """
    known = {handler.name: handler for handler in classes if group in (None, handler.group)}
    unknown = sorted(set(only) - set(known))
    if unknown:
        raise WrongConfiguration(
            f"there is no handler {', '.join(unknown)}; the handlers are: {', '.join(sorted(known))}"
        )
    return [handler for name, handler in known.items() if not only or name in only]


#: Returns the mode of a task, given the configured one.
ModeOf = Callable[[Mode], Mode]


def as_configured(mode: Mode) -> Mode:
    return mode


def at_most_audit(mode: Mode) -> Mode:
    return Mode.OFF if mode is Mode.OFF else Mode.AUDIT


def always(mode: Mode) -> ModeOf:
    return lambda _configured: mode


def settings_of(
    conf: cfg.ConfigOpts, classes: Iterable[type[Handler]], mode_of: ModeOf = as_configured
) -> dict[str, TaskSettings]:
    """Return the settings of these handlers by name, even of handlers that are off.

    :param mode_of: returns the mode to use in place of the configured mode
    """
    configured = {handler.name: tasks.settings(conf, handler) for handler in classes}
    return {name: replace(one, mode=mode_of(one.mode)) for name, one in configured.items()}


def make(
    conf: cfg.ConfigOpts, resources: Resources, classes: Iterable[type[Handler]], mode_of: ModeOf = as_configured
) -> list[Task]:
    """Make a task of each handler that is not off.

    :raises WrongConfiguration: an option that a handler needs is missing or wrong
    """
    made = []
    clock = partial(datetime.now, ZoneInfo(engine_conf.settings(conf).timezone))
    chosen = {handler.name: handler for handler in classes}
    for name, settings in settings_of(conf, chosen.values(), mode_of).items():
        if settings.mode == "off":
            continue
        handler = chosen[name]
        try:
            made.append(Task(handler.from_resources(resources), settings, clock))
        except cfg.Error as error:
            raise WrongConfiguration(f"{handler.name}: {error}") from error
    return made
