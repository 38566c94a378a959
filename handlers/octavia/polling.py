from __future__ import annotations

import operator
from collections.abc import Callable

import tenacity

#: seconds between two calls
POLL = 0.5


def until(done: Callable[[], bool], within: float, every: float = POLL) -> bool:
    """Call ``done``, at least once, until it returns True. Return False if it does not return True in time.

    :param within: seconds after which to stop
    """
    asking = tenacity.Retrying(
        retry=tenacity.retry_if_result(operator.not_),
        wait=tenacity.wait_fixed(every),
        stop=tenacity.stop_after_delay(within),
        retry_error_callback=lambda _state: False,
    )
    return bool(asking(done))
