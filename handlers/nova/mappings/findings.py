"""Make the findings about mappings, with evidence, plan, undo and advice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from handlers.access.database import Database
from handlers.base import Conflict, Finding, Json, Key
from handlers.nova import tables
from handlers.nova.mappings import queries
from handlers.nova.mappings.rules import Change, Facts, Forget, MappingRow, Problem
from handlers.nova.verdicts import Report

#: the end of advice to delete, which the statements follow
_DELETE = "delete its rows in nova_api"


@dataclass(frozen=True, slots=True)
class Evidence:
    instance: str
    mapping: MappingRow | None
    build_request: bool
    cells: Sequence[int]
    allocated: bool | None = None
    archived: bool = False
    values: Mapping[str, int | bool] = field(default_factory=dict)
    drop_request: bool = False

    def to_json(self) -> Json:
        return {
            "instance": self.instance,
            "mapping": None if self.mapping is None else self.mapping.to_json(),
            "build_request": self.build_request,
            "cells": list(self.cells),
            "allocated": self.allocated,
            "archived": self.archived,
            "to_be": dict(self.values),
            "drop_request": self.drop_request,
        }


def changing(api: Database, key: Key, facts: Facts, verdict: Change) -> Finding:
    if facts.mapping is None:
        raise Conflict(f"{key} has no mapping")
    undo = partial(
        queries.undo_of_change, before=facts.mapping, values=verdict.values, drop_request=verdict.drop_request
    )
    evidence = _evidence(facts.mapping.instance, facts, verdict.values, verdict.drop_request)
    return Finding(
        key,
        verdict.problem,
        f"instance {facts.mapping.instance}: {verdict.summary}",
        evidence.to_json(),
        undo=in_nova_api(api.run(undo)),
        plan=api.plan(queries.changes(facts.mapping, verdict.values, verdict.drop_request)),
        concerns=facts.concerns,
    )


def forgetting(api: Database, key: Key, facts: Facts, verdict: Forget) -> Finding:
    """Return the finding of a deleted instance whose mapping remains."""
    if facts.mapping is None:
        raise Conflict(f"{key} has no mapping")
    evidence = _evidence(key.id, facts)
    undo = api.run(partial(queries.undo_of_forget, instances=[key.id]))[key.id]
    summary = f"instance {key.id}: {verdict.summary}"
    return Finding(
        key,
        verdict.problem,
        summary,
        evidence.to_json(),
        undo=in_nova_api(undo),
        plan=api.plan(queries.deletions(facts.mapping)),
        concerns=facts.concerns,
    )


def forgetting_all(api: Database, key: Key, forgotten: Sequence[Facts]) -> Finding:
    left = [facts.mapping for facts in forgotten if facts.mapping is not None]
    undo = api.run(partial(queries.undo_of_forget, instances=[row.instance for row in left]))
    return Finding(
        key,
        Problem.ALL_LEFT_BEHIND,
        f"{len(left)} instances are marked as deleted and archived, and their mappings are still there",
        {"mappings": {row.instance: row.to_json() for row in left}},
        weight=len(left),
        undo=in_nova_api([statement for statements in undo.values() for statement in statements]),
        plan=api.plan(deletion for row in left for deletion in queries.deletions(row)),
        concerns=frozenset[str]().union(*(facts.concerns for facts in forgotten)),
    )


def reported(key: Key, instance: str, facts: Facts, verdict: Report) -> Finding:
    return Finding(
        key,
        verdict.problem,
        f"instance {instance}: {verdict.summary}",
        _evidence(instance, facts).to_json(),
        healable=False,
        refusal=_with_statements(verdict.refusal, [instance]),
        concerns=facts.concerns,
    )


def all_reported(key: Key, instances: Mapping[str, Facts], verdict: Report) -> Finding:
    return Finding(
        key,
        verdict.problem,
        f"{len(instances)} instances: {verdict.summary}",
        {"instances": list(instances)},
        healable=False,
        refusal=_with_statements(verdict.refusal, list(instances)),
        weight=len(instances),
        concerns=frozenset[str]().union(*(facts.concerns for facts in instances.values())),
    )


def without_advice(facts: Facts, verdict: Report) -> Report:
    """Return ``verdict``. If no allocation was read, replace advice to delete rows: the guest can still run."""
    if facts.allocated is not None or not verdict.refusal.endswith(_DELETE):
        return verdict
    refusal = (
        "a range is judged without Placement: run 'stackmend inspect heal_instance_mappings instance:UUID' for each, which "
        "asks for its allocation"
    )
    return replace(verdict, refusal=refusal)


def in_nova_api(statements: Sequence[str]) -> str:
    return "\n".join(["-- in nova_api", *statements])


def _evidence(
    instance: str, facts: Facts, values: Mapping[str, int | bool] | None = None, drop_request: bool = False
) -> Evidence:
    cells = sorted(copy.cell_id for copy in facts.copies)
    request = facts.request_age is not None
    return Evidence(
        instance, facts.mapping, request, cells, facts.allocated, facts.archived, values or {}, drop_request
    )


def _with_statements(refusal: str, instances: Sequence[str]) -> str:
    if not refusal.endswith(_DELETE):
        return refusal.replace("UUID", instances[0]) if len(instances) == 1 else refusal
    names = ", ".join(f"'{instance}'" for instance in instances)
    deleted = (*queries.FORGOTTEN, tables.build_requests)
    return f"{refusal}: " + " ".join(f"DELETE FROM {table.name} WHERE instance_uuid IN ({names});" for table in deleted)
