"""The back-off of a stopped handler: its sweep and its interrupted heals wait too, and then one row is the probe."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from consumer.engine.dependency_backoff import FIRST, DependencyBackoff
from consumer.engine.engine import Engine
from consumer.journal import claiming, controls, hinting, settling
from consumer.journal.database import Database
from consumer.journal.history import Allowed, Line, Origin, Outcome
from consumer.journal.work import SWEEP, Hint, Later, Priority
from handlers.base import Handler, Key, Unavailable
from tests.doubles import Mender, World
from tests.functional.engine.machine import Machine, hint
from tests.waiting import eventually


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Silent(Mender):
    """Asks a workshop that does not answer."""

    def __init__(self, world: World, clock: Clock) -> None:
        super().__init__(world)
        self.clock = clock
        self.asked: list[float] = []

    def population(self) -> int:
        self.asked.append(self.clock())
        raise Unavailable("workshop", "silent")

    def inspect(self, key: Key) -> Iterator[object]:  # type: ignore[override]
        self.asked.append(self.clock())
        raise Unavailable("workshop", "silent")


class Waiting(Machine):
    """A replica whose back-offs end when the test moves their clock."""

    silent: Silent

    def handlers(self) -> list[Handler]:
        return [self.silent]

    def engine(self) -> Engine:
        backoff = DependencyBackoff(self.silent.clock)
        return Engine(self.database, self.tasks(), self.settings, self.replica, backoff, meter=self.meter)


@pytest.fixture
def waiting(journal: Database, world: World) -> Iterator[Waiting]:
    made = Waiting(journal, world)
    made.silent = Silent(world, Clock())
    controls.ensure(journal, made.tasks())
    yield made
    made.stop()


def see_one_request_per_backoff(waiting: Waiting) -> None:
    asked = waiting.silent.asked
    waiting.start()
    for number in range(3):
        eventually(lambda: len(asked) > number)  # noqa: B023
        waiting.at_rest()
        assert len(asked) == number + 1
        waiting.silent.clock.now += FIRST * 2**number


def test_the_sweep_of_a_handler_that_the_breaker_stopped_waits(waiting: Waiting) -> None:
    waiting.database.transact(lambda connection: controls.trip(connection, "mender", "too many suspects"))
    waiting.enqueue(Hint("mender", Key(SWEEP, "mender"), Priority.OPERATOR, "start"))
    see_one_request_per_backoff(waiting)


def test_the_interrupted_heals_of_a_paused_handler_wait(waiting: Waiting) -> None:
    for name in "abc":
        interrupt(waiting.database, name)
    controls.pause(waiting.database, ["mender"], "an operator")
    # three workers may begin before the first of them has its answer
    waiting.with_settings(workers=1)
    see_one_request_per_backoff(waiting)


def interrupt(journal: Database, name: str) -> None:
    """Leave the open line of a heal in the row of a thing."""
    hinting.enqueue(journal, [hint(name)])
    (claim,) = claiming.claim(journal, "r0", ["mender"], 1, 30.0)
    line = Line("mender", claim.key, Outcome.HEALING, "broken", f"{name} is broken", Origin("thing.broken", "r0"))
    opened = settling.begin_healing(journal, claim, line, lambda _connection, _clock: Allowed())
    assert isinstance(opened, int)
    settling.settle(journal, claim, Later(0.0, healing_id=opened))
