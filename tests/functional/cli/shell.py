"""Runs commands over a world that is a dictionary."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import pytest

from consumer.cli import main
from handlers.base import Form, Mode, ObjectKind, Resources, Trigger, Unavailable
from tests.doubles import Mender, World, thing

WORLD = World()


def has_thing(_resources: Resources, name: str) -> bool:
    if WORLD.silent:
        raise Unavailable("workshop", "it burns")
    return name in WORLD.things


class WorldMender(Mender):
    """Mends the world of this test."""

    objects: ClassVar[tuple[ObjectKind, ...]] = (
        ObjectKind("thing", Form.TEXT, "no shelf has this thing", has_thing),
        ObjectKind("part", Form.UUID),
    )

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
