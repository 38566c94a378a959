from __future__ import annotations

from dataclasses import replace

import pytest

from consumer.engine.ended_leases import Sightings
from consumer.journal.work import Lease

LENGTH = 20.0
OLD = Lease(1, "t", 1000.0, over=True)


@pytest.fixture
def sightings() -> Sightings:
    seen = Sightings(LENGTH)
    assert seen.ended([OLD], 0.0, 1.0) == []
    return seen


def test_a_lease_that_nobody_extends_has_ended_after_a_whole_lease(sightings: Sightings) -> None:
    assert sightings.ended([OLD], 20.9, 21.0) == []
    assert sightings.ended([OLD], 21.0, 21.1) == [OLD]


def test_a_lease_that_is_extended_never_ends_though_it_is_over_by_another_clock(sightings: Sightings) -> None:
    for clock in range(5, 200, 5):
        assert sightings.ended([replace(OLD, until=1000.0 + clock)], clock, clock) == []


def test_a_lease_that_is_not_over_does_not_end(sightings: Sightings) -> None:
    longer = replace(OLD, until=2000.0, over=False)
    assert sightings.ended([longer], 5.0, 5.0) == []
    assert sightings.ended([longer], 500.0, 500.0) == []


def test_another_claim_on_the_row_is_another_lease(sightings: Sightings) -> None:
    assert sightings.ended([replace(OLD, token="u")], 30.0, 30.0) == []


def test_a_slow_read_does_not_count(sightings: Sightings) -> None:
    """The leases were read at some time between the two clocks."""
    assert sightings.ended([OLD], 2.0, 60.0) == []


def test_a_lease_that_was_away_is_new(sightings: Sightings) -> None:
    assert sightings.ended([], 5.0, 5.0) == []
    assert sightings.ended([OLD], 30.0, 30.0) == []
