"""``sweep --cell``, ``--key`` and ``--max-count``: the objects that one run may heal."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import ClassVar

import pytest

from consumer import plugins
from consumer.cli.sweep import within
from consumer.journal import history
from consumer.journal.database import Database
from handlers.base import Finding, Healed, Key, Watermark
from tests.functional.cli.shell import Fixer, Shell, WorldMender

ONE, TWO = "11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222"


class CelledMender(WorldMender):
    """A mender that knows the cells of each thing: the letters of its name."""

    concerned_kinds: ClassVar[frozenset[str]] = frozenset({"cell"})

    def inspect(self, key: Key) -> Iterable[Finding]:
        for finding in super().inspect(key):
            yield replace(finding, concerns=frozenset(f"cell:{cell}" for cell in key.id.rstrip("12").upper()))


@pytest.fixture
def celled(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> Shell:
    marks = [Watermark(f"cell:{name}", "db") for name in "ab"]
    monkeypatch.setattr(plugins, "watermarks", lambda: [lambda _resources: marks])
    monkeypatch.setattr(plugins, "handlers", lambda: [CelledMender, Fixer])
    shell.world.things = {"a1": 1, "a2": 1, "b1": 1}
    return shell


def test_a_sweep_of_a_cell_heals_nothing_in_other_cells(celled: Shell) -> None:
    ran = celled("sweep", "--cell", "a", "-f", "json")
    assert ran.code == 0
    assert [(row["key"], row["action"]) for row in ran.json] == [("thing:a1", "healed"), ("thing:a2", "healed")]
    assert celled.world.drifted() == {"b1"}
    assert celled("sweep", "--audit", "--cell", "a").code == 0
    assert celled("sweep", "--audit", "--cell", "a", "--cell", "b").code == 2


def test_a_finding_that_also_concerns_another_cell_is_left_out(celled: Shell) -> None:
    celled.world.things = {"ab1": 1}
    assert celled("sweep", "--cell", "a").code == 0
    assert celled.world.drifted() == {"ab1"}
    assert celled("sweep", "--cell", "a", "--cell", "b").code == 0
    assert celled.world.drifted() == set()


def test_a_finding_that_also_concerns_a_cell_that_is_silent_is_left_out(celled: Shell) -> None:
    celled.world.things = {"ac1": 1}
    assert celled("sweep", "--cell", "a").code == 0
    assert celled.world.drifted() == {"ac1"}


@pytest.mark.parametrize(
    ("concerned", "selected"),
    [
        ({"cell:One", f"cell:{ONE}", "host:cell:two"}, True),
        ({"cell:one", f"cell:{ONE}", f"cell:{TWO}"}, False),
        ({f"cell:{TWO}"}, False),
        ({"cell:one", "cell:two"}, False),
        ({"host:one"}, False),
        (set(), False),
    ],
)
def test_a_finding_is_selected_if_all_its_cells_are_named(concerned: set[str], selected: bool) -> None:
    finding = Finding(Key("thing", "one"), "wrong", "it is wrong", {}, concerns=frozenset(concerned))
    assert within(["one"])(finding) is selected


def test_a_cell_without_a_name_is_named_by_its_uuid() -> None:
    finding = Finding(Key("thing", "one"), "wrong", "it is wrong", {}, concerns=frozenset({f"cell:{ONE}"}))
    assert within([ONE])(finding)
    assert not within([TWO])(finding)


def test_a_cell_that_does_not_exist_is_an_error(celled: Shell) -> None:
    ran = celled("sweep", "--cell", "c")
    assert ran.code == 1
    assert "there is no cell c, or its database does not answer; the cells are: a, b" in ran.err
    assert celled.world.drifted() == {"a1", "a2", "b1"}


def test_a_handler_that_does_not_name_cells_is_omitted_or_refused(celled: Shell) -> None:
    celled.configure("[housekeeping]\nfixer_mode = heal\n")
    ran = celled("sweep", "--cell", "a", "-f", "json")
    assert "omitted, because they do not name the cell of each finding: fixer" in ran.err
    assert {row["handler"] for row in ran.json} == {"mender"}
    refused = celled("sweep", "fixer", "--cell", "b")
    assert refused.code == 1
    assert "do not name the cell of each finding: fixer" in refused.err
    assert celled.world.drifted() == {"b1"}


def test_one_run_heals_no_more_than_its_bound(shell: Shell, database: Database) -> None:
    shell.world.things = dict.fromkeys("abcde", 1)
    ran = shell("sweep", "--max-count", "2", "-f", "json")
    assert ran.code == 2
    assert sorted(row["action"] for row in ran.json) == ["deferred"] * 3 + ["healed"] * 2
    assert {row["details"] for row in ran.json if row["action"] == "deferred"} == {
        "this run may heal 2 objects (--max-count)"
    }
    assert len(shell.world.drifted()) == 3
    assert [entry.outcome for entry in history.listing(database)] == ["healed"] * 2
    assert shell("sweep", "--max-count", "3").code == 0
    assert shell.world.drifted() == set()


def test_the_bound_counts_objects_and_not_heals(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    inspect = WorldMender.inspect

    def heavy(self: WorldMender, key: Key) -> Iterable[Finding]:
        return [replace(finding, weight=3) for finding in inspect(self, key)]

    monkeypatch.setattr(WorldMender, "inspect", heavy)
    shell.world.things = {"a": 1, "b": 1}
    ran = shell("sweep", "--max-count", "5", "-f", "json")
    assert sorted(row["action"] for row in ran.json) == ["deferred", "healed"]
    assert shell("sweep", "--max-count", "2", "-f", "json").code == 2
    assert len(shell.world.drifted()) == 1


def test_the_steps_of_one_heal_count_once(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    heal = WorldMender.heal

    def first_step(self: WorldMender, finding: Finding) -> Healed:
        if self.world.things[finding.key.id] == 2:
            self.world.things[finding.key.id] = 1
            return Healed("began", complete=False)
        return heal(self, finding)

    monkeypatch.setattr(WorldMender, "heal", first_step)
    shell.world.things = {"a": 2}
    ran = shell("sweep", "--max-count", "1", "-f", "json")
    assert [row["details"] for row in ran.json] == ["began", "mended a"]
    assert ran.code == 0


def test_a_key_is_inspected_without_a_sweep_by_each_handler_that_takes_it(shell: Shell) -> None:
    shell.configure("[housekeeping]\nfixer_mode = audit\n")
    shell.world.things = {"a": 1, "b": 1}
    ran = shell("sweep", "--key", "thing:a", "-f", "json")
    assert [(row["handler"], row["key"], row["action"]) for row in ran.json] == [("mender", "thing:a", "healed")]
    assert shell.world.drifted() == {"b"}


def test_a_key_that_no_handler_takes_is_an_error(shell: Shell) -> None:
    ran = shell("sweep", "--key", "host:compute-7")
    assert ran.code == 1
    assert "no handler of this run takes host:compute-7; the kinds are: thing" in ran.err
    assert shell("sweep", "--key", "thing").code == 1
    assert shell("sweep", "--max-count", "0").code == 1
