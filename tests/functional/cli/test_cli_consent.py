"""``work asks``, ``approve``, ``deny`` and ``exempt``, beside one-shot sweeps in mode ask."""

from __future__ import annotations

import os
import pwd
import re
from pathlib import Path

import pytest
from sqlalchemy import update

from consumer import plugins
from consumer.cli.asks import Approve
from consumer.cli.base import person
from consumer.cli.errors import CommandError
from consumer.cli.exempt import ExemptAdd, blind, read_scope
from consumer.journal import backlog, exemptions, schema
from consumer.journal.database import Database
from tests.functional.cli.shell import Ran, Shell

ROOT = Path(__file__).parents[3]


@pytest.fixture
def asking(shell: Shell, database: Database) -> Shell:
    shell.configure("[audit]\nmender_mode = ask\n")
    shell.world.things = {"a": 1, "b": 2}
    assert sweep(shell).code == 2
    return shell


def sweep(shell: Shell) -> Ran:
    return shell("sweep", "mender", "-f", "json")


def ids(shell: Shell, *arguments: str) -> dict[str, int]:
    return {row["key"]: row["id"] for row in shell("work", "asks", "-f", "json", *arguments).json}


def test_a_sweep_in_mode_ask_leaves_asks_with_plan_and_undo(asking: Shell) -> None:
    first, second = sorted(asking("work", "asks", "-f", "json").json, key=lambda row: str(row["key"]))
    assert (first["key"], first["state"], first["plan"], first["undo"]) == (
        "thing:a",
        "waiting",
        "set a from 1 to 0",
        "break a",
    )
    assert second["evidence"] == {"generation": 2}
    assert asking.world.writes == {}
    ran = sweep(asking)
    assert [row["action"] for row in ran.json] == ["asked", "asked"]
    assert "2 wait for approval" in ran.err


def test_an_approved_ask_is_healed_by_the_next_sweep_in_the_name_of_the_operator(asking: Shell) -> None:
    asked = ids(asking)
    ran = asking("work", "approve", str(asked["thing:a"]), "--by", "alice")
    assert (ran.code, ran.out) == (0, "1 ask approved; a new inspection follows\n")
    assert ids(asking, "--state", "approved") == {"thing:a": asked["thing:a"]}
    assert [row["action"] for row in sweep(asking).json] == ["healed", "asked"]
    (line,) = asking("history", "--outcome", "healed", "-f", "json").json
    assert (line["key"], line["operator"], line["plan"]) == ("thing:a", f"alice (as {person()})", "set a from 1 to 0")
    assert list(ids(asking)) == ["thing:b"]


def test_an_approval_without_a_daemon_leaves_work_for_one(asking: Shell, database: Database) -> None:
    asking("work", "approve", str(ids(asking)["thing:a"]))
    assert [(row.key, row.hint) for row in backlog.listing(database)] == [("thing:a", "approval")]


def test_filters_choose_the_asks_that_wait(asking: Shell) -> None:
    ran = asking("work", "approve", "--problem", "melted")
    assert (ran.code, ran.out) == (0, "0 asks approved\n")
    assert asking("work", "approve", "--handler", "mender", "--older-than", "1h").out.startswith("0 asks")
    assert asking("work", "approve", "--handler", "mender", "--problem", "broken").out.startswith("2 asks")


def test_a_denial_has_a_reason_and_a_person(asking: Shell) -> None:
    ran = asking("work", "deny", str(ids(asking)["thing:a"]), "--reason", "under repair")
    assert (ran.code, ran.out) == (0, "1 ask denied\n")
    row = next(row for row in asking("work", "asks", "-f", "json").json if row["key"] == "thing:a")
    assert (row["state"], row["reason"], row["operator"]) == ("denied", "under repair", person())
    assert [one["action"] for one in sweep(asking).json] == ["denied", "asked"]
    assert asking.world.drifted() == {"a", "b"}


def expire(database: Database) -> None:
    old = update(schema.ask).values(expires_at=schema.ask.c.expires_at - 1e6)
    database.transact(lambda connection: connection.execute(old))


def test_each_named_ask_that_is_not_decided_has_a_reason(asking: Shell, database: Database) -> None:
    known = ids(asking)
    first, second = str(known["thing:a"]), str(known["thing:b"])
    assert asking("work", "approve", first).code == 0
    ran = asking("work", "approve", first, second)
    assert (ran.code, ran.out) == (1, "1 ask approved; a new inspection follows\n")
    assert ran.err == f"ask {first} is not approved: it was approved before\n"
    assert asking("work", "deny", first, "--reason", "no").code == 0
    ran = asking("work", "deny", first, "--reason", "no")
    assert (ran.code, ran.out, ran.err) == (1, "0 asks denied\n", f"ask {first} is not denied: it was denied before\n")
    expire(database)
    ran = asking("work", "approve", first, second)
    assert (ran.code, ran.out) == (1, "0 asks approved\n")
    assert ran.err.splitlines() == [
        f"ask {first} is not approved: it was denied and has expired; to heal the object: stackmend heal mender thing:a",
        f"ask {second} is not approved: it has expired; the next inspection asks again",
    ]
    assert asking("heal", "mender", "thing:a").code == 0
    assert asking.world.drifted() == {"b"}


