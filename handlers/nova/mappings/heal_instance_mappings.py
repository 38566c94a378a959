"""Repair the mappings of instances.

**What drifts.** A mapping names no cell, though a cell has the instance, so nova-api does not find the instance. A mapped
instance still has a build request, so server lists show it as being built. Rows of a deleted instance may count against quotas.
``queued_for_delete`` is true for a live instance, or false for a deleted one.

**Why Nova lets it.** A boot is four writes of two services into two databases; a service may die between them. nova-api
sets ``queued_for_delete`` before a deletion, and the deletion can fail.

**What is read.** The mapping, the build request and the instance's rows in every cell; where needed, the allocation and
archived rows. If one cell does not answer, the handler decides nothing.

**What is changed.** Rows of ``nova_api``:

- ``UPDATE instance_mappings`` sets a missing cell, and ``queued_for_delete`` of a deleted or soft-deleted instance. It clears
  ``queued_for_delete`` only if a live row and an allocation prove that the deletion failed.
- ``DELETE FROM build_requests`` for an instance in the cell that its mapping names, or now gets. The instance must be an hour
  old or, with a host, a minute old. During a boot, the conductor treats an instance without build request as deleted.
- ``DELETE FROM instance_mappings, request_specs, instance_group_member`` for an instance with ``queued_for_delete`` *and* an
  archived row in its cell, if nothing contradicts the deletion.

**What is not changed.** A missing row proves no deletion, because a restored database lacks rows too. The handler only
reports unproved deletions, instances in several cells or in a wrong cell, stuck builds, and rows of unmapped instances.

**Why a race does no harm.** While Nova works on an instance, its row is young, has a task, or has no host: then the handler
waits. A deletion between proof and write can leave ``queued_for_delete`` false; the deletion's event causes the repair.

**Undo.** SQL statements that restore the rows.

Sources: ``nova/compute/api.py`` (_provision_instances, _update_queued_for_deletion), ``nova/conductor/manager.py``
(schedule_and_build_instances, _bury_in_cell0, _map_instance_to_cell, _delete_build_request),
``nova/objects/instance_mapping.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial

from sqlalchemy.engine import Connection
from sqlalchemy.exc import IntegrityError

from handlers.access.roles import PLACEMENT
from handlers.base import Conflict, Finding, Healed, Key, Mode, Privilege, Refused, Roles, Trigger, Unavailable, keys_of
from handlers.nova import concerns, keys, tables
from handlers.nova.base import PlacementHandler
from handlers.nova.cells import Cell
from handlers.nova.database import API, NovaDatabases
from handlers.nova.mappings import facts as records
from handlers.nova.mappings import findings, queries, suspects
from handlers.nova.mappings.holders import SHARED, Holders
from handlers.nova.mappings.rules import (
    BOOT,
    SETTLE,
    Change,
    Facts,
    Forget,
    MappingRow,
    Problem,
    Verdict,
    asks_allocation,
    asks_allocation_in_range,
    decide,
)
from handlers.nova.mappings.suspects import MAPPINGS, Suspects
from handlers.nova.nodes import require_own_placement
from handlers.nova.placement import Placement
from handlers.nova.verdicts import Keep, Report, Wait, findings_or_wait, soonest

#: the kind of the key that stands for a whole database
DATABASE = "database"
#: up to this many wrong mappings of one key, the handler asks Placement about each instance
FEW = 10

#: seconds from an event to the first inspection
_SETTLED = SETTLE + 5.0


class HealInstanceMappings(PlacementHandler):
    name = "heal_instance_mappings"
    title = "Repair mappings of instances: no cell, stale build requests, wrong marks of deletion, leftovers"
    kinds = ("instance", MAPPINGS, DATABASE)
    healable_problems = frozenset(
        {
            Problem.WITHOUT_CELL,
            Problem.STALE_REQUEST,
            Problem.WRONG_MARK,
            Problem.ORPHANED,
            Problem.LEFT_BEHIND,
            Problem.ALL_LEFT_BEHIND,
        }
    )
    triggers = (
        Trigger("instance.create.end", keys.instance, after=_SETTLED),
        Trigger("instance.create.error", keys.instance, after=_SETTLED),
        Trigger("compute_task.build_instances.error", keys.instance, after=_SETTLED),
        Trigger("instance.delete.end", keys.instance, after=_SETTLED),
        Trigger("instance.soft_delete.end", keys.instance, after=_SETTLED),
        Trigger("instance.restore.end", keys.instance, after=_SETTLED),
    )
    concerned_kinds = concerns.KINDS
    default_mode = Mode.HEAL
    follows = ("map_instances",)
    default_interval = 600
    confirm_after = 5.0
    requires = ("placement", "nova_api")
    cost = (
        "Per thousand mappings, one query of nova_api and up to two of each cell that they name. Per thousand instances, one "
        "query of their cell and two of nova_api. For many leftover mappings, one request to Placement per provider. Ten "
        "minutes is fine for a hundred thousand instances, an hour for a million."
    )
    rights = {
        "nova_api": {
            "instance_mappings": frozenset({Privilege.UPDATE, Privilege.DELETE}),
            "build_requests": frozenset({Privilege.DELETE}),
            "request_specs": frozenset({Privilege.DELETE}),
            "instance_group_member": frozenset({Privilege.DELETE}),
        }
    }
    roles = Roles((PLACEMENT,))

    def __init__(self, databases: NovaDatabases, placement: Placement) -> None:
        super().__init__(databases, placement)
        self._suspects = Suspects(databases)
        self._holders = Holders(placement)

    def inspect(self, key: Key) -> Iterable[Finding]:
        if key.kind == DATABASE:
            return self._inspect_database(key)
        if key.kind == MAPPINGS:
            return self._inspect_range(key)
        facts, verdict = self._judge([key.id])[key.id]
        match verdict:
            case Keep():
                return []
            case Wait():
                raise soonest([verdict])
            case Report():
                return [findings.reported(key, key.id, facts, verdict)]
            case Change():
                return [findings.changing(self._databases.api, key, facts, verdict)]
            case Forget():
                return [findings.forgetting(self._databases.api, key, facts, verdict)]

    def sweep(self) -> Iterator[Key]:
        """The key ``database:nova_api`` stands for all request specifications and group members without a mapping."""
        api = self._databases.api
        yield from keys_of("instance", api.run(queries.misplaced_requests))
        if _lone_rows(api.run(_rows_without_mapping)):
            yield Key(DATABASE, API)
        cells = {cell.id: cell for cell in self._databases.cells()}
        yield from self._suspects.sweep(queries.mapping_page, cells)

    def sweep_cells(self, cells: Collection[Cell]) -> Iterator[Key]:
        by_id = {cell.id: cell for cell in cells}
        return self._suspects.sweep(partial(queries.mapping_page, cells=sorted(by_id)), by_id)

    def population(self) -> int:
        return self._databases.api.run(queries.mappings_count)

    def heal(self, finding: Finding) -> Healed:
        if not finding.healable:
            raise Refused(finding.refusal)
        self._databases.require_known_schema()
        match finding.problem:
            case Problem.ALL_LEFT_BEHIND:
                require_own_placement(self._databases, self._placement)
                return self._forget_all(finding)
            case Problem.LEFT_BEHIND | Problem.ORPHANED:
                require_own_placement(self._databases, self._placement)
                return self._forget(self.prove_again(finding), finding.undo)
            case Problem.WITHOUT_CELL | Problem.STALE_REQUEST | Problem.WRONG_MARK:
                if finding.evidence["allocated"] is not None:
                    require_own_placement(self._databases, self._placement)
                return self._change(self.prove_again(finding), finding.undo)
            case _:
                raise Refused(f"{self.name} has no heal for {finding.problem}")

    # proof

    def _judge(
        self, instances: Sequence[str], asks: Callable[[Facts], bool] = asks_allocation, age: float = SHARED
    ) -> dict[str, tuple[Facts, Verdict]]:
        found = records.read_mapped(self._databases, self._holders, instances, asks, age)
        return {uuid: (facts, decide(facts)) for uuid, facts in found.items()}

    def _inspect_range(self, key: Key) -> Sequence[Finding]:
        first, last = _bounds(key)
        page = self._databases.api.run(partial(queries.mapping_part, first=first, last=last))
        if len(page) > queries.PAGE:
            raise Refused(f"{key} stands for more than {queries.PAGE} mappings; choose a smaller range")
        cells = {cell.id: cell for cell in self._databases.cells()}
        down: dict[int, Unavailable] = {}
        astray, _ = self._suspects.on_page(page, cells, down)
        for error in down.values():
            raise error
        asks = asks_allocation if len(astray) <= FEW else asks_allocation_in_range
        judged = self._judge([row.instance for row in astray], asks)
        left = [facts for facts, verdict in judged.values() if facts.mapping and isinstance(verdict, Forget)]
        found = [
            findings.forgetting_all(self._databases.api, key, left[start : start + suspects.BATCH])
            for start in range(0, len(left), suspects.BATCH)
        ]
        reports: dict[Report, dict[str, Facts]] = {}
        for uuid, (facts, verdict) in judged.items():
            if isinstance(verdict, Report):
                reports.setdefault(findings.without_advice(facts, verdict), {})[uuid] = facts
        found += [findings.all_reported(key, instances, report) for report, instances in reports.items()]
        return findings_or_wait(found, [verdict for _, verdict in judged.values() if isinstance(verdict, Wait)])

    def _inspect_database(self, key: Key) -> list[Finding]:
        if key.id != API:
            raise Refused(f"{key} is not a key of this handler; write {DATABASE}:{API}")
        lone = _lone_rows(self._databases.api.run(_rows_without_mapping))
        if not lone:
            return []
        counted = " and ".join(f"{count} rows of {table}" for table, (count, _) in lone.items())
        return [
            Finding(
                key,
                Problem.ROWS_WITHOUT_MAPPING,
                f"{counted} belong to instances that have no mapping",
                {table: {"rows": count, "first": named} for table, (count, named) in lone.items()},
                healable=False,
                refusal="either an old release or a deletion by hand left them, or mappings were lost: where a cell has such "
                "an instance, map_instances maps it. Where none has it, the rows only take space: delete them in nova_api",
            )
        ]

    # heals

    def _change(self, finding: Finding, undo: str) -> Healed:
        evidence = finding.evidence
        before = MappingRow.from_json(evidence["instance"], evidence["mapping"])
        values: Mapping[str, int | bool] = evidence["to_be"]
        drop_request: bool = evidence["drop_request"]
        change = partial(queries.change_mapping, before=before, values=values, drop_request=drop_request, undo=undo)
        try:
            self._databases.api.run(change)
        except IntegrityError as error:
            raise Conflict(f"the cell of instance {before.instance} does not exist any more") from error
        done = [f"set {name} of its mapping to {value}" for name, value in values.items()]
        done += ["deleted its build request"] if drop_request else []
        old = before.to_json()
        return Healed(
            f"instance {before.instance}: {', '.join(done)}",
            before={**{name: old[name] for name in values}, "build_request": drop_request},
            after={**values, "build_request": False},
            undo=undo,
        )

    def _forget(self, finding: Finding, undo: str) -> Healed:
        evidence = finding.evidence
        before = MappingRow.from_json(evidence["instance"], evidence["mapping"])
        gone = self._databases.api.run(partial(queries.forget, rows=[before], undo=undo))
        if not gone:
            raise Conflict(f"the rows of instance {before.instance} in nova_api changed")
        return Healed(
            f"deleted the mapping of the deleted instance {before.instance} and its other rows in nova_api",
            before={"rows": len(gone[before.instance]), **before.to_json()},
            after={"rows": 0},
            undo=undo,
        )

    def _forget_all(self, finding: Finding) -> Healed:
        expected = {
            instance: MappingRow.from_json(instance, row) for instance, row in finding.evidence["mappings"].items()
        }
        due = [
            expected[instance]
            for instance, (facts, verdict) in self._judge(list(expected), age=0.0).items()
            if isinstance(verdict, Forget) and facts.mapping and facts.mapping.to_json() == expected[instance].to_json()
        ]
        gone = self._databases.api.run(partial(queries.forget, rows=due, undo=finding.undo)) if due else {}
        if not gone:
            raise Conflict(f"every mapping of {finding.key} changed")
        undo = [statement for statements in gone.values() for statement in statements]
        return Healed(
            f"deleted the mappings of {len(gone)} deleted instances and their other rows in nova_api",
            before={"rows": len(undo), "mappings": {uuid: expected[uuid].to_json() for uuid in gone}},
            after={"rows": 0},
            undo=findings.in_nova_api(undo),
            complete=len(gone) == len(expected),
        )


def _rows_without_mapping(connection: Connection) -> dict[str, tuple[int, list[str]]]:
    found = (tables.request_specs, tables.instance_group_member)
    return {table.name: queries.without_mapping(connection, table, older_than=BOOT) for table in found}


def _lone_rows(counted: Mapping[str, tuple[int, list[str]]]) -> dict[str, tuple[int, list[str]]]:
    return {table: (count, named) for table, (count, named) in counted.items() if count}


def _bounds(key: Key) -> tuple[int, int]:
    first, _, last = key.id.partition("-")
    try:
        return int(first), int(last)
    except ValueError:
        raise Refused(f"{key} is not a range of mappings; write {MAPPINGS}:<first>-<last>, by their ids") from None
