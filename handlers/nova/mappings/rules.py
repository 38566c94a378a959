"""Rules about the mapping of an instance.

A boot writes a build request and a mapping without a cell. Then the conductor makes the instance's row in a cell, writes the
cell into the mapping and deletes the build request. Last, the compute host writes ``instances.host``. For :data:`BOOT` seconds,
the conductor may still work on an instance without a host.

A mapping is deleted only if two independent records prove the instance's deletion and no record contradicts it:

===================  =====================================================================================
proves               ``queued_for_delete`` is true (nova-api), and an archived row of the instance (its cell)
contradicts          a row in any cell, an allocation, a build request, or a cell without any live instance
proves nothing       a missing row: perhaps it was purged, or the database was restored or exchanged
===================  =====================================================================================
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from handlers.base import Json
from handlers.nova.verdicts import BUSY, Keep, Report, Wait

#: seconds that a boot may take from request to mapping: many instances in one request, and every remote call retried
BOOT = 3600.0
#: seconds that Nova may need after any other change
SETTLE = 60.0

#: the project of the row in which ``nova-manage cell_v2 map_instances`` remembers its position
MARKER = "INSTANCE_MIGRATION_MARKER"
#: the instance that a migration of virtual interfaces once made up; also the project of its mapping
FAKE = "00000000-0000-0000-0000-000000000000"


class Problem(StrEnum):
    WITHOUT_CELL = "mapping-without-cell"
    STALE_REQUEST = "build-request-stale"
    WRONG_MARK = "mark-of-deletion-wrong"
    MARKED_WITHOUT_ALLOCATION = "marked-without-allocation"
    LEFT_BEHIND = "mapping-left-behind"
    ALL_LEFT_BEHIND = "mappings-left-behind"
    ORPHANED = "mapping-orphaned"
    NOWHERE_WITH_ALLOCATION = "nowhere-but-holding"
    BUILD_STUCK = "build-stuck"
    REQUEST_WITHOUT_INSTANCE = "request-without-instance"
    REQUEST_WITHOUT_MAPPING = "request-without-mapping"
    ROWS_WITHOUT_MAPPING = "rows-without-mapping"
    ELSEWHERE = "mapped-elsewhere"
    SEVERAL_CELLS = "instance-in-several-cells"
    ONLY_HIDDEN = "only-hidden-copies"


@dataclass(frozen=True, slots=True)
class MappingRow:
    """A row of ``instance_mappings``.

    :param age: seconds since the row last changed
    """

    id: int
    instance: str
    project_id: str
    cell_id: int | None
    queued: bool | None
    age: float = 0.0

    def to_json(self) -> Json:
        """Return the columns that must not change before a heal writes."""
        return {
            "id": self.id,
            "cell_id": self.cell_id,
            "queued_for_delete": self.queued,
            "project_id": self.project_id,
        }

    @classmethod
    def from_json(cls, instance: str, values: Json) -> MappingRow:
        return cls(values["id"], instance, values["project_id"], values["cell_id"], values["queued_for_delete"])


@dataclass(frozen=True, slots=True)
class Copy:
    """A row of ``instances`` in one cell.

    :param created_age, age: seconds since the row was made, and since it last changed
    :param ending: whether ``terminated_at`` is set: in a live row, ``audit_stuck_instances`` or Nova began a deletion
    """

    uuid: str
    cell_id: int
    project_id: str | None
    user_id: str | None
    host: str | None
    vm_state: str | None
    task_state: str | None
    deleted: bool
    hidden: bool
    created_age: float
    age: float
    node: str | None = None
    ending: bool = False

    @property
    def queued(self) -> bool:
        return self.deleted or self.vm_state == "soft-delete"

    @property
    def unsettled(self) -> float:
        """Seconds until the conductor has certainly finished the instance's boot."""
        return max(0.0, (SETTLE if self.host is not None else BOOT) - self.created_age)


