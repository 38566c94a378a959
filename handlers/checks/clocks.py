"""Whether this machine and an API agree about the time, by the ``Date`` of its answers.

What handlers prove, they prove by the clock of the database that they read. An API's times (when a server was created) are
compared with ours.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

from handlers.base import Checked, Verdict

#: seconds that are no difference: an answer takes its time, and its date has no fractions
TOLERATED = 5.0


def check(name: str, headers: Mapping[str, str]) -> Checked | None:
    """Judge the clock of whoever answered; None when it does not tell the time.

    :param name: how it is called
    :param headers: of an answer that has just come
    """
    try:
        ahead = time.time() - parsedate_to_datetime(headers["Date"]).timestamp()
    except (KeyError, ValueError):
        return None
    if abs(ahead) <= TOLERATED:
        return Checked(f"{name}: clock", Verdict.OK, "this machine agrees with it")
    text = (
        f"this machine is {abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} it, so the ages that APIs tell are "
        "judged wrong by as much: let chrony or ntpd set both"
    )
    return Checked(f"{name}: clock", Verdict.WARNING, text)
