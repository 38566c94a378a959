"""Stops the handlers that rely on a database that was restored, emptied or exchanged.

Once a minute, the guard compares each database with its watermark in the journal. If the database fell below, the handlers stop
on all replicas until an operator resumes them. The journal then stores the lower watermark, so resumed handlers stay resumed.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial

from oslo_config import cfg
from sqlalchemy import Connection

from consumer.engine.engine import Engine
from consumer.journal import controls, history, watermarks
from consumer.journal.database import Database
from consumer.journal.database import now as journal_clock
from consumer.journal.errors import JournalError
from consumer.journal.history import Line, Origin, Outcome
from consumer.journal.watermarks import Observation
from consumer.text import span
from handlers.base import Handler, HandlerError, Ids, Key, Resources, Rising, Watermark, Watermarks

LOG = logging.getLogger(__name__)

#: Seconds between two observations, and seconds that a start waits for the first one.
EVERY, _FIRST = 60.0, 10.0

#: With fewer known rows, ordinary deletions can remove all of them between two observations.
_FEWEST = 3


def falls(before: Watermark, now: Watermark) -> Iterator[str]:
    """Compare two watermarks; yield a clause for each proof that ``now`` belongs to an older copy or to another database."""
    counters = {ids.label: ids for ids in now.ids}
    for ids in before.ids:
        if ids.label in counters:
            yield from _reused(ids, counters[ids.label])
    present = {rising.label: rising for rising in now.rising}
    for rising in before.rising:
        if rising.label in present:
            yield from _fall(rising, present[rising.label])
    for name, old in before.anchors.items():
        new = now.anchors.get(name)
        if new is not None and new != old:
            yield f"{name} was {old}, is {new} now"
    if len(before.anchors) >= _FEWEST and not now.anchors:
        yield f"none of {len(before.anchors)} known rows is there, for example {next(iter(before.anchors))}"


def remembered(before: Watermark, now: Watermark) -> Watermark:
    """Return the watermark to store.

    If ``now`` proves an older copy or another database, return ``now`` unchanged. Otherwise return ``now`` with the earlier
    value of each highest id that a purge of rows lowered.
    """
    if any(falls(before, now)):
        return now
    # A purge of the newest rows lowers their highest id.
    highest = {ids.label: ids.highest for ids in before.ids}
    raised = [replace(ids, highest=max(ids.highest, highest.get(ids.label, 0))) for ids in now.ids]
    return replace(now, ids=tuple(raised))


def _reused(before: Ids, now: Ids) -> Iterator[str]:
    if now.highest < before.highest and now.next <= before.highest:
        yield f"{before.label}: highest id {before.highest:,} before, {now.highest:,} now with the next id {now.next:,}"


def _fall(before: Rising, now: Rising) -> Iterator[str]:
    back = [name for name, value in before.witnesses.items() if now.witnesses.get(name, value) < value]
    if back and len(back) >= before.quorum:
        texts = (f"{name} {before.witnesses[name]:,} before, {now.witnesses[name]:,} now" for name in back)
        yield f"{before.label}: {', '.join(texts)}"


def check(
    database: Database,
    resources: Resources,
    sources: Iterable[Watermarks],
    handlers: Callable[[], Sequence[type[Handler]]],
    replica: str,
) -> list[str]:
    """Compare each answering database with its stored watermark. If a database fell below, stop the handlers that rely on it.

    :param handlers: returns all installed handlers, even those that other processes run
    :return: one sentence for each database that fell below its watermark
    :raises JournalError: the journal does not answer
    """
    stopped = []
    for source in sources:
        known = {one.watermark.database: one for one in watermarks.listing(database)}
        try:
            seen = list(source(resources))
        except (HandlerError, cfg.Error) as error:
            LOG.debug("cannot read a watermark: %s", error)
            continue
        for one in seen:
            compare = partial(_compare, one, handlers, replica)
            last = known.get(one.database)
            stored = one if last is None else remembered(last.watermark, one)
            if reason := watermarks.exchange(database, stored, last, compare):
                LOG.critical("%s", reason)
                stopped.append(reason)
    return stopped


def _compare(
    now: Watermark,
    handlers: Callable[[], Sequence[type[Handler]]],
    replica: str,
    connection: Connection,
    before: Observation,
) -> str:
    if not (reasons := list(falls(before.watermark, now))):
        return ""
    clock = journal_clock(connection)
    reason = (
        f"the database {now.database} is an older copy of itself, or another database than {span(clock - before.at)} ago: "
        f"{'; '.join(reasons)} (server {now.server}, before {before.watermark.server}). Check its URL and whether it was "
        "restored; then: stackmend handler resume NAME"
    )
    names = [handler.name for handler in handlers() if now.database.partition(":")[0] in handler.relies_on]
    controls.break_off(connection, names, reason)
    key, origin = Key("database", now.database), Origin("watermark", replica)
    lines = [Line(name, key, Outcome.STOPPED, "database-went-back", reason, origin) for name in names]
    history.write(connection, lines, clock)
    return f"stopped {', '.join(names) or 'no handler'}: {reason}"


class Guard:
    def __init__(
        self, engine: Engine, resources: Resources, sources: Sequence[Watermarks], handlers: Sequence[type[Handler]]
    ) -> None:
        self._engine = engine
        self._resources = resources
        self._sources = sources
        self._handlers = handlers
        self._stop = threading.Event()
        self._observed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="guard", daemon=True)

    def start(self) -> None:
        """Start the thread; wait up to 10 seconds for its first comparison of the watermarks."""
        self._thread.start()
        self._observed.wait(_FIRST)

    def stop(self) -> None:
        self._stop.set()  # a comparison that still waits for a database ends with the process
        self._thread.join(1)

    def _run(self) -> None:
        while True:
            self._observe()
            self._observed.set()
            if self._stop.wait(EVERY):
                return

    def _observe(self) -> None:
        engine = self._engine
        began = time.monotonic()
        try:
            check(engine.database, self._resources, self._sources, lambda: self._handlers, engine.replica)
        except JournalError as outage:
            LOG.debug("the watermarks are not compared: %s", outage)
        except Exception:
            LOG.exception("a bug in the comparison of watermarks")
        LOG.debug("the comparison of watermarks took %.2f s", time.monotonic() - began)
