"""Looks that several inspections share: how old they may be, and how far apart two of one consumer are."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from handlers.base import Unavailable
from handlers.nova.allocations import shared_looks
from handlers.nova.allocations.excess_facts import Look
from handlers.nova.allocations.shared_looks import CHUNK, EXPECTED, FRESH, SharedLooks
from handlers.nova.concerns import OfProviders


class Reads:
    """Looks at consumers, by a clock that only tests move."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.chunks: list[list[str]] = []
        self.takes = 0.0
        self.error: Exception | None = None
        self.looks = SharedLooks(self.read, lambda: self.now)

    def read(self, consumers: Sequence[str]) -> Look:
        self.chunks.append(list(consumers))
        began = self.now
        self.now += self.takes
        if self.error is not None:
            raise self.error
        return Look(began, {}, {}, OfProviders.__new__(OfProviders))

    def serves(self, consumer: str) -> bool:
        return self.looks.take(consumer, math.inf) is not None


@pytest.fixture
def reads() -> Reads:
    return Reads()


def suspects(number: int) -> list[str]:
    return [f"c{one:03}" for one in range(number)]


def test_one_look_serves_a_chunk(reads: Reads) -> None:
    all_of_them = suspects(CHUNK + 10)
    reads.looks.expect(all_of_them)
    assert all(reads.serves(one) for one in all_of_them)
    assert reads.chunks == [all_of_them[:CHUNK], all_of_them[CHUNK:]]


def test_a_consumer_that_no_sweep_listed_is_looked_at_alone(reads: Reads) -> None:
    reads.looks.expect(["a"])
    assert not reads.serves("b")
    assert reads.chunks == []


def test_an_inspection_uses_a_look_once(reads: Reads) -> None:
    reads.looks.expect(["a", "b"])
    assert reads.serves("a")
    assert reads.serves("b")
    assert not reads.serves("a")
    assert not reads.serves("b")


@pytest.mark.parametrize(("age", "serves"), [(FRESH, True), (FRESH + 0.1, False)])
def test_an_old_look_serves_nobody(reads: Reads, age: float, serves: bool) -> None:
    reads.looks.expect(["a", "b"])
    assert reads.serves("a")
    reads.now += age
    assert reads.serves("b") is serves


def test_a_look_that_took_too_long_serves_nobody(reads: Reads) -> None:
    reads.looks.expect(["a", "b"])
    reads.takes = FRESH + 0.1
    assert not reads.serves("a")
    assert not reads.serves("b")


def test_a_second_look_begins_long_enough_after_the_first(reads: Reads) -> None:
    reads.looks.expect_again("early", reads.now)
    reads.looks.expect_again("late", reads.now + 1)
    assert reads.serves("early")
    assert reads.chunks == [["early"]], "the look would be too early for the other one"
    reads.now += 1
    taken = reads.looks.take("late", math.inf)
    assert taken is not None
    assert taken.again
    assert taken.look.began == reads.now


def test_another_replica_saw_a_suspect_first(reads: Reads) -> None:
    """The look with another suspect began one second after the first inspection, and is no second opinion."""
    reads.looks.expect(["a", "b"])
    first_inspection = reads.now
    reads.now += 1
    assert reads.serves("b")
    reads.now += 4
    seen_for = reads.now - first_inspection
    assert reads.looks.take("a", seen_for - 5) is None


def test_no_look_covers_an_inspection_that_another_replica_made(reads: Reads) -> None:
    reads.looks.expect(["a"])
    reads.now += EXPECTED + 1
    reads.looks.expect(["b"])
    assert reads.serves("b")
    assert reads.chunks == [["b"]]


def test_a_database_that_does_not_answer_gives_no_look(reads: Reads) -> None:
    reads.looks.expect(["a", "b"])
    reads.error = Unavailable("nova_api", "down")
    assert not reads.serves("a")
    assert not reads.serves("b")


def test_a_bug_reaches_every_inspection(reads: Reads) -> None:
    reads.looks.expect(["a", "b"])
    reads.error = LookupError("a bug")
    for one in ("a", "b"):
        with pytest.raises(LookupError):
            reads.looks.take(one, math.inf)


def test_the_number_of_expected_consumers_is_bounded(reads: Reads, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_looks, "_MOST", 2)
    reads.looks.expect(["a", "b", "c"])
    assert reads.serves("a")
    assert reads.chunks == [["a", "b"]]
    assert not reads.serves("c")


def test_inspections_wait_for_the_look_of_another_one() -> None:
    begun, may_end = threading.Event(), threading.Event()
    chunks: list[list[str]] = []

    def read(consumers: Sequence[str]) -> Look:
        chunks.append(list(consumers))
        begun.set()
        may_end.wait(60)
        return Look(0.0, {}, {}, OfProviders.__new__(OfProviders))

    looks = SharedLooks(read, lambda: 0.0)
    looks.expect(["a", "b"])
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(looks.take, "a", math.inf)
        assert begun.wait(60)
        second = pool.submit(looks.take, "b", math.inf)
        may_end.set()
        taken = [first.result(), second.result()]
    assert chunks == [["a", "b"]]
    assert None not in taken
