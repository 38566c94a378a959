from __future__ import annotations

import argparse
import logging
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
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
from consumer.cli.needs import Audience, Needs
from consumer.conf import engine as engine_conf
from consumer.conf import holds as hold_conf
from consumer.conf import journal as journal_conf
from consumer.conf import webhooks as webhook_conf
from consumer.conf.engine import EngineSettings
from consumer.engine import guard
from consumer.engine import task as tasks
from consumer.engine.holds import Board
from consumer.engine.task import ModeOf, Task, as_configured
from consumer.journal import replicas
from consumer.journal.database import Database, open_engine
from consumer.journal.errors import WrongJournal
from consumer.journal.opening import open_journal
from handlers.base import Handler, Inventory, Key, Resources, irregular

LOG = logging.getLogger(__name__)


#: Seconds for which a command sends its messages before it ends.
_FLUSH = 10.0

#: Log level by verbosity (``-q`` is 0, the default 1, ``-v`` 2).
_LEVELS = {
    Audience.COMMAND: (logging.ERROR, logging.WARNING, logging.INFO, logging.DEBUG),
    Audience.CHECK: (logging.ERROR, logging.ERROR, logging.INFO, logging.DEBUG),
    Audience.DAEMON: (logging.WARNING, logging.INFO, logging.DEBUG, logging.DEBUG),
}


