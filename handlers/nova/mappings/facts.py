"""Reads instances' records for the rules, from Nova's databases, then Placement, then the shadow tables."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from functools import partial

from handlers.nova import concerns
from handlers.nova.cells import Cell
from handlers.nova.database import NovaDatabases
from handlers.nova.mappings import queries, rules, unmapped_rules
from handlers.nova.mappings.holders import SHARED, Holders
from handlers.nova.mappings.rules import Facts
from handlers.nova.queries import ArchivedRow


def read_mapped(
    databases: NovaDatabases,
    holders: Holders,
    instances: Collection[str],
    asks_allocation: Callable[[Facts], bool] = rules.asks_allocation,
    age: float = SHARED,
) -> dict[str, Facts]:
    """Return the facts for :mod:`~handlers.nova.mappings.rules`, by instance uuid.

    :param age: as in :meth:`~handlers.nova.mappings.holders.Holders.among`
    """
    found = _allocated(holders, queries.read(databases, instances), asks_allocation, age)
    asked = {uuid: facts for uuid, facts in found.items() if rules.asks_archive(facts)}
    return found | _archived(databases, asked)


def read_unmapped(
    databases: NovaDatabases, holders: Holders, instances: Collection[str], age: float
) -> dict[str, Facts]:
    return _allocated(holders, queries.read(databases, instances), unmapped_rules.asks_allocation, age)


def _allocated(
    holders: Holders, found: Mapping[str, Facts], asks: Callable[[Facts], bool], age: float
) -> dict[str, Facts]:
    asked = {uuid for uuid, facts in found.items() if asks(facts)}
    holding = holders.among(asked, age)
    return {
        uuid: replace(facts, allocated=uuid in holding) if uuid in asked else facts for uuid, facts in found.items()
    }


def _archived(databases: NovaDatabases, asked: Mapping[str, Facts]) -> dict[str, Facts]:
    """Return the facts with archived rows: those in the mapping's cell, or in all cells if the mapping names no cell."""
    found = dict(asked)
    for cell in databases.cells():
        here = [uuid for uuid, facts in asked.items() if facts.mapping and facts.mapping.cell_id in {None, cell.id}]
        if not here:
            continue
        archived, alive = databases.database(cell).run(partial(queries.archived_here, instances=here))
        found |= {row.uuid: _archived_in(found[row.uuid], cell, row, alive) for row in archived}
    return found


def _archived_in(facts: Facts, cell: Cell, row: ArchivedRow, alive: bool) -> Facts:
    return replace(
        facts,
        archived=True,
        cell_alive=alive and (facts.cell_alive or not facts.archived),
        concerns=facts.concerns | concerns.of_row(*row) | concerns.of_cell(cell),
    )
