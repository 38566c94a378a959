"""The safety page has a row for every problem that a handler heals."""

from __future__ import annotations

import re

import pytest

from consumer import plugins
from handlers.base import Finding, Handler, Key, Refused
from tests.safety import Row, rows

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
    if row.heal.startswith(ADDITIONS) or refers:
        return
    assert len(row.proof.split("; ")) >= 2


def test_a_row_refers_to_rows_of_the_same_handler() -> None:
    for row in ROWS:
        for problem in re.findall(r"the same as ``([a-z-]+)``|as for ``([a-z-]+)``", row.proof):
            assert (row.handler, "".join(problem)) in {(one.handler, one.problem) for one in ROWS}


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
