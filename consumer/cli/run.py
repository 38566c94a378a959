"""``run``: the daemon."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import threading
from types import FrameType

from consumer import conf, plugins
from consumer.cli.base import OK, Command
from consumer.conf import status as status_conf
from consumer.engine.service import Service
from consumer.engine.task import as_configured, at_most_audit
from consumer.status.page import Shelves
from consumer.status.serving import Status

LOG = logging.getLogger(__name__)

#: Seconds from the signal to the end, whatever hangs.
STOP_WITHIN = 9.5


class Run(Command):
    """Run the daemon: listen to notifications, sweep, heal.

    Runs in the foreground until SIGTERM or SIGINT; both let running heals finish, for 10 seconds at most. A second signal
    ends it at once, which is safe: what was begun is found and finished at the next start.
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
        loaded = session.conf
        for name in conf.readable_by_others(loaded):
            LOG.warning("everybody on this machine can read %s, which may hold passwords: chmod o-r %s", name, name)
        tasks = session.tasks(session.classes(parsed_args.only), at_most_audit if parsed_args.audit else as_configured)
        status = Status(status_conf.settings(loaded))
        service = Service(loaded, session.database, session.resources, tasks, plugins.brokers(), status.meter)
        shelves = Shelves(lambda: [session.inventory(name) for name in session.inventory_names()])
        status.serve(session.database, {task.name: task for task in tasks}, lambda: service.sources, shelves)
        service.start()
        signals.wait()
        watchdog = threading.Timer(STOP_WITHIN, _give_up)
        watchdog.daemon = True
        watchdog.start()
        status.stop()
        finished = service.stop()
        if not finished:
            _give_up()
        watchdog.cancel()
        return OK


class Signals:
    """SIGTERM and SIGINT end the wait, the second one the process; SIGHUP is noted."""

    def __init__(self) -> None:
        self._stop = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_stop)
        signal.signal(signal.SIGHUP, self._on_hangup)

    def wait(self) -> None:
        """Wait for the first of them."""
        self._stop.wait()

    def _on_stop(self, number: int, _frame: FrameType | None) -> None:
        if self._stop.is_set():
            os._exit(128 + number)
        self._stop.set()
        LOG.info("%s: stopping; a second signal ends it at once", signal.Signals(number).name)

    def _on_hangup(self, _number: int, _frame: FrameType | None) -> None:
        LOG.info("SIGHUP: ignored; restart to read the configuration anew")


def _give_up() -> None:
    """End the process although threads are still busy: their work is found and finished by the next to look."""
    logging.shutdown()
    os._exit(OK)
