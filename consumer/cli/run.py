"""``run``: the daemon."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import threading
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from types import FrameType

from oslo_config import cfg

from consumer import conf, plugins
from consumer.cli.base import Command
from consumer.cli.errors import OK
from consumer.conf import WrongConfiguration
from consumer.conf import status as status_conf
from consumer.engine.service import Service
from consumer.engine.task import ModeOf, as_configured, at_most_audit, settings_of
from consumer.status import systemd
from consumer.status.page import Shelves
from consumer.status.serving import Status
from consumer.text import one_line
from handlers.base import Handler

LOG = logging.getLogger(__name__)

#: Seconds from the signal to the end, whatever hangs.
STOP_WITHIN = 9.5


class Run(Command):
    """Run the daemon: listen to notifications, sweep, heal.

    Runs in the foreground until SIGTERM or SIGINT; both let running heals finish, for 10 seconds at most. A second signal
    ends it at once, which is safe: what was begun is found and finished at the next start. SIGHUP has the configuration
    read again: modes, intervals, windows and budgets of the handlers that run hold at once, what else changed is named.
    """

    example = (
        "examples:\n"
        "  %(prog)s run --audit                      look and report, change nothing\n"
        "  %(prog)s run --only discover_hosts        one handler"
    )

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Return the parser."""
        parser = super().get_parser(prog_name)
        parser.add_argument("--audit", action="store_true", help="Change nothing, whatever the configuration says.")
        parser.add_argument("--only", nargs="+", metavar="NAME", default=[], help="Run these handlers and no others.")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> int:
        """Run until told to stop."""
        signals = Signals()
        session = self.session
        session.be_daemon()
        loaded, as_read = session.conf, session.reread()
        for name in conf.readable_by_others(loaded):
            LOG.warning("everybody on this machine can read %s, which may hold passwords: chmod o-r %s", name, name)
        classes, mode_of = session.classes(parsed_args.only), at_most_audit if parsed_args.audit else as_configured
        status = Status(status_conf.settings(loaded))
        service = Service(
            loaded,
            session.database,
            session.resources,
            session.tasks(classes, mode_of),
            plugins.brokers(),
            status.meter,
        )
        shelves = Shelves(session.inventories)
        status.serve(session.database, service.tasks, lambda: service.sources, shelves)
        service.start()
        systemd.notify("READY=1")
        signals.wait(
            on_hangup=lambda: self._reread(service, as_read, classes, mode_of),
            beat=lambda: systemd.notify("WATCHDOG=1") if status.alive(service.sources) else None,
            every=systemd.watchdog_seconds(),
        )
        systemd.notify("STOPPING=1")
        watchdog = threading.Timer(STOP_WITHIN, _give_up)
        watchdog.daemon = True
        watchdog.start()
        status.stop()
        finished = service.stop()
        if not finished:
            _give_up()
        watchdog.cancel()
        return OK

    def _reread(
        self, service: Service, as_read: cfg.ConfigOpts, classes: Sequence[type[Handler]], mode_of: ModeOf
    ) -> None:
        """Take over what may change while it runs, and say what may not.

        :param as_read: the configuration as it was at the start, without what the command line makes of it
        """
        try:
            fresh = self.session.reread()
            settings = settings_of(fresh, classes, mode_of)
        except (WrongConfiguration, cfg.Error) as error:
            LOG.error("SIGHUP: the configuration is wrong, nothing was changed: %s", one_line(str(error)))
            return
        said = service.adopt(settings)
        LOG.info("SIGHUP: the configuration was read again: %s", "; ".join(said) or "no task changed")
        left = conf.differences(as_read, fresh, tasks_of=classes)
        if left:
            LOG.warning("SIGHUP: these need a restart: %s", ", ".join(left))


class Signals:
    """SIGTERM and SIGINT end the wait, the second one the process; SIGHUP has the configuration read again.

    A handler of a signal runs in the midst of whatever the main thread does, so it takes no lock that this thread may hold:
    no event, no log. What it says goes into a queue that is made for that.
    """

    def __init__(self) -> None:
        self._told: SimpleQueue[int] = SimpleQueue()
        self._stop = False
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._on_signal)

    def wait(self, on_hangup: Callable[[], None], beat: Callable[[], None], every: float | None) -> None:
        """Wait for the first that ends it.

        :param on_hangup: called for each SIGHUP, by this thread
        :param beat: called every so many seconds
        """
        while True:
            beat()
            try:
                number = self._told.get(timeout=every)
            except Empty:
                continue
            if number != signal.SIGHUP:
                LOG.info("%s: stopping; a second signal ends it at once", signal.Signals(number).name)
                return
            on_hangup()

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if number != signal.SIGHUP:
            if self._stop:
                os._exit(128 + number)
            self._stop = True
        self._told.put(number)


def _give_up() -> None:
    """End the process although threads are still busy: their work is found and finished by the next to look."""
    logging.shutdown()
    os._exit(OK)
