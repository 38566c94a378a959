"""A command line over a world that is a dictionary, with a journal in a file."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import pytest

from consumer import plugins
from consumer.cli import main
from consumer.journal import migrations
from consumer.journal.database import Database, open_engine
from handlers.base import Mode, Resources, Trigger
from tests.doubles import Mender, World, thing

WORLD = World()


class WorldMender(Mender):
    """Mends the world of this test."""

    @classmethod
    def from_resources(cls, resources: Resources) -> Self:
        return cls(WORLD)


class Fixer(WorldMender):
    """The same under another group and off by default."""

    name: ClassVar[str] = "fixer"
    title: ClassVar[str] = "Fixes things"
    group: ClassVar[str] = "housekeeping"
    kinds: ClassVar[tuple[str, ...]] = ("thing", "part")
    triggers: ClassVar[tuple[Trigger, ...]] = (Trigger("thing.broken", thing),)
    default_mode: ClassVar[Mode] = Mode.OFF


@dataclass(frozen=True)
class Ran:
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Shell:
    """Runs commands."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self.conf = folder / "stackmend.conf"
        self.world = WORLD
        self._capsys = capsys
        self.configure("")

    def configure(self, text: str) -> None:
        """Write the configuration: the journal, and this."""
        self.conf.write_text(f"[journal]\nconnection = sqlite:///{self.folder}/journal.sqlite\n{text}")

    def __call__(self, *arguments: str, program: str = "stackmend") -> Ran:
        entry = {"stackmend": main.stackmend, "nova-audit": main.nova_audit}[program]
        self._capsys.readouterr()
        code = entry(["--config-file", str(self.conf), *arguments])
        out, err = self._capsys.readouterr()
        return Ran(code, out, err)


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
