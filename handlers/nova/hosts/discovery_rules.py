from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from handlers.nova.cells import Cell


class Problem(StrEnum):
    UNMAPPED = "host-unmapped"
    SEVERAL_CELLS = "host-in-several-cells"
    ELSEWHERE = "host-mapped-elsewhere"


@dataclass(frozen=True, slots=True)
class Presence:
    """A host in one cell, with the uuids of its live services and compute nodes."""

    cell: Cell
    host: str
    services: frozenset[str] = frozenset()
    nodes: frozenset[str] = frozenset()

    @property
    def name(self) -> str:
        return self.cell.name or self.cell.uuid


@dataclass(frozen=True, slots=True)
class Mapped:
    id: int
    uuid: str


@dataclass(frozen=True, slots=True)
class Unmapped:
    host: str
    cell: str
    cell_id: int


@dataclass(frozen=True, slots=True)
class SeveralCells:
    host: str
    cells: Sequence[str]
    mapped_to: int | None


@dataclass(frozen=True, slots=True)
class Elsewhere:
    host: str
    cell: str
    mapped_to: int | None


@dataclass(frozen=True, slots=True)
class HostFinding:
    problem: Problem
    summary: str
    evidence: Unmapped | SeveralCells | Elsewhere
    refusal: str = ""


@dataclass(frozen=True, slots=True)
class Host:
    name: str
    mapped_to: Mapped | None
    presences: Sequence[Presence]

    @property
    def shares_services(self) -> bool:
        """Whether two cells have one service uuid: the cells share a database, or one database is a copy of the other."""
        return _repeats(presence.services for presence in self.presences)

    @property
    def shares_nodes(self) -> bool:
        """Whether two cells have one compute node uuid: a host that moves to another cell keeps its file ``compute_id``."""
        return _repeats(presence.nodes for presence in self.presences)

    @property
    def mapping(self) -> int | None:
        return None if self.mapped_to is None else self.mapped_to.id


def _repeats(groups: Iterable[frozenset[str]]) -> bool:
    listed = [uuid for group in groups for uuid in group]
    return len(listed) > len(set(listed))


def _several_cells(host: Host) -> HostFinding:
    name = shlex.quote(host.presences[0].host)
    delete = (
        f"openstack compute service list --host {name} shows the service that is down; delete that one: "
        "openstack compute service delete ID, and add the host to its aggregates again, because Nova removes it from all"
    )
    if host.shares_services:
        refusal = (
            "these cells have one service, so either two mappings of cells lead to one database, or one database is a copy of "
            "the other: nova-manage cell_v2 list_cells --verbose shows two equal URLs in the first case. Correct or delete the "
            "mapping that is not used. Do not delete the service"
        )
    elif host.shares_nodes:
        refusal = (
            "these cells have one compute node, but different services, so most likely the machine moved to another cell with "
            f"its file compute_id: {delete}. Or two machines have a copy of that file: rename one machine, without that file"
        )
    else:
        refusal = (
            "either the machine moved to another cell and its old service stayed, or two machines have one name. In the first "
            f"case {delete}. In the second, in which both services are up, rename one machine"
        )
    return HostFinding(
        Problem.SEVERAL_CELLS,
        f"host {host.name} has services or compute nodes in the cells {', '.join(one.name for one in host.presences)}",
        SeveralCells(host.name, [one.cell.uuid for one in host.presences], host.mapping),
        refusal,
    )


def _unmapped(host: Host) -> HostFinding:
    presence = host.presences[0]
    return HostFinding(
        Problem.UNMAPPED,
        f"host {presence.host} of {presence.name} is not mapped: instances scheduled to it end in cell0",
        Unmapped(presence.host, presence.cell.uuid, presence.cell.id),
    )


def _elsewhere(host: Host) -> HostFinding:
    presence = host.presences[0]
    return HostFinding(
        Problem.ELSEWHERE,
        f"host {presence.host} is in {presence.name} and mapped to another cell",
        Elsewhere(presence.host, presence.cell.uuid, host.mapping),
        "either the host moved and its old mapping stayed, or the database of a cell is another cell's. If no instance of the "
        "host is left in the cell of the mapping: nova-manage cell_v2 delete_host "
        f"--cell_uuid {'' if host.mapped_to is None else host.mapped_to.uuid} --host {shlex.quote(host.name)}",
    )


RULES: tuple[tuple[Callable[[Host], bool], Callable[[Host], HostFinding | None]], ...] = (
    (lambda host: not host.presences, lambda host: None),
    (lambda host: len(host.presences) > 1, _several_cells),
    (lambda host: host.mapped_to is None, _unmapped),
    (lambda host: host.mapping != host.presences[0].cell.id, _elsewhere),
    (lambda host: True, lambda host: None),
)


def decide(name: str, mapped_to: Mapped | None, presences: Sequence[Presence]) -> HostFinding | None:
    host = Host(name, mapped_to, presences)
    return next(verdict(host) for applies, verdict in RULES if applies(host))
