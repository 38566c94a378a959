from __future__ import annotations

import pytest

from handlers.access.backoff import PAUSE, SLOW, Backoff


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def backoff(clock: Clock) -> Backoff:
    return Backoff(clock)


def test_a_server_without_a_failure_may_be_asked(backoff: Backoff) -> None:
    assert backoff.refusal() == ""


def test_a_quick_failure_is_not_remembered(backoff: Backoff) -> None:
    backoff.failed("refused", SLOW / 2)
    assert backoff.refusal() == ""


def test_a_slow_failure_is_repeated_at_once_until_the_retry_time(backoff: Backoff, clock: Clock) -> None:
    backoff.failed("timed out", 5.0)
    clock.now += PAUSE - 1
    assert backoff.refusal() == "timed out; asking again in 1 s"


def test_at_the_retry_time_one_caller_asks_and_the_others_fail(backoff: Backoff, clock: Clock) -> None:
    backoff.failed("timed out", 5.0)
    clock.now += PAUSE
    assert [bool(backoff.refusal()) for _caller in range(3)] == [False, True, True]


def test_a_caller_that_never_reports_back_does_not_block_the_server(backoff: Backoff, clock: Clock) -> None:
    backoff.failed("timed out", 5.0)
    clock.now += PAUSE
    assert backoff.refusal() == ""
    clock.now += PAUSE
    assert backoff.refusal() == ""


def test_an_answer_lets_all_callers_ask_again(backoff: Backoff) -> None:
    backoff.failed("timed out", 5.0)
    backoff.answered()
    assert [backoff.refusal() for _caller in range(3)] == ["", "", ""]