@dataclass(frozen=True, slots=True)
class Facts:
    """The records of one instance.

    :param request_age: age of the build request in seconds; None without a build request
    :param allocated: whether the instance has an allocation; None if this was not read
    :param archived: whether the mapping's cell, or any cell if the mapping names none, has archived the instance. False if
        :func:`asks_archive` is false
    :param cell_alive: whether every cell that archived the instance has a live instance; False if no cell archived it
    :param specified: whether a request specification exists
    """

    mapping: MappingRow | None = None
    request_age: float | None = None
    copies: tuple[Copy, ...] = ()
    allocated: bool | None = None
    archived: bool = False
    cell_alive: bool = False
    specified: bool = False
    concerns: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Change:
    """The verdict to change the mapping, and to delete the build request if ``drop_request``."""

    problem: Problem
    summary: str
    values: Mapping[str, int | bool] = field(default_factory=dict)
    drop_request: bool = False


@dataclass(frozen=True, slots=True)
class Forget:
    """The verdict to delete the rows of a deleted instance from nova_api."""

    problem: Problem
    summary: str


Verdict = Keep | Wait | Report | Change | Forget


@dataclass(frozen=True, slots=True)
class Nowhere:
    """An instance that has a mapping, but no row in any cell.

    :param age: seconds since the mapping or the build request last changed
    """

    facts: Facts
    mapping: MappingRow
    age: float

    @property
    def requested(self) -> bool:
        return self.facts.request_age is not None

    @property
    def unmapped(self) -> bool:
        return self.mapping.cell_id is None

    @property
    def proved(self) -> bool:
        """Whether two records prove the deletion, and the instance has no allocation."""
        return bool(self.mapping.queued) and self.facts.archived and self.facts.allocated is False


@dataclass(frozen=True, slots=True)
class AtHome:
    """A mapped instance whose row is in the cell that its mapping names."""

    facts: Facts
    mapping: MappingRow
    copy: Copy

    @property
    def requested(self) -> bool:
        return self.facts.request_age is not None

    @property
    def wrong(self) -> bool:
        return wrongly_marked(self.mapping.queued, self.copy)


_MARK = "queued_for_delete"

_BUILD_STUCK = Report(
    Problem.BUILD_STUCK,
    "Nova has not scheduled the instance for over an hour",
    "either the conductor died with the request, or it still waits: read its log for the instance. If it died: openstack "
    "server delete UUID; then create the server again",
)
_REQUEST_WITHOUT_INSTANCE = Report(
    Problem.REQUEST_WITHOUT_INSTANCE,
    "a build request is left, and the cell of its mapping does not have the instance",
    "either the conductor died before it made the instance, or the cell's database lost it: if other instances of that cell "
    "are missing too, check the database first. If not, the API answers 404 to a deletion, so delete its rows in nova_api",
)
_NOWHERE_WITH_ALLOCATION = Report(
    Problem.NOWHERE_WITH_ALLOCATION,
    "no cell has the instance, and it has an allocation in Placement",
    "either the cell's database lost it and its guest still runs, or its deletion left the allocation: look for the guest on "
    "the hypervisor of the provider. If there is none: openstack resource provider allocation delete UUID",
)
_CELL_WITHOUT_INSTANCES = Report(
    Problem.LEFT_BEHIND,
    "the instance is marked as deleted and archived, but its cell has no live instance at all",
    "either every instance of the cell is deleted, or the database is not that of the cell: check the URL of the cell with "
    "nova-manage cell_v2 list_cells --verbose. If it is, delete its rows in nova_api",
)
_ORPHANED = Report(
    Problem.ORPHANED,
    "the mapping names no cell, no build request is left, and no cell has the instance",
    "either its deletion or its boot stopped half-way, or a cell's database lost the instance: if other instances are missing "
    "too, check the databases first. If not, delete its rows in nova_api",
)
_LEFT_BEHIND = Report(
    Problem.LEFT_BEHIND,
    "no cell has the instance, and no two records prove its deletion",
    "either it was deleted and its rows were purged, or its cell's database was restored, emptied or exchanged: compare SELECT "
    "COUNT(*), MAX(created_at) FROM instances in that cell with the past. If it was deleted, delete its rows in nova_api",
)
_MARKED_WITHOUT_ALLOCATION = Report(
    Problem.MARKED_WITHOUT_ALLOCATION,
    "the instance is alive in its cell, its mapping is marked as deleted, and it has no allocation",
    "either its cell's database was restored from before the deletion, or the deletion failed after it released the "
    "allocation: look for the guest on its hypervisor, or for the shelved image. If there is none: openstack server delete "
    "UUID",
)
_ELSEWHERE = Report(
    Problem.ELSEWHERE,
    "the mapping names one cell, and the instance lives in another",
    "either the mapping is wrong, or the row is from a database that was restored into the wrong cell: check its allocation, "
    "its ports and its host before you change the mapping",
)
_SEVERAL_CELLS = Report(
    Problem.SEVERAL_CELLS,
    "several cells have the instance",
    "either two mappings of cells lead to one database, or a copy is left over: nova-manage cell_v2 list_cells --verbose shows "
    "two equal URLs in the first case, and then the instance must not be deleted. A copy without guest is the one to delete",
)
_ONLY_HIDDEN = Report(
    Problem.ONLY_HIDDEN,
    "only hidden, deleted copies of the instance are left",
    "a hidden copy does not prove a deletion: either a cross-cell resize failed, or the other cell's database lost the "
    "instance. Look for the guest on the host of the copy",
)
_REQUEST_WITHOUT_MAPPING = Report(
    Problem.REQUEST_WITHOUT_MAPPING,
    "a build request has no mapping, so that lists show an instance that the API cannot delete",
    "either the mapping was deleted by hand, or nova_api was restored: if a cell has the instance, map_instances maps it. If "
    "none has it, delete its rows in nova_api",
)

