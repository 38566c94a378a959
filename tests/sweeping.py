"""Sweeps in mode heal, as the command does, with a journal in a file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from unittest import mock

from consumer.conf.engine import EngineSettings
from consumer.conf.tasks import TaskSettings
from consumer.conf.window import Window
from consumer.engine.oneshot import OneShot, Result
from consumer.engine.task import Task
from consumer.journal import controls
from consumer.journal.database import Database
from handlers.base import Handler, Key, Mode
from tests import journals


@contextmanager
def journal(folder: Path) -> Iterator[Database]:
    opened = journals.fresh(folder)
    yield opened
    opened.close()


def swept(handler: Handler, key: Key, database: Database) -> list[Result]:
    """Sweep a handler that lists this key; one inspection is proof."""
    task = Task(handler, TaskSettings(Mode.HEAL, 3600, Window(), 0), lambda: datetime.now(UTC))
    controls.ensure(database, [task.name])
    with (
        mock.patch.object(type(handler), "confirm_after", 0.0),
        mock.patch.object(handler, "sweep", return_value=iter([key])),
    ):
        return OneShot(database, EngineSettings(breaker_count=1000), "cli").sweep([task])
