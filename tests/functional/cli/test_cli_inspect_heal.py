"""``sweep``, ``inspect``, ``heal``: the world after, the history after, output, exit codes."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from consumer import plugins
from consumer.conf.window import DAYS
from consumer.journal import controls, history
from consumer.journal.database import Database
from handlers.base import Finding, InFlight, Key, Unavailable, Watermark
from tests.doubles import Mender
from tests.functional.cli.shell import Shell


def test_a_sweep_heals_and_writes_history(shell: Shell, database: Database) -> None:
    shell.world.things = {"a": 3, "b": 0, "c": 1}
    ran = shell("sweep", "-f", "json")
    assert ran.code == 0
    assert [(row["key"], row["action"], row["changed"], row["undo"]) for row in ran.json] == [
        ("thing:a", "healed", "mended a", "break a"),
        ("thing:c", "healed", "mended c", "break c"),
    ]
    assert ran.json[0]["evidence"] == {"generation": 3}
    assert ran.err == "2 drifts found in 1 handler: 2 healed\n"
    assert shell.world.drifted() == set()
    # Two threads heal: which one is first in the history is chance.
    assert {(entry.key, entry.outcome, entry.hint) for entry in history.listing(database)} == {
        ("thing:a", "healed", "sweep"),
        ("thing:c", "healed", "sweep"),
    }


def test_an_audit_changes_nothing_and_opens_no_journal(shell: Shell) -> None:
    shell.world.things = {"a": 3}
    ran = shell("sweep", "--audit")
    assert ran.code == 2
    [row] = [line for line in ran.out.splitlines() if "thing:a" in line]
    assert [cell.strip() for cell in row.strip("|").split("|")] == [
        "mender",
        "thing:a",
        "broken",
        "found",
        "a is broken",
    ]
    assert shell.world.drifted() == {"a"}
    assert not (shell.folder / "journal.sqlite").exists()


def test_a_clean_sweep_prints_no_table(shell: Shell) -> None:
    ran = shell("sweep")
    assert (ran.code, ran.out, ran.err) == (0, "", "no drift found\n")


def test_quiet_means_no_remarks(shell: Shell) -> None:
    assert shell("-q", "sweep").err == ""


def test_what_is_refused_remains(shell: Shell) -> None:
    shell.world.things = {"a": 1, "b": 1}
    shell.world.unhealable = frozenset({"a"})
    ran = shell("sweep", "-f", "json")
    assert ran.code == 2
    assert [(row["key"], row["action"], row["changed"]) for row in ran.json] == [
        ("thing:a", "refused", "nobody knows how"),
        ("thing:b", "healed", "mended b"),
    ]
    assert shell.world.drifted() == {"a"}


def test_a_paused_handler_is_looked_at_and_not_healed(shell: Shell, database: Database) -> None:
    shell.world.things = {"a": 1}
    assert shell("handler", "pause", "mender", "--reason", "restoring").code == 0
    ran = shell("sweep")
    assert ran.code == 2
    assert "mender is paused and heals nothing (restoring, by " in ran.err
    assert shell.world.drifted() == {"a"}


def test_handlers_that_stopped_for_one_reason_share_one_remark(shell: Shell, database: Database) -> None:
    shell.configure("[housekeeping]\nfixer_mode = heal\n")
    assert shell("handler", "pause", "mender", "fixer", "--reason", "restoring").code == 0
    ran = shell("sweep")
    assert "mender, fixer are paused and heal nothing (restoring, by " in ran.err
    assert ran.err.count("restoring") == 1


def test_a_sweep_of_one_handler_stops_every_handler_that_relies_on_a_restored_database(
    shell: Shell, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The journal remembers the newest watermark, so that a later command of another handler sees no difference."""
    rows = {"row 1": "old"}
    monkeypatch.setattr(plugins, "watermarks", lambda: [lambda _resources: [Watermark("world", "db", (), dict(rows))]])
    monkeypatch.setattr(Mender, "relies_on", ("world",))
    shell.configure("[housekeeping]\nfixer_mode = heal\n")
    assert shell("sweep", "fixer").code == 0
    shell.world.things = {"a": 1}
    rows["row 1"] = "other"
    assert shell("sweep", "fixer").code == 2

    ran = shell("sweep", "mender")

    assert ran.code == 2
    assert "mender is stopped and heals nothing (the database world" in ran.err
    assert shell.world.drifted() == {"a"}


