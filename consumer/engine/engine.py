"""The objects that all threads of one replica share."""

from __future__ import annotations

from collections.abc import MutableMapping
from dataclasses import dataclass, field

from consumer.conf.engine import EngineSettings
from consumer.engine.announce import Announcer
from consumer.engine.clocks import Clocks
from consumer.engine.dependency_backoff import DependencyBackoff
from consumer.engine.holds import Board
from consumer.engine.meter import Meter
from consumer.engine.task import Task
from consumer.journal.database import Database
from consumer.tracing import Tracer


@dataclass(frozen=True, slots=True)
class Engine:
    database: Database
    tasks: MutableMapping[str, Task]
    settings: EngineSettings
    replica: str
    backoff: DependencyBackoff = field(default_factory=DependencyBackoff)
    announcer: Announcer = field(default_factory=Announcer)
    meter: Meter = field(default_factory=Meter)
    holds: Board = field(default_factory=Board)
    clocks: Clocks = field(default_factory=Clocks)
    tracer: Tracer = field(default_factory=Tracer)
