"""What is kept in the cloud, on the command line: listed, shown, released, deleted, each with a line in the history."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar, Self

import pytest

from consumer import plugins
from consumer.journal import history
from consumer.journal.database import Database
from handlers.base import Healed, Inventory, Json, Refused, Resources, Unavailable
from tests.functional.cli.shell import Shell

SHELF: dict[str, str] = {}


class Shelf(Inventory):
    """A shelf with labelled things."""

    name: ClassVar[str] = "thing kept"
    title: ClassVar[str] = "Things on the shelf"
    columns: ClassVar[tuple[str, ...]] = ("id", "kept_because")

    @classmethod
    def from_resources(cls, resources: Resources) -> Self:
        return cls()

    def items(self) -> Sequence[Json]:
        if "fire" in SHELF:
            raise Unavailable("workshop", "it burns")
        return [{"id": name, "kept_because": why} for name, why in SHELF.items()]

    def show(self, identity: str) -> Json:
        return {"id": identity, "kept_because": SHELF[identity], "look_inside": ["lid", "lamp"]}

    def delete(self, identity: str) -> Healed:
        if SHELF[identity] == "glued":
            raise Refused(f"{identity} is glued to the shelf")
        return Healed(f"deleted {identity}", {"kept_because": SHELF.pop(identity)}, {}, "cannot be undone")


@pytest.fixture(autouse=True)
def shelf(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(plugins, "inventory_names", lambda: [Shelf.name])
    monkeypatch.setattr(plugins, "inventory", lambda name: Shelf)
    SHELF.clear()
    SHELF.update({"a": "broken", "b": "glued"})
    yield
    SHELF.clear()


def test_list_and_show(shell: Shell, database: Database) -> None:
    listed = shell("thing", "kept", "list", "-f", "json")
    assert listed.code == 0
    assert listed.json == [{"id": "a", "kept_because": "broken"}, {"id": "b", "kept_because": "glued"}]
    assert "Kept because" in shell("thing", "kept", "list").out
    assert shell("thing", "kept", "show", "a", "-f", "json").json["look_inside"] == ["lid", "lamp"]


def test_delete_is_in_the_history(shell: Shell, database: Database) -> None:
    ran = shell("thing", "kept", "delete", "a")
    assert (ran.code, ran.out, list(SHELF)) == (0, "deleted a\n", ["b"])
    (entry,) = history.listing(database)
    assert (entry.handler, entry.key, entry.outcome, entry.action) == ("thing kept", "thing:a", "healed", "deleted a")
    assert entry.before == {"kept_because": "broken"}
    assert entry.undo == "cannot be undone"


def test_one_that_cannot_be_deleted_does_not_keep_the_rest(shell: Shell, database: Database) -> None:
    ran = shell("thing", "kept", "delete", "b", "nothing", "a")
    assert ran.code == 1
    assert list(SHELF) == ["b"]
    assert "b is glued to the shelf" in ran.err
    assert "no object has the id 'nothing'" in ran.err
    assert [(entry.key, entry.outcome) for entry in history.listing(database)] == [
        ("thing:b", "failed"),
        ("thing:a", "healed"),
    ]


def test_the_error_names_items_that_cannot_be_released(shell: Shell, database: Database) -> None:
    ran = shell("thing", "kept", "release", "a")
    assert ran.code == 1
    assert "these items cannot be released" in ran.err
    assert list(SHELF) == ["a", "b"]


def test_unavailable_is_one_line(shell: Shell, database: Database) -> None:
    SHELF["fire"] = "burns"
    ran = shell("thing", "kept", "list")
    assert (ran.code, ran.out) == (1, "")
    assert ran.err == "stackmend: workshop: it burns\n"


def test_the_program_of_one_group_has_no_such_command(shell: Shell, database: Database) -> None:
    ran = shell("thing", "kept", "list", program="nova-audit")
    assert ran.code == 1
    assert "unknown command" in ran.err
