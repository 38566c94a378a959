"""Puts right what mappings of instances say, and clears away those that lead nowhere.

**What drifts.** The mapping of an instance names no cell, though the instance is in one: nova-api does not find it, or takes
it for being scheduled, for ever. A build request is left beside a mapped instance: lists show it as being built. A
mapping, a request specification and a place in a server group are left of an instance that is nowhere, and are counted
against quotas. The mark ``queued_for_delete`` says of a live instance that it is about to go (it is hidden while its cell
is down, and may not be counted), or of a deleted one that it is not.

**Why Nova lets it.** A boot is written in four steps by two services into two databases. What dies between them, or the
message queue loses, stays half done: no command of Nova's repairs a mapping that exists (``map_instances`` passes it by),
and the ``heal_instance_mappings`` that was once specified was never merged. nova-api sets the mark as soon as it has
*asked* a compute host to delete, whether or not that succeeds; ``map_instances`` writes false for all.

**What is read.** Mapping and build request, then the instance's rows in every cell, cell0 included, deleted and hidden
ones too. Which verdict follows from what is the table in :mod:`handlers.nova.mappings.rules`. Before anything is forgotten,
Placement is asked whether the instance holds resources. Notifications only say which instance to look at. When one cell does
not answer there is no verdict at all. A finding has to be seen twice, five seconds apart.

**What is changed.** Rows of ``nova_api``, each statement with the old values in its condition:

- ``UPDATE instance_mappings`` sets the cell where there is none, and the mark where it is wrong;
- ``DELETE FROM build_requests`` for an instance that is in the cell to which it is mapped. To the conductor a build
  request that vanishes is a deletion, and it destroys the instance: so this waits until it has a host, or for an hour;
- ``DELETE FROM instance_mappings, request_specs, instance_group_member`` of what is nowhere: not before an hour, only
  while there is no build request (in the same statement), only when it holds nothing in Placement. Where no more
  than a tenth of all mappings lead nowhere, up to a hundred are one finding and count as one heal; each is deleted for itself.

**What is not changed.** An instance in several cells or in another cell than it is mapped to, a build that is stuck, and
what is nowhere but holds resources are reported. The last tells leftovers from what a cell lost that was restored from
an old backup: an instance that runs holds something.

**Why a race does no harm.** An instance that nova-api or the conductor works on has a row that is young, a task state, or
no host; all of these are waited for. Should a user delete an instance in the moment between proof and write, the mark
may be set to false behind Nova's back; the notification of the deletion brings us back.

**Undo.** The exact statements, with all columns of what was deleted, are in the history.

Sources: ``nova/compute/api.py`` (_provision_instances, _update_queued_for_deletion), ``nova/conductor/manager.py``
(schedule_and_build_instances, _bury_in_cell0, _map_instance_to_cell, _delete_build_request),
``nova/objects/instance_mapping.py``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from sqlalchemy.exc import IntegrityError

from handlers.base import Conflict, Finding, Healed, InFlight, Key, Mode, Privilege, Refused, Trigger, Unavailable
from handlers.nova import keys
from handlers.nova.base import PlacementHandler
from handlers.nova.cells import Cell
from handlers.nova.mappings import queries
from handlers.nova.mappings.rules import (
    BOOT,
    SETTLE,
    Change,
    Copy,
    Facts,
    Forget,
    MappingRow,
    Verdict,
    decide,
    is_instance,
    wrongly_marked,
)
from handlers.nova.verdicts import Report, Wait

#: the kind of a key that stands for a part of the mappings, ``<first>-<last>`` by their ids: those that lead nowhere
MAPPINGS = "mappings"
#: mappings of one part
BATCH = 100
#: so many mappings that lead nowhere, as a part of all, are ordinary drift. Where there are more each is a key of its own, so
#: that what bounds how much is believed to be wrong counts them
ORDINARY = 0.1

#: seconds from a notification to the first look: what it tells of is then old enough to be judged
_SETTLED = SETTLE + 5.0


class HealInstanceMappings(PlacementHandler):
    """See the module."""

    name = "heal_instance_mappings"
    title = "Repair mappings of instances: no cell, stale build requests, wrong marks of deletion, leftovers"
    kinds = ("instance", MAPPINGS)
    healable_problems = frozenset(
        {
            "mapping-without-cell",
            "build-request-stale",
            "mark-of-deletion-wrong",
            "mapping-orphaned",
            "mapping-left-behind",
            "mappings-left-behind",
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
    default_mode = Mode.HEAL
    default_interval = 600
    confirm_after = 5.0
    requires = ("nova_api",)
    cost = "Two queries per thousand mappings; ten minutes is fine for a hundred thousand instances, an hour for a million."
    rights = {
        "nova_api": {
            "instance_mappings": frozenset({Privilege.UPDATE, Privilege.DELETE}),
            "build_requests": frozenset({Privilege.DELETE}),
            "request_specs": frozenset({Privilege.DELETE}),
            "instance_group_member": frozenset({Privilege.DELETE}),
        }
    }

    def inspect(self, key: Key) -> Iterable[Finding]:
        """Judge the mapping of one instance, or those of a part that lead nowhere, together."""
        if key.kind == MAPPINGS:
            return self._inspect_part(key)
        facts, verdict = self._judge(key.id)
        if isinstance(verdict, Wait):
            raise InFlight(verdict.reason, verdict.after)
        finding = _finding(key, facts, verdict)
        return [] if finding is None else [finding]

    def sweep(self) -> Iterator[Key]:
        """Yield the mappings that do not agree with their cells, and those beside a build request."""
        for found in self._databases.api.run(queries.requested_and_mapped):
            yield Key("instance", found)
        cells = {cell.id: cell for cell in self._databases.cells()}
        down: dict[int, Unavailable] = {}
        after, seen = 0, 0
        parts: list[list[MappingRow]] = []
        while page := self._databases.api.run(partial(queries.mapping_page, after=after)):
            after = page[-1].id
            seen += len(page)
            astray, others = self._suspects(page, cells, down)
            parts += [astray[start : start + BATCH] for start in range(0, len(astray), BATCH)]
            for row in others:
                yield Key("instance", row.instance)
        yield from _keys(parts, together=sum(map(len, parts)) <= ORDINARY * seen)
        for error in down.values():
            raise error

    def population(self) -> int:
        """How many mappings there are."""
        return self._databases.api.run(queries.mappings_count)

    def heal(self, finding: Finding) -> Healed:
        """Prove again, then change or delete what still is as it was."""
        if not finding.healable:
            raise Refused(finding.refusal)
        self._databases.require_known_schema()
        if finding.problem == "mappings-left-behind":
            return self._forget_all(finding)
        facts, verdict = self._judge(finding.evidence["instance"])
        now = _finding(finding.key, facts, verdict)
        if facts.mapping is None or now is None or (now.problem, now.evidence) != (finding.problem, finding.evidence):
            raise Conflict(f"{finding.key} is not as it was")
        try:
            if isinstance(verdict, Change):
                return self._change(facts.mapping, verdict)
            return self._forget(facts.mapping)
        except IntegrityError as error:
            raise Conflict(f"the cell of {finding.key} is gone") from error

    def _judge(self, uuid: str) -> tuple[Facts, Verdict]:
        [judged] = self._judge_all([uuid])
        return judged

    def _judge_all(self, uuids: Sequence[str]) -> list[tuple[Facts, Verdict]]:
        """Read what is known about instances in sets, and judge; what is to be forgotten must hold nothing in Placement."""
        judged = []
        for facts in queries.read(self._databases, uuids).values():
            verdict = decide(facts)
            if isinstance(verdict, Forget) and facts.mapping is not None:
                facts = replace(facts, holds=bool(self._placement.allocation(facts.mapping.instance).providers))  # noqa: PLW2901
                verdict = decide(facts)
            judged.append((facts, verdict))
        return judged

    def _inspect_part(self, key: Key) -> list[Finding]:
        first, last = _bounds(key)
        page = self._databases.api.run(partial(queries.mapping_part, first=first, last=last))
        cells = {cell.id: cell for cell in self._databases.cells()}
        down: dict[int, Unavailable] = {}
        astray, _ = self._suspects(page, cells, down)
        for error in down.values():
            raise error
        judged = self._judge_all([row.instance for row in astray])
        left = [facts.mapping for facts, verdict in judged if isinstance(verdict, Forget) and facts.mapping is not None]
        findings = [_of_all(key, left)] if left else []
        for facts, verdict in judged:
            finding = None if isinstance(verdict, Forget) else _finding(key, facts, verdict)
            findings += [] if finding is None else [finding]
        return findings

    def _change(self, before: MappingRow, change: Change) -> Healed:
        undo = self._databases.api.run(
            partial(
                queries.change_mapping,
                before=before,
                values=change.values,
                drop_request=change.drop_request,
            )
        )
        done = [f"set {name} of its mapping to {value}" for name, value in change.values.items()]
        if change.drop_request:
            done.append("took away its build request")
        old = {"cell_id": before.cell_id, "queued_for_delete": before.queued}
        return Healed(
            f"instance {before.instance}: {', '.join(done)}",
            before={**{name: old[name] for name in change.values}, "build_request": change.drop_request},
            after={**change.values, "build_request": False},
            undo=_in_nova_api(undo),
        )

    def _forget(self, before: MappingRow) -> Healed:
        undo = self._databases.api.run(partial(queries.forget, before=before))
        return Healed(
            f"took away the mapping of instance {before.instance} and what else nova_api had of it",
            before={"rows": len(undo), **_mapping(before)},
            after={"rows": 0},
            undo=_in_nova_api(undo),
        )

    def _forget_all(self, finding: Finding) -> Healed:
        """Forget those that are as they were, each in a transaction of its own."""
        expected = finding.evidence["mappings"]
        undo: list[str] = []
        gone: list[str] = []
        for facts, verdict in self._judge_all(list(expected)):
            before = facts.mapping
            if before is None or not isinstance(verdict, Forget) or _mapping(before) != expected[before.instance]:
                continue
            try:
                undo += self._databases.api.run(partial(queries.forget, before=before))
            except Conflict:
                continue
            except Unavailable:
                if not gone:
                    raise
                break
            gone.append(before.instance)
        if not gone:
            raise Conflict(f"nothing of {finding.key} is as it was")
        return Healed(
            f"took away the mappings of {len(gone)} instances and what else nova_api had of them",
            before={"rows": len(undo), "mappings": {uuid: expected[uuid] for uuid in gone}},
            after={"rows": 0},
            undo=_in_nova_api(undo),
            complete=len(gone) == len(expected),
        )

    def _suspects(
        self, page: Sequence[MappingRow], cells: Mapping[int, Cell], down: dict[int, Unavailable]
    ) -> tuple[list[MappingRow], list[MappingRow]]:
        """Return the mappings of this page that seem to lead nowhere, and those with which something else seems wrong.

        :param down: is told which cells do not answer
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


