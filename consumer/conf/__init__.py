"""The options. Most modules have one option group: ``register`` adds its options, ``settings`` returns their values."""

from __future__ import annotations

import difflib
import math
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from oslo_config import cfg
from oslo_log import log

from consumer import __version__, plugins
from consumer.conf import bus, engine, holds, journal, status, tasks, tracing, webhooks
from handlers.base import Handler, irregular

PROJECT = "stackmend"
#: a line of the log inside an inspection, with the inspection's request id
_LOG_FORMAT = "%(asctime)s.%(msecs)03d %(process)d %(levelname)s %(name)s [%(request_id)s] %(instance)s%(message)s"
#: The groups of handlers' options.
HANDLER_GROUPS = ("audit", "housekeeping")
#: Groups that contain only our options; other groups also contain options of libraries and authentication plugins.
GROUPS = ("journal", "bus", "engine", "status", "tracing", "webhooks", *HANDLER_GROUPS)
#: oslo.config's text for the place of a value.
_PLACE = re.compile(r"LocationInfo\(.*?detail='(.*?)'\)")
#: The most that a number may be, by the unit at the end of an option's name: about a century. Clocks and dates end beyond it.
_MOST_OF_UNIT = {"_hours": 900_000, "_days": 36_500, "_bytes": 2**62}
_MOST = 3_000_000_000


class WrongConfiguration(Exception):
    """A file or an option is wrong or missing, or a handler's name is unknown."""


def new(handlers: Iterable[type[Handler]]) -> cfg.ConfigOpts:
    """Return a configuration that has read no file. It knows the options of stackmend and of handlers, but not of sinks."""
    conf = _new_machine()
    _register_handlers(conf, handlers)
    return conf


def _new_machine() -> cfg.ConfigOpts:
    conf = cfg.ConfigOpts()
    log.register_options(conf)
    conf.set_default("logging_context_format_string", _LOG_FORMAT)
    journal.register(conf)
    bus.register(conf)
    engine.register(conf)
    status.register(conf)
    tracing.register(conf)
    webhooks.register(conf)
    return conf


def _register_handlers(conf: cfg.ConfigOpts, handlers: Iterable[type[Handler]]) -> None:
    tasks.register(conf, handlers)
    for group, opts in plugins.options().items():
        conf.register_opts(opts, group=group)


def load(
    handlers: Iterable[type[Handler]], config_files: Sequence[str] = (), config_dirs: Sequence[str] = ()
) -> cfg.ConfigOpts:
    """Read the configuration from files and folders (by default oslo.config's) and from the environment.

    :raises WrongConfiguration: a file is missing or an option is wrong
    """
    conf = load_machine(config_files, config_dirs)
    add_handlers(conf, handlers)
    return conf


def load_machine(config_files: Sequence[str] = (), config_dirs: Sequence[str] = ()) -> cfg.ConfigOpts:
    """Read the configuration without the options of handlers. So a command that needs no handler imports none."""
    conf = _new_machine()
    for name in config_files:
        if not os.access(name, os.R_OK):
            raise WrongConfiguration(f"--config-file {name}: the file does not exist or is not readable")
    for name in config_dirs:
        if not Path(name).is_dir():
            raise WrongConfiguration(f"--config-dir {name}: the folder does not exist")
    read = _files(config_files, config_dirs)
    for name in read:
        # /dev/null is an empty configuration
        if name != os.devnull and (reason := irregular(name)):
            raise WrongConfiguration(f"{name} is {reason}; stackmend reads the configuration more than once")
    with _explained(conf):
        conf([], project=PROJECT, version=__version__, default_config_files=read, default_config_dirs=[])
        webhooks.register_sinks(conf)
        _read_all(conf, lambda group: group not in HANDLER_GROUPS)
        holds.settings(conf)
        tracing.settings(conf)
        webhooks.settings(conf)
    return conf


def _files(config_files: Sequence[str], config_dirs: Sequence[str]) -> list[str]:
    """Return the files to read, including files in folders, which oslo.config omits from ``conf.config_file``."""
    folders = config_dirs or cfg.find_config_dirs(PROJECT)
    in_folders = [str(path) for folder in folders for path in sorted(Path(folder).glob("*.conf"))]
    # oslo.config finds a file twice if the program has the project's name.
    return [*(config_files or dict.fromkeys(cfg.find_config_files(PROJECT))), *in_folders]


def add_handlers(conf: cfg.ConfigOpts, handlers: Iterable[type[Handler]]) -> None:
    """Add the options of handlers to a configuration that has read its files."""
    with _explained(conf):
        _register_handlers(conf, handlers)
        _read_all(conf, lambda group: group in HANDLER_GROUPS)


