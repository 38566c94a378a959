"""Heals that only report, in every mode, because their proof is wrong in some state.

A member leaves this list when its proof is repaired; the type checker then shows the code that uses it.
``stackmend check`` and the README name every member.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum

from handlers.base import Checked, Verdict


class Withheld(StrEnum):
    """A heal that only reports. The value completes "stackmend does not yet ..."."""

    REBUILD_ERROR = "rebuild a load balancer in ERROR (failed_amphora, stuck_load_balancers)"


#: The heals that are withheld now.
WITHHELD: frozenset[Withheld] = frozenset(Withheld)


def is_withheld(heal: Withheld) -> bool:
    return heal in WITHHELD


def refusal(heal: Withheld) -> str:
    return f"stackmend does not yet {heal}: the proof is not safe enough"


def checks() -> Iterator[Checked]:
    for heal in Withheld:
        if is_withheld(heal):
            yield Checked(
                "withheld heals", Verdict.WARNING, f"in every mode, stackmend only reports what it would: {heal}"
            )
