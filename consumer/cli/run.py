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
from consumer.cli.needs import Audience
from consumer.conf import WrongConfiguration
from consumer.conf import status as status_conf
from consumer.engine.service import Service
from consumer.engine.task import ModeOf, as_configured, at_most_audit, settings_of
from consumer.status import systemd
from consumer.status.inventories import Inventories
from consumer.status.serving import Status
from consumer.text import one_line
from handlers.base import Handler

LOG = logging.getLogger(__name__)

#: The process ends this many seconds after the signal, even if a thread hangs.
STOP_WITHIN = 9.5


class Run(Command):
    """Run the daemon: read notifications, sweep, heal.

    The daemon runs in the foreground until SIGTERM or SIGINT. Running heals then have [engine] stop_seconds, but at most 10
    seconds, to finish. A second SIGTERM or SIGINT ends the daemon at once. The next start finishes interrupted heals.

    SIGHUP reads the configuration again. New modes, windows and budgets of running handlers take effect at once. A new interval
    begins with a sweep. A log line names all other changes.
    """

    example = (
        "examples:\n"
        "  %(prog)s run --audit                      report drift, change nothing\n"
        "  %(prog)s run --only discover_hosts        one handler"
    )
    audience = Audience.DAEMON

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("--audit", action="store_true", help="Only report drift, whatever the configuration.")
        parser.add_argument(
            "--only", action="extend", nargs="+", metavar="NAME", default=[],
            help="Run only these handlers; may be repeated.",
        )  # fmt: skip
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> int:
        signals = Signals()
        session = self.session
        loaded, as_read = session.conf, session.reread()
        for name in conf.readable_by_others(loaded):
            LOG.warning("every user can read %s, which may contain passwords: chmod o-r %s", name, name)
        classes, mode_of = session.classes(parsed_args.only), at_most_audit if parsed_args.audit else as_configured
        status = Status(status_conf.settings(loaded))
        service = Service(
            loaded,
            session.database,
            session.resources,
            session.tasks(classes, mode_of),
            plugins.brokers(),
            status.meter,
            plugins.watermarks(),
            session.all_classes,
            session.board,
        )
        inventories = Inventories(session.inventories)
        status.serve(session.database, service.tasks, lambda: service.sources, inventories, session.board)
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
        try:
            fresh = self.session.reread()
            settings = settings_of(fresh, classes, mode_of)
        except (WrongConfiguration, cfg.Error) as error:
            LOG.error("SIGHUP: the configuration is wrong, so nothing changed: %s", one_line(str(error)))
            return
        changes = service.adopt(settings)
        LOG.info("SIGHUP: read the configuration again: %s", "; ".join(changes) or "no task changed")
        left = conf.differences(as_read, fresh, tasks_of=classes)
        if left:
            LOG.warning("SIGHUP: these changes need a restart: %s", ", ".join(left))


class Signals:
    """Handles signals. The first SIGTERM or SIGINT ends :meth:`wait`, the second the process. SIGHUP calls a function."""

    def __init__(self) -> None:
        # A signal handler interrupts the main thread at any point, perhaps while that thread owns a lock. A SimpleQueue is
        # reentrant.
        self._received: SimpleQueue[int] = SimpleQueue()
        self._stop = False
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._on_signal)

    def wait(self, on_hangup: Callable[[], None], beat: Callable[[], None], every: float | None) -> None:
        """Wait for the first SIGTERM or SIGINT.

        :param on_hangup: called in this thread for each SIGHUP
        :param beat: called at the start, after each SIGHUP, and every ``every`` seconds, if set
        """
        while True:
            beat()
            try:
                number = self._received.get(timeout=every)
            except Empty:
                continue
            if number != signal.SIGHUP:
                LOG.info("%s: stopping; a second signal ends the process at once", signal.Signals(number).name)
                return
            on_hangup()

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if number != signal.SIGHUP:
            if self._stop:
                os._exit(128 + number)
            self._stop = True
        self._received.put(number)


def _give_up() -> None:
    """End the process although threads are busy. Another replica, or the next start, finishes the threads' work."""
    logging.shutdown()
    os._exit(OK)