NOWHERE: tuple[tuple[Callable[[Nowhere], bool], Callable[[Nowhere], Verdict]], ...] = (
    (lambda it: it.unmapped and it.requested and it.age < BOOT, lambda it: Keep("Nova schedules the instance")),
    (
        lambda it: it.age < BOOT,
        lambda it: Wait("the mapping is young, and no cell has the instance yet", BOOT - it.age),
    ),
    (lambda it: it.requested and it.unmapped, lambda it: _BUILD_STUCK),
    (lambda it: it.requested, lambda it: _REQUEST_WITHOUT_INSTANCE),
    (lambda it: bool(it.facts.allocated), lambda it: _NOWHERE_WITH_ALLOCATION),
    (
        lambda it: it.proved and it.facts.cell_alive,
        lambda it: Forget(
            Problem.ORPHANED if it.unmapped else Problem.LEFT_BEHIND,
            "the instance is marked as deleted and archived, and its mapping is still there",
        ),
    ),
    (lambda it: it.proved, lambda it: _CELL_WITHOUT_INSTANCES),
    (lambda it: it.unmapped, lambda it: _ORPHANED),
    (lambda it: True, lambda it: _LEFT_BEHIND),
)

AT_HOME: tuple[tuple[Callable[[AtHome], bool], Callable[[AtHome], Verdict]], ...] = (
    (
        lambda it: it.requested and it.copy.unsettled > 0,
        lambda it: Wait("the conductor may be about to delete its build request", it.copy.unsettled),
    ),
    (
        lambda it: it.requested,
        lambda it: Change(
            Problem.STALE_REQUEST,
            "the instance is in its cell and still has a build request, so that lists show it as being built",
            _right_mark(it.facts, it.mapping, it.copy),
            drop_request=True,
        ),
    ),
    (lambda it: not it.wrong, lambda it: Keep("the mapping is right")),
    (lambda it: _unsure(it.copy) is not None, lambda it: _unsure(it.copy) or Keep("the mark is certain")),
    (
        lambda it: it.copy.queued,
        lambda it: Change(
            Problem.WRONG_MARK, "the instance is deleted, and its mapping has no mark of deletion", {_MARK: True}
        ),
    ),
    (
        lambda it: bool(it.facts.allocated),
        lambda it: Change(
            Problem.WRONG_MARK,
            "the deletion of the instance failed: it is alive and has its allocation, and its mapping is marked as deleted",
            {_MARK: False},
        ),
    ),
    (lambda it: True, lambda it: _MARKED_WITHOUT_ALLOCATION),
)


def is_instance(identity: str, project_id: str | None = None) -> bool:
    """Return whether a row of ``instance_mappings`` belongs to an instance. nova-manage keeps its progress there too.

    :param identity: the row's ``instance_uuid``
    """
    if project_id == MARKER or identity == FAKE:
        return False
    try:
        uuid.UUID(identity)
    except ValueError:
        return False
    return True


