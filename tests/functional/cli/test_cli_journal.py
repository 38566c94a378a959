"""``work``, ``history``, ``dead``, ``db``: what operators see of the journal and do to it."""

from __future__ import annotations

import bz2
import json
import lzma
import zlib
from collections.abc import Callable

import pytest

from consumer.journal import backlog, claiming, dead, hinting, history, migrations, settling, work
from consumer.journal.database import Database, open_engine
from consumer.journal.dead import DeadLetter
from consumer.journal.history import Line, Origin, Outcome
from consumer.journal.migrations import Schema
from consumer.journal.work import Hint, Parked, Priority
from handlers.base import Key
from tests.functional.cli.shell import Shell
from tests.functional.journal import first, upgrades


def put(database: Database, *names: str) -> None:
    hinting.enqueue(database, [Hint("mender", Key("thing", name), Priority.EVENT, "thing.broken") for name in names])


def hold(database: Database, name: str) -> work.Claim:
    """Work on one row, and leave the others alone."""
    claims = {claim.key.id: claim for claim in claiming.claim(database, "me", ["mender"], 100, 60)}
    held = claims.pop(name)
    claiming.release(database, claims.values())
    return held


def park(database: Database, name: str) -> None:
    put(database, name)
    settling.settle(database, hold(database, name), Parked("it never worked", 8))


def ids(database: Database) -> dict[str, int]:
    return {row.key: row.id for row in backlog.listing(database)}


def notification(**payload: object) -> bytes:
    message = {
        "message_id": "m1",
        "publisher_id": "p",
        "event_type": "thing.broken",
        "priority": "INFO",
        "payload": payload,
        "timestamp": "2026-11-22 10:00:00.000000",
    }
    return json.dumps({"oslo.version": "2.0", "oslo.message": json.dumps(message)}).encode()


def bury(database: Database, *bodies: bytes, size: int | None = None) -> None:
    letters = [DeadLetter("nova", "nova", "stackmend.info", "not read", size or len(body), body) for body in bodies]
    hinting.enqueue(database, [], letters)


def test_work_list_filters(shell: Shell, database: Database) -> None:
    put(database, "a", "b")
    park(database, "c")
    hold(database, "b")

    def keys(*arguments: str) -> list[str]:
        return sorted(row["key"] for row in shell("work", "list", "-f", "json", *arguments).json)

    assert keys() == ["thing:a", "thing:b", "thing:c"]
    assert keys("--state", "pending") == ["thing:a"]
    assert keys("--state", "running") == ["thing:b"]
    assert keys("--state", "parked") == ["thing:c"]
    assert keys("--handler", "fixer") == []


def test_work_show(shell: Shell, database: Database) -> None:
    park(database, "c")
    row = shell("work", "show", str(ids(database)["thing:c"]), "-f", "json").json
    assert (row["state"], row["error"], row["attempts"]) == ("parked", "it never worked", 8)
    assert shell("work", "show", "99").err == "stackmend: no row of work has the id 99; nothing was done\n"


def test_retry_makes_parked_rows_due(shell: Shell, database: Database) -> None:
    park(database, "a")
    park(database, "b")
    put(database, "c")
    assert shell("work", "retry", "--all-parked").out == "2 rows are due now\n"
    assert {row.state for row in backlog.listing(database)} == {"pending"}
    assert len(claiming.claim(database, "me", ["mender"], 10, 60)) == 3


def test_retry_is_all_or_nothing(shell: Shell, database: Database) -> None:
    park(database, "a")
    known = str(ids(database)["thing:a"])
    assert shell("work", "retry", known, "99").code == 1
    assert backlog.listing(database)[0].state == "parked"
    assert shell("work", "retry", known).code == 0
    assert backlog.listing(database)[0].state == "pending"


