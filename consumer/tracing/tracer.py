from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from types import TracebackType
from typing import Self

from consumer.journal.work import Claim, Hint
from handlers.base import Finding


class Step(StrEnum):
    INSPECT = "inspect"
    GATES = "gates"
    HEAL = "heal"


class Span:
    """Base class of spans, the parts of a trace; it records nothing. A span lasts as long as its ``with`` block.

    If the block raises an error, the span records the error's type, never its text.
    """

    __slots__ = ()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End the span."""

    def ended(self, outcome: str, findings: Sequence[Finding] = ()) -> None:
        """Record the outcome and the findings' problems, but nothing else of the findings."""

    def listed(self, suspects: int) -> None:
        """Record how many suspects a sweep lists."""


#: the span of the base class; it has no state
_NOTHING = Span()


class Tracer:
    """Base class of tracers; it records nothing. Implementations are thread-safe, never raise, and wait only in ``close``."""

    def stored(self, hints: Sequence[Hint], broker: str, arrived_at: float) -> None:
        """Record the events of a batch that the journal has stored.

        :param arrived_at: when the batch was read, in seconds since the epoch
        """

    def work(self, claim: Claim, request_id: str) -> Span:
        """Begin the span of one claim; it includes the time that the row waited in the journal."""
        return _NOTHING

    def sweep(self, claim: Claim, request_id: str) -> Span:
        """Begin the span of one sweep.

        :param claim: the claim of the timer
        """
        return _NOTHING

    def step(self, step: Step, problem: str = "") -> Span:
        """Begin a span for one step, below the span that is open in this thread."""
        return _NOTHING

    def close(self) -> None:
        """Send the recorded spans, for at most two seconds, and stop."""
