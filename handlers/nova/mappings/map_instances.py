"""Maps instances that no mapping leads to.

**What drifts.** An instance is in a cell and has no row in ``instance_mappings``. nova-api makes lists from the cells, but
finds a single instance only by its mapping: this one is listed, runs, and can be neither shown nor stopped nor deleted.

**Why Nova lets it.** Mapping and instance are rows of two databases. A cell that was adopted into cells v2, a database that
was restored, rows deleted by hand or by an old release part them, and nothing in Nova looks. ``nova-manage cell_v2
map_instances`` is run by hand, cell by cell. It tries to insert *every* instance of the cell one by one and lets the unique
key refuse; it says of deleted instances that they are not (``queued_for_delete``); and it takes the cell from the
operator, also when the instance is in two.

**What is read.** The mappings and build requests of the instances in question, then their rows in every cell, cell0
included, deleted and hidden ones too. A sweep pages through the instances of each cell by primary key and asks
``nova_api`` which of a page are mapped: two queries per thousand instances, and no more than a page in memory.

**What is changed.** A row is inserted into ``instance_mappings``, with owner and cell of the instance, and with the mark
of deletion that it must have. Deleted instances are mapped too, as nova-manage does: the actions of a deleted instance
are found by its mapping, which goes when the instance is archived. Where many are missing in a cell they are proved and
mapped up to five hundred at a time: a key ``cell:<uuid>/<first>-<last>`` is the instances of these ids (of
``instances.id``) in the cell, ``cell:<uuid>`` all of them. One batch counts as one heal.

**What is not changed.** An instance that is in several cells, or that nobody owns, is reported. One that is younger than a
minute, has a young build request, or is amid a resize to another cell is left alone. A row that exists is never touched,
whatever is in it: that is the work of :mod:`handlers.nova.mappings.heal_instance_mappings`. While any cell does not answer nothing
is mapped, because the instance might be there as well.

**Undo.** ``DELETE FROM instance_mappings WHERE instance_uuid = ...``; the exact statement is in the history.

Sources: ``nova/cmd/manage.py`` (map_instances), ``nova/compute/api.py`` (_provision_instances, _get_instance),
``nova/conductor/manager.py`` (schedule_and_build_instances).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from sqlalchemy.exc import IntegrityError

from handlers.access.database import Database
from handlers.base import Conflict, Finding, Healed, InFlight, Key, Mode, Privilege, Refused, Trigger, Unavailable
from handlers.nova import keys
from handlers.nova.base import DatabaseHandler
from handlers.nova.cells import Cell
from handlers.nova.mappings import queries
from handlers.nova.mappings.rules import BOOT, SETTLE, Copy, Facts, is_instance
from handlers.nova.verdicts import BUSY, Keep, Report, Wait

#: instances of one batch: one finding, one transaction
BATCH = 500
#: up to this many missing ones of a cell are looked at one by one
FEW = 50


@dataclass(frozen=True, slots=True)
class Map:
    """The instance has to be mapped to where this copy is."""

    copy: Copy


Verdict = Keep | Wait | Report | Map


def decide(facts: Facts) -> Verdict:
    """Say what has to happen to an instance for which this is known."""
    if facts.mapping is not None:
        return Keep("is mapped")
    if not facts.copies:
        return Keep("is nowhere")
    if any(copy.hidden and not copy.deleted for copy in facts.copies):
        return Wait("a cross-cell resize is under way", BUSY)
    visible = [copy for copy in facts.copies if not copy.hidden]
    if not visible:
        return Keep("only hidden copies are left, which do not count")
    if len(visible) > 1:
        return Report(
            "unmapped-in-several-cells",
            "the instance has no mapping and is in several cells",
            "which copy is right is for a person to say; delete the other",
        )
    [copy] = visible
    if copy.born < SETTLE:
        return Wait("the instance was made only just now", SETTLE - copy.born)
    if facts.request_age is not None and facts.request_age < BOOT:
        return Wait("the instance is being scheduled", BOOT - facts.request_age)
    if copy.project_id is None:
        return Report(
            "unmapped-without-owner", "the instance has no mapping and no project", "a mapping needs a project"
        )
    return Map(copy)


class MapInstances(DatabaseHandler):
    """See the module."""

    name = "map_instances"
    title = "Map instances that have no mapping to the cell they are in"
    kinds = ("instance", "cell")
    healable_problems = frozenset({"instance-unmapped", "instances-unmapped"})
    triggers = (
        Trigger("instance.create.end", keys.instance, after=SETTLE),
        Trigger("instance.exists", keys.instance),
    )
    default_mode = Mode.HEAL
    default_interval = 86400
    requires = ("nova_api",)
    cost = (
        "Two queries per thousand instances of every cell; a million instances take some minutes, once a day is fine."
    )
    rights = {"nova_api": {"instance_mappings": frozenset({Privilege.INSERT})}}

    def inspect(self, key: Key) -> Iterable[Finding]:
        """Prove of one instance that it is unmapped, or of all in a cell, or in a part of it, batch by batch."""
        if key.kind == "cell":
            return self._inspect_cell(key)
        findings, wait = self._prove(key, [key.id]) if is_instance(key.id) else ([], None)
        if wait is not None and not findings:
            raise InFlight(wait.reason, wait.after)
        return findings

    def sweep(self) -> Iterator[Key]:
        """Yield the unmapped instances of each cell or, where there are many, the parts of the cell they are in."""
        down: Unavailable | None = None
        for cell in self._databases.cells():
            try:
                yield from self._sweep_cell(cell)
            except Unavailable as error:
                if error.dependency != cell.label:
                    raise
                down = error
        if down is not None:
            raise down

    def population(self) -> int:
        """How many instances, live or deleted, there are in the cells that answer."""
        counts, _ = self._databases.run_in_available(self._databases.cells(), queries.instances_count)
        return sum(counts.values())

    def heal(self, finding: Finding) -> Healed:
        """Insert the mappings of those that still have none and still are where they were; the others are left out."""
        if not finding.healable:
            raise Refused(finding.refusal)
        self._databases.require_known_schema()
        cell_id, instances = finding.evidence["cell_id"], _instances(finding.evidence)
        again = queries.read(self._databases, instances)
        found = [verdict.copy for verdict in map(decide, again.values()) if isinstance(verdict, Map)]
        rows = [_row(copy) for copy in found if copy.cell_id == cell_id]
        if finding.evidence.get("mapping") not in (None, *rows):
            raise Conflict(f"instance {instances[0]} is not as it was")
        try:
            inserted = self._databases.api.run(partial(queries.insert_mappings, rows=rows))
        except IntegrityError as error:
            raise Conflict(f"somebody else maps instances, or cell {finding.evidence['cell']} is gone") from error
        if not inserted:
            raise Conflict(f"nothing of {finding.key} is as it was")
        what = f"instance {inserted[0]}" if len(inserted) == 1 else f"{len(inserted)} instances"
        names = ", ".join(f"'{instance}'" for instance in inserted)
        return Healed(
            f"mapped {what} to cell {finding.evidence['cell']}",
            before={"mappings": 0},
            after={"mappings": len(inserted), "cell": finding.evidence["cell"]},
            undo=f"DELETE FROM instance_mappings WHERE instance_uuid IN ({names});  -- in nova_api",
        )

    # one instance, or a batch of them

    def _prove(self, key: Key, instances: Sequence[str]) -> tuple[list[Finding], Wait | None]:
        """Look at instances that seem to be unmapped; a key of a cell gets one finding for all that can be mapped."""
        facts = queries.read(self._databases, instances)
        names = {cell.id: cell for cell in self._databases.cells()}
        found: dict[int, list[Copy]] = {}
        findings: list[Finding] = []
        wait: Wait | None = None
        for instance, known in facts.items():
            verdict = decide(known)
            if isinstance(verdict, Map):
                found.setdefault(verdict.copy.cell_id, []).append(verdict.copy)
            elif isinstance(verdict, Report):
                findings.append(_reported(key, instance, known, verdict))
            elif isinstance(verdict, Wait):
                wait = verdict if wait is None or verdict.after < wait.after else wait
        for cell_id, copies in found.items():
            make = _batch if key.kind == "cell" else _single
            findings.insert(0, make(key, names[cell_id], copies))
        return findings, wait

    # a cell

    def _inspect_cell(self, key: Key) -> list[Finding]:
        cell, first, last = self._part(key)
        findings: list[Finding] = []
        for batch in _batches(self._missing(cell, first - 1, last)):
            found, _ = self._prove(key, [instance for _, instance in batch])
            findings += found
        return findings

    def _sweep_cell(self, cell: Cell) -> Iterator[Key]:
        for number, batch in enumerate(_batches(self._missing(cell, 0, None))):
            if number == 0 and len(batch) <= FEW:
                yield from (Key("instance", instance) for _, instance in batch)
            else:
                yield Key("cell", f"{cell.uuid}/{batch[0][0]}-{batch[-1][0]}")

    def _missing(self, cell: Cell, after: int, last: int | None) -> Iterator[tuple[int, str]]:
        """Yield id and uuid of the cell's instances that have no mapping, in the order of their ids."""
        database: Database = self._databases.database(cell)
        while page := database.run(partial(queries.instance_page, after=after, last=last)):
            after = page[-1][0]
            instances = [instance for _, instance in page if is_instance(instance)]
            mapped = self._databases.api.run(partial(queries.mapped, instances=instances))
            missing = set(instances) - mapped
            yield from ((number, instance) for number, instance in page if instance in missing)

    def _part(self, key: Key) -> tuple[Cell, int, int | None]:
        uuid, slash, part = key.id.partition("/")
        first, _, last = part.partition("-")
        try:
            bounds = (int(first), int(last)) if slash else (1, None)
        except ValueError:
            raise Refused(f"{key} is not a part of a cell; write cell:<uuid> or cell:<uuid>/<first>-<last>") from None
        for cell in self._databases.cells():
            if cell.uuid == uuid:
                return cell, *bounds
        raise Refused(f"there is no cell {uuid}")


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


