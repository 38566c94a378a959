"""``hold list``, and the sources of holds in ``check``, in ``heal`` and in the configuration."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from consumer.journal.database import Database
from tests.functional.cli.shell import Shell


@pytest.fixture
def hold(shell: Shell, tmp_path: Path) -> Path:
    path = tmp_path / "hold"
    shell.configure(f"[engine]\nhold_file = {path}\n")
    return path


def test_the_list_of_holds(shell: Shell, hold: Path) -> None:
    assert shell("hold", "list").err == "no heal is on hold\n"
    hold.write_text("host:shelf-a memory test\n")
    [row] = shell("hold", "list", "-f", "json").json
    assert row == {
        "scope": "host:shelf-a",
        "reason": "memory test",
        "source": "[engine] hold_file",
        "readable": True,
    }


def test_a_list_without_sources_names_the_options(shell: Shell) -> None:
    assert "hold_file, hold_hosts_file and hold_query" in shell("hold", "list").err


def test_a_source_that_cannot_be_read_is_shown(shell: Shell, hold: Path) -> None:
    hold.mkdir()
    [row] = shell("hold", "list", "-f", "json").json
    assert (row["scope"], row["readable"]) == ("all", False)
    checks = {row["check"]: row for row in shell("check", "-f", "json").json}
    assert checks["holds: [engine] hold_file"]["result"] == "failure"
    assert "All heals wait: correct [engine] hold_file" in checks["holds: [engine] hold_file"]["details"]


@pytest.mark.timeout(60)
def test_a_pipe_does_not_block_the_list(shell: Shell, hold: Path) -> None:
    os.mkfifo(hold)
    [row] = shell("hold", "list", "-f", "json").json
    assert (row["scope"], row["readable"]) == ("all", False)
    assert "a FIFO, not a regular file" in row["reason"]


def test_a_hold_is_a_warning_of_check(shell: Shell, hold: Path) -> None:
    hold.write_text("upgrading nova")
    checks = {row["check"]: row for row in shell("check", "-f", "json").json}
    assert checks["holds: [engine] hold_file"] == {
        "result": "warning",
        "check": "holds: [engine] hold_file",
        "details": "1 hold, for example all (upgrading nova). Run stackmend hold list",
    }


@pytest.mark.usefixtures("database")
def test_the_command_heal_respects_a_hold(shell: Shell, hold: Path, database: Database) -> None:
    shell.world.things = {"a": 1}
    hold.write_text("host:shelf-a memory test")
    ran = shell("heal", "mender", "a", "-f", "json")
    assert ran.code == 2
    assert ran.json[0]["details"] == "on hold: host:shelf-a: memory test ([engine] hold_file)"
    assert shell.world.drifted() == {"a"}


def test_a_query_needs_a_url(shell: Shell) -> None:
    shell.configure("[engine]\nhold_query = up == 0\n")
    ran = shell("hold", "list")
    assert ran.code == 1
    assert "[engine] hold_query needs [engine] hold_url" in ran.err
