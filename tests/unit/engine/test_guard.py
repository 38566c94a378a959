"""Which differences between two watermarks prove an older or another database, and which have an innocent reason."""

from __future__ import annotations

import pytest

from consumer.engine.guard import falls, remembered
from handlers.base import Ids, Rising, Watermark

ANCHORS = {"service 1": "nova-compute on a", "service 2": "nova-compute on b", "service 3": "nova-compute on c"}


def cell(next_id: int, highest: int, anchors: dict[str, str] | None = None) -> Watermark:
    ids = Ids("instances", highest, next_id)
    return Watermark("cell:cell1", "db1", anchors=ANCHORS if anchors is None else anchors, ids=(ids,))


@pytest.mark.parametrize(
    ("now", "reasons"),
    [
        pytest.param(cell(101, 100), [], id="nothing happened"),
        pytest.param(cell(140, 139), [], id="it grew"),
        pytest.param(cell(101, 40), [], id="the newest rows were purged"),
        pytest.param(cell(104, 100), [], id="a writer of the cluster answered that is ahead"),
        pytest.param(cell(101, 97), [], id="the newest rows were purged, and another writer of the cluster answered"),
        pytest.param(cell(90, 100), [], id="the server answered from an old cache"),
        pytest.param(
            cell(80, 79),
            ["instances: highest id 100 before, 79 now with the next id 80"],
            id="restored",
        ),
        pytest.param(
            cell(101, 100, {"service 1": "nova-compute on x"}),
            ["service 1 was nova-compute on a, is nova-compute on x now"],
            id="another database",
        ),
        pytest.param(cell(101, 100, {"service 2": ANCHORS["service 2"]}), [], id="one old row is gone"),
        pytest.param(
            cell(101, 100, {}), ["none of 3 known rows is there, for example service 1"], id="an empty schema"
        ),
        pytest.param(Watermark("cell:cell1", "db1", anchors=ANCHORS), [], id="the counters are unknown now"),
    ],
)
def test_falls(now: Watermark, reasons: list[str]) -> None:
    assert list(falls(cell(103, 100), now)) == reasons


def test_a_copy_from_before_rows_that_were_purged_is_recognised() -> None:
    """The newest rows were purged first, so the copy has a higher id than the database had a minute ago."""
    purged = remembered(cell(103, 100), cell(103, 40))
    assert list(falls(purged, cell(81, 60))) == [
        "instances: highest id 100 before, 60 now with the next id 81",
    ]
    assert not list(falls(purged, cell(104, 40)))
    assert not list(falls(purged, cell(104, 103)))


def test_after_a_fall_the_older_copy_counts() -> None:
    assert remembered(cell(103, 100), cell(61, 60)) == cell(61, 60)


def test_two_old_rows_can_be_deleted() -> None:
    assert list(falls(cell(103, 100, {"service 1": "a", "service 2": "b"}), cell(103, 100, {}))) == []


def test_two_generations_of_providers_must_fall() -> None:
    def placement(**generations: int) -> Watermark:
        return Watermark("placement", "its API", (Rising("generations", generations, 2),), {})

    before = placement(a=10, b=10, c=10)
    assert not list(falls(before, placement(a=0, b=11, c=10)))
    assert not list(falls(before, placement(a=0, b=12)))
    assert list(falls(before, placement(a=9, b=9, c=10)))
