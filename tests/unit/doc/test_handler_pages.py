"""The pages of the handlers are generated from docstrings and class attributes."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import ModuleType

import pytest

from doc import handler_pages, handler_rights
from doc.directives import UnknownArgument, expand
from doc.handler_pages import Section
from handlers.base import EVERY_TABLE, Finding, Handler, Healed, Key, Mode, Privilege, Resources, Role, Roles, Trigger

MANUAL = """Paints sheds.

It never paints twice.

**What drifts.** A shed has
no colour.

=====  ====
one    two
=====  ====

**Undo.** Wash it.

**Never** on Sundays.

Sources: ``shed.py``.
"""


class PaintSheds(Handler):
    """A handler with every attribute that a page shows."""

    name = "paint_sheds"
    title = "Paint sheds that lack a colour"
    group = "audit"
    kinds = ("shed", "garden")
    healable_problems = frozenset({"shed-plain", "garden-plain"})
    triggers = (Trigger("shed.create", lambda event: None), Trigger("garden.update", lambda event: None))
    confirm_after = 2.5
    default_mode = Mode.AUDIT
    default_interval = 600
    default_heals_per_hour = 7
    requires = ("paint",)
    relies_on = ("colours",)
    follows = ("build_sheds",)
    rights = {
        "nova_api": {"sheds": frozenset({Privilege.UPDATE, Privilege.INSERT})},
        "cell": {EVERY_TABLE: frozenset({Privilege.DELETE})},
    }
    roles = Roles((Role(("reader", "painter"), "Colours, to list them"),), (Role(("painter",), "Colours"),))
    cost = "One query per garden."

    @classmethod
    def from_resources(cls, resources: Resources) -> PaintSheds:
        return cls()

    def inspect(self, key: Key) -> Iterator[Finding]:
        yield from ()

    def sweep(self) -> Iterator[Key]:
        yield from ()

    def population(self) -> int:
        return 0

    def heal(self, finding: Finding) -> Healed:
        return Healed("painted it")


@pytest.fixture
def paint_sheds(monkeypatch: pytest.MonkeyPatch) -> type[Handler]:
    """The handler, in a module of Nova's that has the manual as its docstring."""
    module = ModuleType("handlers.nova.sheds", MANUAL)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(PaintSheds, "__module__", module.__name__)
    return PaintSheds


def test_a_manual_splits_at_bold_headings_and_sources() -> None:
    assert handler_pages.sections(MANUAL) == [
        Section("", "Paints sheds.\n\nIt never paints twice."),
        Section("What drifts", "A shed has\nno colour.\n\n=====  ====\none    two\n=====  ===="),
        Section("Undo", "Wash it.\n\n**Never** on Sundays."),
        Section("Sources", "``shed.py``."),
    ]


def test_a_manual_without_headings_is_one_section() -> None:
    assert handler_pages.sections("One line.") == [Section("", "One line.")]


def test_the_facts_are_the_class_attributes(paint_sheds: type[Handler]) -> None:
    assert handler_pages.facts(paint_sheds) == {
        "Mode": "``[audit] paint_sheds_mode``, ``audit`` by default",
        "Sweeps": "``[audit] paint_sheds_interval``, 600 s by default",
        "Events": "``garden.update``, ``shed.create``",
        "Keys": "``shed:...``, ``garden:...``",
        "Heals": "``garden-plain``, ``shed-plain``",
        "Writes": "INSERT, UPDATE on ``sheds`` (nova_api); DELETE on every table (each cell)",
        "Confirmation": "found twice, unchanged, 2.5 s apart",
        "Budget": "``[audit] paint_sheds_heals_per_hour``, 7 by default",
        "Requires": "``paint``",
        "Relies on": "``colours``",
        "Follows": "``build_sheds``",
        "Roles": "``reader`` or ``painter`` for Colours, to list them; ``painter`` for Colours, to heal",
        "Cost": "One query per garden.",
    }