def test_retry_does_not_hide_that_a_row_disappeared(
    shell: Shell, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    park(database, "a")
    park(database, "b")
    known = ids(database)

    def drop(_parsed_args: object) -> str:
        backlog.drop(database, [known["thing:a"]])
        return "alice"

    monkeypatch.setattr("consumer.cli.work.operator", drop)
    ran = shell("work", "retry", *[str(number) for number in known.values()])
    assert (ran.code, ran.out, ran.err) == (1, "1 row is due now\n", "1 row disappeared meanwhile\n")


@pytest.mark.parametrize("arguments", [("retry",), ("retry", "1", "--all-parked")])
def test_retry_wants_one_choice(shell: Shell, arguments: tuple[str, ...]) -> None:
    ran = shell("work", *arguments)
    assert (ran.code, ran.err) == (1, "stackmend: give the ids of rows, or --all-parked\n")


def test_drop_leaves_what_is_being_worked_on(shell: Shell, database: Database) -> None:
    put(database, "a", "b")
    hold(database, "b")
    held = ids(database)["thing:b"]
    ran = shell("work", "drop", *[str(number) for number in ids(database).values()])
    assert (ran.code, ran.out) == (1, "1 row dropped\n")
    assert f"not dropped, because work on them is in progress: {held}\n" in ran.err
    assert list(ids(database)) == ["thing:b"]


def test_history_lists_and_filters(shell: Shell, database: Database) -> None:
    shell.world.things = {"a": 1}
    shell("sweep")
    origin = Origin("thing.broken", "me", hinted_at=0.0)
    line = Line("mender", Key("thing", "x"), Outcome.FOUND, "broken", "x\x1b is broken", origin)
    history.append(database, [line])
    rows = shell("history", "-f", "json").json
    assert [(row["key"], row["outcome"], row["action"], row["undo"]) for row in rows] == [
        ("thing:a", "healed", "mended a", "break a"),
        ("thing:x", "found", "", ""),
    ]
    assert rows[0]["time"].endswith("Z")
    assert rows[1]["lag_s"] > 1e9
    assert [row["key"] for row in shell("history", "--outcome", "found", "-f", "json").json] == ["thing:x"]
    assert [row["key"] for row in shell("history", "--key", "thing:a", "-f", "json").json] == ["thing:a"]
    assert len(shell("history", "--since", "1h", "-f", "json").json) == 2
    assert shell("history", "--since", "2126-01-01", "-f", "json").json == []
    assert len(shell("history", "--limit", "1", "-f", "json").json) == 1
    table = shell("history").out
    assert "\x1b" not in table
    assert "x\\x1b is broken" in table


def test_history_show(shell: Shell, database: Database) -> None:
    shell.world.things = {"a": 5}
    shell("sweep")
    row = shell("history", "show", "1", "-f", "json").json
    assert (row["before"], row["after"], row["undo"]) == ({"generation": 5}, {"generation": 0}, "break a")
    assert row["evidence"] == {"generation": 5}
    assert "break a" in shell("history", "show", "1").out
    assert shell("history", "show", "9").code == 1
    assert "write a time span" in shell("history", "--since", "soon").err


def test_replay_queues_what_is_understood_now(shell: Shell, database: Database) -> None:
    shell.configure("[housekeeping]\nfixer_mode = audit\n")
    bury(database, notification(name="a"), b"\xff not json", notification(name="ignored"), notification())
    ran = shell("dead", "replay", "--all", "-f", "json")
    assert ran.code == 2
    assert [(row["event"], row["keys"]) for row in ran.json] == [
        ("thing.broken", ["mender thing:a", "fixer thing:a"]),
        ("", []),
        ("thing.broken", []),
        ("thing.broken", []),
    ]
    assert ran.err == "2 dead letters decoded, 2 not\n"
    assert {(row.handler, row.key, row.hint) for row in backlog.listing(database)} == {
        ("mender", "thing:a", "thing.broken"),
        ("fixer", "thing:a", "thing.broken"),
    }
    assert dead.ids(database) == [2, 4]


def test_replay_queues_nothing_for_a_handler_that_is_off(shell: Shell, database: Database) -> None:
    bury(database, notification(name="a"))
    assert shell("dead", "replay", "1").code == 0
    assert [row.handler for row in backlog.listing(database)] == ["mender"]


def test_a_message_that_was_cut_cannot_be_replayed(shell: Shell, database: Database) -> None:
    bury(database, notification(name="a"), size=10_000_000)
    ran = shell("dead", "replay", "--all", "-f", "json")
    assert ran.code == 2
    assert "of its 10000000 bytes are stored" in ran.json[0]["result"]
    assert dead.ids(database) == [1]


@pytest.mark.parametrize("compress", [zlib.compress, bz2.compress, lzma.compress], ids=["gzip", "bz2", "lzma"])
def test_a_compressed_message_is_replayed(shell: Shell, database: Database, compress: Callable[[bytes], bytes]) -> None:
    large, larger = (notification(name="a", text="x" * size) for size in (2_000_000, 5_000_000))
    bury(database, large, compress(large), compress(larger), compress(large)[:-9])
    assert shell("dead", "replay", "--all").code == 2
    assert dead.ids(database) == [1, 2, 3, 4]
    shell.configure("[bus]\nmax_body_bytes = 3000000\n")
    ran = shell("dead", "replay", "--all", "-f", "json")
    assert [row["keys"] for row in ran.json] == [["mender thing:a"], ["mender thing:a"], [], []]
    assert "more than the limit of 3000000 bytes" in ran.json[2]["result"]
    assert dead.ids(database) == [3, 4]


def test_dead_list_show_drop(shell: Shell, database: Database) -> None:
    bury(database, b'{"admin_password": "s3cret", "x": "\x1b[2J"}', b"b", b"c")
    assert [row["reason"] for row in shell("dead", "list", "-f", "json").json] == ["not read"] * 3
    shown = shell("dead", "show", "1").out
    assert "s3cret" not in shown
    assert "\x1b" not in shown
    assert shell("dead", "drop", "2").out == "1 dead letter dropped\n"
    assert shell("dead", "drop", "2").code == 1
    assert shell("dead", "drop", "--all").out == "2 dead letters dropped\n"
    assert dead.ids(database) == []


def test_db(shell: Shell) -> None:
    ran = shell("db", "version", "-f", "json")
    assert (ran.code, ran.json) == (2, {"journal": None, "program": migrations.head(), "oldest": None})
    assert shell("db", "upgrade").out == f"the journal has revision {migrations.head()}; before: none\n"
    assert shell("db", "upgrade").out == f"the journal has revision {migrations.head()}\n"
    assert shell("db", "version").code == 0
    database = Database(open_engine(f"sqlite:///{shell.folder}/journal.sqlite"))
    assert migrations.current(database) == migrations.head()
    database.close()


def test_the_check_of_an_upgrade_names_both_revisions_and_changes_nothing(shell: Shell) -> None:
    file = shell.folder / "journal.sqlite"
    ran = shell("db", "upgrade", "--check")
    assert (ran.code, ran.out) == (2, "an upgrade is due: the journal has revision none, this program has 0002\n")
    assert not file.exists()
    database = Database(open_engine(f"sqlite:///{file}"))
    first.make_journal(database)
    ran = shell("db", "upgrade", "--check")
    assert (ran.code, ran.out) == (2, "an upgrade is due: the journal has revision 0001, this program has 0002\n")
    assert migrations.schema_of(database) == Schema("0001", None)
    assert shell("db", "upgrade").out == "the journal has revision 0002; before: 0001\n"
    ran = shell("db", "upgrade", "--check")
    assert (ran.code, ran.out) == (0, "no upgrade is due: the journal has revision 0002, this program has 0002\n")
    database.close()


def test_commands_for_a_journal_of_a_newer_release(shell: Shell, database: Database) -> None:
    upgrades.mark(database, "9998", oldest="0002")
    ran = shell("db", "upgrade", "--check")
    assert (ran.code, ran.out) == (0, "no upgrade is due: the journal has revision 9998, this program has 0002\n")
    ran = shell("db", "version", "-f", "json")
    assert (ran.code, ran.json) == (2, {"journal": "9998", "program": "0002", "oldest": "0002"})
    assert "this program can use it" in ran.err
    assert shell("history").code == 0
    upgrades.mark(database, "9999", oldest="9999")
    sentence = (
        "the journal's schema has revision 9999, which needs programs of revision 9999 or newer, and this program has 0002: "
        "install the newer release of stackmend"
    )
    for command in (["db", "upgrade", "--check"], ["db", "upgrade"], ["history"], ["work", "list"]):
        ran = shell(*command)
        assert (ran.code, ran.out, ran.err) == (1, "", f"stackmend: {sentence}\n")
    assert "this program cannot use it" in shell("db", "version").err
