"""The safety page has a row for every problem that a handler heals."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from consumer import plugins
from handlers import withheld
from handlers.base import Finding, Handler, Key, Refused
from handlers.withheld import Withheld
from tests.safety import Row, rows

ROOT = Path(__file__).parents[3]
README = ROOT / "README.rst"
HANDLERS = [handler for handler in plugins.handlers() if handler.__module__.startswith("handlers.")]
#: heals that change nothing that exists need the object itself and no second record
ADDITIONS = ("adds ", "creates ")


ROWS = rows()


def test_every_problem_that_is_healed_has_one_row() -> None:
    listed = sorted((row.handler, row.problem) for row in ROWS)
    healed = sorted((handler.name, problem) for handler in HANDLERS for problem in handler.healable_problems)

    assert listed == healed


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.handler}-{row.problem}")
def test_a_heal_that_takes_something_has_two_records(row: Row) -> None:
    refers = re.search(r"the same|as for ``([a-z-]+)``", row.proof)
    if row.heal.startswith(ADDITIONS) or row.proof.startswith("Withheld") or refers:
        return
    assert len(row.proof.split(". Withheld")[0].split("; ")) >= 2


def test_a_row_refers_to_rows_of_the_same_handler() -> None:
    for row in ROWS:
        for problem in re.findall(r"the same as ``([a-z-]+)``|as for ``([a-z-]+)``", row.proof):
            assert (row.handler, "".join(problem)) in {(one.handler, one.problem) for one in ROWS}


@pytest.mark.withheld
def test_the_readme_lists_the_heals_that_are_withheld_and_no_others() -> None:
    section = README.read_text().partition("\nHeals that only report\n")[2].partition("\nDocumentation\n")[0]
    listed = {" ".join(item.split()) for item in re.findall(r"^- (.+(?:\n  .+)*)", section, re.MULTILINE)}

    assert listed == {str(heal) for heal in Withheld if withheld.is_withheld(heal)}


@pytest.mark.withheld
def test_the_page_marks_the_heals_that_are_withheld_and_no_others() -> None:
    marked = {
        (row.handler, text) for row in ROWS for text in re.findall(r"Withheld[^:]*: it does not yet (.+)$", row.proof)
    }
    listed = set()
    for heal in Withheld:
        if withheld.is_withheld(heal):
            text, names = re.fullmatch(r"(.+) \((.+)\)", heal).groups()  # type: ignore[union-attr]
            listed |= {(name, text) for name in names.split(", ")}

    assert marked == listed


def test_a_handler_refuses_to_prove_a_problem_that_it_does_not_heal() -> None:
    class Careless(_Bare):
        name = "careless"
        healable_problems = frozenset({"known"})

    finding = Finding(Key("thing", "1"), "unknown", "it is broken")

    with pytest.raises(Refused, match="careless does not heal the problem unknown"):
        Careless().prove_again(finding)


class _Bare(Handler):
    """A handler that finds everything that it is asked about."""

    @classmethod
    def from_resources(cls, _resources: object) -> _Bare:
        return cls()

    def inspect(self, key: Key) -> list[Finding]:
        return [Finding(key, "unknown", "it is broken")]

    sweep = population = heal = None  # type: ignore[assignment]
