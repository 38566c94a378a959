"""Lists the mappings that look wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

from handlers.base import Incomplete, Key, Unavailable, keys_of
from handlers.nova.cells import Cell
from handlers.nova.database import NovaDatabases
from handlers.nova.mappings import queries
from handlers.nova.mappings.rules import BOOT, SETTLE, Copy, MappingRow, is_instance, wrongly_marked

#: the kind of a key that stands for a range of mappings, ``<first>-<last>`` by their ids
MAPPINGS = "mappings"
#: mappings of one finding
BATCH = 100


class Suspects:
    def __init__(self, databases: NovaDatabases) -> None:
        self._databases = databases

    def sweep(self, read: Callable[..., list[MappingRow]], cells: Mapping[int, Cell]) -> Iterator[Key]:
        """:param read: returns the page of mappings after the id ``after``
        :raises Incomplete: at the end, if a cell did not answer
        """
        api = self._databases.api
        down: dict[int, Unavailable] = {}
        after = 0
        while page := api.run(partial(read, after=after)):
            after = page[-1].id
            astray, others = self.on_page(page, cells, down)
            for start in range(0, len(astray), BATCH):
                yield from _keys(astray[start : start + BATCH])
            yield from keys_of("instance", (row.instance for row in others))
        for cell in cells.values():
            if cell.id not in down:
                try:
                    yield from self._elsewhere(cell)
                except Unavailable as unavailable:
                    if unavailable.dependency != cell.label:
                        raise
                    down[cell.id] = unavailable
        incomplete: Incomplete | None = None
        for error in down.values():
            incomplete = Incomplete(error, incomplete)
        if incomplete is not None:
            raise incomplete

    def on_page(
        self, page: Sequence[MappingRow], cells: Mapping[int, Cell], down: dict[int, Unavailable]
    ) -> tuple[list[MappingRow], list[MappingRow]]:
        """Return, from a page, the mappings whose cell lacks the instance, and those that look wrong for another reason.

        :param down: receives the error of each cell that does not answer, by the cell's id
        """
        astray, others = [], []
        by_cell: dict[int, list[MappingRow]] = {}
        for row in page:
            if not is_instance(row.instance, row.project_id):
                continue
            if row.cell_id is not None:
                by_cell.setdefault(row.cell_id, []).append(row)
            elif row.age >= SETTLE:
                others.append(row)
        for cell_id, rows in by_cell.items():
            if cell_id in down or cell_id not in cells:
                continue
            try:
                copies = self._copies(cells[cell_id], [row.instance for row in rows])
            except Unavailable as error:
                down[cell_id] = error
                continue
            wrong = [row for row in rows if _looks_wrong(row, copies.get(row.instance))]
            astray += [row for row in wrong if row.instance not in copies]
            others += [row for row in wrong if row.instance in copies]
        return sorted(astray, key=lambda row: row.id), others

    def _copies(self, cell: Cell, instances: Sequence[str]) -> dict[str, Copy]:
        work = partial(queries.copies, cell_id=cell.id, instances=instances)
        return {copy.uuid: copy for copy in self._databases.database(cell).run(work)}

    def _elsewhere(self, cell: Cell) -> Iterator[Key]:
        database, after = self._databases.database(cell), 0
        while page := database.run(partial(queries.instance_page, after=after)):
            after = page[-1][0]
            instances = [instance for _, instance in page]
            work = partial(queries.mapped_elsewhere, instances=instances, cell_id=cell.id)
            yield from keys_of("instance", self._databases.api.run(work))


def _keys(part: Sequence[MappingRow]) -> Iterator[Key]:
    if len(part) > 1:
        yield Key(MAPPINGS, f"{part[0].id}-{part[-1].id}", weight=len(part))
    else:
        yield from keys_of("instance", (row.instance for row in part))


def _looks_wrong(row: MappingRow, copy: Copy | None) -> bool:
    if copy is None:
        return row.age >= BOOT
    busy = not copy.deleted and (copy.task_state is not None or copy.ending)
    return copy.hidden or (wrongly_marked(row.queued, copy) and not busy)
