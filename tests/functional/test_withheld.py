"""Withheld heals only report, whatever the mode of their handler."""

from __future__ import annotations

from pathlib import Path

import pytest

from handlers import withheld
from handlers.octavia.cloud_objects import Server
from handlers.octavia.leftovers import rules as leftovers
from handlers.withheld import Withheld

README = Path(__file__).parents[2] / "README.rst"
UUID = "5b0f2d3c-8a55-4a0a-9a33-3b1d9d2a7c11"
DAY = 86_400.0

pytestmark = pytest.mark.withheld


def test_a_server_without_a_row_is_not_deleted() -> None:
    server = Server(UUID, f"amphora-{UUID}", "octavia", "ACTIVE", age=DAY)

    found = leftovers.server(server, "octavia", (), working=False, grace=3600.0)

    assert found is not None
    assert found.refusal


def test_check_and_readme_name_every_withheld_heal() -> None:
    checked = "\n".join(one.text for one in withheld.checks())
    readme = " ".join(README.read_text().split())

    for heal in Withheld:
        assert heal in checked
        assert heal in readme
