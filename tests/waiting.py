"""Waits for a condition."""

from __future__ import annotations

import time
from collections.abc import Callable


def eventually(predicate: Callable[[], bool], seconds: float = 20.0, what: str = "the condition") -> None:
    """Wait until something holds; a wide bound, for slow machines."""
    deadline = time.monotonic() + seconds
    while not predicate():
        assert time.monotonic() < deadline, f"{what}: not in {seconds:.0f} s"
        time.sleep(0.05)