def test_an_expired_ask_is_listed_as_expired_and_not_as_waiting(asking: Shell, database: Database) -> None:
    known = ids(asking)
    asking("work", "approve", str(known["thing:a"]))
    expire(database)
    assert ids(asking, "--state", "expired") == known
    assert ids(asking, "--state", "waiting") == ids(asking, "--state", "approved") == {}


def test_an_expired_ask_can_be_denied_and_the_denial_lasts(asking: Shell, database: Database) -> None:
    expire(database)
    ran = asking("work", "deny", str(ids(asking)["thing:a"]), "--reason", "under repair")
    assert (ran.code, ran.out) == (0, "1 ask denied\n")
    assert [one["action"] for one in sweep(asking).json] == ["denied", "asked"]
    assert asking.world.drifted() == {"a", "b"}


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("approve",), "give the ids of asks, or --handler, --problem or --older-than; see 'work asks'"),
        (("approve", "1", "--handler", "mender"), "give the ids of asks, or --handler, --problem or --older-than; see"),
        (("approve", "1", "99"), "no ask has the id 99; nothing was done"),
        (("deny", "--handler", "nobody", "--reason", "x"), "there is no handler nobody"),
        (("approve", "--older-than", "soon"), "--older-than 'soon' is not a time"),
    ],
)
def test_a_wrong_decision_changes_nothing(asking: Shell, arguments: tuple[str, ...], error: str) -> None:
    ran = asking("work", *arguments)
    assert ran.code == 1
    assert error in ran.err
    assert len(ids(asking, "--state", "waiting")) == 2


def test_heal_is_the_operators_own_approval(asking: Shell) -> None:
    assert asking("heal", "mender", "thing:a", "-f", "json").code == 0
    (line,) = asking("history", "--outcome", "healed", "-f", "json").json
    assert line["operator"] == person()


