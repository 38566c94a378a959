"""Rules about an instance without a mapping.

A cell that was restored from a backup has live rows of instances deleted since. So a live row alone is no proof. The instance
must also have an allocation, which Nova deletes with it, or a request specification, which archiving deletes with the mapping.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from handlers.nova.mappings.rules import BOOT, SETTLE, Copy, Facts
from handlers.nova.verdicts import BUSY, Keep, Report, Wait


class Problem(StrEnum):
    UNMAPPED = "instance-unmapped"
    ALL_UNMAPPED = "instances-unmapped"
    SEVERAL_CELLS = "unmapped-in-several-cells"
    WITHOUT_OWNER = "unmapped-without-owner"
    WITHOUT_RECORD = "unmapped-without-record"


@dataclass(frozen=True, slots=True)
class Map:
    """The verdict to map an instance to the cell of ``copy``."""

    copy: Copy


Verdict = Keep | Wait | Report | Map

_SEVERAL_CELLS = Report(
    Problem.SEVERAL_CELLS,
    "the instance has no mapping, and several cells have it",
    "either two mappings of cells lead to one database, or a copy is left over: nova-manage cell_v2 list_cells --verbose shows "
    "two equal URLs in the first case, and then the instance must not be deleted. A copy without guest is the one to delete",
)
_WITHOUT_OWNER = Report(
    Problem.WITHOUT_OWNER,
    "the instance has no mapping and no project",
    "a mapping needs a project: write instances.project_id, which the request specification may name",
)
_WITHOUT_RECORD = Report(
    Problem.WITHOUT_RECORD,
    "the instance has no mapping, no request specification and no allocation",
    "either its cell's database was restored from before the deletion, or nova_api and Placement lost its rows: look for the "
    "guest on its hypervisor. If there is one, map the instance in nova_api",
)


@dataclass(frozen=True, slots=True)
class Unmapped:
    facts: Facts
    visible: tuple[Copy, ...]

    @property
    def copy(self) -> Copy:
        return self.visible[0]


UNMAPPED: tuple[tuple[Callable[[Unmapped], bool], Callable[[Unmapped], Verdict]], ...] = (
    (
        lambda it: any(copy.hidden and not copy.deleted for copy in it.facts.copies),
        lambda it: Wait("a cross-cell resize runs", BUSY),
    ),
    (lambda it: not it.visible, lambda it: Keep("only hidden copies are left, which do not count")),
    (lambda it: len(it.visible) > 1, lambda it: _SEVERAL_CELLS),
    (
        lambda it: it.copy.created_age < SETTLE,
        lambda it: Wait("the instance was made just now", SETTLE - it.copy.created_age),
    ),
    (
        lambda it: it.facts.request_age is not None and it.facts.request_age < BOOT,
        lambda it: Wait("Nova schedules the instance", BOOT - (it.facts.request_age or 0.0)),
    ),
    (lambda it: it.copy.project_id is None, lambda it: _WITHOUT_OWNER),
    (lambda it: it.copy.deleted or it.facts.specified or bool(it.facts.allocated), lambda it: Map(it.copy)),
    (lambda it: True, lambda it: _WITHOUT_RECORD),
)


def asks_allocation(facts: Facts) -> bool:
    live = any(not copy.deleted and not copy.hidden for copy in facts.copies)
    return facts.mapping is None and live and not facts.specified


def decide(facts: Facts) -> Verdict:
    if facts.mapping is not None:
        return Keep("the instance has a mapping")
    if not facts.copies:
        return Keep("no cell has the instance")
    unmapped = Unmapped(facts, tuple(copy for copy in facts.copies if not copy.hidden))
    return next(verdict(unmapped) for applies, verdict in UNMAPPED if applies(unmapped))
