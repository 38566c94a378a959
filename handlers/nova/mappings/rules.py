"""What the databases say of an instance and its mapping, and what follows from it; no database is touched here.

An instance is asked for in ``nova_api``: a build request and a mapping without cell, in one transaction. The conductor
makes the instance's row in a cell (host NULL), writes the cell into the mapping, deletes the build request and only then
tells the compute host, which writes ``instances.host``. So an instance with a host is done with all this, and one
without may still be under the conductor's hands for as long as its remote calls take: :data:`BOOT`. A build request that
is taken from under the conductor is a deletion to it: it destroys the instance. That is why nothing is done before.

==============  =======  =============================  =====================================================
mapped to       request  the instance                   verdict
==============  =======  =============================  =====================================================
(no mapping)                                            keep: :mod:`handlers.nova.mappings.map_instances` is for that
any                      a hidden copy is alive         keep: a cross-cell resize is under way
any                      in several cells               report
any                      only hidden, deleted copies    report
no cell         yes      nowhere                        keep; report a build that is stuck for an hour
no cell         no       nowhere                        forget it, after an hour
no cell         any      in one cell                    set the cell, drop the request
a cell          any      in another cell                report
a cell          yes      nowhere                        report, after an hour
a cell          no       nowhere                        forget it, after an hour
a cell          yes      in that cell                   drop the request
a cell          no       there, mark of deletion wrong  set the mark
a cell          no       there, mark right              keep
==============  =======  =============================  =====================================================

``queued_for_delete`` has to be true for an instance that is deleted or soft-deleted, and must not be for another one. NULL
counts as false, as it does to Nova; for a live instance it is left to Nova's own online migration.

What is to be forgotten and still holds resources in Placement is only reported: an instance that runs holds some, so
this is what tells a leftover from an instance that a restored backup of a cell has lost.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field

from handlers.nova.verdicts import BUSY, Keep, Report, Wait
from handlers.withheld import Withheld, is_withheld, refusal

#: seconds that a boot may take from request to mapping: many instances in one request, and every remote call retried
BOOT = 3600.0
#: seconds after any other change
SETTLE = 60.0

#: what nova-manage writes as project while it maps instances: such a row is its bookmark, not a mapping
MARKER = "INSTANCE_MIGRATION_MARKER"
#: the instance that a migration of virtual interfaces once made up; also the project of its mapping
FAKE = "00000000-0000-0000-0000-000000000000"


@dataclass(frozen=True, slots=True)
class MappingRow:
    """A row of ``instance_mappings``.

    :param age: seconds since it last changed, by the database's clock
    """

    id: int
    instance: str
    project_id: str
    cell_id: int | None
    queued: bool | None
    age: float


@dataclass(frozen=True, slots=True)
class Copy:
    """A row of ``instances``; an instance has one but during a cross-cell resize, when one of two is hidden.

    :param cell_id: of the cell that it stands in
    :param born: seconds since it was made
    :param age: seconds since it last changed
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
    born: float
    age: float

    @property
    def queued(self) -> bool:
        """What ``queued_for_delete`` has to be."""
        return self.deleted or self.vm_state == "soft-delete"

    @property
    def unsettled(self) -> float:
        """Seconds to wait until the conductor has certainly done with it; 0 when it has."""
        return max(0.0, (SETTLE if self.host is not None else BOOT) - self.born)


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of an instance.

    :param request_age: of its build request, in seconds; None when there is none
    :param copies: its rows in all cells, deleted and hidden ones too
    :param holds: whether it holds resources in Placement; only asked when nothing else speaks for it
    """

    mapping: MappingRow | None = None
    request_age: float | None = None
    copies: tuple[Copy, ...] = ()
    holds: bool = False


@dataclass(frozen=True, slots=True)
class Change:
    """The mapping has to be changed.

    :param values: columns of the mapping and what they must be
    :param drop_request: whether the build request has to go
    """

    problem: str
    summary: str
    values: Mapping[str, int | bool] = field(default_factory=dict)
    drop_request: bool = False


@dataclass(frozen=True, slots=True)
class Forget:
    """The mapping, and what else ``nova_api`` has of the instance, has to go."""

    problem: str
    summary: str


Verdict = Keep | Wait | Report | Change | Forget


def is_instance(identity: str, project_id: str | None = None) -> bool:
    """Whether this is an instance, and not one of the rows with which Nova's own tools remember something."""
    if project_id == MARKER or identity == FAKE:
        return False
    try:
        uuid.UUID(identity)
    except ValueError:
        return False
    return True


def wrongly_marked(queued: bool | None, copy: Copy) -> bool:
    """Whether the mark of deletion differs from what the instance is."""
    return bool(queued) != copy.queued


def decide(facts: Facts) -> Verdict:
    """Return the verdict; see the module."""
    mapping = facts.mapping
    if mapping is None:
        return Keep("has no mapping")
    if not is_instance(mapping.instance, mapping.project_id):
        return Keep("is a bookmark of nova-manage")
    if not facts.copies:
        return _nowhere(facts, mapping)
    where = place(facts.copies)
    if not isinstance(where, Copy):
        return where
    if mapping.cell_id is None:
        return _without_cell(facts, mapping, where)
    if mapping.cell_id != where.cell_id:
        return _unless_young(where, _ELSEWHERE)
    return _at_home(facts, mapping, where)


