"""SQLAlchemy compiles a statement once for all SQLite engines: each test makes engines of its own, with the same statements."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.util import LRUCache

from consumer.journal import database as journal
from handlers.nova.simulation import store


class _Compiled(LRUCache[Any, Any]):
    """Compiled statements by dialect, whose objects differ from engine to engine, and statement."""

    def get(self, key: Any, default: Any = None) -> Any:
        return super().get(_any_engine(key), default)

    def __setitem__(self, key: Any, value: Any) -> None:
        super().__setitem__(_any_engine(key), value)


def _any_engine(key: Any) -> Any:
    dialect, *statement = key
    return (type(dialect), *statement)


@contextmanager
def once() -> Iterator[None]:
    """Let the SQLite engines that are made in this block know the compiled statements of each other."""
    create, compiled = sa.create_engine, _Compiled(2000)

    def create_engine(*arguments: Any, **options: Any) -> sa.Engine:
        engine: sa.Engine = create(*arguments, **options)
        if engine.dialect.name == "sqlite":
            engine.update_execution_options(compiled_cache=compiled)
        return engine

    with pytest.MonkeyPatch.context() as patch:
        for module in (sa, journal, store):
            patch.setattr(module, "create_engine", create_engine)
        yield