def wrongly_marked(queued: bool | None, copy: Copy) -> bool:
    """Return whether a mapping's ``queued_for_delete`` is wrong.

    It must be true if ``copy`` is deleted or soft-deleted, otherwise false or NULL.
    """
    return bool(queued) != copy.queued


def asks_allocation(facts: Facts) -> bool:
    mapping = facts.mapping
    if mapping is None or not is_instance(mapping.instance, mapping.project_id):
        return False
    if not facts.copies:
        return facts.request_age is None and mapping.age >= BOOT
    where = place(facts.copies)
    return isinstance(where, Copy) and bool(mapping.queued) and not where.queued


def asks_allocation_in_range(facts: Facts) -> bool:
    """Return whether to read an instance's allocation, if a key stands for many mappings that look wrong.

    Unlike :func:`asks_allocation`, require that ``queued_for_delete`` is true: old clouds have many other mappings, and a
    request for each would burden Placement.
    """
    return asks_allocation(facts) and facts.mapping is not None and bool(facts.mapping.queued)


def asks_archive(facts: Facts) -> bool:
    """Return whether the verdict depends on archived rows, which need a full scan."""
    mapping = facts.mapping
    return mapping is not None and bool(mapping.queued) and not facts.copies and facts.allocated is False


def decide(facts: Facts) -> Verdict:
    mapping = facts.mapping
    if mapping is None:
        return _without_mapping(facts)
    if not is_instance(mapping.instance, mapping.project_id):
        return Keep("the row is a bookmark of nova-manage")
    if not facts.copies:
        age = mapping.age if facts.request_age is None else min(mapping.age, facts.request_age)
        nowhere = Nowhere(facts, mapping, age)
        return next(verdict(nowhere) for applies, verdict in NOWHERE if applies(nowhere))
    where = place(facts.copies)
    if not isinstance(where, Copy):
        return where
    if mapping.cell_id is None:
        return _without_cell(facts, mapping, where)
    if mapping.cell_id != where.cell_id:
        return Wait("the instance changed just now", SETTLE - where.age) if where.age < SETTLE else _ELSEWHERE
    home = AtHome(facts, mapping, where)
    return next(verdict(home) for applies, verdict in AT_HOME if applies(home))


def place(copies: tuple[Copy, ...]) -> Copy | Keep | Report:
    """Return the copy with which the mapping must agree: the only live copy or, if all are deleted, the only visible one.

    If no copy or several copies qualify, or a live copy is hidden, return a verdict instead.
    """
    live = [copy for copy in copies if not copy.deleted]
    if any(copy.hidden for copy in live):
        return Keep("a cross-cell resize runs and may change which copy counts")
    visible = live or [copy for copy in copies if not copy.hidden]
    if not visible:
        return _ONLY_HIDDEN
    return visible[0] if len(visible) == 1 else _SEVERAL_CELLS


def _without_mapping(facts: Facts) -> Verdict:
    if facts.copies or facts.request_age is None:
        return Keep("no mapping: map_instances deals with it")
    if facts.request_age < BOOT:
        return Wait("Nova may be about to map the instance", BOOT - facts.request_age)
    return _REQUEST_WITHOUT_MAPPING


def _without_cell(facts: Facts, mapping: MappingRow, copy: Copy) -> Verdict:
    if copy.unsettled:
        return Wait("the conductor may be about to map the instance", copy.unsettled)
    return Change(
        Problem.WITHOUT_CELL,
        "the instance is in a cell, and its mapping names none",
        {"cell_id": copy.cell_id, **_right_mark(facts, mapping, copy)},
        drop_request=facts.request_age is not None,
    )


def _right_mark(facts: Facts, mapping: MappingRow, copy: Copy) -> dict[str, bool]:
    proved = copy.queued or bool(facts.allocated)
    if not wrongly_marked(mapping.queued, copy) or _unsure(copy) is not None or not proved:
        return {}
    return {_MARK: copy.queued}


def _unsure(copy: Copy) -> Wait | None:
    """Return the verdict to wait if it is too early to correct the mapping's ``queued_for_delete``; otherwise None."""
    if not copy.deleted and (copy.task_state is not None or copy.vm_state == "deleted" or copy.ending):
        return Wait(f"the instance is {copy.task_state or 'being deleted'}", BUSY)
    if copy.age < SETTLE:
        return Wait("the instance changed just now", SETTLE - copy.age)
    return None