def test_the_second_witness_approves_by_id_only(
    shell: Shell, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    shell.configure("[audit]\nmender_mode = ask\n")
    shell.world.things = {"a": 1, "b": 2}
    monkeypatch.setattr(shell.world, "with_one_witness", frozenset({"a"}))
    assert sweep(shell).code == 2
    known = ids(shell)
    ran = shell("work", "approve", "--handler", "mender", "--by", "alice")
    assert ran.out == "1 ask approved; a new inspection follows\n"
    assert ran.err == f"approve these by ID, because you become their second witness: {known['thing:a']}\n"
    sweep(shell)
    assert shell.world.drifted() == {"a"}
    assert shell("work", "approve", str(known["thing:a"]), "--by", "alice").code == 0
    assert [(one["key"], one["action"]) for one in sweep(shell).json] == [("thing:a", "healed")]
    assert shell("history", "--outcome", "healed", "-f", "json").json[-1]["operator"] == f"alice (as {person()})"


def test_an_exemption_is_listed_honoured_and_removed(shell: Shell, database: Database) -> None:
    shell.world.things = {"a": 1}
    ran = shell("exempt", "add", "host:shelf-a", "--until", "2d", "--reason", "memory test", "--by", "alice")
    assert ran.code == 0
    assert ran.out.startswith("exemption 1: no heal changes host:shelf-a until ")
    (row,) = shell("exempt", "list", "-f", "json").json
    assert (row["scope"], row["operator"], row["reason"], row["state"]) == (
        "host:shelf-a",
        f"alice (as {person()})",
        "memory test",
        "valid",
    )
    swept = shell("sweep", "mender", "-f", "json")
    assert swept.code == 0, "a person has decided about this drift"
    assert [(one["action"], one["key"]) for one in swept.json] == [("exempt", "thing:a")]
    assert shell("heal", "mender", "thing:a", "-f", "json").json[0]["action"] == "exempt"
    assert shell.world.drifted() == {"a"}
    assert shell("exempt", "remove", "1").out == "1 exemption removed\n"
    assert [one["action"] for one in sweep(shell).json] == ["healed"]


def test_handlers_that_cannot_honour_an_exemption_are_named(shell: Shell, database: Database) -> None:
    def remark(scope: str) -> str:
        return shell("exempt", "add", scope, "--reason", "it moves").err

    assert remark("cell:cell1") == (
        "these handlers do not know the cell of each finding and can still heal: fixer, mender\n"
    )
    assert remark("host:shelf-a") == "", "each finding names its host"
    assert "fixer" in remark("thing:a"), "its part:a can be the same object under another key"
    assert "mender" not in remark("thing:a"), "it has no other key of the object"


def test_nova_names_every_handler_that_could_heal_an_exempt_object() -> None:
    real = plugins.handlers()
    assert blind("problem", real) == []
    of_a_whole_cell = {"archive_deleted_rows", "purge"}
    for kind in ("consumer", "instance", "host", "project"):
        assert set(blind(kind, real)) == of_a_whole_cell, "their keys stand for rows of many hosts and projects"
    of_octavia = {one.name for one in real if one.service == "octavia" and one.healable_problems}
    assert set(blind("cell", real)) == of_octavia
    assert blind("load-balancer", real) == []


def test_an_exemption_of_an_unknown_object_is_stored_and_doubted(shell: Shell, database: Database) -> None:
    shell.world.things = {"a": 1}
    assert "correct?" not in shell("exempt", "add", "thing:a", "--reason", "x").err
    ran = shell("exempt", "add", "thing:b", "--reason", "x")
    assert (ran.code, len(exemptions.listing(database))) == (0, 2)
    assert ran.err.startswith(
        "no shelf has this thing: is thing:b correct? The exemption will cover each finding that names it\n"
    )


def test_an_exemption_is_stored_although_no_service_can_look_for_its_object(shell: Shell, database: Database) -> None:
    shell.world.silent = True
    ran = shell("exempt", "add", "thing:b", "--reason", "x")
    assert (ran.code, len(exemptions.listing(database))) == (0, 1)
    assert ran.err.startswith("stackmend cannot look for thing:b: workshop: it burns. Check that it is correct\n")


def test_an_exemption_has_the_form_of_findings() -> None:
    """Findings name each kind of object in one form; an exemption of another form would cover nothing."""
    real = plugins.handlers()
    named = {kind for one in real for kind in (*one.kinds, *one.concerned_kinds)}
    assert named <= {one.kind for handler in real for one in handler.objects}
    for kind in ("instance", "load-balancer", "amphora", "consumer", "provider", "volume", "server", "aggregate"):
        with pytest.raises(
            CommandError, match=f"'db-3' is not the id of one {kind}: write {kind}: and a uuid, such as"
        ):
            read_scope(f"{kind}:db-3", real)
        upper = f"{kind}:4F5C0E0A-3C53-4D67-A7D5-2B1C8A6F0E11"
        assert read_scope(upper, real) == upper, "an exemption ignores the case of letters"
    for scope in ("host:db-3", "cell:cell 1", "cell:4f5c0e0a-3c53-4d67-a7d5-2b1c8a6f0e11/1-500", "pool:any"):
        assert read_scope(scope, real) == scope


def test_the_documented_exemptions_and_problems_are_real() -> None:
    real = plugins.handlers()
    texts = [ExemptAdd.example, Approve.example, (ROOT / "doc/source/consent.rst").read_text(encoding="utf-8")]
    scopes = {scope for text in texts for scope in re.findall(r"exempt add (\S+)", text) if ":" in scope}
    assert len(scopes) >= 3
    assert {read_scope(scope, real) for scope in scopes} == scopes
    problems = {name for text in texts for name in re.findall(r"--problem (\S+)", text)}
    assert problems
    assert problems <= {problem for handler in real for problem in handler.healable_problems}


def test_a_user_without_a_name_can_run_commands(
    shell: Shell, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a container, the user id may have no entry in the password file."""

    def unknown(_uid: int) -> pwd.struct_passwd:
        raise KeyError("getpwuid(): uid not found: 4711")

    monkeypatch.setattr(os, "getuid", lambda: 4711)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.delenv("SUDO_USER", raising=False)
    shell.world.things = {"a": 1}
    assert shell("heal", "mender", "thing:a").code == 0
    (line,) = shell("history", "-f", "json").json
    assert line["operator"] == "uid 4711"


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("compute-7",), "SCOPE: 'compute-7:' is not a key"),
        (("hosts:compute-7",), "SCOPE: 'hosts:compute-7' has an unknown kind; the kinds are: cell, host, part, "),
        (
            ("host: compute-7",),
            "SCOPE: ' compute-7' is not one host: write its exact name, and one exemption for each host",
        ),
        (("host:compute-7:",), "is not one host"),
        (("host:compute-7,compute-8",), "is not one host"),
        (("host:compute-*",), "is not one host"),
        (("project:a b",), "is not one project"),
        (
            ("part:a-name",),
            "SCOPE: 'a-name' is not the id of one part: write part: and a uuid, such as 4f5c0e0a-3c53-4d67-a7d5-2b1c8a6f0e11; "
            "a name or another spelling protects nothing",
        ),
        (("part:4f5c0e0a3c534d67a7d52b1c8a6f0e11",), "is not the id of one part"),
        (("part:{4f5c0e0a-3c53-4d67-a7d5-2b1c8a6f0e11}",), "is not the id of one part"),
        (("problem:melted",), "SCOPE: no handler heals the problem 'melted'; the problems are: broken"),
        (("host:a", "--until", "2020-01-01"), "--until '2020-01-01' is past"),
        (("host:a", "--until", "later"), "--until 'later' is not a time"),
    ],
)
def test_a_wrong_exemption_is_refused(shell: Shell, database: Database, arguments: tuple[str, ...], error: str) -> None:
    ran = shell("exempt", "add", *arguments, "--reason", "x")
    assert ran.code == 1
    assert error in ran.err
    assert exemptions.listing(database) == []
