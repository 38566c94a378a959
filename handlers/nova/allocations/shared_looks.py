"""Reads the facts about several suspects of a sweep in one look, which the inspections of these suspects share.

A sweep lists suspects, and workers soon inspect them one by one. The first inspection reads the facts about the next suspects
too, and their inspections use these facts within :data:`FRESH` seconds. The second inspections of these suspects share another
look, which begins at least ``confirm_after`` seconds after the first look began.

No write relies on a shared look: the heal looks at its consumer alone.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

from handlers.base import HandlerError
from handlers.nova.allocations.excess_facts import Look

#: consumers of one look
CHUNK = 50
#: seconds from the beginning of a look to the last inspection that uses it
FRESH = 5.0
#: seconds for which an inspection is expected; later, another replica has probably made it
EXPECTED = 120.0
#: consumers that are expected at most
_MOST = 20_000


@dataclass(frozen=True, slots=True)
class _Expected:
    due: float
    again: bool


@dataclass(frozen=True, slots=True)
class _Shared:
    look: Future[Look]
    began: float
    again: bool


@dataclass(frozen=True, slots=True)
class Taken:
    """A look for one inspection.

    :param again: whether the inspection is the second one
    """

    look: Look
    again: bool


class SharedLooks:
    """Remembers suspects of sweeps, and reads facts about several at a time. Thread-safe."""

    def __init__(self, read: Callable[[Sequence[str]], Look], clock: Callable[[], float] = time.monotonic) -> None:
        self._read = read
        self._clock = clock
        self._lock = threading.Lock()
        self._expected: dict[str, _Expected] = {}
        self._shared: dict[str, _Shared] = {}

    def expect(self, consumers: Iterable[str]) -> None:
        """Remember a sweep's suspects."""
        now = self._clock()
        with self._lock:
            for one in consumers:
                self._expect(one, _Expected(now, again=False))

    def expect_again(self, consumer: str, due: float) -> None:
        """Remember a suspect for its second inspection.

        :param due: monotonic time before which its look must not begin
        """
        with self._lock:
            self._expect(consumer, _Expected(due, again=True))

    def take(self, consumer: str, oldest: float) -> Taken | None:
        """Return a fresh look that covers a consumer, once; None if the inspection must read this consumer alone.

        :param oldest: the greatest age of a look, in seconds: an older look began too early to confirm the first inspection,
            perhaps by another replica. A look after :meth:`expect_again` is never too early.
        """
        now = self._clock()
        with self._lock:
            mine = self._shared.pop(consumer, None)
            chunk = self._chunk(consumer, now) if mine is None else []
            if chunk:
                shared: Future[Look] = Future()
                looks = {one: _Shared(shared, now, self._expected.pop(one).again) for one in chunk}
                mine = looks.pop(consumer)
                self._shared |= looks
        if mine is None:
            return None
        if chunk:
            self._look(mine.look, chunk)
        try:
            look = mine.look.result()
        except HandlerError:
            return None
        most = FRESH if mine.again else min(FRESH, oldest)
        return Taken(look, mine.again) if self._clock() - look.began <= most else None

    def _look(self, future: Future[Look], chunk: Sequence[str]) -> None:
        try:
            future.set_result(self._read(chunk))
        except BaseException as error:
            future.set_exception(error)
            if not isinstance(error, HandlerError):
                raise

    def _chunk(self, consumer: str, now: float) -> list[str]:
        self._forget(now)
        if consumer not in self._expected:
            return []
        others = (one for one, other in self._expected.items() if one != consumer and other.due <= now)
        return [consumer, *(one for one, _ in zip(others, range(CHUNK - 1), strict=False))]

    def _expect(self, consumer: str, expected: _Expected) -> None:
        self._expected.pop(consumer, None)
        if len(self._expected) < _MOST:
            self._expected[consumer] = expected

    def _forget(self, now: float) -> None:
        self._expected = {one: other for one, other in self._expected.items() if now - other.due <= EXPECTED}
        self._shared = {one: other for one, other in self._shared.items() if now - other.began <= FRESH}
