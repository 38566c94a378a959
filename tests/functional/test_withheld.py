"""Withheld heals only report, whatever the mode of their handler."""

from __future__ import annotations

from pathlib import Path

import pytest

from handlers import withheld
from handlers.withheld import Withheld

README = Path(__file__).parents[2] / "README.rst"

pytestmark = pytest.mark.withheld


def test_check_and_readme_name_every_withheld_heal() -> None:
    checked = "\n".join(one.text for one in withheld.checks())
    readme = " ".join(README.read_text().split())

    for heal in Withheld:
        assert heal in checked
        assert heal in readme
