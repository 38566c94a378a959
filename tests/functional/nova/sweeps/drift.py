"""A drift that a sweep must find."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from handlers.base import Handler
from tests.functional.nova.proofs.stage import Stage


@dataclass(frozen=True)
class Drift:
    """A drift of one problem.

    :param make: makes the drift; no notification reaches the handler
    :param state: tells apart the states of one problem
    """

    handler: type[Handler]
    problem: StrEnum
    make: Callable[[Stage], object]
    state: str = ""

    def __str__(self) -> str:
        return "-".join(part for part in (self.handler.name, self.problem, self.state) if part)