class Session:
    """The objects that one command needs, most made on first use. :meth:`close` closes them.

    :param group: the option group whose handlers the command knows: ``audit`` in ``nova-audit``; None for all handlers
    :param needs: names the handlers that are imported, and whose options are read; without correct names, all handlers
    """

    def __init__(
        self, options: argparse.Namespace, group: str | None, needs: Needs, remark: Callable[[str], None]
    ) -> None:
        self._options = options
        self._remark = remark
        self._group = group
        self._audience = needs.audience
        self._named = needs.handlers
        self._loaded = False

    @cached_property
    def all_classes(self) -> list[type[Handler]]:
        return plugins.handlers()

    @cached_property
    def _few(self) -> list[type[Handler]]:
        """The handlers that the command names. If it names none, or a name is wrong, this is empty: the command needs all."""
        found = plugins.handlers_named(self._named)
        right = len(found) == len(set(self._named)) and all(self._group in (None, one.group) for one in found)
        return found if right else []

    def classes(self, names: Collection[str] = ()) -> list[type[Handler]]:
        """Return the handlers with these names.

        :param names: empty for the handlers of configured services, or for all handlers if no service is configured
        """
        chosen = tasks.choose(self._few or self.all_classes, names, self._group)
        if names:
            return chosen
        # Without any configured service, return all: their errors name the missing options.
        return [one for one in chosen if one.applies(self.conf)] or chosen

    def handler(self, name: str) -> type[Handler]:
        [found] = self.classes([name])
        return found

    @cached_property
    def machine_conf(self) -> cfg.ConfigOpts:
        """The configuration without the options of handlers, which :attr:`conf` adds to it. The first use sets up logging."""
        loaded = conf.load_machine(self._options.config_file or [], self._options.config_dir or [])
        self._set_up_logging(loaded)
        self._warn_of_misspelt(loaded, lambda group: not _of_handlers(group))
        return loaded

    @cached_property
    def conf(self) -> cfg.ConfigOpts:
        loaded = self.machine_conf
        conf.add_handlers(loaded, self._few or self.all_classes)
        others = {*plugins.handler_names()} - {one.name for one in self._few} if self._few else ()
        if others and conf.misspelt(loaded, _of_handlers, others):
            # Perhaps a handler that is not imported has this option.
            conf.add_handlers(loaded, self.all_classes)
            others = ()
        self._warn_of_misspelt(loaded, _of_handlers, others)
        return loaded

    def _warn_of_misspelt(
        self, loaded: cfg.ConfigOpts, chosen: Callable[[str], bool], others: Collection[str] = ()
    ) -> None:
        warn = {Audience.COMMAND: self._remark, Audience.CHECK: LOG.info, Audience.DAEMON: LOG.warning}[self._audience]
        for sentence in conf.misspelt(loaded, chosen, others):
            warn(sentence)

    def reread(self) -> cfg.ConfigOpts:
        """Read the configuration again, into a new object; :attr:`conf` does not change."""
        return conf.load(self.all_classes, self._options.config_file or [], self._options.config_dir or [])

    @cached_property
    def engine(self) -> EngineSettings:
        return engine_conf.settings(self.machine_conf)

    @cached_property
    def database(self) -> Database:
        """The journal, with a schema that this program can use. An SQLite journal is upgraded."""
        self._check_folder()
        database = open_journal(self.machine_conf)
        self._loaded = True
        return database

    def unchecked_database(self) -> Database:
        """Open the journal without checking its schema. Statements have no time limit. The caller closes the journal."""
        self._check_folder()
        return Database(open_engine(journal_conf.settings(self.machine_conf).connection, statement_seconds=None))

    @cached_property
    def resources(self) -> Resources:
        return Resources(self.conf, probe.bus(self.conf))

    @cached_property
    def board(self) -> Board:
        # Commands for the journal ask no source of holds, and need no library of HTTP.
        from consumer.engine.holds import sources

        return sources.board(hold_conf.settings(self.conf), self.resources, plugins.holds())

    @contextmanager
    def sending(self) -> Iterator[None]:
        """At the end of the ``with`` block, even after an error, send the messages that wait for sinks, for at most 10 s."""
        settings = webhook_conf.settings(self.conf)
        if not settings.sinks:
            yield
            return
        # Without a webhook no command needs the libraries of HTTP and of templates.
        from consumer.engine.webhooks.sender import Sender

        sender = Sender(self.database, settings)
        sender.subscribe()
        try:
            yield
        finally:
            sender.flush(_FLUSH)

    def compare_watermarks(self) -> list[str]:
        """Compare each cloud database with its stored watermark. If a database fell below, stop the handlers that rely on it.

        :return: a sentence for each such database
        """
        return guard.check(
            self.database, self.resources, plugins.watermarks(), lambda: self.all_classes, replicas.new_id()
        )

    def tasks(self, classes: Sequence[type[Handler]], mode_of: ModeOf = as_configured) -> list[Task]:
        return tasks.make(self.conf, self.resources, classes, mode_of)

    def inventories(self) -> list[Inventory]:
        """Return the inventories of configured services; an empty list in ``nova-audit``."""
        names = plugins.inventory_names() if self._group is None else []
        found = [self._inventory_class(name) for name in names]
        return [one.from_resources(self.resources) for one in found if one.applies(self.conf)]

    def inventory(self, name: str) -> Inventory:
        return self._inventory_class(name).from_resources(self.resources)

    def _inventory_class(self, name: str) -> type[Inventory]:
        found = plugins.inventory(name)
        for group, opts in found.options().items():
            self.conf.register_opts(opts, group=group)
        return found

    def close(self) -> None:
        if "resources" in self.__dict__:
            self.resources.close()
        if self._loaded:
            self.database.close()

    def _check_folder(self) -> None:
        """Raise WrongJournal if an SQLite journal's folder is missing, because SQLite's own error does not name the folder."""
        try:
            url = make_url(journal_conf.settings(self.machine_conf).connection)
        except (ArgumentError, ValueError):  # a wrong port
            return
        if url.get_backend_name() != "sqlite" or not url.database or url.database == ":memory:":
            return
        folder = Path(url.database).absolute().parent
        if not folder.is_dir():
            raise WrongJournal(
                f"the journal's folder {folder} does not exist: create it for the user that runs stackmend, or set "
                "[journal] connection"
            )

    def _set_up_logging(self, loaded: cfg.ConfigOpts) -> None:
        options = self._options
        if options.log_file:
            loaded.set_override("log_file", str(Path(options.log_file).absolute()))
        elif self._audience is not Audience.DAEMON:
            # Only the daemon logs to the configured places; other users may not be able to write there.
            for name in ("log_file", "log_dir", "log_config_append"):
                loaded.set_override(name, None)
            for name in ("use_syslog", "use_journal"):
                loaded.set_override(name, False)
        if options.debug:
            loaded.set_override("debug", True)
        if not (loaded.log_file or loaded.log_dir or loaded.use_journal):
            loaded.set_override("use_stderr", True)
        if loaded.log_config_append and (reason := irregular(loaded.log_config_append)):
            raise CommandError(f"log_config_append = {loaded.log_config_append} is {reason}")
        try:
            log.setup(loaded, conf.PROJECT, __version__)
        except OSError as error:
            raise CommandError(f"cannot write the log: {error.strerror}: {error.filename}") from error
        logs.mask_secrets()
        if not loaded.log_config_append and not loaded.debug:
            levels, root = _LEVELS[self._audience], logging.getLogger()
            root.setLevel(levels[min(options.verbose_level, len(levels) - 1)])
            if self._audience is not Audience.DAEMON:
                # oslo.log gives some libraries levels of their own
                for handler in root.handlers:
                    handler.setLevel(root.level)


def _of_handlers(group: str) -> bool:
    return group in conf.HANDLER_GROUPS


def read_key(handler: type[Handler], text: str) -> Key:
    """Parse a key of a handler: ``kind:id``, or ``id`` if the handler has only one kind.

    :raises CommandError: the handler has no key of this form
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
