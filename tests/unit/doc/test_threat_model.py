"""Every line of ``threat-model.rst`` names a test, and the test exists."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "doc" / "source" / "threat-model.rst").read_text()
TEST = re.compile(r"``(tests/[\w/]+\.py)::(test_\w+)``")


def rows() -> list[list[str]]:
    """Return the cells of each row below a header that ends with the column ``Test``."""
    tables = re.split(r"^\.\. list-table::$", PAGE, flags=re.MULTILINE)[1:]
    cells = [re.findall(r"^   \* - ((?:.|\n)+?)(?=^   \* - |\Z|^\S)", table, re.MULTILINE) for table in tables]
    split = [[re.split(r"\n     - ", row) for row in table] for table in cells]
    return [row for header, *body in split if header[-1].strip() == "Test" for row in body]


@cache
def names_in(file: str) -> frozenset[str]:
    return frozenset(re.findall(r"def (test_\w+)\(", (ROOT / file).read_text()))


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[0].strip()[:60])
def test_a_line_names_tests_that_exist(row: list[str]) -> None:
    named = TEST.findall(row[-1])
    assert named, "a line without a test"
    assert [f"{file}::{name}" for file, name in named if name not in names_in(file)] == []


def test_the_page_has_a_table_for_each_actor() -> None:
    assert len(rows()) > 30
