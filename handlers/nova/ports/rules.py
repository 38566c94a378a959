"""Rules that decide whether an instance is gone, and whether to unbind, delete or report its ports."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from handlers.nova.records import Instance

#: seconds after a deletion during which a build that it interrupted may still clean up
SETTLE = 60.0


class State(StrEnum):
    ALIVE = "alive"
    UNKNOWN = "unknown"
    JUST_DELETED = "just deleted"
    GONE = "gone"


class Fate(StrEnum):
    UNBIND = "unbind"
    DELETE = "delete"
    REPORT = "report"


@dataclass(frozen=True, slots=True)
class Remains:
    """Facts about a deleted instance that show whether Nova made its ports.

    :param network_info: the instance's network cache at its deletion; None if the cell has no cache or several
    """

    launched: bool
    network_info: str | None


@dataclass(frozen=True, slots=True)
class Facts:
    """The records about the instance that a port names.

    :param building: whether the instance has a build request, or a mapping without a cell
    :param mapped_elsewhere: whether a mapping without ``queued_for_delete`` names a cell where the instance has no row
    """

    building: bool
    rows: tuple[Instance, ...]
    archived: bool
    mapped_elsewhere: bool = False

    @property
    def deleted(self) -> bool:
        """Whether a record proves that the instance is deleted. A row that Nova hides proves nothing."""
        return self.archived or any(row.deleted and not row.hidden for row in self.rows)

    @property
    def age(self) -> float:
        """Seconds since a row of the instance last changed; :data:`SETTLE` if all rows are archived."""
        return min((row.age for row in self.rows), default=SETTLE)


_STATES: tuple[tuple[Callable[[Facts], bool], State], ...] = (
    (lambda facts: facts.building, State.ALIVE),
    (lambda facts: any(not row.deleted for row in facts.rows), State.ALIVE),
    (lambda facts: not facts.deleted, State.UNKNOWN),
    (lambda facts: facts.age < SETTLE, State.JUST_DELETED),
    (lambda facts: True, State.GONE),
)


def state(facts: Facts) -> State:
    return next(found for holds, found in _STATES if holds(facts))


@dataclass(frozen=True, slots=True)
class Case:
    """One port of an instance that is gone or unknown.

    :param known: whether a record proves the instance's deletion
    :param mapped_elsewhere: as in :class:`Facts`; the instance may live in the cell of its mapping
    :param made_by_nova: whether Nova made the port; None if unknown
    :param has_device: whether the port has a device of Cyborg
    """

    known: bool
    made_by_nova: bool | None
    has_device: bool
    may_delete: bool
    mapped_elsewhere: bool = False


_FATES: tuple[tuple[Callable[[Case], bool], Fate, str], ...] = (
    (
        lambda case: not case.known,
        Fate.REPORT,
        "another Nova may have the instance, or it was purged; find out who made the port: openstack port show {port}",
    ),
    (
        lambda case: case.mapped_elsewhere,
        Fate.REPORT,
        "the instance's mapping names a cell that has no row of it, and does not mark it as deleted: that cell may have been "
        "restored from before the instance came there. Look for the guest on its hosts, the port's host among them",
    ),
    (
        lambda case: case.has_device,
        Fate.REPORT,
        "it has a device of Cyborg, which has to be released first: openstack accelerator arq delete {device}; then "
        "openstack port unset --binding-profile arq_uuid {port}",
    ),
    (
        lambda case: case.made_by_nova is None,
        Fate.REPORT,
        "no record shows whether Nova or the user made it. If Nova made it, delete it: openstack port delete {port}. "
        "Otherwise unbind it: openstack port unset --device --device-owner --host {port}",
    ),
    (lambda case: case.made_by_nova is False, Fate.UNBIND, ""),
    (lambda case: case.may_delete, Fate.DELETE, ""),
    (
        lambda case: True,
        Fate.REPORT,
        "Nova made it, so it has to be deleted: set [audit] audit_ports_delete, or run: openstack port delete {port}",
    ),
)


def fate(case: Case) -> tuple[Fate, str]:
    """Return a port's fate and, if it is ``Fate.REPORT``, the reason; otherwise the reason is empty.

    The caller replaces ``{port}`` and ``{device}`` in the reason.
    """
    return next((found, refusal) for holds, found, refusal in _FATES if holds(case))


def made_by_nova(remains: Remains | None, port: str) -> bool | None:
    """Return whether Nova made a port; None if unknown.

    If the instance once ran, an empty network cache proves that Nova has deleted its own ports: the port is the user's.
    """
    if remains is None:
        return None
    try:
        entries = json.loads(remains.network_info or "")
        found = [entry.get("preserve_on_delete") for entry in entries if entry["id"] == port]
    except (ValueError, LookupError, TypeError, AttributeError):
        return None
    if found:
        return None if found[0] is None else not found[0]
    return False if entries == [] and remains.launched else None
