"""The stage of the demonstration: the real daemon on a broker in memory, a journal in SQLite, and a small cloud.

Everything is in one folder and one process. The configuration is a file in that folder; nothing of this machine's own
configuration is read, so that a demonstration on a controller cannot touch the controller's cloud.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from oslo_config import cfg

from consumer import conf as configuration
from consumer.bus import topology
from consumer.bus.connection import opened
from consumer.bus.envelope import Undecodable, decode
from consumer.cli.errors import CommandError
from consumer.conf import bus as bus_conf
from consumer.engine import task as tasks
from consumer.engine.meter import Meter
from consumer.engine.service import Service
from consumer.journal import controls, history, work
from consumer.journal.database import Database
from consumer.journal.history import Entry
from consumer.journal.opening import open_journal
from handlers.base import Broker, Handler, Key, Resources
from handlers.demo import Demo, Scene

_BROKER = Broker("demo", "memory://", ("nova", "octavia"))
_QUICK = {
    "engine": {"poll_seconds": "0.05", "workers": "8"},
    "bus": {"batch_seconds": "0.005", "queue_wait": "0.1"},
}
#: Seconds between two looks into the history.
_POLL = 0.02
_START_WITHIN = 20.0


@dataclass(slots=True)
class Act:
    """A scene that was played.

    :param told: the notifications' event types; none when only a sweep can find it
    :param ids: the notifications' message ids
    :param began: when they were published or, without any, when the drift was made; seconds since the epoch
    :param lines: what the history says about it
    """

    number: int
    scene: Scene
    drift: str
    told: tuple[str, ...]
    ids: frozenset[str]
    began: float
    lines: dict[int, Entry] = field(default_factory=dict)

    @property
    def healed(self) -> list[Entry]:
        """The heals that it took."""
        return [entry for entry in self.lines.values() if entry.outcome == "healed"]

    @property
    def over(self) -> bool:
        """Whether it was healed and nothing is wrong any more."""
        return bool(self.healed) and not self.scene.drift()

    def after(self, clock: float | None) -> float:
        """Return the seconds from the notification to a time."""
        return max(0.0, (clock or self.began) - self.began)


#: Told of each line of the history that is new or has changed; the act is None when it belongs to none.
Watcher = Callable[[Act | None, Entry], None]


class DemoDaemon:
    """A running daemon and the cloud that it mends. Make it with :func:`running_demo`."""

    def __init__(self, demo: Demo, daemon: Service, database: Database, settings: bus_conf.BusSettings) -> None:
        self.scenes: Sequence[Scene] = demo.scenes()
        self.acts: list[Act] = []
        self.stray: dict[int, Entry] = {}
        self._service = daemon
        self._database = database
        self._settings = settings
        self._seen: dict[int, str] = {}

    def play(self, number: int, scene: Scene) -> Act:
        """Make a drift and publish what tells of it."""
        began = time.time()
        notifications = scene.play()
        drift = scene.drift()
        told, ids = [], set()
        for notification in notifications:
            with suppress(Undecodable):
                event = decode(notification.body, _BROKER.name)
                told.append(event.type)
                ids.add(event.id)
        if notifications:
            began = time.time()
        act = Act(number, scene, drift, tuple(dict.fromkeys(told)), frozenset(ids), began)
        self.acts.append(act)
        for notification in notifications:
            # Publishers that were given one more topic publish to it with the same priority.
            priority = notification.routing_key.rpartition(".")[2]
            key = f"{self._settings.topics[0]}.{priority}"
            topology.publish(_BROKER, notification.exchange, key, notification.body, self._settings)
        return act

    def sweep(self, names: Collection[str]) -> None:
        """Have these handlers sweep now."""
        timers = [work.Hint(name, Key(tasks.SWEEP, name), work.Priority.OPERATOR, "operator") for name in names]
        work.enqueue(self._database, timers)
        self._service.dispatcher.wake()

    def watch(self, acts: Sequence[Act], seconds: float, tell: Watcher) -> bool:
        """Follow the history until these acts are over; return whether they are.

        :param seconds: how long at most
        """
        deadline = time.monotonic() + seconds
        left = list(acts)
        while True:
            self._read(tell)
            # What is over is not asked again here: the question costs as much as a heal.
            left = [act for act in left if not act.over]
            if not left:
                return True
            if time.monotonic() > deadline:
                return False
            time.sleep(_POLL)

    def _read(self, tell: Watcher) -> None:
        for entry in history.listing(self._database):
            if self._seen.get(entry.id) == entry.outcome:
                continue
            self._seen[entry.id] = entry.outcome
            act = self._act_of(entry)
            (self.stray if act is None else act.lines)[entry.id] = entry
            tell(act, entry)

    def _act_of(self, entry: Entry) -> Act | None:
        mine = [act for act in self.acts if act.scene.handler == entry.handler]
        known = [act for act in mine if entry.id in act.lines]
        told = [act for act in mine if entry.hint_id in act.ids]
        same = [act for act in mine if str(act.scene.key) == entry.key]
        waiting = [act for act in mine if not act.lines]
        likely = [*known, *told, *same, *(waiting if len(waiting) == 1 else [])]
        return likely[0] if likely else None


@contextmanager
def running_demo(demo: Demo, classes: Sequence[type[Handler]], folder: Path) -> Iterator[DemoDaemon]:
    """Build the cloud in an empty folder and run the daemon on it while inside.

    :raises CommandError: when the cloud needs a package that is not installed, or the daemon does not come up
    """
    with ExitStack() as stack:
        stack.enter_context(_logging_to(folder / "stackmend.log"))
        stack.enter_context(_no_proxy())
        stack.callback(demo.stop)
        try:
            options = demo.start(folder)
        except Exception as error:
            if isinstance(error.__cause__, ImportError):
                raise CommandError(str(error)) from error
            raise
        chosen = tasks.choose(classes, {scene.handler for scene in demo.scenes()})
        loaded = _configure(folder, classes, chosen, options)
        settings = bus_conf.settings(loaded)
        _make_queues(settings)
        resources = Resources(loaded)
        database = open_journal(loaded)
        stack.callback(database.close)
        daemon = Service(
            loaded, database, resources, tasks.make(loaded, resources, chosen), [lambda _: [_BROKER]], Meter()
        )
        stack.callback(daemon.stop)
        daemon.start()
        _wait_until_ready(daemon, database, chosen)
        yield DemoDaemon(demo, daemon, database, settings)


def _configure(
    folder: Path,
    known: Sequence[type[Handler]],
    chosen: Sequence[type[Handler]],
    options: Mapping[str, Mapping[str, str]],
) -> cfg.ConfigOpts:
    """Write the configuration into the folder and load it, and nothing else."""
    groups: dict[str, dict[str, str]] = {group: dict(values) for group, values in _QUICK.items()}
    groups["journal"] = {"connection": f"sqlite:///{folder / 'journal.sqlite'}"}
    for group, values in options.items():
        groups.setdefault(group, {}).update(values)
    for handler in chosen:
        group_options = groups.setdefault(handler.group, {})
        group_options |= {f"{handler.name}_mode": "heal", f"{handler.name}_interval": "0"}
    lines = []
    for group, values in groups.items():
        lines += [f"[{group}]", *(f"{name} = {value.replace('$', '$$')}" for name, value in values.items()), ""]
    file = folder / "stackmend.conf"
    file.touch(mode=0o600)
    file.write_text("\n".join(lines), encoding="utf-8")
    loaded = configuration.new(known)
    loaded([], project=configuration.PROJECT, default_config_files=[str(file)], default_config_dirs=[], use_env=False)
    return loaded


def _make_queues(settings: bus_conf.BusSettings) -> None:
    """Declare what the publishers of a real cloud declare."""
    with opened(_BROKER.transport_url, settings) as link:
        channel = link.channel()
        for exchange in _BROKER.exchanges:
            channel.exchange_declare(exchange=exchange, type="topic", durable=True)
        for queue in settings.queues:
            channel.queue_declare(queue=queue, durable=True)
            channel.queue_purge(queue=queue)
            for exchange in _BROKER.exchanges:
                channel.queue_bind(queue=queue, exchange=exchange, routing_key=queue)
        channel.close()


def _wait_until_ready(daemon: Service, database: Database, chosen: Sequence[type[Handler]]) -> None:
    """Wait until it listens and its first sweeps are over, so that they do not find what a notification is to tell."""
    deadline = time.monotonic() + _START_WITHIN
    while time.monotonic() < deadline:
        listens = daemon.sources and all(source.connected and not source.missing for source in daemon.sources)
        swept = controls.read(database)
        if listens and all(name in swept and swept[name].swept_at for name in (one.name for one in chosen)):
            return
        time.sleep(_POLL)
    raise CommandError(
        f"the daemon of the demonstration did not come up within {_START_WITHIN:.0f} s; --keep keeps its log"
    )


@contextmanager
def _logging_to(file: Path) -> Iterator[None]:
    """Log into the folder, warnings of libraries included: a demonstration's stderr is quiet."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    handler = logging.FileHandler(file)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    logging.captureWarnings(True)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        root.handlers[:] = handlers
        root.setLevel(level)
        handler.close()


@contextmanager
def _no_proxy() -> Iterator[None]:
    """Reach the cloud's own Placement directly, where an HTTP proxy is set for everything else."""
    before = os.environ.get("no_proxy")
    known = before or os.environ.get("NO_PROXY", "")
    os.environ["no_proxy"] = ",".join(filter(None, [known, "127.0.0.1"]))
    try:
        yield
    finally:
        if before is None:
            del os.environ["no_proxy"]
        else:
            os.environ["no_proxy"] = before
