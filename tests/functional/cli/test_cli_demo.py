"""``demo``: with a cloud that is a dictionary, for every way it can end; and whole, as a newcomer runs it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest

from consumer import plugins
from handlers.base import Key, Resources
from handlers.demo import Demo, Notification, Scene
from tests.functional.cli.shell import WORLD, Shell

WHOLE = "import sys; from consumer.cli import main; sys.exit(main.stackmend(sys.argv[1:]))"


def broken(name: str) -> Notification:
    message = {
        "message_id": f"message-{name}",
        "publisher_id": "p",
        "event_type": "thing.broken",
        "priority": "INFO",
        "payload": {"name": name},
        "timestamp": datetime.now(UTC).replace(tzinfo=None).isoformat(sep=" "),
    }
    body = json.dumps({"oslo.version": "2.0", "oslo.message": json.dumps(message)})
    return Notification("nova", "versioned_notifications.info", body.encode())


class DictionaryDemo(Demo):
    """Two things break; one has a notification."""

    world = "a dictionary"
    handlers = frozenset({"mender"})

    def __init__(self) -> None:
        self.stopped = False
        self.joined = False

    def start(self, folder: Path) -> Mapping[str, Mapping[str, str]]:
        assert list(folder.iterdir()) == [folder / "stackmend.log"]
        WORLD.things = {"told": 0, "silent": 0}
        return {"engine": {"workers": "2"}}

    def join(self, resources: Resources) -> None:
        self.joined = True

    def scenes(self) -> Sequence[Scene]:
        assert self.joined
        return [self._scene("told", [broken("told")]), self._scene("silent", [])]

    def stop(self) -> None:
        self.stopped = True

    def _scene(self, name: str, notifications: Sequence[Notification]) -> Scene:
        def play() -> Sequence[Notification]:
            WORLD.things[name] += 1
            return notifications

        def drift() -> str:
            return f"{name} is broken" if WORLD.things[name] else ""

        return Scene(f"{name} breaks", "mender", Key("thing", name), play, drift)


@pytest.fixture
def demo(shell: Shell, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Shell:
    monkeypatch.setattr(plugins, "demos", lambda: {"nova": DictionaryDemo})
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return shell


def folders(shell: Shell) -> list[Path]:
    return list(shell.folder.glob("stackmend-demo-*"))


def test_the_demo_shows_drift_and_heals(demo: Shell) -> None:
    ran = demo("demo")
    assert ran.code == 0
    assert ran.err == ""
    for text in ("1/2  told breaks", "told is broken", "thing.broken", "healed   mended told", "2 of 2 drifts healed"):
        assert text in ran.out
    assert "mender, by sweep" in ran.out
    assert "\x1b" not in ran.out
    assert folders(demo) == []


def test_the_demo_plays_every_cloud_on_one_daemon(demo: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    class OtherDemo(DictionaryDemo):
        world = "a second dictionary"

        def start(self, folder: Path) -> Mapping[str, Mapping[str, str]]:
            WORLD.things["other"] = 0
            return {}

        def scenes(self) -> Sequence[Scene]:
            return [self._scene("other", [broken("other")])]

    monkeypatch.setattr(plugins, "demos", lambda: {"nova": DictionaryDemo, "octavia": OtherDemo})
    ran = demo("demo")
    assert ran.code == 0
    assert "a dictionary; a second dictionary; a broker in memory" in ran.out
    assert "3/3  other breaks" in ran.out
    assert "3 of 3 drifts healed" in ran.out


def test_json_is_all_there_is(demo: Shell) -> None:
    ran = demo("demo", "-f", "json")
    assert (ran.code, ran.err) == (0, "")
    assert [(row["key"], row["problem"], row["action"]) for row in ran.json] == [
        ("thing:told", "broken", "mended told"),
        ("thing:silent", "broken", "mended silent"),
    ]
    assert all(set(row) == {"handler", "key", "problem", "action", "lag_s"} for row in ran.json)
    assert all(0 <= row["lag_s"] < 10 for row in ran.json)


def test_the_demo_shows_drift_that_is_not_healed(demo: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("consumer.cli.demo._PATIENCE_AT_END", 0.5)
    monkeypatch.setattr("consumer.cli.demo._PATIENCE", 0.5)
    WORLD.unhealable = frozenset({"told"})
    ran = demo("demo", "-f", "json")
    assert ran.code == 2
    assert [(row["key"], row["problem"], row["action"], row["lag_s"]) for row in ran.json][1:] == [
        ("thing:told", "told is broken", "", None)
    ]


def test_the_folder_can_be_kept(demo: Shell) -> None:
    assert demo("demo", "--keep").code == 0
    [folder] = folders(demo)
    assert (folder / "stackmend.conf").stat().st_mode & 0o077 == 0
    ran = demo("--config-file", str(folder / "stackmend.conf"), "history", "-f", "json")
    assert [row["action"] for row in ran.json] == ["mended told", "mended silent"]


def test_the_machine_s_own_configuration_is_not_read(demo: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    demo.configure("[audit]\nmender_mode = audit\n")
    monkeypatch.setenv("OS_AUDIT__MENDER_MODE", "audit")
    assert demo("demo").code == 0


def test_a_missing_package_is_one_line(demo: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    def start(_self: DictionaryDemo, _folder: Path) -> Mapping[str, Mapping[str, str]]:
        raise RuntimeError("it needs more: pip install more") from ImportError("more")

    monkeypatch.setattr(DictionaryDemo, "start", start)
    ran = demo("demo")
    assert (ran.code, ran.err) == (1, "stackmend: it needs more: pip install more\n")
    assert folders(demo) == []


@pytest.mark.timeout(120)
def test_the_whole_of_it(tmp_path: Path) -> None:
    pytest.importorskip("placement")
    command = [sys.executable, "-c", WHOLE, "demo", "-f", "json"]
    environment = {**os.environ, "HOME": str(tmp_path), "TMPDIR": str(tmp_path)}
    root = Path(__file__).parents[3]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110, check=False, cwd=root, env=environment)
    rows = json.loads(done.stdout)
    assert done.returncode == 0, rows
    healers = {
        "discover_hosts",
        "sync_aggregates",
        "audit_allocations",
        "heal_allocations",
        "failed_amphora",
        "spare_pool",
    }
    assert {row["handler"] for row in rows} == healers
    assert list(tmp_path.glob("stackmend-demo-*")) == []
    amphorae = [row for row in rows if row["handler"] == "failed_amphora"]
    first, second, third = dict.fromkeys(row["key"].removeprefix("amphora:") for row in amphorae)
    unplugged, imaged = (
        [
            key
            for key in (first, second, third)
            if any(one.search(row["action"]) for row in rows if row["key"].endswith(key))
        ]
        for one in (re.compile(r"^preserved server"), re.compile(r"^deleted server .* preserved as image"))
    )
    assert (unplugged, imaged) == ([first], [second, third])
    trimmed = [row["action"] for row in amphorae if row["action"].startswith("deleted preserved amphora")]
    assert trimmed == [f"deleted preserved amphora {first}, the oldest: amphora {third} took its place"]