@contextmanager
def _explained(conf: cfg.ConfigOpts) -> Iterator[None]:
    try:
        yield
    except cfg.ConfigFileParseError as error:
        raise WrongConfiguration(_without_line(error)) from None
    except (cfg.Error, ValueError) as error:
        raise WrongConfiguration(_with_file(_PLACE.sub(r"\1", str(error)), conf)) from error


def _without_line(error: cfg.ConfigFileParseError) -> str:
    """Return an error's text without the file's wrong line, which can contain a password."""
    line = error.__context__
    where = f", line {line.lineno}: {line.msg}" if isinstance(line, cfg.ParseError) else ""
    return f"{error.config_file}{where}; write NAME = VALUE or [GROUP]"


def _read_all(conf: cfg.ConfigOpts, chosen: Callable[[str], bool]) -> None:
    for group in (one for one in conf if _is_ours(one) and chosen(one)):
        for name in conf[group]:
            try:
                _check_number(name, getattr(conf[group], name))
            except (cfg.Error, ValueError) as error:
                raise ValueError(f"[{group}] {error}") from error


def _check_number(name: str, value: object) -> None:
    if not isinstance(value, int | float):
        return
    most = next((limit for unit, limit in _MOST_OF_UNIT.items() if name.endswith(unit)), _MOST)
    # nan is neither less nor more than a minimum, so oslo.config accepts it.
    if not math.isfinite(value) or abs(value) > most:
        raise ValueError(f"{name} = {value} is not a number that can be used; write a number up to {most}")


def misspelt(
    conf: cfg.ConfigOpts, chosen: Callable[[str], bool] = lambda _group: True, others: Iterable[str] = ()
) -> list[str]:
    """Return a sentence for each unknown option in stackmend's own groups, and for each misspelt group.

    :param chosen: returns whether to check a group
    :param others: names of handlers that ``conf`` does not know; options that begin with such a name count as known
    """
    prefixes = tuple(f"{name}_" for name in others)
    sentences = []
    for path in conf.config_file or []:
        sections: dict[str, dict[str, list[str]]] = {}
        cfg.ConfigParser(path, sections).parse()
        for group, given in sorted(sections.items()):
            if _is_ours(group) and group in conf and chosen(group):
                unknown = sorted(name for name in set(given) - set(conf[group]) if not name.startswith(prefixes))
                sentences += [_no_effect(f"[{group}] {name}", path, _near(name, conf[group])) for name in unknown]
            elif group not in conf and not _is_ours(group) and (near := _near(group, GROUPS)) and chosen(near):
                sentences.append(_no_effect(f"[{group}]", path, f"[{near}]"))
    return sentences


def _is_ours(group: str) -> bool:
    return group in GROUPS or group.startswith(webhooks.PREFIX)


def _near(name: str, known: Iterable[str]) -> str:
    return next(iter(difflib.get_close_matches(name, sorted(known), 1, 0.75)), "")


def _no_effect(what: str, path: str, near: str) -> str:
    return f"{what} in {path} has no effect, because it is unknown; " + (
        f"did you mean {near}?" if near else "delete it"
    )


def _with_file(text: str, conf: cfg.ConfigOpts) -> str:
    files = ", ".join(conf.config_file or []) if "config_file" in conf else ""
    return f"{text} (read: {files})" if files and files not in text else text


def readable_by_others(conf: cfg.ConfigOpts) -> list[str]:
    return [name for name in conf.config_file or [] if Path(name).stat().st_mode & stat.S_IROTH]


def differences(before: cfg.ConfigOpts, after: cfg.ConfigOpts, tasks_of: Iterable[type[Handler]]) -> list[str]:
    """Return the names of options whose values differ, if the new values need a restart.

    :param tasks_of: handlers that take new :class:`~.tasks.TaskSettings` without a restart
    """
    taken = {
        (handler.group, name)
        for handler in tasks_of
        for name in (*(opt.dest for opt in tasks.options(handler)), handler.interval_option)
    } | {("engine", "heals_per_hour"), ("engine", "ask_hours")}
    names = [(group, name) for group in after for name in _names(after, group)]
    changed = [
        (group, name)
        for group, name in names
        if (group, name) not in taken and group in before and _value(before, group, name) != _value(after, group, name)
    ]
    return sorted(f"[{group}] {name}" if name else f"[DEFAULT] {group}" for group, name in changed)


def _names(loaded: cfg.ConfigOpts, group: str) -> list[str]:
    return list(loaded[group]) if isinstance(loaded[group], cfg.ConfigOpts.GroupAttr) else [""]


def _value(loaded: cfg.ConfigOpts, group: str, name: str) -> object:
    return loaded[group][name] if name else loaded[group]
