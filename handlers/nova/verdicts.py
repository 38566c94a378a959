"""The verdicts that every family of Nova's handlers shares, and the times that Nova needs to settle.

Rules return a verdict; a handler turns it into a finding, an :class:`~handlers.base.InFlight` or nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from handlers.base import InFlight

#: seconds after a deletion: nova-compute's own release of the allocation follows the deletion of the row directly, and
#: is forced, so being late or early by some seconds hurts nobody
DELETED_SETTLE = 10.0
#: seconds after any other change: Nova sends ``resize_confirm.end`` and ``live_migration_post.end`` before it releases,
#: and a release that finds a changed generation puts the instance into ERROR
MOVED_SETTLE = 60.0
#: seconds to wait for a task or a migration to end
BUSY = 30.0


@dataclass(frozen=True, slots=True)
class Keep:
    """Rightful, or not Nova's."""

    reason: str


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing can be said yet."""

    reason: str
    after: float


@dataclass(frozen=True, slots=True)
class Report:
    """Wrong or strange, but not provably to be taken."""

    problem: str
    summary: str
    refusal: str


def soonest(waits: Iterable[Wait]) -> InFlight:
    """Return the error that asks for another look when the first of these waits ends."""
    first = min(waits, key=lambda wait: wait.after)
    return InFlight(first.reason, first.after)
