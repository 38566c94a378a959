"""How commands print: shapes of formats, secrets, control characters, durations."""

from __future__ import annotations

import argparse

import pytest

from consumer.cli.base import JsonCell, SpanCell, known_ids, positive, row_id, shaped
from consumer.cli.errors import CommandError
from consumer.text import one_line, plural, printable, span, utc


def test_a_password_in_a_url_is_never_printed() -> None:
    text = one_line("mysql+pymysql://nova:s3cret@db/nova_api and\n rabbit://guest:s3cret@a:5672,guest:s3cret@b:5672/")
    assert "s3cret@db" not in text
    assert "nova:***@db" in text
    assert "\n" not in text


def test_control_characters_cannot_steer_a_terminal() -> None:
    assert printable("host\x1b[2Jname") == "host\\x1b[2Jname"
    assert printable("Zürich") == "Zürich"
    assert printable("two\nlines", keep="\n") == "two\nlines"


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, ""), (0, "0 s"), (14.4, "14 s"), (119, "119 s"), (180, "3 min"), (7200, "2 h"), (432000, "5 d")],
)
def test_durations(value: float | None, text: str) -> None:
    assert span(value) == text


def test_times_are_utc() -> None:
    assert utc(0.0) == "1970-01-01T00:00:00.000Z"
    assert utc(None) is None


def test_plurals() -> None:
    assert [plural(1, "row"), plural(2, "row"), plural(2, "row is", "rows are")] == ["1 row", "2 rows", "2 rows are"]


def test_json_has_machine_names_and_structure() -> None:
    assert shaped("json", ["ID", "Lag s", "Evidence"], [[1, None, {"a": [1]}]]) == (
        ["id", "lag_s", "evidence"],
        [[1, None, {"a": [1]}]],
    )


def test_a_table_has_titles_and_text() -> None:
    titles, [row] = shaped("table", ["ID", "Lag s", "Evidence"], [[1, None, {"a": "\x1b"}]])
    assert titles == ["ID", "Lag s", "Evidence"]
    assert [str(value) for value in row] == ["1", "", '{"a": "\\u001b"}']


def test_csv_has_machine_names_and_json_text() -> None:
    assert shaped("csv", ["Due in", "Before"], [[3, {"a": 1}]]) == (["due_in", "before"], [[3, '{"a": 1}']])


def test_cells_are_numbers_for_machines() -> None:
    assert SpanCell(7200).machine_readable() == 7200
    assert SpanCell(7200).human_readable() == "2 h"
    assert JsonCell({}).human_readable() == ""


def test_unknown_ids_stop_the_whole_command() -> None:
    assert known_ids([2, 1, 2], [1, 2, 3], "row") == [2, 1]
    with pytest.raises(CommandError, match="no row has the id 7, 9; nothing was done"):
        known_ids([1, 7, 9], [1], "row")


@pytest.mark.parametrize("text", ["", "-1", "x", "1.5", "²", "9" * 30])
def test_what_is_no_id(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        row_id(text)


def test_a_limit_is_at_least_one() -> None:
    assert positive("1") == 1
    with pytest.raises(argparse.ArgumentTypeError):
        positive("0")
