"""What the commands of one call share: handlers, configuration, journal, resources, each made on first use."""

from __future__ import annotations

import argparse
import logging
import re
from collections.abc import Callable, Collection, Sequence
from functools import cached_property
from pathlib import Path

from oslo_config import cfg
from oslo_log import log
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from consumer import __version__, conf, plugins
from consumer.bus import probe
from consumer.cli import logs
from consumer.cli.errors import CommandError
from consumer.conf import engine as engine_conf
from consumer.conf import journal as journal_conf
from consumer.conf.engine import EngineSettings
from consumer.engine import task as tasks
from consumer.engine.task import ModeOf, Task, as_configured
from consumer.journal.database import Database, open_engine
from consumer.journal.opening import open_journal
from handlers.base import Handler, Inventory, Key, Resources

LOG = logging.getLogger(__name__)

#: Log levels by verbosity (``-q`` is 0, nothing 1, ``-v`` 2): of a command that ends, and of the daemon.
_LEVELS = {
    False: (logging.ERROR, logging.WARNING, logging.INFO, logging.DEBUG),
    True: (logging.WARNING, logging.INFO, logging.DEBUG, logging.DEBUG),
}


class Session:
    """The surroundings of one command.

    :param options: the global options of the command line
    :param group: the option group whose handlers this program has; None for all
    :param remark: says a sentence to the person at the terminal, beside the output
    """

    def __init__(self, options: argparse.Namespace, group: str | None, remark: Callable[[str], None]) -> None:
        self._options = options
        self._remark = remark
        self._group = group
        self._daemon = False
        self._loaded = False

    def be_daemon(self) -> None:
        """Log as a daemon does: what it does, and where the configuration says. Before anything else is asked for."""
        self._daemon = True

    @cached_property
    def all_classes(self) -> list[type[Handler]]:
        """Every handler that is installed, for the configuration knows them all."""
        return plugins.handlers()

    def classes(self, names: Collection[str] = ()) -> list[type[Handler]]:
        """Return the handlers that a command means.

        :param names: none for all of whose service the configuration speaks
        :raises WrongConfiguration: when a name is unknown
        """
        chosen = tasks.choose(self.all_classes, names, self._group)
        if names:
            return chosen
        # Where it speaks of no service at all, what is missing is said rather than that nothing is wrong.
        return [one for one in chosen if one.applies(self.conf)] or chosen

    def handler(self, name: str) -> type[Handler]:
        """Return one handler.

        :raises WrongConfiguration: when the name is unknown
        """
        [found] = self.classes([name])
        return found

    @cached_property
    def conf(self) -> cfg.ConfigOpts:
        """The configuration; logging is set up with it."""
        loaded = conf.load(self.all_classes, self._options.config_file or [], self._options.config_dir or [])
        self._set_up_logging(loaded)
        for sentence in conf.misspelt(loaded):
            (LOG.warning if self._daemon else self._remark)(sentence)
        return loaded

    def reread(self) -> cfg.ConfigOpts:
        """Read the configuration anew, beside the one that is in use.

        :raises WrongConfiguration: when it cannot be read or a value is wrong
        """
        return conf.load(self.all_classes, self._options.config_file or [], self._options.config_dir or [])

    @cached_property
    def engine(self) -> EngineSettings:
        """The settings ``[engine]``."""
        return engine_conf.settings(self.conf)

    @cached_property
    def database(self) -> Database:
        """The journal, its schema checked."""
        self._check_folder()
        database = open_journal(self.conf)
        self._loaded = True
        return database

    def bare_database(self) -> Database:
        """Return the journal with whatever schema it has; the caller closes it."""
        self._check_folder()
        return Database(open_engine(journal_conf.settings(self.conf).connection))

    @cached_property
    def resources(self) -> Resources:
        """What the handlers share."""
        return Resources(self.conf, probe.bus(self.conf))

    def tasks(self, classes: Sequence[type[Handler]], mode_of: ModeOf = as_configured) -> list[Task]:
        """Make tasks; see :func:`consumer.engine.task.make`."""
        return tasks.make(self.conf, self.resources, classes, mode_of)

    def inventories(self) -> list[Inventory]:
        """Return what is kept in the cloud, as far as the configuration speaks of it; none for one group's program."""
        names = plugins.inventory_names() if self._group is None else []
        found = [self._inventory_class(name) for name in names]
        return [one.from_resources(self.resources) for one in found if one.applies(self.conf)]

    def inventory(self, name: str) -> Inventory:
        """Return what is kept in the cloud under this name.

        :raises LookupError: when there is none
        """
        return self._inventory_class(name).from_resources(self.resources)

    def _inventory_class(self, name: str) -> type[Inventory]:
        found = plugins.inventory(name)
        for group, opts in found.options().items():
            self.conf.register_opts(opts, group=group)
        return found

    def close(self) -> None:
        """Close what was opened."""
        if "resources" in self.__dict__:
            self.resources.close()
        if self._loaded:
            self.database.close()

    def _check_folder(self) -> None:
        """Say it in words when the SQLite file cannot be there; the database only says that it cannot open it."""
        try:
            url = make_url(journal_conf.settings(self.conf).connection)
        except ArgumentError:
            return
        if url.get_backend_name() != "sqlite" or not url.database or url.database == ":memory:":
            return
        folder = Path(url.database).absolute().parent
        if not folder.is_dir():
            raise CommandError(
                f"the journal's folder {folder} does not exist: create it, owned by the user who runs stackmend, or set "
                "[journal] connection"
            )

    def _set_up_logging(self, loaded: cfg.ConfigOpts) -> None:
        options = self._options
        if options.log_file:
            loaded.set_override("log_file", str(Path(options.log_file).absolute()))
        elif not self._daemon:
            # A command that ends speaks to whoever called it; the daemon's file may not even be his to write.
            for name in ("log_file", "log_dir", "log_config_append"):
                loaded.set_override(name, None)
            for name in ("use_syslog", "use_journal"):
                loaded.set_override(name, False)
        if options.debug:
            loaded.set_override("debug", True)
        if not (loaded.log_file or loaded.log_dir or loaded.use_journal):
            loaded.set_override("use_stderr", True)
        try:
            log.setup(loaded, conf.PROJECT, __version__)
        except OSError as error:
            raise CommandError(f"the log cannot be written: {error.strerror}: {error.filename}") from error
        logs.mask_secrets()
        if not loaded.log_config_append and not loaded.debug:
            levels = _LEVELS[self._daemon]
            logging.getLogger().setLevel(levels[min(options.verbose_level, len(levels) - 1)])


def read_key(handler: type[Handler], text: str) -> Key:
    """Read a key of a handler: ``kind:id``, or only the id when the handler has one kind.

    :raises CommandError: when it is none of this handler's
    """
    kinds = handler.kinds
    kind, colon, _identity = text.partition(":")
    whole = text if colon or len(kinds) != 1 else f"{kinds[0]}:{text}"
    takes = " or ".join(f"{kind}:<id>" for kind in kinds)
    if colon and kind not in kinds:
        raise CommandError(f"{handler.name} takes no key of the kind {kind!r}; it takes {takes}")
    if not re.search(r":.", whole):
        raise CommandError(f"{text!r} is not a key of {handler.name}; it takes {takes}")
    return Key.parse(whole)
