from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests import rights
from tests.functional import compiled


@pytest.fixture(scope="session", autouse=True)
def compiled_once() -> Iterator[None]:
    """Compile a statement once for the engines of all tests."""
    with compiled.once():
        yield


@pytest.fixture(autouse=True)
def unpermitted() -> Iterator[set[str]]:
    """Fail a test in which a handler writes more than its documented rights permit."""
    with rights.unpermitted() as found:
        yield found
    assert not found
