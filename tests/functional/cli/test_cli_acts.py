"""Every command that changes stackmend's state leaves a line in the history, with the operator."""

from __future__ import annotations

import os
import pwd
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest

from consumer.cli.base import person
from consumer.journal import asks, backlog, dead, exemptions, hinting, history
from consumer.journal.database import Database
from consumer.journal.dead import DeadLetter
from consumer.journal.work import Hint, Priority
from handlers.base import Key
from tests.functional.cli.shell import Shell

USER = pwd.getpwuid(os.getuid()).pw_name

#: Prepares the journal; returns the arguments that follow the command.
Prepare = Callable[[Shell, Database], Sequence[str]]


def rows(_shell: Shell, database: Database) -> list[str]:
    hinting.enqueue(database, [Hint("mender", Key("thing", "a"), Priority.EVENT, "thing.broken")])
    return [str(row.id) for row in backlog.listing(database)]


def letters(_shell: Shell, database: Database) -> list[str]:
    hinting.enqueue(database, [], [DeadLetter("nova", "nova", "stackmend.info", "not read", 2, b"{}")])
    return [str(number) for number in dead.ids(database)]


def exemption(_shell: Shell, database: Database) -> list[str]:
    return [str(exemptions.add(database, "host:shelf-a", None, "bob", "why"))]


def ask(shell: Shell, database: Database) -> list[str]:
    with shell.conf.open("a") as conf:
        conf.write("[audit]\nmender_mode = ask\n")
    shell.world.things = {"a": 1}
    shell("sweep")
    return [str(one.id) for one in asks.listing(database)]


def words(*fixed: str) -> Prepare:
    return lambda _shell, _database: fixed


@pytest.mark.parametrize(
    ("command", "prepare", "more", "expected"),
    [
        ("handler pause", words("mender"), ("--reason", "upgrade"), ("mender", "handler:mender", "paused mender: upgrade")),
        ("handler resume", words("mender"), (), ("mender", "handler:mender", "resumed mender")),
        ("work retry", rows, (), ("mender", "row:1", "retried row 1, mender thing:a")),
        ("work drop", rows, (), ("mender", "row:1", "dropped row 1, mender thing:a")),
        ("work approve", ask, (), ("mender", "thing:a", "approved ask 1, broken of thing:a")),
        ("work deny", ask, ("--reason", "no"), ("mender", "thing:a", "denied ask 1, broken of thing:a: no")),
        (
            "exempt add",
            words("host:shelf-a"),
            ("--reason", "memory test"),
            ("exempt", "exemption:host:shelf-a", "exempted host:shelf-a: memory test"),
        ),
        (
            "exempt remove",
            exemption,
            (),
            ("exempt", "exemption:host:shelf-a", "removed the exemption of host:shelf-a"),
        ),
        ("dead drop", letters, (), ("dead", "dead-letter:1", "dropped dead letter 1")),
    ],
)  # fmt: skip
def test_an_act_is_a_line_with_its_operator(
    shell: Shell,
    database: Database,
    command: str,
    prepare: Prepare,
    more: Sequence[str],
    expected: tuple[str, str, str],
) -> None:
    arguments = prepare(shell, database)
    ran = shell(*command.split(), *arguments, *more, "--by", "alice")
    assert ran.code == 0, ran.err
    [act] = history.listing(database, outcomes=["act"])
    handler, key, summary = expected
    operator = f"alice (as {USER})"
    assert (act.handler, act.key, act.problem) == (handler, key, command)
    assert (act.summary, act.operator) == (f"{operator} {summary}", operator)


def test_a_replay_is_a_line(shell: Shell, database: Database) -> None:
    body = (
        b'{"event_type": "thing.broken", "message_id": "m", "publisher_id": "p", "priority": "INFO", '
        b'"payload": {"name": "a"}, "timestamp": "2026-11-22 10:00:00.000000"}'
    )
    hinting.enqueue(database, [], [DeadLetter("nova", "nova", "stackmend.info", "not read", len(body), body)])
    assert shell("dead", "replay", "--all").code == 0
    [act] = history.listing(database, outcomes=["act"])
    assert (act.summary, act.operator) == (f"{USER} replayed dead letter 1", USER)


def test_an_act_on_many_rows_names_them(shell: Shell, database: Database) -> None:
    hinting.enqueue(database, [Hint("mender", Key("thing", name), Priority.EVENT, "thing.broken") for name in "abc"])
    ids = [str(row.id) for row in backlog.listing(database)]
    assert shell("work", "drop", *ids).code == 0
    [act] = history.listing(database, outcomes=["act"])
    assert act.summary == f"{USER} dropped 3 rows"
    assert act.evidence == {"rows": ["mender thing:a", "mender thing:b", "mender thing:c"]}


def test_a_refused_command_is_no_act(shell: Shell, database: Database) -> None:
    assert shell("work", "drop", "99").code == 1
    assert shell("exempt", "add", "nothing", "--reason", "x").code == 1
    assert history.listing(database) == []


@pytest.mark.usefixtures("database")
def test_heals_of_a_command_name_its_operator(shell: Shell, database: Database) -> None:
    shell.world.things = {"a": 1, "b": 1}
    assert shell("heal", "mender", "a", "--by", "alice").code == 0
    assert shell("sweep").code == 0
    lines = {entry.key: entry.operator for entry in history.listing(database)}
    assert lines == {"thing:a": f"alice (as {USER})", "thing:b": USER}


def test_an_upgrade_of_the_journal_is_an_act(shell: Shell) -> None:
    assert shell("db", "upgrade").code == 0
    assert shell("db", "upgrade").code == 0
    [act] = shell("history", "-f", "json").json
    assert act["operator"] == USER
    assert act["summary"].startswith(f"{USER} upgraded the journal from revision none to ")


def test_only_root_can_name_another_user(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SUDO_USER", "USER", "LOGNAME", "USERNAME"):
        monkeypatch.setenv(name, "mallory")
    monkeypatch.setattr(pwd, "getpwuid", lambda uid: SimpleNamespace(pw_name=f"user{uid}"))
    monkeypatch.setattr(os, "getuid", lambda: 4711)
    assert person() == "user4711"
    monkeypatch.setattr(os, "getuid", lambda: 0)
    assert person() == "mallory"
    monkeypatch.delenv("SUDO_USER")
    assert person() == "user0"


def test_the_log_has_the_request_id_of_the_history(shell: Shell, database: Database, tmp_path: Path) -> None:
    shell.world.things = {"a": 1, "b": 1}
    log = tmp_path / "log"
    assert shell("--log-file", str(log), "-v", "sweep").code == 0
    lines = {entry.key: entry.request_id for entry in history.listing(database)}
    assert len(set(lines.values())) == 2
    for key, request_id in lines.items():
        [healed] = [line for line in log.read_text().splitlines() if f"{key}: healed" in line]
        assert f" [{request_id}] mender {key}: healed in " in healed
        [found] = shell("history", "--request-id", request_id, "-f", "json").json
        assert (found["key"], found["request_id"]) == (key, request_id)
