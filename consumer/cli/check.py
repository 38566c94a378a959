"""``check``: is everything there that stackmend needs, and nothing more than that?

The table and the exit codes are those of the ``<service>-status upgrade check`` commands (oslo.upgradecheck). What Nova's
and Octavia's side needs is looked at by their own checks, found by entry point (``stackmend.checks``).
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

from oslo_config import cfg
from oslo_upgradecheck.upgradecheck import Code, Result, UpgradeCommands

from consumer import conf, plugins
from consumer.bus import topology
from consumer.bus.topology import Found, Kind
from consumer.cli.base import Command
from consumer.cli.session import Session
from consumer.conf import bus as bus_conf
from consumer.conf import tasks as task_conf
from consumer.conf.bus import UnusableURL
from consumer.engine import service
from consumer.journal import dead, notification_formats, replicas
from consumer.journal.database import Database, JournalError, now
from consumer.journal.notification_formats import ArrivedFormat
from consumer.text import one_line, plural, span
from handlers import withheld
from handlers.base import Broker, Checked, HandlerError, Mode, Verdict

#: Seconds by which the clocks of this machine and of the journal's database may differ.
_SKEW = 2.0
#: Messages in our queues that are more than a backlog of moments.
_BACKLOG = 10_000
#: Seconds after which a format in which nothing arrived is no longer one that is used.
_LATELY = 86_400.0
_CODES = {Verdict.OK: Code.SUCCESS, Verdict.WARNING: Code.WARNING, Verdict.FAILURE: Code.FAILURE}


class CheckCommand(Command):
    """Look at the deployment: files, journal, brokers, databases, APIs, rights; change nothing.

    Each line that is not well says what to write or to run. Run it before the first start, and after each upgrade of
    stackmend, Nova or Octavia.

    Exit codes: 0 all is well, 1 warnings, 2 something will not work.
    """

    example = "examples:\n  %(prog)s check\n  %(prog)s check -f json"

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Return the parser."""
        parser = super().get_parser(prog_name)
        parser.add_argument(
            "-f", "--format", choices=("table", "json"), default="table", help="The output's form; default: table."
        )
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> int:
        """Look, print, and return the worst of the verdicts."""
        found = [*machine_checks(self.session), *_plugged(self.session)]
        if parsed_args.format == "json":
            lines = [{"check": one.subject, "result": one.verdict, "details": one_line(one.text)} for one in found]
            self.app.stdout.write(json.dumps({"name": "stackmend check", "checks": lines}, indent=2) + "\n")
            return int(max(_CODES[one.verdict] for one in found))
        return int(_Table(found).check())


class _Table(UpgradeCommands):
    """Prints what was found as every OpenStack service prints its checks."""

    display_title = "stackmend check"

    def __init__(self, found: Iterable[Checked]) -> None:
        self._upgrade_checks = tuple((one.subject, _result(one)) for one in found)


def _result(one: Checked) -> Callable[[UpgradeCommands], Result]:
    return lambda _commands: Result(_CODES[one.verdict], one_line(one.text) or None)


def machine_checks(session: Session) -> Iterator[Checked]:
    """Look at what the machine itself needs: configuration files, journal, brokers."""
    yield from _files(session)
    yield from _journal(session)
    yield from _brokers(session)
    yield from withheld.checks()


def _files(session: Session) -> Iterator[Checked]:
    open_files = conf.readable_by_others(session.conf)
    for name in open_files:
        yield Checked(
            "configuration", Verdict.WARNING, f"everybody can read {name}, which may hold passwords: chmod o-r {name}"
        )
    wrong = conf.misspelt(session.conf)
    for sentence in wrong:
        yield Checked("configuration", Verdict.WARNING, sentence)
    if not open_files and not wrong:
        read = ", ".join(session.conf.config_file or []) or "no file; every option has its default"
        yield Checked("configuration", Verdict.OK, f"read: {read}")


def _journal(session: Session) -> Iterator[Checked]:
    try:
        database = session.database
        skew = time.time() - database.transact(now)
        waiting = dead.count(database)
        alive = replicas.listing(database)
    except JournalError as error:
        yield Checked("journal", Verdict.FAILURE, str(error))
        return
    yield Checked(
        "journal", Verdict.OK, f"{database.engine.dialect.name}; {plural(len(alive), 'daemon runs', 'daemons run')}"
    )
    yield _clock(skew)
    yield _dead(database, waiting)


def _clock(skew: float) -> Checked:
    if abs(skew) <= _SKEW:
        return Checked("clock", Verdict.OK, "this machine and the journal's database agree")
    ahead = "ahead of" if skew > 0 else "behind"
    return Checked(
        "clock",
        Verdict.WARNING,
        f"this machine is {abs(skew):.0f} s {ahead} the journal's database, so lags are wrong by as much: let chrony or "
        "ntpd set both",
    )


