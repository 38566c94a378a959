"""The daemon: one process with threads. Replicas share the journal."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import fields, replace

from oslo_config import cfg

from consumer import __version__, tracing
from consumer.bus.source import Source
from consumer.conf import bus as bus_conf
from consumer.conf import engine as engine_conf
from consumer.conf import journal as journal_conf
from consumer.conf import tracing as tracing_conf
from consumer.conf import webhooks as webhook_conf
from consumer.conf.bus import UnusableURL
from consumer.conf.tasks import TaskSettings
from consumer.engine import notifier, sweeps
from consumer.engine.dispatcher import Dispatcher
from consumer.engine.engine import Engine
from consumer.engine.guard import Guard
from consumer.engine.holds import Board
from consumer.engine.holds.reader import Reader
from consumer.engine.inbox import Inbox
from consumer.engine.leases import Leases
from consumer.engine.meter import Meter
from consumer.engine.router import Router
from consumer.engine.task import Task
from consumer.engine.upkeep import Upkeep
from consumer.engine.webhooks.sender import Sender
from consumer.engine.worker import Worker
from consumer.journal import claiming, controls, hinting, migrations, replicas
from consumer.journal.database import Database
from consumer.journal.errors import JournalUnavailable
from consumer.journal.work import Hint, Priority
from handlers.base import Broker, Handler, HandlerError, Resources, Watermarks

LOG = logging.getLogger(__name__)

#: Returns the brokers to consume from at this time.
BrokerList = Callable[[Resources], Iterable[Broker]]
#: Seconds between two listings of brokers, because cells come and go, and while none is known.
_BROKERS_EVERY, _BROKERS_AGAIN = 60.0, 2.0
#: Seconds that a stop waits until all listeners together have closed their connections.
_GOODBYE = 2.0


class Service:
    """:param installed: all installed handlers, for the guard"""

    def __init__(
        self,
        conf: cfg.ConfigOpts,
        database: Database,
        resources: Resources,
        tasks: Sequence[Task],
        broker_lists: Sequence[BrokerList],
        meter: Meter,
        watermarks: Sequence[Watermarks] = (),
        installed: Sequence[type[Handler]] = (),
        board: Board | None = None,
    ) -> None:
        self._database = database
        self._resources = resources
        self._broker_lists = broker_lists
        self._settings = engine_conf.settings(conf)
        self._tasks = {task.name: task for task in tasks}
        self.replica = replicas.new_id()
        self._router = Router(task.handler for task in tasks)
        self._announcer = notifier.from_conf(conf, f"stackmend:{self.replica}")
        board = board or Board()
        self._tracer = tracing.chosen(tracing_conf.settings(conf), self.replica)
        engine = Engine(
            database,
            self._tasks,
            self._settings,
            self.replica,
            announcer=self._announcer,
            meter=meter,
            holds=board,
            tracer=self._tracer,
        )
        self.dispatcher = Dispatcher(engine, Worker(engine))
        self._holds = Reader(board, database, self.dispatcher.wake)
        self._webhooks = Sender(database, webhook_conf.settings(conf))
        self._bus = bus_conf.settings(conf)
        journal = journal_conf.settings(conf)
        self._inbox = Inbox(
            database,
            self._router,
            self.dispatcher.wake,
            self._bus.dead_body_bytes,
            journal.max_waiting,
            self._tracer,
        )
        self._leases = Leases(engine, self.dispatcher)
        self._upkeep = Upkeep(engine, journal)
        self._guard = Guard(engine, resources, watermarks, installed)
        self._sources: dict[Broker, Source] = {}
        self._listening: dict[Broker, tuple[threading.Thread, threading.Event]] = {}
        self._stop_listening = threading.Event()
        self._logged_no_broker = False
        self._broker_thread = threading.Thread(target=self._follow_brokers, name="brokers", daemon=True)
        self._held = ExitStack()

    @property
    def tasks(self) -> Mapping[str, Task]:
        return self._tasks

    @property
    def sources(self) -> list[Source]:
        return list(self._sources.values())

    def start(self) -> None:
        """Start all threads.

        :raises AlreadyRunning: another daemon uses the SQLite journal
        :raises cfg.Error: an option that locates brokers is wrong
        """
        listed(self._broker_lists, self._resources)
        if self._held.enter_context(replicas.sole_user(self._database)):
            claiming.free_all(self._database)
        replicas.register(self._database, self.replica, __version__, migrations.head())
        controls.ensure(self._database, self._tasks)
        self._guard.start()
        self._holds.start()
        self._webhooks.start()
        self.sweep("start")
        self.dispatcher.start()
        self._leases.start()
        self._upkeep.start()
        self._broker_thread.start()
        modes = ", ".join(f"{task.name} ({task.settings.mode})" for task in self._tasks.values())
        LOG.info("stackmend %s runs as %s: %s", __version__, self.replica, modes or "no task is on")
        for sentence in self._resources.warnings():
            LOG.warning("%s", sentence)

    def adopt(self, settings: Mapping[str, TaskSettings]) -> list[str]:
        """Give the tasks new settings. Work in progress keeps the old settings, but a mode without heals ends a long heal.

        A new interval begins with a sweep.

        :param settings: by name of the task; a task with the new mode ``off`` stops, but its hints are still stored
        :return: a sentence for each task that changed or needs a restart
        """
        changes = []
        rescheduled = []
        for name, wanted in settings.items():
            task = self._tasks.get(name)
            if task is None:
                if wanted.mode != "off":
                    changes.append(f"{name} is off until a restart")
            elif task.settings != wanted:
                self._tasks[name] = replace(task, settings=wanted)
                changes.append(f"{name}: {_changes(task.settings, wanted)}")
                if task.settings.interval != wanted.interval:
                    rescheduled.append(task)
        try:
            self._make_due(rescheduled, "reload")
        except JournalUnavailable as outage:
            changes.append(f"a new interval begins after the next sweep: {outage}")
        self.dispatcher.wake()
        return changes

    def sweep(self, source: str) -> None:
        self._make_due(self._tasks.values(), source)

    def _make_due(self, tasks: Iterable[Task], source: str) -> None:
        timers = [Hint(task.name, task.timer, Priority.OPERATOR, source) for task in tasks]
        hinting.enqueue(self._database, timers)
        self.dispatcher.wake()

    def stop(self) -> bool:
        """Stop all threads; return whether the workers finished in ``[engine] stop_seconds``."""
        self._stop_listening.set()
        for _thread, stop in self._listening.values():
            stop.set()
        deadline = time.monotonic() + _GOODBYE
        for thread in [self._broker_thread, *(thread for thread, _stop in self._listening.values())]:
            thread.join(max(0.0, deadline - time.monotonic()))
        finished = self.dispatcher.stop(self._settings.stop_seconds)
        self._leases.stop()
        self._upkeep.stop()
        self._guard.stop()
        self._holds.stop()
        self._webhooks.stop()
        self._announcer.close()
        self._tracer.close()
        try:
            replicas.unregister(self._database, self.replica)
        except JournalUnavailable as outage:
            LOG.warning("the journal lists this replica for some minutes more: %s", outage)
        self._resources.close()
        self._held.close()
        LOG.info("stopped" if finished else "stopped; the next replica that runs finishes the work")
        return finished

    def _follow_brokers(self) -> None:
        logged: list[str] = []
        while True:
            try:
                brokers, unknown = listed(self._broker_lists, self._resources)
                if not unknown:  # while some are unknown, a missing one may be among them
                    self._keep_only(brokers)
                self._listen_to(brokers)
                if unknown and unknown != logged:
                    LOG.warning("some brokers are not known yet; asking again: %s", "; ".join(unknown))
                logged = unknown
            except Exception:
                LOG.exception("a bug in the listing of brokers")
            if self._stop_listening.wait(_BROKERS_AGAIN if logged or not self._sources else _BROKERS_EVERY):
                return

    def _keep_only(self, brokers: Sequence[Broker]) -> None:
        for gone in set(self._listening) - set(brokers):
            LOG.info("broker %s is no longer listed", gone.name)
            self._listening.pop(gone)[1].set()
            del self._sources[gone]
        if not brokers and not self._logged_no_broker:
            self._logged_no_broker = True
            LOG.warning(
                "no broker is known: only sweeps find drift; set transport_url or config_file of [nova] or [octavia]"
            )

    def _listen_to(self, brokers: Sequence[Broker]) -> None:
        served = {broker.transport_url for broker in self._listening}
        for broker in brokers:
            if broker.transport_url not in served:
                self._start_source(broker)

    def _start_source(self, broker: Broker) -> None:
        try:
            source = Source(broker, self._bus, self._router.wanted, self._inbox.store, self._on_gap)
        except UnusableURL as error:
            LOG.error("broker %s: stackmend does not read from it: %s", broker.name, error)
            return
        stop = threading.Event()
        thread = threading.Thread(target=source.run, args=(stop,), name=f"bus-{broker.name}", daemon=True)
        self._sources[broker] = source
        self._listening[broker] = (thread, stop)
        thread.start()

    def _on_gap(self, broker: str, reason: str) -> None:
        """Request a sweep of each handler that has triggers, because messages of this broker are perhaps lost.

        :raises JournalUnavailable: the journal does not answer; the caller tries again
        """
        missed = [task for task in self._tasks.values() if task.handler.triggers]
        self._make_due(missed, f"{sweeps.GAP}: {reason}"[:128])
        LOG.info("broker %s: %s; sweeping, because events may be lost", broker, reason)


def _changes(before: TaskSettings, after: TaskSettings) -> str:
    changed = [
        f"{field.name} {getattr(before, field.name) or 'none'} -> {getattr(after, field.name) or 'none'}"
        for field in fields(before)
        if getattr(before, field.name) != getattr(after, field.name)
    ]
    return ", ".join(changed)


def listed(lists: Iterable[BrokerList], resources: Resources) -> tuple[list[Broker], list[str]]:
    """Call each function in ``lists``. Return the brokers, one for each URL, and the error texts of functions that failed.

    :raises cfg.Error: an option that locates brokers is wrong
    """
    known: list[Broker] = []
    unknown: list[str] = []
    for brokers in lists:
        try:
            for broker in brokers(resources):  # brokers before an error count
                known.append(broker)
        except HandlerError as error:
            unknown.append(str(error))
    return merged(known), unknown


def merged(brokers: Iterable[Broker]) -> list[Broker]:
    found: dict[str, Broker] = {}
    for broker in brokers:
        known = found.get(broker.transport_url)
        if known is None:
            found[broker.transport_url] = broker
            continue
        exchanges = tuple(dict.fromkeys([*known.exchanges, *broker.exchanges]))
        found[broker.transport_url] = replace(known, name=f"{known.name},{broker.name}", exchanges=exchanges)
    return list(found.values())