def _instances(evidence: Mapping[str, Any]) -> list[str]:
    return list(evidence["uuids"]) if "uuids" in evidence else [evidence["mapping"]["instance_uuid"]]


def _single(key: Key, cell: Cell, copies: Sequence[Copy]) -> Finding:
    [copy] = copies
    what = "deleted instance" if copy.deleted else "instance"
    return Finding(
        key,
        "instance-unmapped",
        f"the {what} {copy.uuid} of {cell.name or cell.uuid} has no mapping: nova-api does not find it",
        {"cell": cell.uuid, "cell_id": cell.id, "mapping": _row(copy)},
    )


def _batch(key: Key, cell: Cell, copies: Sequence[Copy]) -> Finding:
    uuids = [copy.uuid for copy in copies]
    return Finding(
        key,
        "instances-unmapped",
        f"{len(uuids)} instances of {cell.name or cell.uuid} have no mapping: nova-api does not find them",
        {
            "cell": cell.uuid,
            "cell_id": cell.id,
            "count": len(uuids),
            "first": uuids[0],
            "last": uuids[-1],
            "uuids": uuids,
        },
    )


def _reported(key: Key, instance: str, facts: Facts, verdict: Report) -> Finding:
    evidence = {"instance": instance, "cells": sorted(copy.cell_id for copy in facts.copies)}
    summary = f"instance {instance}: {verdict.summary}"
    return Finding(key, verdict.problem, summary, evidence, healable=False, refusal=verdict.refusal)
