"""The command ``check``, with the exit codes of ``<service>-status upgrade check``.

Entry points (``stackmend.checks``) add the checks of Nova, Octavia and Cinder.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from oslo_config import cfg

from consumer import conf, plugins, tracing
from consumer.bus import topology
from consumer.bus.topology import Found, Kind
from consumer.cli.base import Lister
from consumer.cli.needs import Audience
from consumer.cli.session import Session
from consumer.conf import WrongConfiguration, webhooks
from consumer.conf import bus as bus_conf
from consumer.conf import tasks as task_conf
from consumer.conf import tracing as tracing_conf
from consumer.conf.bus import UnusableURL
from consumer.conf.webhooks import WrongTemplate
from consumer.engine import service
from consumer.engine.webhooks.message import Renderer
from consumer.journal import dead, deliveries, notification_formats, replicas, watermarks
from consumer.journal.database import Database, now
from consumer.journal.dead import StoredLetter
from consumer.journal.errors import JournalError
from consumer.journal.node_clocks import NodeClock, node_clocks
from consumer.journal.notification_formats import ArrivedFormat
from consumer.text import one_line, plural, span
from handlers.base import Broker, Checked, HandlerError, Rising, Verdict

#: Tolerated difference between the clocks of this machine and of the journal's database, in seconds.
_SKEW = 2.0
#: More waiting messages than this are a warning.
_BACKLOG = 10_000
#: A format that has not arrived for this many seconds is out of use.
_LATELY = 86_400.0
#: Width of the table, in characters.
_WIDTH = 100
_CODES = {Verdict.OK: 0, Verdict.WARNING: 1, Verdict.FAILURE: 2}


class CheckCommand(Lister):
    """Check the deployment: files, journal, brokers, databases, APIs, rights.

    Changes nothing, but creates or upgrades an SQLite journal. A warning or failure names its remedy, if stackmend knows one:
    the line to write or the command to run. Run this before the first start, and after each upgrade of stackmend, Nova or
    Octavia. In the table, checks with the same result and details share a row; the worst rows are last. The other formats have
    one row for each check.

    Exit codes: 0 no problem, 1 warnings, 2 failures.
    """

    example = "examples:\n  %(prog)s check\n  %(prog)s check -f json"
    titles = ("Result", "Check", "Details")
    audience = Audience.CHECK

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.set_defaults(max_width=parser.get_default("max_width") or _WIDTH)
        return parser

    def rows(self, parsed_args: argparse.Namespace) -> Iterable[Sequence[Any]]:
        self._found = list(_all(self.session))
        self.exit_code = max(_CODES[one.verdict] for one in self._found)
        if parsed_args.formatter == "table":
            return grouped(self._found)
        return [(one.verdict, one.subject, one_line(one.text)) for one in self._found]

    def produce_output(
        self, parsed_args: argparse.Namespace, column_names: Sequence[str], data: Iterable[Sequence[Any]]
    ) -> int:
        code = super().produce_output(parsed_args, column_names, data)
        self.app.stdout.flush()
        self.remark(count(self._found))
        return code


def grouped(found: Iterable[Checked]) -> list[tuple[str, str, str]]:
    """Group checks with the same verdict and text into rows of the command's table, the worst verdict last.

    :return: for each row: verdict, subjects (one in each line), text
    """
    subjects: dict[tuple[Verdict, str], list[str]] = {}
    for one in found:
        subjects.setdefault((one.verdict, one_line(one.text)), []).append(one.subject)
    rows = [(verdict, "\n".join(dict.fromkeys(names)), text) for (verdict, text), names in subjects.items()]
    return sorted(rows, key=lambda row: _CODES[Verdict(row[0])])


def count(found: Iterable[Checked]) -> str:
    """Return the number of checks by verdict: ``19 checks: 12 ok, 4 warnings, 3 failures``."""
    verdicts = Counter(one.verdict for one in found)
    parts = [f"{verdicts[Verdict.OK]} ok"]
    parts += [plural(verdicts[one], str(one)) for one in (Verdict.WARNING, Verdict.FAILURE) if verdicts[one]]
    return f"{plural(verdicts.total(), 'check')}: {', '.join(parts)}"


def _all(session: Session) -> Iterator[Checked]:
    try:
        _conf = session.conf
    except (conf.WrongConfiguration, plugins.BrokenPlugin) as error:
        yield Checked(
            "configuration", Verdict.FAILURE, f"{error}; until this is correct, stackmend checks nothing else"
        )
        return
    yield from machine_checks(session)
    yield from _plugged(session)


def machine_checks(session: Session) -> Iterator[Checked]:
    yield from _files(session)
    yield from _journal(session)
    yield from _brokers(session)
    yield from _holds(session)
    yield from _webhooks(session)
    yield from _traces(session)


def _files(session: Session) -> Iterator[Checked]:
    open_files = conf.readable_by_others(session.conf)
    for name in open_files:
        yield Checked(
            "configuration",
            Verdict.WARNING,
            f"every user can read {name}, which may contain passwords: chmod o-r {name}",
        )
    wrong = conf.misspelt(session.conf)
    for sentence in wrong:
        yield Checked("configuration", Verdict.WARNING, sentence)
    if not open_files and not wrong:
        read = ", ".join(session.conf.config_file or []) or "no file; all options have their defaults"
        yield Checked("configuration", Verdict.OK, f"read: {read}")


def _journal(session: Session) -> Iterator[Checked]:
    try:
        database = session.database
        skew = time.time() - database.transact(now)
        waiting = dead.count(database)
        newest = dead.listing(database, limit=1)
        alive = replicas.listing(database)
        nodes = node_clocks(database)
    except JournalError as error:
        yield Checked("journal", Verdict.FAILURE, str(error))
        return
    yield Checked(
        "journal", Verdict.OK, f"{database.engine.dialect.name}; {plural(len(alive), 'daemon runs', 'daemons run')}"
    )
    yield _clock(skew)
    if nodes:
        yield of_nodes(nodes)
    yield _dead(waiting, newest)
    yield from _watermarks(database)


def _watermarks(database: Database) -> Iterator[Checked]:
    for one in watermarks.listing(database):
        seen = one.watermark
        values = [f"{ids.label}: highest id {ids.highest:,}, next id {ids.next:,}" for ids in seen.ids[:3]]
        values += [f"{rising.label}: {name} {value:,}" for rising in seen.rising[:3] for name, value in _few(rising)]
        text = (
            f"seen {span(time.time() - one.at)} ago on {seen.server}; {len(seen.anchors)} old rows; {', '.join(values)}"
        )
        yield Checked(f"watermark: {seen.database}", Verdict.OK, text.rstrip("; "))


def _few(rising: Rising) -> list[tuple[str, int]]:
    return sorted(rising.witnesses.items())[:2]


def _clock(skew: float) -> Checked:
    if abs(skew) <= _SKEW:
        return Checked("clock", Verdict.OK, "this machine and the journal's database agree")
    ahead = "ahead of" if skew > 0 else "behind"
    return Checked(
        "clock",
        Verdict.WARNING,
        f"this machine is {abs(skew):.0f} s {ahead} the journal's database, which falsifies lags: synchronise both with "
        "chrony or ntpd",
    )


def of_nodes(clocks: Sequence[NodeClock]) -> Checked:
    """Compare the clocks of the journal's Galera nodes. Unequal clocks delay the takeover of a dead replica's work."""
    subject = "clocks of Galera"
    if silent := [one for one in clocks if one.ahead is None]:
        text = f"the clock of {silent[0].node} is unknown: {silent[0].error}"
        return Checked(subject, Verdict.WARNING, text)
    known = {one.node: one.ahead for one in clocks if one.ahead is not None}
    slow, fast = min(known, key=known.__getitem__), max(known, key=known.__getitem__)
    apart = known[fast] - known[slow]
    if apart <= _SKEW:
        return Checked(subject, Verdict.OK, f"{plural(len(known), 'node')}: {', '.join(known)}; they agree")
    return Checked(
        subject,
        Verdict.WARNING,
        f"the clock of {fast} is {apart:.0f} s ahead of that of {slow}, which delays the work of a replica that dies: "
        "synchronise all nodes with chrony or ntpd",
    )


def _dead(waiting: int, newest: Sequence[StoredLetter]) -> Checked:
    if not newest:
        return Checked("dead letters", Verdict.OK, "none")
    reason = newest[-1].reason
    text = f"{plural(waiting, 'undecodable message')}; reason of the newest: {reason}. Run stackmend dead list"
    return Checked("dead letters", Verdict.WARNING, text)


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
        yield Checked(f"broker {broker.name}", Verdict.OK, "connected")
        yield from (_thing(broker, thing, ready=found.ready, ours=ours) for thing in found.found)
        yield _formats(broker, [one for one in arrived if one.broker == broker.name])
    if none:
        text = "none known, so only sweeps find drift: set config_file or transport_url of [nova] or [octavia]"
        yield Checked("brokers", Verdict.WARNING, text)


def _holds(session: Session) -> Iterator[Checked]:
    board = session.board
    board.refresh()
    standing = board.standing()
    for source in board.sources:
        mine = [one for one in standing if one.source == source.name]
        subject = f"holds: {source.name}"
        if any(not one.readable for one in mine):
            yield Checked(subject, Verdict.FAILURE, f"{mine[0].hold.reason}. All heals wait: correct {source.name}")
        elif mine:
            few = ", ".join(f"{one.hold.scope} ({one.hold.reason})" for one in mine[:3])
            text = f"{plural(len(mine), 'hold')}, for example {few}. Run stackmend hold list"
            yield Checked(subject, Verdict.WARNING, text)
        else:
            yield Checked(subject, Verdict.OK, "no heal is on hold")


def _webhooks(session: Session) -> Iterator[Checked]:
    sinks = webhooks.settings(session.conf).sinks
    try:
        waiting = {one.sink: one for one in deliveries.waiting(session.database)} if sinks else {}
    except JournalError:
        return  # the check of the journal reports it
    for sink in sinks:
        subject, late = f"webhook {sink.name}", waiting.get(sink.name)
        try:
            Renderer(sink.template)
        except WrongTemplate as error:
            yield Checked(subject, Verdict.FAILURE, str(error))
            continue
        if late and late.error:
            text = f"{plural(late.messages, 'message waits', 'messages wait')}, the oldest for {span(late.oldest)}"
            advice = f"last error: {late.error}. Run stackmend webhook test {sink.name}"
            yield Checked(subject, Verdict.WARNING, f"{text}; {advice}")
        else:
            yield Checked(subject, Verdict.OK, f"events: {', '.join(sink.events)}")


def _traces(session: Session) -> Iterator[Checked]:
    settings = tracing_conf.settings(session.conf)
    if not settings.endpoint:
        return
    try:
        refusal = tracing.refusal(settings)
    except WrongConfiguration as error:
        yield Checked("traces", Verdict.FAILURE, str(error))
        return
    if refusal:
        text = f"the collector of [tracing] endpoint does not take them: {refusal}. Heals go on without it"
        yield Checked("traces", Verdict.WARNING, text)
    else:
        yield Checked("traces", Verdict.OK, f"the collector takes them; ratio {settings.ratio:g}")


def _listed(session: Session) -> Iterator[Broker | Checked]:
    known: list[Broker] = []
    for brokers in plugins.brokers():
        try:
            for broker in brokers(session.resources):
                known.append(broker)
        except (HandlerError, cfg.Error) as error:
            yield Checked("brokers", Verdict.FAILURE, str(error))
    yield from service.merged(known)


def _daemons(session: Session) -> int | None:
    try:
        return len(replicas.listing(session.database))
    except JournalError:
        return None


def _arrived(session: Session) -> Sequence[ArrivedFormat]:
    try:
        return notification_formats.listing(session.database)
    except JournalError:
        return []


def _formats(broker: Broker, arrived: Sequence[ArrivedFormat]) -> Checked:
    """Check which notification formats ``arrived`` from a broker, the latest arrival first."""
    subject = f"broker {broker.name}: notifications"
    if not arrived:
        text = (
            "none that a handler wants has arrived yet; if none arrives, set in its services "
            "[oslo_messaging_notifications] driver = messagingv2"
        )
        return Checked(subject, Verdict.OK, text)
    used = {one.format for one in arrived if one.ago - arrived[0].ago < _LATELY}
    last = f"the last one arrived {span(arrived[0].ago)} ago"
    if used == {"unversioned"}:
        text = (
            f"only unversioned, {last}; that format has no events of hosts: set in nova.conf, on every host, "
            "[notifications] notification_format = versioned"
        )
        return Checked(subject, Verdict.WARNING, text)
    return Checked(subject, Verdict.OK, f"{' and '.join(sorted(used - {''})) or 'they arrive'}, {last}")


def _thing(broker: Broker, thing: Found, *, ready: bool, ours: int | None) -> Checked:
    """Check one exchange or queue.

    :param ready: whether stackmend has a queue to read; then a missing queue or exchange is no warning
    :param ours: the number of daemons on this journal, each with one consumer per queue; None if unknown
    """
    subject = f"broker {broker.name}: {thing.kind} {thing.name}"
    if not thing.allowed:
        return Checked(subject, Verdict.FAILURE, thing.advice)
    if thing.exists and thing.advice:
        return Checked(subject, Verdict.WARNING, thing.advice)
    if not thing.exists:
        return Checked(subject, Verdict.OK if ready else Verdict.WARNING, f"does not exist yet. {thing.advice}")
    if thing.kind is Kind.EXCHANGE:
        return Checked(subject, Verdict.OK, "exists")
    if ours is not None and thing.consumers > ours:
        text = (
            f"{plural(thing.consumers, 'consumer')}, but {plural(ours, 'daemon runs', 'daemons run')} on this journal: another "
            "consumer takes events away. Find it with rabbitmqctl list_consumers, and give it its own topic"
        )
        return Checked(subject, Verdict.WARNING, text)
    text = f"{plural(thing.messages, 'message waits', 'messages wait')}, {plural(thing.consumers, 'consumer')}"
    if thing.messages <= _BACKLOG:
        return Checked(subject, Verdict.OK, text)
    advice = "if the number does not fall, run stackmend work list and read the daemon's log"
    return Checked(subject, Verdict.WARNING, f"{text}: {advice}")


def _plugged(session: Session) -> Iterator[Checked]:
    modes = {one: task_conf.settings(session.conf, one).mode for one in session.classes()}
    for name, check in plugins.checks():
        try:
            yield from check(session.resources, modes)
        except (HandlerError, cfg.Error) as error:
            yield Checked(name, Verdict.FAILURE, str(error))
