"""The back-off of a handler: nothing while its dependency is down, then a probe, then all rows."""

from __future__ import annotations

from consumer.engine.dependency_backoff import FIRST, LAST, DependencyBackoff


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_held_handler_gets_nothing_then_one_probe_then_all() -> None:
    clock = Clock()
    backoff = DependencyBackoff(clock)
    assert backoff.allowance("h", 8) == 8
    assert backoff.down("h") == FIRST
    assert backoff.allowance("h", 8) == 0
    assert backoff.allowance("other", 8) == 8
    clock.now += FIRST
    assert backoff.allowance("h", 8) == 1
    assert backoff.up("h")
    assert backoff.allowance("h", 8) == 8
    assert not backoff.up("h")


def test_backoff_grow_to_a_ceiling_and_failures_of_the_same_moment_count_once() -> None:
    clock = Clock()
    backoff = DependencyBackoff(clock)
    lengths = []
    for _ in range(8):
        lengths.append(backoff.down("h"))
        assert backoff.down("h") == lengths[-1]
        clock.now += lengths[-1]
    assert lengths[0] == FIRST
    assert lengths[-1] == LAST
