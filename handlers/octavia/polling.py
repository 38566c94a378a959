"""Waiting, for a moment, for what Nova, Neutron or Octavia was asked to do."""

from __future__ import annotations

import operator
from collections.abc import Callable

import tenacity

#: seconds between two questions
POLL = 0.5


def until(done: Callable[[], bool], within: float) -> bool:
    """Ask until the answer is yes; return whether it came.

    :param within: seconds; asked once at least
    :raises: what ``done`` raises
    """
    asking = tenacity.Retrying(
        retry=tenacity.retry_if_result(operator.not_),
        wait=tenacity.wait_fixed(POLL),
        stop=tenacity.stop_after_delay(within),
        retry_error_callback=lambda _state: False,
    )
    return bool(asking(done))
