"""What the daemon writes to its log, read as a log collector reads it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from handlers.nova.simulation import NovaSimulation
from tests.program import Program
from tests.services.virtual_host import Bus
from tests.waiting import eventually

Options = dict[str, dict[str, object]]

#: a handler, installed beside ours, that fails as a careless library would
LEAKY = """
from handlers.base import Handler, Key, Mode, Trigger

class Leaky(Handler):
    name = "leaky"
    title = "fails"
    group = "audit"
    kinds = ("thing",)
    default_mode = Mode.HEAL

    @classmethod
    def from_resources(cls, resources):
        return cls()

    def inspect(self, key):
        try:
            raise ValueError("mysql+pymysql://nova:HemligInnerPw@db/nova_api is gone")
        except ValueError as error:
            raise RuntimeError("rabbit://one:Hemlig#One/Pw@a:5672,two:HemligTwoPw@b:5672/ and more") from error

    def sweep(self):
        yield Key("thing", "1")

    def population(self):
        return 1000

    def heal(self, finding):
        raise AssertionError
"""


@pytest.fixture
def leaky(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have that handler installed for the processes of this test."""
    folder = tmp_path / "installed"
    (folder / "leaky-1.0.dist-info").mkdir(parents=True)
    (folder / "leaky.py").write_text(LEAKY)
    (folder / "leaky-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: leaky\nVersion: 1.0\n")
    (folder / "leaky-1.0.dist-info" / "entry_points.txt").write_text("[stackmend.handlers]\nleaky = leaky:Leaky\n")
    monkeypatch.setenv("PYTHONPATH", str(folder))


def leak(cloud: NovaSimulation) -> str:
    """Delete an instance whose allocation stays; its notification is in ``cloud.take()``."""
    instance = cloud.boot("compute-1")
    cloud.take()
    cloud.delete(instance, leak_allocation=True)
    return instance


def lines(log: Path, *words: str) -> list[str]:
    """Return the lines in which all these words are."""
    text = log.read_text() if log.exists() else ""
    return [line for line in text.splitlines() if all(word in line for word in words)]


def heal_one(cloud: NovaSimulation, bus: Bus, where: str = "the allocation") -> str:
    instance = leak(cloud)
    bus.send(cloud.take())
    eventually(lambda: not cloud.allocation(instance), 120, where)
    return f"consumer:{instance}"


@pytest.fixture(params=["an option of the command", "[DEFAULT] log_file"])
def logged(request: pytest.FixtureRequest, options: Options, tmp_path: Path) -> Callable[[Program], Path]:
    """Return a function that starts a daemon, and returns the file of its log."""
    file = tmp_path / "logs" / "stackmend.log"
    file.parent.mkdir()
    arguments = ("--log-file", str(file)) if request.param == "an option of the command" else ()
    if not arguments:
        options["DEFAULT"] = {"log_file": file}

    def start(program: Program) -> Path:
        program.start(*arguments)
        return file

    return start


def test_one_line_per_heal_and_a_file_that_may_be_moved_away(
    cloud: NovaSimulation, bus: Bus, options: Options, logged: Callable[[Program], Path], tmp_path: Path
) -> None:
    with Program(tmp_path / "stackmend", options) as program:
        file = logged(program)
        first = heal_one(cloud, bus)
        eventually(lambda: lines(file, first) != [], 60, "the line")
        moved = file.rename(file.with_suffix(".1"))
        second = heal_one(cloud, bus)
        eventually(lambda: lines(file, second) != [], 60, "the line in a new file")
        # A command beside the daemon speaks to whoever called it, not into the daemon's file.
        assert program.run("work", "list").returncode == 0
        program.stop()
        [line] = lines(moved, first)
        assert " INFO " in line
        assert "audit_allocations" in line
        assert ": healed in " in line
        [line] = lines(file, second)
        assert ": healed in " in line
        assert lines(moved, second) == []
        assert program.log.read_text() == ""


def test_without_a_file_it_logs_to_its_stderr(cloud: NovaSimulation, bus: Bus, stackmend: Program) -> None:
    stackmend.start()
    key = heal_one(cloud, bus)
    stackmend.stop()
    [line] = lines(stackmend.log, key)
    assert " INFO " in line


def test_json_with_tracebacks_and_without_secrets(
    cloud: NovaSimulation, bus: Bus, options: Options, leaky: None, tmp_path: Path
) -> None:
    options["DEFAULT"] = {"use_json": True}
    with Program(tmp_path / "stackmend", options) as program:
        program.start()
        key = heal_one(cloud, bus)
        eventually(lambda: lines(program.log, "RuntimeError") != [], 120, f"the fault; see {program.log}")
        program.stop()
        text = program.log.read_text()
        shown = program.run("inspect", "leaky", "thing:1", "-f", "json")
        records = [json.loads(line) for line in text.splitlines()]
        of_journal = b"".join(file.read_bytes() for file in program.folder.glob("journal.sqlite*"))
    [healed] = [record for record in records if key in record["message"]]
    assert (healed["levelname"], healed["name"]) == ("INFO", "consumer.engine.reconciler")
    [fault, *_again] = [record for record in records if record["traceback"]]
    traced = str(fault["traceback"])
    assert "RuntimeError: rabbit://one:***@" in traced
    assert "ValueError: mysql+pymysql://nova:***@db/nova_api is gone" in traced
    assert "Hemlig" not in text
    assert b"Hemlig" not in of_journal
    assert "***@" in shown.stdout + shown.stderr
    assert "Hemlig" not in shown.stdout + shown.stderr
