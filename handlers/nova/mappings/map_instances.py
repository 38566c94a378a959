"""Map instances that have no mapping.

**What drifts.** A cell has an instance without a row in ``instance_mappings``. nova-api lists the instance, but cannot show,
stop or delete it.

**Why Nova lets it.** An adopted cell, a restored database or a manual deletion can leave an instance without a mapping.
``nova-manage cell_v2 map_instances`` must run for each cell, and never sets ``queued_for_delete``.

**What is read.** The mapping, the build request and the request specification. Then the instance's rows in every cell. For a
live instance without a request specification, also the allocation. If one cell does not answer, the handler maps nothing.

**What is changed.** The handler inserts a row into ``instance_mappings``, with owner, cell and ``queued_for_delete``. It
also maps deleted instances, as nova-manage does. A key ``cell:<uuid>/<first>-<last>`` stands for the cell's instances with ids
in this range, ``cell:<uuid>`` for all. A finding has up to five hundred instances.

**What is not changed.** Three kinds of instances are only reported: instances in several cells, instances without a project,
and live instances without request specification and allocation. The handler waits for young instances, young build requests
and cross-cell resizes.

**Why a race does no harm.** The unique key refuses a second mapping. One statement maps all instances of a batch, or none.

**Undo.** ``DELETE FROM instance_mappings WHERE instance_uuid IN (...)``. It spares a mapping that Nova or nova-manage made or
changed: only the handler inserts rows with ``updated_at = created_at``.

Sources: ``nova/cmd/manage.py`` (map_instances), ``nova/compute/api.py`` (_provision_instances, _get_instance),
``nova/conductor/manager.py`` (schedule_and_build_instances).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

from sqlalchemy.exc import IntegrityError

from handlers.access.database import Database
from handlers.access.roles import PLACEMENT
from handlers.base import (
    Conflict,
    Finding,
    Healed,
    Incomplete,
    Key,
    Mode,
    Privilege,
    Refused,
    Roles,
    Trigger,
    Unavailable,
    keys_of,
)
from handlers.nova import concerns, keys
from handlers.nova.base import PlacementHandler
from handlers.nova.cells import Cell
from handlers.nova.database import NovaDatabases
from handlers.nova.mappings import facts as records
from handlers.nova.mappings import queries
from handlers.nova.mappings.holders import SHARED, Holders
from handlers.nova.mappings.rules import SETTLE, Copy, Facts, is_instance
from handlers.nova.mappings.unmapped_rules import Map, Problem, decide
from handlers.nova.placement import Placement
from handlers.nova.verdicts import Keep, Report, Wait, findings_or_wait

#: instances of one finding and one transaction
BATCH = 500
#: up to this many unmapped instances of a cell have keys of their own
FEW = 50


@dataclass(frozen=True, slots=True)
class Single:
    cell: str
    cell_id: int
    mapping: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Batch:
    cell: str
    cell_id: int
    count: int
    first: str
    last: str
    uuids: Sequence[str]


@dataclass(frozen=True, slots=True)
class Reported:
    instance: str
    cells: Sequence[int]
    allocated: bool | None


class MapInstances(PlacementHandler):
    name = "map_instances"
    title = "Map instances that have no mapping to the cell they are in"
    kinds = ("instance", "cell")
    healable_problems = frozenset({Problem.UNMAPPED, Problem.ALL_UNMAPPED})
    triggers = (
        Trigger("instance.create.end", keys.instance, after=SETTLE),
        Trigger("instance.exists", keys.instance, periodic=True),
    )
    concerned_kinds = concerns.KINDS
    default_mode = Mode.HEAL
    follows = ("discover_hosts",)
    default_interval = 86400
    requires = ("placement", "nova_api")
    cost = (
        "Per thousand instances, one query of their cell and two of nova_api; a million instances take some minutes, once a "
        "day is fine."
    )
    rights = {"nova_api": {"instance_mappings": frozenset({Privilege.INSERT})}}
    roles = Roles((PLACEMENT,))

    def __init__(self, databases: NovaDatabases, placement: Placement) -> None:
        super().__init__(databases, placement)
        self._holders = Holders(placement)

    def inspect(self, key: Key) -> Iterable[Finding]:
        if key.kind == "cell":
            return self._inspect_cell(key)
        findings, waits = self._prove(key, [key.id]) if is_instance(key.id) else ([], [])
        return findings_or_wait(findings, waits)

    def sweep(self) -> Iterator[Key]:
        return self.sweep_cells(self._databases.cells())

    def sweep_cells(self, cells: Collection[Cell]) -> Iterator[Key]:
        down: Incomplete | None = None
        for cell in cells:
            try:
                yield from self._sweep_cell(cell)
            except Unavailable as error:
                if error.dependency != cell.label:
                    raise
                down = Incomplete(error, down)
        if down is not None:
            raise down

    def population(self) -> int:
        counts, _ = self._databases.run_in_available(self._databases.cells(), queries.instances_count)
        return sum(counts.values())

    def heal(self, finding: Finding) -> Healed:
        if not finding.healable:
            raise Refused(finding.refusal)
        self._databases.require_known_schema()
        match finding.problem:
            case Problem.UNMAPPED:
                found, rows = 1, [self.prove_again(finding).evidence["mapping"]]
            case Problem.ALL_UNMAPPED:
                batch = Batch(**finding.evidence)
                found, rows = len(batch.uuids), self._still_unmapped(batch)
            case _:
                raise Refused(f"{self.name} has no heal for {finding.problem}")
        try:
            inserted = self._databases.api.run(partial(queries.insert_mappings, rows=rows))
        except IntegrityError as error:
            raise Conflict(
                f"another process maps instances, or cell {finding.evidence['cell']} does not exist any more"
            ) from error
        if not inserted:
            raise Conflict(f"every instance of {finding.key} changed")
        what = f"instance {inserted[0]}" if len(inserted) == 1 else f"{len(inserted)} instances"
        return Healed(
            f"mapped {what} to cell {finding.evidence['cell']}",
            before={"mappings": 0},
            after={"mappings": len(inserted), "cell": finding.evidence["cell"]},
            undo=_undo(inserted, finding.evidence["cell_id"]),
            complete=len(inserted) == found,
        )

    def _still_unmapped(self, batch: Batch) -> list[dict[str, Any]]:
        again = records.read_unmapped(self._databases, self._holders, batch.uuids, age=0.0)
        found = [verdict.copy for verdict in map(decide, again.values()) if isinstance(verdict, Map)]
        return [_row(copy) for copy in found if copy.cell_id == batch.cell_id]

    # one instance, or a batch of them

    def _prove(self, key: Key, instances: Sequence[str]) -> tuple[list[Finding], list[Wait]]:
        facts = records.read_unmapped(self._databases, self._holders, instances, SHARED)
        cells = {cell.id: cell for cell in self._databases.cells()}
        found: dict[int, dict[str, Copy]] = {}
        reports: list[Finding] = []
        waits: list[Wait] = []
        for instance, known in facts.items():
            match decide(known):
                case Map(copy):
                    found.setdefault(copy.cell_id, {})[instance] = copy
                case Report() as report:
                    reports.append(_reported(key, instance, known, report))
                case Wait() as wait:
                    waits.append(wait)
                case Keep():
                    pass
        make = _batch if key.kind == "cell" else _single
        findings = [
            replace(
                make(key, cells[cell_id], list(copies.values())),
                plan=self._databases.api.plan([queries.insertion([_row(copy) for copy in copies.values()])]),
                concerns=frozenset[str]().union(*(facts[instance].concerns for instance in copies)),
            )
            for cell_id, copies in found.items()
        ]
        return findings + reports, waits

    # a cell

    def _inspect_cell(self, key: Key) -> Sequence[Finding]:
        cell, first, last = self._range(key)
        findings: list[Finding] = []
        waits: list[Wait] = []
        for batch in _batches(self._missing(cell, first - 1, last)):
            found, young = self._prove(key, [instance for _, instance in batch])
            findings += found
            waits += young
        return findings_or_wait(findings, waits)

    def _sweep_cell(self, cell: Cell) -> Iterator[Key]:
        for number, batch in enumerate(_batches(self._missing(cell, 0, None))):
            if number == 0 and len(batch) <= FEW:
                yield from keys_of("instance", (instance for _, instance in batch))
            else:
                yield Key("cell", f"{cell.uuid}/{batch[0][0]}-{batch[-1][0]}", weight=len(batch))

    def _missing(self, cell: Cell, after: int, last: int | None) -> Iterator[tuple[int, str]]:
        database: Database = self._databases.database(cell)
        while page := database.run(partial(queries.instance_page, after=after, last=last)):
            after = page[-1][0]
            instances = [instance for _, instance in page if is_instance(instance)]
            mapped = self._databases.api.run(partial(queries.mapped, instances=instances))
            missing = set(instances) - mapped
            yield from ((number, instance) for number, instance in page if instance in missing)

    def _range(self, key: Key) -> tuple[Cell, int, int | None]:
        uuid, slash, ids = key.id.partition("/")
        first, _, last = ids.partition("-")
        try:
            bounds = (int(first), int(last)) if slash else (1, None)
        except ValueError:
            raise Refused(f"{key} is not a range of a cell; write cell:<uuid> or cell:<uuid>/<first>-<last>") from None
        cell = self._databases.find_cell(uuid)
        if cell is None:
            raise Refused(f"there is no cell {uuid}")
        return cell, *bounds


def _batches(missing: Iterable[tuple[int, str]]) -> Iterator[list[tuple[int, str]]]:
    batch: list[tuple[int, str]] = []
    for one in missing:
        batch.append(one)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def _row(copy: Copy) -> dict[str, Any]:
    return {
        "instance_uuid": copy.uuid,
        "cell_id": copy.cell_id,
        "project_id": copy.project_id,
        "user_id": copy.user_id,
        "queued_for_delete": copy.queued,
    }


def _single(key: Key, cell: Cell, copies: Sequence[Copy]) -> Finding:
    [copy] = copies
    what = "deleted instance" if copy.deleted else "instance"
    return Finding(
        key,
        Problem.UNMAPPED,
        f"the {what} {copy.uuid} of {cell.name or cell.uuid} has no mapping: nova-api does not find it",
        asdict(Single(cell.uuid, cell.id, _row(copy))),
        undo=_undo([copy.uuid], cell.id),
    )


def _batch(key: Key, cell: Cell, copies: Sequence[Copy]) -> Finding:
    uuids = [copy.uuid for copy in copies]
    return Finding(
        key,
        Problem.ALL_UNMAPPED,
        f"{len(uuids)} instances of {cell.name or cell.uuid} have no mapping: nova-api does not find them",
        asdict(Batch(cell.uuid, cell.id, len(uuids), uuids[0], uuids[-1], uuids)),
        weight=len(uuids),
        undo=_undo(uuids, cell.id),
    )


def _undo(instances: Sequence[str], cell_id: int) -> str:
    """Return the SQL that deletes the mappings of a heal, but no mapping that another process made or changed."""
    names = ", ".join(f"'{instance}'" for instance in instances)
    return (
        f"-- in nova_api\nDELETE FROM instance_mappings WHERE instance_uuid IN ({names}) AND cell_id = {cell_id} "
        "AND updated_at = created_at;"
    )


def _reported(key: Key, instance: str, facts: Facts, verdict: Report) -> Finding:
    evidence = Reported(instance, sorted(copy.cell_id for copy in facts.copies), facts.allocated)
    summary = f"instance {instance}: {verdict.summary}"
    refusal = verdict.refusal
    if verdict.problem == Problem.WITHOUT_RECORD:
        refusal += "".join(f": {_insert(copy)}" for copy in facts.copies if not copy.hidden)
    return Finding(
        key, verdict.problem, summary, asdict(evidence), healable=False, refusal=refusal, concerns=facts.concerns
    )


def _insert(copy: Copy) -> str:
    owner, user = (_literal(name) for name in (copy.project_id, copy.user_id))
    return (
        "INSERT INTO instance_mappings (instance_uuid, cell_id, project_id, user_id, queued_for_delete) VALUES "
        f"('{copy.uuid}', {copy.cell_id}, {owner}, {user}, FALSE);"
    )


def _literal(value: str | None) -> str:
    return "NULL" if value is None else "'" + value.replace("'", "''") + "'"
