"""Holds: none while down, one to probe, all when back."""

from __future__ import annotations

from consumer.engine.holds import FIRST, LAST, Holds


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_held_handler_gets_nothing_then_one_probe_then_all() -> None:
    clock = Clock()
    holds = Holds(clock)
    assert holds.allowance("h", 8) == 8
    assert holds.down("h") == FIRST
    assert holds.allowance("h", 8) == 0
    assert holds.allowance("other", 8) == 8
    clock.now += FIRST
    assert holds.allowance("h", 8) == 1
    assert holds.up("h")
    assert holds.allowance("h", 8) == 8
    assert not holds.up("h")


def test_holds_grow_to_a_ceiling_and_failures_of_the_same_moment_count_once() -> None:
    clock = Clock()
    holds = Holds(clock)
    lengths = []
    for _ in range(8):
        lengths.append(holds.down("h"))
        assert holds.down("h") == lengths[-1]
        clock.now += lengths[-1]
    assert lengths[0] == FIRST
    assert lengths[-1] == LAST