def _keys(parts: Iterable[Sequence[MappingRow]], *, together: bool) -> Iterator[Key]:
    """Yield a key for each part, or for each mapping."""
    for part in parts:
        if together and len(part) > 1:
            yield Key(MAPPINGS, f"{part[0].id}-{part[-1].id}")
        else:
            yield from (Key("instance", row.instance) for row in part)


def _looks_wrong(row: MappingRow, copy: Copy | None) -> bool:
    if copy is None:
        return row.age >= BOOT
    busy = not copy.deleted and copy.task_state is not None
    return copy.hidden or (wrongly_marked(row.queued, copy) and not busy)


def _finding(key: Key, facts: Facts, verdict: Verdict) -> Finding | None:
    if facts.mapping is None or not isinstance(verdict, (Change, Forget, Report)):
        return None
    evidence: dict[str, Any] = {
        "instance": facts.mapping.instance,
        "mapping": _mapping(facts.mapping),
        "build_request": facts.request_age is not None,
        "cells": sorted(copy.cell_id for copy in facts.copies),
    }
    summary = f"instance {facts.mapping.instance}: {verdict.summary}"
    if isinstance(verdict, Report):
        return Finding(key, verdict.problem, summary, evidence, healable=False, refusal=verdict.refusal)
    if isinstance(verdict, Change):
        evidence["to_be"] = {**verdict.values}
    return Finding(key, verdict.problem, summary, evidence)


def _of_all(key: Key, left: Sequence[MappingRow]) -> Finding:
    """Return the finding of all mappings of a part that lead nowhere."""
    summary = f"{len(left)} mappings of instances that no cell has any more"
    return Finding(key, "mappings-left-behind", summary, {"mappings": {row.instance: _mapping(row) for row in left}})


def _bounds(key: Key) -> tuple[int, int]:
    first, _, last = key.id.partition("-")
    try:
        return int(first), int(last)
    except ValueError:
        raise Refused(f"{key} is not a part of the mappings; write {MAPPINGS}:<first>-<last>, by their ids") from None


def _mapping(row: MappingRow) -> dict[str, Any]:
    return {"id": row.id, "cell_id": row.cell_id, "queued_for_delete": row.queued, "project_id": row.project_id}


def _in_nova_api(statements: Sequence[str]) -> str:
    return "\n".join([*statements, "-- in nova_api"])
