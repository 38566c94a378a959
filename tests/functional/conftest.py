from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests import rights


@pytest.fixture(autouse=True)
def unpermitted() -> Iterator[set[str]]:
    """Fail a test in which a handler writes more than its documented rights permit."""
    with rights.unpermitted() as found:
        yield found
    assert not found