def test_a_shared_interval_option_replaces_the_handlers_own(
    paint_sheds: type[Handler], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paint_sheds, "interval_option", "garden_interval")

    assert handler_pages.facts(paint_sheds)["Sweeps"] == "``[audit] garden_interval``"


def test_a_handler_without_events_has_only_sweeps(paint_sheds: type[Handler], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paint_sheds, "triggers", ())

    assert handler_pages.facts(paint_sheds)["Events"] == "none; sweeps only"


def test_a_page_has_the_manual_and_the_facts(paint_sheds: type[Handler]) -> None:
    page = expand(handler_pages.stub("paint_sheds"), [paint_sheds])

    assert page.startswith(
        "===========\npaint_sheds\n===========\n\nPaints sheds.\n\nIt never paints twice.\n\n.. list-table::"
    )
    assert "   * - Requires\n     - ``paint``\n" in page
    assert "\n\nWhat drifts\n===========\n\nA shed has\nno colour.\n\n" in page
    assert "\n\nSources\n=======\n\n``shed.py``." in page


def test_the_list_links_every_handler_of_a_service(paint_sheds: type[Handler]) -> None:
    text = expand("Before\n\n.. handler-list:: nova\n\nAfter", [paint_sheds])

    assert "   * - :doc:`paint_sheds`\n     - Paint sheds that lack a colour\n     - reports\n" in text
    assert ".. toctree::\n   :hidden:\n\n   paint_sheds\n" in text
    assert text.startswith("Before\n\n")
    assert text.endswith("\n\nAfter")


def test_the_grants_are_a_block_of_sql_for_a_mode(paint_sheds: type[Handler]) -> None:
    create, *read = handler_rights.statements([paint_sheds], Mode.AUDIT)
    assert create == "CREATE USER IF NOT EXISTS 'stackmend'@'%' IDENTIFIED BY 'SECRET';"
    assert read == [f"GRANT SELECT ON {name}.* TO 'stackmend'@'%';" for name in ("nova_api", "nova_cell1", "octavia")]

    text = expand(".. handler-grants:: heal", [paint_sheds])

    assert text.startswith(".. code-block:: sql\n\n   CREATE USER")
    assert "   GRANT INSERT, UPDATE ON nova_api.sheds TO 'stackmend'@'%';\n" in text
    assert "   GRANT DELETE, SELECT ON nova_cell1.* TO 'stackmend'@'%';\n" in text


def test_the_rights_have_a_row_for_each_handler_that_writes_into_a_database(paint_sheds: type[Handler]) -> None:
    text = expand(".. handler-rights::", [paint_sheds, type("Reader", (paint_sheds,), {"name": "r", "rights": {}})])

    assert text.splitlines()[4:] == [
        "   * - Handler",
        "     - Writes",
        "   * - ``paint_sheds``",
        "     - INSERT, UPDATE on ``sheds`` (nova_api); DELETE on every table (each cell)",
    ]


def test_the_roles_have_a_row_for_each_role_and_mode(paint_sheds: type[Handler]) -> None:
    text = expand(".. handler-roles::", [paint_sheds, type("Other", (paint_sheds,), {"name": "other"})])

    assert text.splitlines()[7:] == [
        "   * - ``paint_sheds``, ``other``",
        "     - ``reader`` or ``painter``",
        "     - Colours, to list them",
        "   * - ``paint_sheds``, ``other`` in mode ``heal``",
        "     - ``painter``",
        "     - Colours",
    ]


@pytest.mark.parametrize(
    "line", [".. handler:: paint_shed", ".. handler-list:: cinder", ".. handler-grants:: off", ".. handler-list::"]
)
def test_a_line_that_names_something_unknown_stops_the_build(line: str, paint_sheds: type[Handler]) -> None:
    with pytest.raises(UnknownArgument, match=line.removeprefix(".. ")):
        expand(line, [paint_sheds])


def test_other_text_stays_as_it_is(paint_sheds: type[Handler]) -> None:
    source = "A sentence about ``.. handler:: paint_sheds``, in a line.\n"

    assert expand(source, [paint_sheds]) == source
