"""The verdict on the clocks of a Galera cluster."""

from __future__ import annotations

import pytest

from consumer.cli.check import of_nodes
from consumer.journal.node_clocks import NodeClock, addresses, hidden
from handlers.base import Verdict


@pytest.mark.parametrize(
    ("ahead", "verdict", "words"),
    [
        ((0.0, 1.0, -0.9), Verdict.OK, "3 nodes: n0:3306, n1:3306, n2:3306; they agree"),
        ((100.0, 100.5, 101.0), Verdict.OK, "they agree"),
        ((0.0, 1.1, -1.1), Verdict.WARNING, "the clock of n1:3306 is 2 s ahead of that of n2:3306"),
        ((0.0, 0.0, -60.0), Verdict.WARNING, "the clock of n0:3306 is 60 s ahead of that of n2:3306"),
        ((0.0, None, -60.0), Verdict.WARNING, "n1:3306 is unknown: refused"),
    ],
)
def test_nodes_are_compared_with_each_other(ahead: tuple[float | None, ...], verdict: Verdict, words: str) -> None:
    clocks = [NodeClock(f"n{n}:3306", one, "refused" if one is None else "") for n, one in enumerate(ahead)]
    checked = of_nodes(clocks)
    assert checked.verdict is verdict
    assert words in checked.text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10.0.0.1:3306,db2:3307", [("10.0.0.1", 3306), ("db2", 3307)]),
        ("[2001:db8::1]:3306,,AUTO", [("2001:db8::1", 3306)]),
        ("", []),
    ],
)
def test_the_addresses_of_the_nodes(text: str, expected: list[tuple[str, int]]) -> None:
    assert list(addresses(text)) == expected


@pytest.mark.parametrize(("text", "count"), [("AUTO,10.0.0.2:3306, AUTO", 2), ("10.0.0.2:3306,", 0)])
def test_a_node_that_galera_lists_without_an_address_is_unknown(text: str, count: int) -> None:
    clocks = list(hidden(text))
    assert len(clocks) == count
    if clocks:
        checked = of_nodes(clocks)
        assert checked.verdict is Verdict.WARNING
        assert "set wsrep_node_incoming_address" in checked.text
