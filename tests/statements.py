"""Counts the statements that databases get from this process."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event


@contextmanager
def counted() -> Iterator[Counter[tuple[str, str]]]:
    """Count the statements of a block, by the name of the SQLite file and by text."""
    found: Counter[tuple[str, str]] = Counter()

    def count(connection: sa.Connection, cursor: Any, statement: str, *_: Any) -> None:
        found[Path(connection.engine.url.database or "").stem, " ".join(statement.split())] += 1

    event.listen(sa.Engine, "before_cursor_execute", count)
    try:
        yield found
    finally:
        event.remove(sa.Engine, "before_cursor_execute", count)


def of_nova(found: Counter[tuple[str, str]]) -> int:
    """Return how many statements nova_api and the cells got."""
    return sum(
        number for (database, _), number in found.items() if database == "nova_api" or database.startswith("cell")
    )


def table(found: Counter[tuple[str, str]], objects: int) -> str:
    """Return the statements per object, the most frequent first."""
    return "\n".join(
        f"{number / objects:8.2f}  {database:10}  {text[:160]}" for (database, text), number in found.most_common()
    )
