"""A command line over a world that is a dictionary, with a journal in a file."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from consumer import plugins
from consumer.journal import migrations
from consumer.journal.database import Database, open_engine
from tests.functional.cli.shell import WORLD, Fixer, Shell, WorldMender


@pytest.fixture
def shell(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Shell]:
    monkeypatch.setattr(plugins, "handlers", lambda: [WorldMender, Fixer])
    WORLD.__init__()  # type: ignore[misc]
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield Shell(tmp_path, capsys)
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture
def database(shell: Shell) -> Iterator[Database]:
    """The journal that the commands use."""
    journal = Database(open_engine(f"sqlite:///{shell.folder}/journal.sqlite"))
    migrations.upgrade(journal)
    yield journal
    journal.close()
