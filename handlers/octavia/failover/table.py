"""The class of a rule, and the function that applies a list of rules. Here a ``Row`` is a rule, not a row of a database."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from handlers.octavia.failover.steps import Decision

C = TypeVar("C")


@dataclass(frozen=True, slots=True)
class Row(Generic[C]):
    name: str
    applies: Callable[[C], bool]
    decision: Callable[[C], Decision]


def first(table: Sequence[Row[C]], case: C) -> Decision | None:
    return next((row.decision(case) for row in table if row.applies(case)), None)
