"""Rules about an instance's attachments and block device mappings.

For a connected attachment, the instance's deletion is not enough proof: a guest that still runs would lose the disk.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from handlers.nova.records import Instance, InstanceMapping, Migration
from handlers.nova.verdicts import BUSY, MOVED_SETTLE, Keep, Report, Wait

#: seconds in which Nova's API reserves the volumes of requested servers before it writes their first record
RESERVING = 600.0
_LIVE, _EVACUATION = "live-migration", "evacuation"


class Problem(StrEnum):
    DELETED = "attachment-of-deleted-instance"
    UNKNOWN = "attachment-of-unknown-instance"
    VOLUME_GONE = "mapping-of-missing-volume"


@dataclass(frozen=True, slots=True)
class Remains:
    """A deleted row of an instance in a cell, archived or not, with records about its host.

    :param hidden: whether a cross-cell resize made this copy; such a row proves nothing
    :param cleaned: whether nova-compute has removed the guest and its files (``instances.cleaned``)
    :param age: seconds since the row last changed
    :param host_up: whether nova-compute on the host is up; None without a host, or without nova-compute there
    :param moves: the instance's migrations in this cell, deleted ones included
    """

    hidden: bool
    host: str | None
    cleaned: bool
    age: float
    host_up: bool | None
    moves: tuple[Migration, ...]


@dataclass(frozen=True, slots=True)
class Facts:
    """The records about the instance that an attachment names.

    :param building: whether the instance has a build request, or a mapping without a cell
    :param cells: ids of the cells with a deleted row of the instance, archived or not
    :param alive: whether any cell has a row of the instance that is not deleted
    :param archived: whether all rows of the instance are archived
    :param after: seconds from the instance's last change until its attachments count as left behind
    """

    building: bool
    mapping: InstanceMapping | None
    cells: frozenset[int]
    alive: bool
    archived: bool
    remains: tuple[Remains, ...]
    after: float

    @property
    def deleted(self) -> bool:
        return any(not one.hidden for one in self.remains)

    @property
    def age(self) -> float:
        """Seconds since a deleted row of the instance last changed; ``after`` if there is no such row."""
        return min((one.age for one in self.remains), default=self.after)

    @property
    def hosts(self) -> str:
        return ", ".join(sorted({one.host for one in self.remains if one.host})) or "no host"


@dataclass(frozen=True, slots=True)
class User:
    """A live instance's block device mapping to a volume.

    :param volume: the id in lower case
    :param attachment: None if the mapping names no attachment
    """

    volume: str
    attachment: str | None


@dataclass(frozen=True, slots=True)
class Case:
    """An attachment of an instance.

    :param shared: whether a block device mapping of another live instance names the attachment
    :param lost: whether another live instance uses the volume by an attachment that Cinder lacks
    :param unchanged: seconds since the volume last changed
    """

    facts: Facts
    connected: bool
    shared: bool = False
    lost: bool = False
    unchanged: float = float("inf")


@dataclass(frozen=True, slots=True)
class Disk:
    """A block device mapping of a live instance to a volume.

    :param root: whether the instance boots from the volume
    """

    id: int
    instance: Instance
    volume: str
    attachment: str | None
    root: bool


@dataclass(frozen=True, slots=True)
class Delete:
    """The verdict to delete the attachment."""


def _report(reason: Callable[[Facts], str]) -> Callable[[Case], Report]:
    return lambda case: Report(Problem.DELETED, "which is deleted", reason(case.facts))


def _unsettled(move: Migration) -> bool:
    """Return whether a migration can have left a second guest on one of its hosts."""
    if move.kind == _EVACUATION:
        return move.status not in {"completed", "failed"}
    return not move.terminal or (move.kind == _LIVE and move.status == "error")


#: The rules about an instance. While one of the conditions holds, its attachments are left alone.
ALIVE: tuple[tuple[Callable[[Facts], bool], Callable[[Facts], Keep | Wait]], ...] = (
    (lambda it: it.building, lambda it: Keep("Nova schedules the instance")),
    (lambda it: it.alive, lambda it: Keep("the instance lives, or is being deleted")),
    (
        lambda it: it.deleted and it.age < it.after,
        lambda it: Wait("the instance was deleted, or cleaned up, just now", it.after - it.age),
    ),
)

#: The rules about one attachment. Those after the first Delete concern connected attachments.
CASES: tuple[tuple[Callable[[Case], bool], Callable[[Case], Wait | Report | Delete]], ...] = (
    (
        lambda it: not it.facts.deleted and not it.connected and it.unchanged < RESERVING,
        lambda it: Wait("a server may be requested just now, and has no record yet", RESERVING - it.unchanged),
    ),
    (
        lambda it: not it.facts.deleted,
        lambda it: Report(
            Problem.UNKNOWN,
            "which no cell has a record of",
            "another service may use the volume with an id of its own, another Nova may have the instance, or it was purged",
        ),
    ),
    (
        lambda it: it.shared,
        _report(lambda it: "another instance names the same attachment in its block device mapping"),
    ),
    (
        lambda it: it.lost,
        _report(
            lambda it: (
                "another instance uses the volume by an attachment that Cinder does not have: Cinder may have been restored"
            )
        ),
    ),
    (
        lambda it: it.facts.mapping is None and not it.facts.archived,
        _report(lambda it: "no second record proves the deletion: the instance has no mapping"),
    ),
    (
        lambda it: it.facts.mapping is not None and not it.facts.mapping.queued,
        _report(lambda it: "the mapping is not marked as queued for deletion; heal_instance_mappings judges it first"),
    ),
    (
        lambda it: it.facts.mapping is not None and it.facts.mapping.cell_id not in it.facts.cells,
        _report(
            lambda it: "the mapping names another cell, which may have been restored; look for the guest on its hosts"
        ),
    ),
    (lambda it: not it.connected, lambda it: Delete()),
    (
        lambda it: any(one.host is None for one in it.facts.remains),
        _report(
            lambda it: (
                "a host is connected, and no record names it; look for the guest before you delete the attachment"
            )
        ),
    ),
    (
        lambda it: any(_unsettled(move) for one in it.facts.remains for move in one.moves),
        _report(lambda it: "a migration or evacuation did not end; look for the guest on both of its hosts"),
    ),
    (
        lambda it: any(one.host_up is None for one in it.facts.remains),
        _report(lambda it: f"there is no nova-compute on {it.hosts} any more; make sure that no guest runs there"),
    ),
    (
        lambda it: not all(one.host_up for one in it.facts.remains),
        _report(
            lambda it: f"nova-compute on {it.hosts} is down, and the guest may still run there; start nova-compute"
        ),
    ),
    (
        lambda it: not all(one.cleaned for one in it.facts.remains),
        _report(lambda it: f"nova-compute on {it.hosts} has not cleaned up after the instance; its log has the reason"),
    ),
    (lambda it: True, lambda it: Delete()),
)


def state(facts: Facts) -> Keep | Wait | None:
    """Return the verdict to leave all attachments alone; None if :func:`decide` must judge each of them."""
    return next((verdict(facts) for holds, verdict in ALIVE if holds(facts)), None)


def decide(case: Case) -> Wait | Report | Delete:
    return next(verdict(case) for holds, verdict in CASES if holds(case))


_ROOT = (
    "the server boots from this volume, and cannot start again: restore the volume from a backup, or delete the server"
)
_DATA = (
    "let the owner reboot the server hard: Nova 2023.2 and later then deletes the mapping. With an older Nova, make sure that "
    "the guest does without the disk, and run"
)

DISKS: tuple[tuple[Callable[[Disk], bool], Callable[[Disk], Wait | Report]], ...] = (
    (
        lambda it: it.instance.task_state is not None or it.instance.vm_state == "building",
        lambda it: Wait("Nova works on the instance", BUSY),
    ),
    (
        lambda it: it.instance.age < MOVED_SETTLE,
        lambda it: Wait("the instance changed just now", MOVED_SETTLE - it.instance.age),
    ),
    (lambda it: it.root, lambda it: Report(Problem.VOLUME_GONE, "which Cinder does not have", _ROOT)),
    (lambda it: True, lambda it: Report(Problem.VOLUME_GONE, "which Cinder does not have", _DATA)),
)


def judge(disk: Disk) -> Wait | Report:
    return next(verdict(disk) for holds, verdict in DISKS if holds(disk))
