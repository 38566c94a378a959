"""Holds: files, answers of Prometheus, and the board, which holds everything when a source cannot be read."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from consumer.engine.holds import Board, Source
from consumer.engine.holds.files import hold_file, hosts_file
from consumer.engine.holds.prometheus import holds
from handlers.base import Finding, Hold, Key, Unavailable


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", [("all", "{path} exists")]),
        ("# nobody knows why\n", [("all", "{path} exists")]),
        ("upgrading nova\n", [("all", "upgrading nova")]),
        ("all upgrading  nova\n", [("all", "upgrading nova")]),
        ("host:compute-7 memory test\n", [("host:compute-7", "memory test")]),
        (
            "host:compute-7\n\n# next week\ncell:cell1 new database",
            [("host:compute-7", "{path} exists"), ("cell:cell1", "new database")],
        ),
        ("hots:compute-7 a misspelt scope", [("all", "hots:compute-7 a misspelt scope")]),
        ("host: compute-7", [("all", "host: compute-7")]),
        ("host:compute-7: memory test\n", [("host:compute-7", "memory test")]),
        ("host:compute-7,compute-8 memory", [("all", "host:compute-7,compute-8 memory")]),
        ("host:compute-* memory", [("all", "host:compute-* memory")]),
        ("all: upgrading nova\n", [("all", "upgrading nova")]),
        ("allocations are restored\n", [("all", "allocations are restored")]),
    ],
)
def test_a_hold_file(tmp_path: Path, text: str, expected: list[tuple[str, str]]) -> None:
    path = tmp_path / "hold"
    path.write_text(text)
    found = [(hold.scope, hold.reason) for hold in hold_file(path)]
    assert found == [(scope, reason.format(path=path)) for scope, reason in expected]


def test_a_hold_file_that_does_not_exist_holds_nothing(tmp_path: Path) -> None:
    assert list(hold_file(tmp_path / "hold")) == []


def test_a_list_of_hosts(tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    path.write_text("compute-1,\nhost:compute-2: new disks\n# compute-3\n")
    assert list(hosts_file(path)) == [
        Hold("host:compute-1", "in maintenance"),
        Hold("host:compute-2", "new disks"),
    ]
    path.write_text("\ufeffcompute-1\ncompute-2,compute-3\n", encoding="utf-8")
    assert list(hosts_file(path)) == [
        Hold("host:compute-1", "in maintenance"),
        Hold("all", f"{path} has several hosts in one word: compute-2,compute-3"),
    ]
    path.write_text("")
    assert list(hosts_file(path)) == []


@pytest.mark.parametrize("read", [hold_file, hosts_file])
def test_a_file_that_cannot_be_read_holds_everything(tmp_path: Path, read: Callable[[Path], Iterable[Hold]]) -> None:
    board = Board([Source("a file", lambda: read(tmp_path))])
    board.refresh()
    [standing] = board.standing()
    assert (standing.hold.scope, standing.readable) == ("all", False)
    assert standing.hold.reason.startswith("cannot be read: ")


def test_a_list_of_hosts_that_does_not_exist_holds_everything(tmp_path: Path) -> None:
    board = Board([Source("[engine] hold_hosts_file", lambda: hosts_file(tmp_path / "none"))])
    board.refresh()
    assert board.covering(finding()) is not None


def answer(*series: dict[str, str], kind: str = "vector", **more: object) -> dict[str, object]:
    result = [{"metric": labels, "value": [1.0, "0"]} for labels in series]
    return {"status": "success", "data": {"resultType": kind, "result": result}, **more}


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (answer(), []),
        (answer({"alertname": "Maintenance", "host": "compute-7"}), [Hold("host:compute-7", "Maintenance")]),
        (answer({"cell": "cell1", "reason": "upgrade", "alertname": "A"}), [Hold("cell:cell1", "upgrade")]),
        (answer({}), [Hold("all", "the query")]),
        (answer({"host": ""}), [Hold("all", "the query")]),
    ],
)
def test_series_of_prometheus(body: dict[str, object], expected: list[Hold]) -> None:
    assert list(holds("http://p", "the query", lambda _url, _query: body)) == expected


@pytest.mark.parametrize(
    "body",
    [
        None,
        [],
        {},
        {"status": "error", "error": "parse error"},
        {"status": "success"},
        {"status": "success", "data": {"resultType": "vector", "result": [{}]}},
        {"status": "success", "data": {"resultType": "vector", "result": [{"metric": None}]}},
        answer(kind="scalar"),
        answer(warnings=["one store does not answer"]),
    ],
)
def test_an_incomplete_answer_of_prometheus_is_none(body: Any) -> None:
    with pytest.raises(Unavailable, match="prometheus"):
        list(holds("http://p", "q", lambda _url, _query: body))


@pytest.mark.parametrize(
    "result",
    [{}, "", None, [{"metric": []}], [{"metric": {"host": 7}}], [{"metric": {"host": ["compute-7"]}}]],
    ids=str,
)
def test_a_result_that_is_no_list_of_series_is_no_answer(result: Any) -> None:
    answer = {"status": "success", "data": {"resultType": "vector", "result": result}}
    with pytest.raises(Unavailable, match="prometheus"):
        list(holds("http://prometheus", "maintenance", lambda _url, _query: answer))


def finding(*concerns: str) -> Finding:
    return Finding(Key("thing", "a"), "broken", "a is broken", concerns=frozenset(concerns))


@pytest.mark.parametrize(
    ("scope", "covers"),
    [
        ("all", True),
        ("host:compute-7", True),
        ("host:Compute-7 ", True),
        ("cell:cell1", True),
        ("thing:a", True),
        ("host:compute-70", False),
        ("cell:cell2", False),
    ],
)
def test_the_heals_that_a_hold_covers(scope: str, covers: bool) -> None:
    board = Board([Source("s", lambda: [Hold(scope, "why")])])
    board.refresh()
    assert (board.covering(finding("host:compute-7", "cell:cell1")) is not None) is covers


def test_without_a_source_nothing_is_on_hold() -> None:
    assert Board().covering(finding()) is None


def test_before_the_first_reading_everything_is_on_hold() -> None:
    board = Board([Source("s", list)])
    assert board.covering(finding()) is not None
    board.refresh()
    assert board.covering(finding()) is None


def test_an_old_reading_holds_everything() -> None:
    clock = [0.0]
    board = Board([Source("s", list)], every=15.0, monotonic=lambda: clock[0])
    board.refresh()
    clock[0] = 100.0
    assert board.covering(finding()) is None
    clock[0] = 106.0
    assert "too old" in str(board.covering(finding()))


def test_a_bug_in_a_source_holds_everything() -> None:
    board = Board([Source("s", lambda: [Hold("host:x", str(1 / 0))])])
    board.refresh()
    assert "cannot be read: ZeroDivisionError" in str(board.covering(finding()))


def test_a_reading_returns_the_new_and_the_lifted_holds() -> None:
    now = [Hold("host:a", "x")]
    board = Board([Source("s", lambda: now)])
    new, lifted = board.refresh()
    assert ([one.hold.scope for one in new], lifted) == (["host:a"], ())
    now[:] = [Hold("host:b", "y")]
    new, lifted = board.refresh()
    assert ([one.hold.scope for one in new], [one.hold.scope for one in lifted]) == (["host:b"], ["host:a"])
    assert board.refresh() == ((), ())