def test_resume_accepts_no_database_that_the_operator_has_not_heard_of(
    shell: Shell, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = {"row 1": "old"}
    monkeypatch.setattr(plugins, "watermarks", lambda: [lambda _resources: [Watermark("world", "db", (), dict(rows))]])
    monkeypatch.setattr(Mender, "relies_on", ("world",))
    assert shell("sweep", "mender").code == 0
    assert shell("handler", "pause", "mender").code == 0
    rows["row 1"] = "other"

    refused = shell("handler", "resume", "mender")
    assert refused.code == 1
    assert "nothing is resumed" in refused.err
    assert "row 1 was old, is other now" in refused.err
    assert controls.read(database)["mender"].stopped

    assert shell("handler", "resume", "mender").code == 0
    assert not controls.read(database)["mender"].stopped
    assert shell("sweep", "mender").code == 0


def test_outside_its_window_a_sweep_heals_nothing_and_a_named_object_is_healed(
    shell: Shell, database: Database
) -> None:
    # A day that is today nowhere on earth.
    today = datetime.now(UTC).weekday()
    shell.configure(f"[audit]\nmender_window = {DAYS[(today + 3) % 7]} 00:00-24:00\n")
    shell.world.things = {"a": 1, "b": 1}
    ran = shell("sweep", "-f", "json")
    assert ran.code == 2
    assert [row["action"] for row in ran.json] == ["deferred", "deferred"]
    assert "is closed" in ran.json[0]["changed"]
    assert "mender is outside its window" in ran.err
    assert "2 deferred by a limit, a hold, a pause, the breaker or a closed window" in ran.err
    assert shell.world.drifted() == {"a", "b"}
    assert history.listing(database) == []
    assert shell("sweep", "--audit").code == 2
    assert shell("heal", "mender", "a").code == 0
    assert shell.world.drifted() == {"b"}


def test_naming_a_handler_that_is_off_is_an_error(shell: Shell) -> None:
    shell.world.things = {"a": 1}
    ran = shell("sweep", "fixer")
    assert ran.code == 1
    assert ran.err == "stackmend: fixer is off: add --audit, or set [housekeeping] fixer_mode = heal\n"
    assert shell("sweep", "fixer", "--audit").code == 2


def test_what_does_not_answer_is_an_error(shell: Shell) -> None:
    def down(_key: Key) -> None:
        raise Unavailable("workshop", "refused the connection")

    shell.world.things = {"a": 1}
    shell.world.before_look = down
    ran = shell("sweep", "-f", "json")
    assert ran.code == 1
    assert [row["action"] for row in ran.json] == ["unavailable"]
    for command in (("sweep",), ("inspect", "mender", "a"), ("heal", "mender", "a")):
        ran = shell(*command)
        assert ran.code == 1
        assert "refused the connection" in " ".join(ran.out.split()), f"the table of {command[0]} says why"


def test_more_than_can_be_believed(shell: Shell) -> None:
    shell.configure("[engine]\nbreaker_count = 1\n")
    shell.world.things = dict.fromkeys("abc", 1)
    ran = shell("sweep")
    assert ran.code == 1
    assert "raise [engine] breaker_count" in ran.out
    assert shell.world.drifted() == {"a", "b", "c"}


def test_the_hourly_budget_counts(shell: Shell) -> None:
    shell.configure("[engine]\nheals_per_hour = 1\nworkers = 1\n")
    shell.world.things = dict.fromkeys("ab", 1)
    ran = shell("sweep", "-f", "json")
    assert ran.code == 2
    assert sorted(row["action"] for row in ran.json) == ["deferred", "healed"]
    assert len(shell.world.drifted()) == 1


def test_nova_audit_knows_only_its_group(shell: Shell) -> None:
    ran = shell("sweep", "fixer", program="nova-audit")
    assert ran.code == 1
    assert ran.err == "nova-audit: there is no handler fixer; the handlers are: mender\n"


def test_inspect_proves_and_changes_nothing(shell: Shell) -> None:
    shell.world.things = {"a": 7}
    ran = shell("inspect", "mender", "a", "-f", "json")
    assert ran.code == 2
    [row] = ran.json
    assert (row["key"], row["problem"], row["evidence"]) == ("thing:a", "broken", {"generation": 7})
    assert shell.world.drifted() == {"a"}
    assert not (shell.folder / "journal.sqlite").exists()


def test_inspect_finds_nothing(shell: Shell) -> None:
    ran = shell("inspect", "mender", "thing:a")
    assert (ran.code, ran.out) == (0, "")
    assert ran.err.splitlines()[0] == "no drift found"
    assert "thing:a has no drift, or mender does not know it" in ran.err, "the key may be mistyped"


def test_a_sweep_names_the_dependency_that_does_not_answer(shell: Shell) -> None:
    shell.world.sweep_error = Unavailable("cell1", "does not answer")
    ran = shell("sweep", "--audit")
    assert ran.code == 1
    assert "cell1: does not answer" in ran.out


def test_a_look_that_fails_is_an_error(shell: Shell) -> None:
    def fail(_key: Key) -> None:
        raise RuntimeError("a bug")

    shell.world.before_look = fail
    assert shell("inspect", "mender", "a").code == 1


@pytest.mark.parametrize("mode", ["off", "audit", "heal"])
def test_heal_heals_whatever_the_mode(shell: Shell, database: Database, mode: str) -> None:
    shell.configure(f"[audit]\nmender_mode = {mode}\n")
    shell.world.things = {"a": 2, "b": 2}
    ran = shell("heal", "mender", "thing:a", "-f", "json")
    assert ran.code == 0
    assert [(row["action"], row["changed"], row["undo"]) for row in ran.json] == [("healed", "mended a", "break a")]
    assert shell.world.drifted() == {"b"}
    [entry] = history.listing(database)
    assert (entry.hint, entry.outcome, entry.before, entry.after) == (
        "operator",
        "healed",
        {"generation": 2},
        {"generation": 0},
    )


def test_a_heal_that_finds_the_object_in_flight_changes_nothing(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    def moving(_finding: Finding) -> None:
        raise InFlight("being moved", after=1000)

    shell.world.things = {"a": 2}
    shell.world.before_heal = moving
    ran = shell("heal", "mender", "a")
    assert "mended" not in ran.out
    assert shell.world.drifted() == {"a"}


def test_keys_of_another_kind(shell: Shell) -> None:
    ran = shell("heal", "mender", "host:a")
    assert ran.code == 1
    assert ran.err == "stackmend: mender takes no key of the kind 'host'; it takes thing:<id>\n"


def test_pausing_and_resuming(shell: Shell, database: Database) -> None:
    shell("handler", "pause", "mender", "fixer")
    assert {name for name, control in controls.read(database).items() if control.paused} == {"mender", "fixer"}
    [row] = [row for row in shell("handler", "list", "-f", "json").json if row["name"] == "mender"]
    assert row["state"].startswith("paused: by ")
    ran = shell("handler", "resume", "mender", "fixer")
    assert ran.out == "resumed: mender, fixer; 1 sweep due now\n"
    assert "fixer stays off" in ran.err
    assert not any(control.stopped for control in controls.read(database).values())
    assert [(row["handler"], row["key"]) for row in shell("work", "list", "-f", "json").json] == [
        ("mender", "sweep:mender")
    ]


def test_the_breaker_ends_with_resume(shell: Shell, database: Database) -> None:
    controls.ensure(database, ["mender"])
    database.transact(lambda connection: controls.break_off(connection, ["mender"], "too many"))
    states = {row["name"]: row["state"] for row in shell("handler", "list", "-f", "json").json}
    assert states["mender"] == "stopped: too many"
    shell("handler", "resume", "mender")
    assert not controls.read(database)["mender"].stopped


def test_handler_list(shell: Shell) -> None:
    ran = shell("handler", "list", "-f", "json")
    mender, fixer = sorted(ran.json, key=lambda row: row["name"], reverse=True)
    assert (mender["mode"], mender["interval"], mender["state"], mender["heals_left"]) == (
        "heal",
        3600,
        "no daemon",
        200,
    )
    assert (fixer["mode"], fixer["state"], fixer["group"]) == ("off", "off", "housekeeping")
    assert ran.err == "no daemon runs on this journal\n"
    assert "| 60 min   |" in shell("handler", "list").out
