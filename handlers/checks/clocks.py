"""Checks whether the clocks of this machine and an API agree, by the header ``Date`` of an answer.

Handlers compare an API's times, such as a server's creation, with this machine's clock.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

from handlers.base import Checked, Verdict

#: seconds that are no difference: an answer takes its time, and its date has no fractions
TOLERATED = 5.0


def check(name: str, headers: Mapping[str, str]) -> Checked | None:
    """Check an API's clock; return None if the answer has no readable header ``Date``.

    :param headers: the headers of an answer that has just arrived
    """
    try:
        ahead = time.time() - parsedate_to_datetime(headers["Date"]).timestamp()
    except (KeyError, ValueError):
        return None
    if abs(ahead) <= TOLERATED:
        return Checked(f"{name}: clock", Verdict.OK, "this machine agrees with it")
    text = (
        f"this machine is {abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} it, and ages of objects in APIs are "
        "wrong by as much: let chrony or ntpd set both clocks"
    )
    return Checked(f"{name}: clock", Verdict.WARNING, text)
