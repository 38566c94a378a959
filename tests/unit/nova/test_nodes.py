"""Batches are read ahead of the caller."""

from __future__ import annotations

import threading

import pytest

from handlers.nova.nodes import read_ahead


def test_batches_come_in_order_and_an_error_with_its_batch() -> None:
    def look(part: int) -> int:
        if part == 3:
            raise ValueError("three")
        return part * 10

    seen = []
    for part, done in read_ahead(look, range(1, 6)):
        if part == 3:
            with pytest.raises(ValueError, match="three"):
                done.result()
        else:
            seen.append((part, done.result()))
    assert seen == [(1, 10), (2, 20), (4, 40), (5, 50)]


def test_the_next_part_is_read_ahead_while_the_caller_is_at_one() -> None:
    begun = [threading.Event() for _ in range(3)]
    parts = read_ahead(lambda part: begun[part].set(), range(3))
    assert next(parts)[0] == 0
    assert begun[1].wait(60)
    assert [part for part, _ in parts] == [1, 2]