def place(copies: tuple[Copy, ...]) -> Copy | Keep | Report:
    """Return the one copy that counts, or why there is none: a live one comes before deleted ones."""
    live = [copy for copy in copies if not copy.deleted]
    if any(copy.hidden for copy in live):
        return Keep("a cross-cell resize is under way: which copy counts may change")
    visible = live or [copy for copy in copies if not copy.hidden]
    if not visible:
        return Report(
            "only-hidden-copies",
            "only hidden, deleted copies of the instance are left",
            "a hidden copy does not prove that the instance was deleted",
        )
    if len(visible) > 1:
        return Report(
            "instance-in-several-cells",
            "the instance is in several cells",
            "which copy is right is for a person to say; delete the other",
        )
    return visible[0]


_ELSEWHERE = Report(
    "mapped-elsewhere",
    "the instance is mapped to one cell and lives in another",
    "its allocations, its ports and its host have to be looked at before the mapping is changed",
)


def _nowhere(facts: Facts, mapping: MappingRow) -> Verdict:
    age = mapping.age if facts.request_age is None else min(mapping.age, facts.request_age)
    if mapping.cell_id is None and facts.request_age is not None and age < BOOT:
        return Keep("is being scheduled")
    if age < BOOT:
        return Wait("its mapping changed a short while ago, and no cell has it yet", BOOT - age)
    if facts.request_age is not None:
        return _stuck(mapping)
    if facts.holds:
        return Report(
            "nowhere-but-holding",
            "no cell has the instance, yet it holds resources in Placement",
            "it may run, lost by a restored database; if it does not: openstack resource provider allocation delete",
        )
    if mapping.cell_id is None:
        return Forget("mapping-orphaned", "a mapping without cell, and nobody builds the instance")
    summary = "a mapping of an instance that no cell has any more"
    if is_withheld(Withheld.FORGET_MAPPED):
        return Report("mapping-left-behind", summary, refusal(Withheld.FORGET_MAPPED))
    return Forget("mapping-left-behind", summary)


def _stuck(mapping: MappingRow) -> Report:
    if mapping.cell_id is None:
        return Report(
            "build-stuck",
            "the instance was asked for over an hour ago, and is still being scheduled",
            "the conductor has lost it: openstack server delete, then ask for it again",
        )
    return Report(
        "request-without-instance",
        "a build request of an instance that is mapped to a cell which does not have it",
        "neither says whether the instance was ever made: openstack server delete",
    )


def _without_cell(facts: Facts, mapping: MappingRow, copy: Copy) -> Verdict:
    if copy.unsettled:
        return Wait("the conductor may be about to map it", copy.unsettled)
    values: dict[str, int | bool] = {"cell_id": copy.cell_id}
    if wrongly_marked(mapping.queued, copy) and not _unsure(copy) and not _keeps_mark(copy):
        values["queued_for_delete"] = copy.queued
    return Change(
        "mapping-without-cell",
        "the instance is in a cell, and its mapping does not say in which",
        values,
        drop_request=facts.request_age is not None,
    )


def _at_home(facts: Facts, mapping: MappingRow, copy: Copy) -> Verdict:
    wrong = wrongly_marked(mapping.queued, copy)
    unsure = _unsure(copy) if wrong else None
    values = {"queued_for_delete": copy.queued} if wrong and unsure is None and not _keeps_mark(copy) else {}
    if facts.request_age is not None:
        if copy.unsettled:
            return Wait("the conductor may be about to take its build request away", copy.unsettled)
        return Change(
            "build-request-stale",
            "the instance is in its cell, and its build request is still there: lists show it as being built",
            values,
            drop_request=True,
        )
    if unsure is not None:
        return unsure
    if not wrong:
        return Keep("is right")
    if copy.queued:
        summary = "the instance is deleted, and its mapping says that it is not"
    else:
        summary = "the instance is alive, and its mapping says that it is about to be deleted"
    if _keeps_mark(copy):
        return Report("mark-of-deletion-wrong", summary, refusal(Withheld.CLEAR_DELETION_MARK))
    return Change("mark-of-deletion-wrong", summary, values)


def _keeps_mark(copy: Copy) -> bool:
    """Return whether a wrong mark of deletion stays: a live instance is marked, and clearing is withheld."""
    return not copy.queued and is_withheld(Withheld.CLEAR_DELETION_MARK)


def _unsure(copy: Copy) -> Wait | None:
    """Return why the mark of deletion cannot be judged now, if so: Nova sets it while the deletion is on its way."""
    if not copy.deleted and (copy.task_state is not None or copy.vm_state == "deleted"):
        return Wait(f"the instance is {copy.task_state or 'being deleted'}", BUSY)
    if copy.age < SETTLE:
        return Wait("the instance changed only just now", SETTLE - copy.age)
    return None


def _unless_young(copy: Copy, report: Report) -> Verdict:
    return Wait("the instance changed only just now", SETTLE - copy.age) if copy.age < SETTLE else report
