"""What holds for every test."""

from __future__ import annotations

import pytest
from hypothesis import settings

from handlers import withheld

# No test may fail on time: a slow machine is not a counterexample.
settings.register_profile("patient", parent=settings(), deadline=None)
settings.load_profile("patient")


@pytest.fixture(autouse=True)
def no_heal_is_withheld(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep testing the heals that stackmend withholds, except in tests marked ``withheld``."""
    if request.node.get_closest_marker("withheld") is None:
        monkeypatch.setattr(withheld, "WITHHELD", frozenset())
