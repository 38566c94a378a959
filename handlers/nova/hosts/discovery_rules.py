"""Decide whether a host is mapped to its cell. Nothing is read here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from handlers.base import Json
from handlers.nova.cells import Cell


class Problem(StrEnum):
    UNMAPPED = "host-unmapped"
    SEVERAL_CELLS = "host-in-several-cells"
    ELSEWHERE = "host-mapped-elsewhere"


@dataclass(frozen=True, slots=True)
class Presence:
    """A host in one cell, with the uuids of its live rows."""

    cell: Cell
    host: str
    rows: frozenset[str] = frozenset()

    @property
    def name(self) -> str:
        return self.cell.name or self.cell.uuid


@dataclass(frozen=True, slots=True)
class HostFinding:
    """A host's drift. It is healable if ``refusal`` is empty."""

    problem: Problem
    summary: str
    evidence: Json
    refusal: str = ""


@dataclass(frozen=True, slots=True)
class Host:
    """A host, the cell of its mapping, and the cells that have the host."""

    name: str
    mapped_to: int | None
    presences: Sequence[Presence]

    @property
    def shares_rows(self) -> bool:
        """Whether two cells have the same rows, so they share a database."""
        seen: set[str] = set()
        for presence in self.presences:
            if seen & presence.rows:
                return True
            seen |= presence.rows
        return False


def _several_cells(host: Host) -> HostFinding:
    if host.shares_rows:
        refusal = (
            "these cells have the same rows, so their mappings lead to one database: find the mapping that is not used with "
            "nova-manage cell_v2 list_cells --verbose, and correct or delete that mapping. Do not delete the service"
        )
    else:
        refusal = (
            "either the machine moved to another cell and its old service stayed, or two machines have one name. In the first "
            "case delete the service that is down: openstack compute service delete. In the second rename one machine"
        )
    return HostFinding(
        Problem.SEVERAL_CELLS,
        f"host {host.name} has services or compute nodes in the cells {', '.join(one.name for one in host.presences)}",
        {"host": host.name, "cells": [one.cell.uuid for one in host.presences], "mapped_to": host.mapped_to},
        refusal,
    )


def _unmapped(host: Host) -> HostFinding:
    presence = host.presences[0]
    return HostFinding(
        Problem.UNMAPPED,
        f"host {presence.host} of {presence.name} is not mapped: instances scheduled to it end in cell0",
        {"host": presence.host, "cell": presence.cell.uuid, "cell_id": presence.cell.id},
    )


def _elsewhere(host: Host) -> HostFinding:
    presence = host.presences[0]
    return HostFinding(
        Problem.ELSEWHERE,
        f"host {presence.host} is in {presence.name} and mapped to another cell",
        {"host": presence.host, "cell": presence.cell.uuid, "mapped_to": host.mapped_to},
        "either the host moved and its old mapping stayed, or the database of a cell is another cell's. If no instance of the "
        "host is left in the cell of the mapping: nova-manage cell_v2 delete_host",
    )


RULES: tuple[tuple[Callable[[Host], bool], Callable[[Host], HostFinding | None]], ...] = (
    (lambda host: not host.presences, lambda host: None),
    (lambda host: len(host.presences) > 1, _several_cells),
    (lambda host: host.mapped_to is None, _unmapped),
    (lambda host: host.mapped_to != host.presences[0].cell.id, _elsewhere),
    (lambda host: True, lambda host: None),
)


def decide(name: str, mapped_to: int | None, presences: Sequence[Presence]) -> HostFinding | None:
    host = Host(name, mapped_to, presences)
    return next(verdict(host) for applies, verdict in RULES if applies(host))
