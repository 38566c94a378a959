"""The demonstration's daemon, with a broker in memory, a journal in SQLite, and a small cloud.

The demonstration never reads the host's own configuration, so it cannot touch a real cloud.
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
from consumer.journal import controls, hinting, history, work
from consumer.journal.database import Database
from consumer.journal.history import Entry
from consumer.journal.opening import open_journal
from handlers.base import Broker, Handler, Key, Mode, Resources
from handlers.demo import Demo, Scene

_BROKER = Broker("demo", "memory://", ("nova", "octavia"))
_QUICK = {
    "engine": {"poll_seconds": "0.05", "workers": "8"},
    "bus": {"batch_seconds": "0.005", "queue_wait": "0.1"},
}
#: Seconds between two queries of the history.
_POLL = 0.02
_START_WITHIN = 60.0


@dataclass(slots=True)
class Act:
    """A scene (one drift of the demonstration) that was played.

    :param events: event types of the scene's notifications; empty if only a sweep can find the drift
    :param began: the time of the notifications or, without notifications, of the drift; seconds since the epoch
    :param lines: the history entries about the drift, by id
    """

    number: int
    scene: Scene
    drift: str
    events: tuple[str, ...]
    ids: frozenset[str]
    began: float
    lines: dict[int, Entry] = field(default_factory=dict)

    @property
    def healed(self) -> list[Entry]:
        return [entry for entry in self.lines.values() if entry.outcome == "healed"]

    @property
    def over(self) -> bool:
        is_open = any(entry.outcome == "healing" for entry in self.lines.values())
        return bool(self.healed) and not is_open and not self.scene.drift()

    def after(self, clock: float | None) -> float:
        return max(0.0, (clock or self.began) - self.began)


#: Called for each new or changed entry of the history; the act is None if the entry belongs to none.
Watcher = Callable[[Act | None, Entry], None]


class DemoDaemon:
    def __init__(
        self, scenes: Sequence[Scene], daemon: Service, database: Database, settings: bus_conf.BusSettings
    ) -> None:
        self.scenes = scenes
        self.acts: list[Act] = []
        self.stray: dict[int, Entry] = {}
        self._service = daemon
        self._database = database
        self._settings = settings
        self._seen: dict[int, str] = {}

    def play(self, number: int, scene: Scene) -> Act:
        began = time.time()
        notifications = scene.play()
        drift = scene.drift()
        events, ids = [], set()
        for notification in notifications:
            with suppress(Undecodable):
                event = decode(notification.body, _BROKER.name)
                events.append(event.type)
                ids.add(event.id)
        if notifications:
            began = time.time()
        act = Act(number, scene, drift, tuple(dict.fromkeys(events)), frozenset(ids), began)
        self.acts.append(act)
        for notification in notifications:
            # Publishers with an additional topic use the same priority for it.
            priority = notification.routing_key.rpartition(".")[2]
            key = f"{self._settings.topics[0]}.{priority}"
            topology.publish(_BROKER, notification.exchange, key, notification.body, self._settings)
        return act

    def sweep(self, names: Collection[str]) -> None:
        timers = [work.Hint(name, Key(work.SWEEP, name), work.Priority.OPERATOR, "operator") for name in names]
        hinting.enqueue(self._database, timers)
        self._service.dispatcher.wake()

    def watch(self, acts: Sequence[Act], seconds: float, report: Watcher) -> bool:
        deadline = time.monotonic() + seconds
        left = list(acts)
        while True:
            self._read(report)
            # Finished acts are not checked again, because a check costs as much as a heal.
            left = [act for act in left if not act.over]
            if not left:
                return True
            if time.monotonic() > deadline:
                return False
            time.sleep(_POLL)

    def _read(self, report: Watcher) -> None:
        for entry in history.listing(self._database):
            if self._seen.get(entry.id) == entry.outcome:
                continue
            self._seen[entry.id] = entry.outcome
            act = self._act_of(entry)
            (self.stray if act is None else act.lines)[entry.id] = entry
            report(act, entry)

    def _act_of(self, entry: Entry) -> Act | None:
        mine = [act for act in self.acts if act.scene.handler == entry.handler]
        known = [act for act in mine if entry.id in act.lines]
        notified = [act for act in mine if entry.hint_id in act.ids]
        same = [act for act in mine if str(act.scene.key) == entry.key]
        waiting = [act for act in mine if not act.lines]
        likely = [*known, *notified, *same, *(waiting if len(waiting) == 1 else [])]
        return likely[0] if likely else None


@contextmanager
def running_demo(demos: Sequence[Demo], classes: Sequence[type[Handler]], folder: Path) -> Iterator[DemoDaemon]:
    """Build the demonstrations' clouds in an empty folder, and run one daemon on them for a ``with`` block.

    :raises CommandError: a package is missing, or the daemon is not ready in time
    """
    with ExitStack() as stack:
        stack.enter_context(_logging_to(folder / "stackmend.log"))
        stack.enter_context(_no_proxy())
        options = [_started(demo, folder, stack) for demo in demos]
        chosen = tasks.choose(classes, {name for demo in demos for name in demo.handlers})
        loaded = _configure(folder, classes, chosen, options)
        settings = bus_conf.settings(loaded)
        _make_queues(settings)
        resources = Resources(loaded)
        for demo in demos:
            demo.join(resources)
        database = open_journal(loaded)
        stack.callback(database.close)
        daemon = Service(
            loaded, database, resources, tasks.make(loaded, resources, chosen), [lambda _: [_BROKER]], Meter()
        )
        stack.callback(daemon.stop)
        daemon.start()
        _wait_until_ready(daemon, database, chosen)
        yield DemoDaemon([scene for demo in demos for scene in demo.scenes()], daemon, database, settings)


def _started(demo: Demo, folder: Path, stack: ExitStack) -> Mapping[str, Mapping[str, str]]:
    stack.callback(demo.stop)
    try:
        return demo.start(folder)
    except Exception as error:
        if isinstance(error.__cause__, ImportError):
            raise CommandError(str(error)) from error
        raise


def _configure(
    folder: Path,
    known: Sequence[type[Handler]],
    chosen: Sequence[type[Handler]],
    options: Sequence[Mapping[str, Mapping[str, str]]],
) -> cfg.ConfigOpts:
    groups: dict[str, dict[str, str]] = {group: dict(values) for group, values in _QUICK.items()}
    groups["journal"] = {"connection": f"sqlite:///{folder / 'journal.sqlite'}"}
    for one in options:
        for group, values in one.items():
            groups.setdefault(group, {}).update(values)
    for handler in chosen:
        group_options = groups.setdefault(handler.group, {})
        group_options |= {f"{handler.name}_mode": Mode.HEAL, f"{handler.name}_interval": "0"}
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
    """Wait until the daemon reads the queues and the first sweeps are over, so that no first sweep finds a scene's drift."""
    deadline = time.monotonic() + _START_WITHIN
    while time.monotonic() < deadline:
        listens = daemon.sources and all(source.connected and not source.missing for source in daemon.sources)
        swept = controls.read(database)
        if listens and all(name in swept and swept[name].swept_at for name in (one.name for one in chosen)):
            return
        time.sleep(_POLL)
    raise CommandError(
        f"the daemon of the demonstration did not start within {_START_WITHIN:.0f} s; repeat with --keep and read its log"
    )


@contextmanager
def _logging_to(file: Path) -> Iterator[None]:
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
