"""The bound of one run, over several heals of one key."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from consumer.engine.gates import Bound, Request
from handlers.base import Finding, Key


def request(key: str, weight: int) -> Request:
    finding = Finding(Key("thing", key), "broken", "it is broken", {}, weight=weight)
    return Request(cast("Any", SimpleNamespace(name="mender")), finding)


@pytest.mark.parametrize(
    ("asked", "refused"),
    [
        ([("a", 2), ("b", 1)], [False, False]),
        ([("a", 2), ("b", 2)], [False, True]),
        ([("a", 2), ("a", 2), ("b", 1)], [False, False, False]),
        ([("a", 1), ("a", 3)], [False, False]),
        ([("a", 1), ("a", 4)], [False, True]),
        ([("a", 1), ("b", 1), ("a", 3)], [False, False, True]),
    ],
    ids=["fits", "too many", "steps count once", "grows", "grows too much", "grows beside another"],
)
def test_heals_of_one_key_count_by_the_heaviest(asked: list[tuple[str, int]], refused: list[bool]) -> None:
    bound = Bound(3)
    assert [bound.ask(cast("Any", None), request(*one), 0.0) is not None for one in asked] == refused
