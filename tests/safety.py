"""The rows of the safety page."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PAGE = Path(__file__).parents[1] / "doc" / "source" / "safety.rst"


@dataclass(frozen=True)
class Row:
    """One heal of the page."""

    handler: str
    problem: str
    heal: str
    proof: str
    contradiction: str
    loss: str
    undo: str

    @property
    def proofs(self) -> tuple[str, ...]:
        """The records that the heal needs."""
        return tuple(self.proof.split("; "))

    @property
    def contradictions(self) -> tuple[str, ...]:
        """The records that stop the heal."""
        return tuple(self.contradiction.split("; "))


def rows() -> list[Row]:
    """Return the rows of all tables, without their headers."""
    cells = [(bullet, " ".join(text.split())) for bullet, text in _cells()]
    starts = [number for number, (bullet, _) in enumerate(cells) if bullet == "*"]
    found = [
        [text for _, text in cells[first:last]] for first, last in zip(starts, [*starts[1:], len(cells)], strict=True)
    ]
    return [
        Row(handler.strip("`"), problem.strip("`"), *others)
        for handler, problem, *others in found
        if handler != "Handler"
    ]


def _cells() -> Iterator[tuple[str, str]]:
    pattern = r"^   (\*| ) - (.+(?:\n       .+)*)$"
    return ((match[1], match[2]) for match in re.finditer(pattern, PAGE.read_text(), re.MULTILINE))
