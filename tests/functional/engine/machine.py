"""A replica without a bus, and its hints."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from consumer.conf.engine import EngineSettings
from consumer.conf.tasks import TaskSettings
from consumer.conf.window import Window
from consumer.engine.dispatcher import Dispatcher
from consumer.engine.engine import Engine
from consumer.engine.leases import Leases
from consumer.engine.meter import Meter
from consumer.engine.task import Clock, Task
from consumer.engine.worker import Worker
from consumer.journal import backlog, controls, hinting
from consumer.journal.database import Database
from consumer.journal.work import Hint, Priority
from consumer.tracing import Tracer
from handlers.base import Handler, Key, Mode
from tests.doubles import CarefulMender, Mender, World
from tests.waiting import eventually

#: Everything fast, nothing left out.
SETTINGS = EngineSettings(
    workers=4, lease_seconds=2, poll_seconds=0.05, max_attempts=3, backoff_seconds=0.02, backoff_max_seconds=1
)


def hint(name: str, handler: str = "mender", priority: Priority = Priority.EVENT) -> Hint:
    return Hint(handler, Key("thing", name), priority, "thing.broken", sent_at=time.time())


class Rounds(Meter):
    """Counts how often the dispatcher claimed."""

    def __init__(self) -> None:
        self.claims = 0

    def beat(self, loop: str) -> None:
        self.claims += loop == "dispatcher"


@dataclass
class Machine:
    """A replica without a bus."""

    database: Database
    world: World
    settings: EngineSettings = SETTINGS
    mode: Mode = Mode.HEAL
    heals_per_hour: int = 0
    interval: int = 3600
    ask_hours: float = 72.0
    window: Window = field(default_factory=Window)
    clock: Clock = lambda: datetime.now(UTC)
    replica: str = "r1"
    meter: Meter = field(default_factory=Rounds)
    tracer: Tracer = field(default_factory=Tracer)
    running: list[tuple[Dispatcher, Leases]] = field(default_factory=list)

    def handlers(self) -> list[Handler]:
        return [Mender(self.world), CarefulMender(self.world)]

    def tasks(self) -> dict[str, Task]:
        settings = TaskSettings(self.mode, self.interval, self.window, self.heals_per_hour, self.ask_hours)
        return {handler.name: Task(handler, settings, self.clock) for handler in self.handlers()}

    def engine(self) -> Engine:
        return Engine(self.database, self.tasks(), self.settings, self.replica, meter=self.meter, tracer=self.tracer)

    def worker(self) -> Worker:
        return Worker(self.engine())

    def start(self) -> Dispatcher:
        engine = self.engine()
        controls.ensure(self.database, engine.tasks)
        dispatcher = Dispatcher(engine, Worker(engine))
        leases = Leases(engine, dispatcher)
        dispatcher.start()
        leases.start()
        self.running.append((dispatcher, leases))
        return dispatcher

    def stop(self) -> None:
        for dispatcher, leases in self.running:
            dispatcher.stop(5)
            leases.stop()
        self.running.clear()

    def enqueue(self, *hints: Hint) -> None:
        hinting.enqueue(self.database, hints)
        for dispatcher, _leases in self.running:
            dispatcher.wake()

    def at_rest(self) -> None:
        """Wait until the dispatcher has claimed whatever it may claim now, and nothing is in progress."""
        meter = self.meter
        assert isinstance(meter, Rounds)
        # The first of two further rounds may have begun before this call; the second has not.
        rounds = meter.claims + 2
        eventually(lambda: meter.claims > rounds)
        eventually(lambda: "running" not in {row.state for row in backlog.listing(self.database)})

    def idle(self) -> bool:
        return not [row for row in backlog.listing(self.database) if row.state in ("pending", "running")]

    def with_settings(self, **changes: float) -> None:
        self.settings = replace(self.settings, **changes)  # type: ignore[arg-type]
