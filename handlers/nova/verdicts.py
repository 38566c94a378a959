"""Verdicts that the rules of several families return, and the seconds for which Nova can still work after a change."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from handlers.base import Finding, InFlight

#: seconds after a deletion: nova-compute releases the allocation directly before or after the row, and forces it, so that our
#: write does not disturb the release
DELETED_SETTLE = 10.0
#: seconds after any other change: Nova sends ``resize_confirm.end`` and ``live_migration_post.end`` before the release, and
#: puts the instance into ERROR when the release meets a changed generation
MOVED_SETTLE = 60.0
#: seconds to wait for a task or a migration to end
BUSY = 30.0
#: the causes of an instance whose host and node have no compute node
NODE_GONE = (
    "either [DEFAULT] host of its nova-compute changed, or the service was deleted, or a node of Ironic moves to another "
    "nova-compute. The log of nova-compute shows which; in the last case the row returns, at the latest after a restart"
)


@dataclass(frozen=True, slots=True)
class Keep:
    """The verdict to leave the object alone."""

    reason: str


@dataclass(frozen=True, slots=True)
class Wait:
    """The verdict to inspect the key again later, because the state proves nothing now.

    :param after: seconds until the next inspection
    """

    reason: str
    after: float


@dataclass(frozen=True, slots=True)
class Report:
    """The verdict that stackmend only reports a drift, because nothing proves the right heal."""

    problem: str
    summary: str
    refusal: str


def soonest(waits: Iterable[Wait]) -> InFlight:
    first = min(waits, key=lambda wait: wait.after)
    return InFlight(first.reason, first.after)


def findings_or_wait(findings: Sequence[Finding], waits: Sequence[Wait]) -> Sequence[Finding]:
    """Return ``findings``, unless there are only ``waits``.

    :raises InFlight: there are waits and no findings
    """
    if waits and not findings:
        raise soonest(waits)
    return findings