def _dead(database: Database, waiting: int) -> Checked:
    if not waiting:
        return Checked("dead events", Verdict.OK, "every message was understood")
    newest = dead.listing(database, limit=1)[-1]
    text = f"{plural(waiting, 'message')} could not be understood, the last one because {newest.reason}: stackmend dead list"
    return Checked("dead events", Verdict.WARNING, text)


def _brokers(session: Session) -> Iterator[Checked]:
    settings = bus_conf.settings(session.conf)
    ours = _daemons(session)
    arrived = _arrived(session)
    none = True
    for broker in _listed(session):
        if isinstance(broker, Checked):
            yield broker
            continue
        none = False
        try:
            found = topology.check(broker, settings)
        except UnusableURL as error:
            yield Checked(f"broker {broker.name}", Verdict.FAILURE, str(error))
            continue
        if not found.reachable:
            yield Checked(f"broker {broker.name}", Verdict.FAILURE, found.advice)
            continue
        yield Checked(f"broker {broker.name}", Verdict.OK, "it answers, and lets us in")
        yield from (_thing(broker, thing, ready=found.ready, ours=ours) for thing in found.found)
        yield _told(broker, [one for one in arrived if one.broker == broker.name])
    if none:
        text = "none is known: only sweeps find drift; set [nova] config_file, or [nova] transport_url"
        yield Checked("brokers", Verdict.WARNING, text)


def _listed(session: Session) -> Iterator[Broker | Checked]:
    """Yield the brokers that there are, as the daemon listens to them, and why others are not known."""
    known: list[Broker] = []
    for brokers in plugins.brokers():
        try:
            for broker in brokers(session.resources):
                known.append(broker)
        except (HandlerError, cfg.Error) as error:
            yield Checked("brokers", Verdict.FAILURE, str(error))
    yield from service.merged(known)


def _daemons(session: Session) -> int | None:
    """Return how many daemons share the journal; None when it cannot tell."""
    try:
        return len(replicas.listing(session.database))
    except JournalError:
        return None


def _arrived(session: Session) -> Sequence[ArrivedFormat]:
    """Return what has arrived so far, as far as the journal knows."""
    try:
        return notification_formats.listing(session.database)
    except JournalError:
        return []


def _told(broker: Broker, arrived: Sequence[ArrivedFormat]) -> Checked:
    """Judge whether notifications are on and of which format, by what has arrived: this holds for every publisher there is,
    whatever the files say that were shown to us.

    :param arrived: from this broker, the newest first
    """
    subject = f"broker {broker.name}: notifications"
    if not arrived:
        text = (
            "none that a handler wants has arrived yet; should it stay so, set in its services "
            "[oslo_messaging_notifications] driver = messagingv2"
        )
        return Checked(subject, Verdict.OK, text)
    used = {one.format for one in arrived if one.ago - arrived[0].ago < _LATELY}
    last = f"the last one arrived {span(arrived[0].ago)} ago"
    if used == {"unversioned"}:
        text = (
            f"unversioned only, {last}; that format does not tell of hosts and aggregates: write in nova.conf, on every host, "
            "[notifications] notification_format = versioned"
        )
        return Checked(subject, Verdict.WARNING, text)
    return Checked(subject, Verdict.OK, f"{' and '.join(sorted(used - {''})) or 'they arrive'}, {last}")


def _thing(broker: Broker, thing: Found, *, ready: bool, ours: int | None) -> Checked:
    """Judge an exchange or queue.

    :param ready: whether some queue of ours is there: the queue of a priority appears with the first message of it
    :param ours: how many daemons there are, each of which reads a queue once; None when that is not known
    """
    subject = f"broker {broker.name}: {thing.kind} {thing.name}"
    if not thing.allowed:
        return Checked(subject, Verdict.FAILURE, thing.advice)
    if thing.exists and thing.advice:
        return Checked(subject, Verdict.WARNING, thing.advice)
    if not thing.exists:
        return Checked(subject, Verdict.OK if ready else Verdict.WARNING, f"not there yet. {thing.advice}")
    if thing.kind is Kind.EXCHANGE:
        return Checked(subject, Verdict.OK, "it is there")
    if ours is not None and thing.consumers > ours:
        text = (
            f"{plural(thing.consumers, 'reader')}, but {plural(ours, 'daemon runs', 'daemons run')} on this journal: who else "
            "reads takes events away from it. See rabbitmqctl list_consumers, and give each reader a topic of its own"
        )
        return Checked(subject, Verdict.WARNING, text)
    text = f"{plural(thing.messages, 'message waits', 'messages wait')}, {plural(thing.consumers, 'reader')}"
    return Checked(subject, Verdict.WARNING if thing.messages > _BACKLOG else Verdict.OK, text)


def _plugged(session: Session) -> Iterator[Checked]:
    modes = {one: Mode(task_conf.settings(session.conf, one).mode) for one in session.classes()}
    for name, check in plugins.checks():
        try:
            yield from check(session.resources, modes)
        except (HandlerError, cfg.Error) as error:
            yield Checked(name, Verdict.FAILURE, str(error))
