"""``check``: each observation once, a count at the end, 100 columns, the formats of every listing."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from consumer import plugins
from handlers.base import Checked, Verdict
from tests.functional.cli.shell import Ran, Shell

SILENT = f"no connection to http://{'keystone.example.org/' * 4}: Connection refused; see [openstack] auth_type"
FOUND = [
    Checked("nova_api", Verdict.OK, "its schema is known"),
    Checked("cell:cell1", Verdict.OK, "its schema is known"),
    Checked("nova: roles", Verdict.FAILURE, SILENT),
    Checked(
        "/etc/nova/nova.conf, /etc/nova/nova.conf.d/notifications.conf: format", Verdict.WARNING, "write versioned"
    ),
    Checked("octavia: roles", Verdict.FAILURE, SILENT),
]


@pytest.fixture
def check(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> Shell:
    def found(_resources: object, _modes: object) -> Iterable[Checked]:
        return FOUND

    monkeypatch.setattr(plugins, "brokers", list)
    monkeypatch.setattr(plugins, "checks", lambda: [("nova", found)])
    shell.conf.chmod(0o600)
    return shell


def table(ran: Ran) -> list[list[str]]:
    """Return the cells of each line."""
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in ran.out.splitlines() if line[0] == "|"]


def test_the_table_states_each_observation_once(check: Shell) -> None:
    ran = check("check")
    text = " ".join(line[2] for line in table(ran))
    assert text.count("its schema is known") == 1
    assert text.count("Connection refused") == 1
    rows = table(ran)
    at = next(number for number, row in enumerate(rows) if row[1] == "nova: roles")
    assert rows[at][0] == "failure"
    assert rows[at + 1][:2] == ["", "octavia: roles"]


def test_the_worst_is_at_the_end_before_the_count(check: Shell) -> None:
    ran = check("check")
    results = [row[0] for row in table(ran)[1:] if row[0]]
    assert results == sorted(results, key=["ok", "warning", "failure"].index)
    assert ran.err == "10 checks: 6 ok, 2 warnings, 2 failures\n"
    assert ran.code == 2


def test_the_table_fits_100_columns(check: Shell) -> None:
    assert max(len(line) for line in check("check").out.splitlines()) <= 100


def test_other_formats_have_a_row_for_each_check(check: Shell) -> None:
    rows = check("check", "-f", "json").json
    assert [row["check"] for row in rows if row["details"] == SILENT] == ["nova: roles", "octavia: roles"]
    assert set(rows[0]) == {"result", "check", "details"}
    lines = check("check", "-f", "csv", "-c", "check", "--quote", "none").out.split()
    assert lines[0] == "check"
    assert len(lines) >= len(rows)


def test_a_missing_folder_of_the_journal_is_one_failure_among_the_checks(check: Shell) -> None:
    before = {row["check"] for row in check("check", "-f", "json").json}
    check.conf.write_text(f"[journal]\nconnection = sqlite:///{check.folder}/none/journal.sqlite\n")
    ran = check("check", "-f", "json")
    assert ran.code == 2
    [failed] = [row for row in ran.json if row["check"] == "journal"]
    assert failed["result"] == "failure"
    assert f"{check.folder}/none does not exist: create it" in failed["details"]
    assert before - {row["check"] for row in ran.json} == {"clock", "dead letters"}


@pytest.mark.parametrize("text", ["[engine]\nworkers = many\n", "[audit]\nmender_mode = healing\n", "[engine\n"])
def test_a_wrong_configuration_is_a_failure_and_no_warning(check: Shell, text: str) -> None:
    check.configure(text)
    ran = check("check", "-f", "json")
    assert ran.code == 2
    [failed] = ran.json
    assert (failed["result"], failed["check"]) == ("failure", "configuration")
    assert str(check.conf) in failed["details"]


def test_an_unknown_option_is_named_once(check: Shell) -> None:
    check.configure("[engine]\nworkers_of_all = 3\n")
    check.conf.chmod(0o600)
    ran = check("check")
    assert "workers_of_all" in ran.out
    assert "workers_of_all" not in ran.err


def test_without_a_broker_the_advice_names_both_services(check: Shell) -> None:
    [found] = [row for row in check("check", "-f", "json").json if row["check"] == "brokers"]
    assert found["details"].endswith("set config_file or transport_url of [nova] or [octavia]")
