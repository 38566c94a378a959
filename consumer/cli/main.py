"""The program: its global options, its commands, and the handling of their errors.

Global options work before and after the command. A command's module is imported when first needed.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import traceback
from contextlib import suppress
from functools import cached_property
from importlib.metadata import EntryPoint
from typing import TYPE_CHECKING

from cliff.app import App
from cliff.commandmanager import CommandManager
from cliff.help import HelpExit
from oslo_config import cfg

from consumer import __version__, plugins
from consumer.cli.base import Once
from consumer.cli.errors import ERROR, INTERRUPTED, OK, PIPE_CLOSED, CommandError
from consumer.cli.needs import Needs
from consumer.cli.outlines import outline
from consumer.conf import WrongConfiguration
from consumer.conf.bus import UnusableURL
from consumer.conf.status import CannotListen
from consumer.conf.webhooks import WrongTemplate
from consumer.journal.errors import JournalError
from consumer.plugins import BrokenPlugin
from consumer.text import one_line, redacted
from handlers.base import HandlerError

if TYPE_CHECKING:
    from consumer.cli.session import Session

DESCRIPTION = "Finds drift in an OpenStack cloud, proves it, and heals it."

COMMANDS = {
    "run": "run:Run",
    "sweep": "sweep:Sweep",
    "inspect": "inspect_heal:Inspect",
    "heal": "inspect_heal:Heal",
    "handler list": "handler:HandlerList",
    "handler pause": "handler:HandlerPause",
    "handler resume": "handler:HandlerResume",
    "work list": "work:WorkList",
    "work show": "work:WorkShow",
    "work retry": "work:WorkRetry",
    "work drop": "work:WorkDrop",
    "work asks": "asks:Asks",
    "work approve": "asks:Approve",
    "work deny": "asks:Deny",
    "exempt add": "exempt:ExemptAdd",
    "exempt list": "exempt:ExemptList",
    "exempt remove": "exempt:ExemptRemove",
    "hold list": "hold:HoldList",
    "history": "history:History",
    "history show": "history:HistoryShow",
    "dead list": "dead:DeadList",
    "dead show": "dead:DeadShow",
    "dead replay": "dead:DeadReplay",
    "dead drop": "dead:DeadDrop",
    "webhook list": "webhook:WebhookList",
    "webhook test": "webhook:WebhookTest",
    "db upgrade": "db:DbUpgrade",
    "db version": "db:DbVersion",
    "check": "check:CheckCommand",
    "demo": "demo:Demonstration",
}

#: Last word of an inventory's command -> class. The words before it are the inventory's name.
INVENTORY_COMMANDS = {"list": "InventoryList", "show": "InventoryShow", "release": "Release", "delete": "Delete"}

#: Errors that an operator can solve by their message. Every other error is a bug.
EXPECTED = (
    CannotListen,
    CommandError,
    WrongConfiguration,
    cfg.Error,
    JournalError,
    BrokenPlugin,
    HandlerError,
    UnusableURL,
    WrongTemplate,
)


def _commands(group: str | None) -> dict[str, str]:
    """Return ``module:Class`` of each command of stackmend, by the command's words: ``handler list``.

    :param group: None for ``stackmend``; otherwise the option group of ``nova-audit``, which has no commands about inventories
    """
    names = plugins.inventory_names() if group is None else []
    inventories = {f"{name} {verb}": f"inventory:{kind}" for name in names for verb, kind in INVENTORY_COMMANDS.items()}
    return COMMANDS | inventories


class Program(App):
    """The command line of one program.

    :param name: ``stackmend`` or ``nova-audit``
    :param group: the option group of the program's handlers; None for all handlers
    """

    def __init__(self, name: str, group: str | None = None) -> None:
        self.NAME = name
        self._group = group
        #: the needs of the command, from the start of its run
        self.needs = Needs()
        commands = CommandManager()
        for words, place in _commands(group).items():
            commands.commands[words] = EntryPoint(words, f"consumer.cli.{place}", "stackmend.commands")
        super().__init__(DESCRIPTION, __version__, commands, deferred_help=True)

    @cached_property
    def session(self) -> Session:
        # The list of commands needs no session, and so no library of databases.
        from consumer.cli.session import Session

        return Session(self.options, self._group, self.needs, self._complain)

    def build_option_parser(
        self, description: str | None, version: str | None, argparse_kwargs: dict[str, object] | None = None
    ) -> argparse.ArgumentParser:
        kwargs = {"prog": self.NAME, "allow_abbrev": False, "conflict_handler": "resolve", **(argparse_kwargs or {})}
        parser = super().build_option_parser(description, version, kwargs)
        parser.usage = "%(prog)s [options] <command> [options of the command]"
        parser.epilog = f"Details: '{self.NAME} help <command>'. Exit codes: 0 success, 1 error, 2 drift remains."
        parser.register("action", None, Once)
        parser.add_argument(
            "--version", action="version", version=f"{self.NAME} {version}", help="Print the version and exit."
        )
        parser.add_argument(
            "--config-file",
            action="append",
            metavar="FILE",
            help="Configuration file; may be repeated, later files win. Default: /etc/stackmend/stackmend.conf and others.",
        )
        parser.add_argument(
            "--config-dir",
            action="append",
            metavar="FOLDER",
            help="Folder of *.conf files, read after the files; may be repeated.",
        )
        parser.add_argument("--log-file", metavar="FILE", help="Log to this file instead of stderr.")
        parser.add_argument(
            "--debug", action="store_true", default=False, help="Log debug messages, and show tracebacks of errors."
        )
        return parser

    def configure_logging(self) -> None:
        logging.getLogger().addHandler(logging.NullHandler())  # until the configuration is loaded

    def initialize_app(self, argv: list[str]) -> None:
        if not argv:
            raise SystemExit(self.run_subcommand(["help"]))

    def run_subcommand(self, argv: list[str]) -> int:
        """Run a command; turn errors into a line on stderr and an exit code."""
        try:
            return self._run(argv)
        except HelpExit:
            return OK
        except KeyboardInterrupt:
            self._complain("interrupted")
            return INTERRUPTED
        except BrokenPipeError:
            # The reader closed the pipe. Without this, Python reports an error when it closes stdout.
            with suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return PIPE_CLOSED
        except Exception as error:
            if self.options.debug:
                self.stderr.write(redacted(traceback.format_exc()))
            self._complain(str(error) if isinstance(error, EXPECTED) else _unexpected(error))
            return ERROR
        finally:
            if "session" in self.__dict__:
                self.session.close()

    def _run(self, argv: list[str]) -> int:
        if argv[0] == "help":
            # cliff turns "sweep --audit --help" into "help sweep --audit".
            argv = [word for word in argv if not word.startswith("-")]
            if argv == ["help"]:
                self._outline_commands()
        _check_text(argv)
        try:
            factory, name, rest = self.command_manager.find_command(argv)
        except ValueError:
            raise CommandError(self._unknown(argv)) from None
        command = factory(self, self.options, cmd_name=name)
        parsed = command.get_parser(f"{self.NAME} {name}").parse_args(rest)
        code = command.run(parsed)
        self.stdout.flush()
        return code

    def _outline_commands(self) -> None:
        commands = self.command_manager.commands
        commands |= {words: outline(place) for words, place in commands.items() if isinstance(place, EntryPoint)}

    def _unknown(self, argv: list[str]) -> str:
        words = [word for word in argv if not word.startswith("-")]
        known = _commands(self._group)
        near = [name for name in known if words and name.split()[0] == words[0]] or self.get_fuzzy_matches(
            words[0] if words else ""
        )
        there = ", ".join(f"'{self.NAME} {name}'" for name in near)
        return f"unknown command {' '.join(words)!r}; did you mean {there}?"

    def _complain(self, text: str) -> None:
        self.stderr.write(f"{self.NAME}: {one_line(text)}\n")


def _check_text(argv: list[str]) -> None:
    for word in argv:
        try:
            word.encode()
        except UnicodeEncodeError:
            raise CommandError(f"the argument {word!a} is not UTF-8") from None


def _open_streams() -> None:
    """If stdout or stderr is closed, open /dev/null in its place. A command can then print its result without an error."""
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115 - open until the process ends
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115


def _unexpected(error: Exception) -> str:
    if isinstance(error, ValueError | OSError):
        return str(error) or type(error).__name__
    return f"unexpected {type(error).__name__}: {error}; --debug shows a traceback"


def _main(name: str, group: str | None, argv: list[str] | None) -> int:
    _open_streams()
    try:
        return Program(name, group).run(sys.argv[1:] if argv is None else argv)
    except SystemExit as end:
        # argparse exits with 2 on a wrong option; here 2 means that drift remains.
        return OK if end.code in (None, OK) else ERROR


def stackmend(argv: list[str] | None = None) -> int:
    return _main("stackmend", None, argv)


def nova_audit(argv: list[str] | None = None) -> int:
    return _main("nova-audit", "audit", argv)
