from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handlers.base import Event, Key
from handlers.nova import keys
from handlers.nova.mappings import rules, unmapped_rules
from handlers.nova.mappings.heal_instance_mappings import HealInstanceMappings
from handlers.nova.mappings.map_instances import MapInstances
from handlers.nova.mappings.rules import (
    AT_HOME,
    BOOT,
    FAKE,
    MARKER,
    NOWHERE,
    SETTLE,
    Change,
    Copy,
    Facts,
    Forget,
    MappingRow,
    Problem,
    asks_allocation,
    asks_allocation_in_range,
    asks_archive,
    decide,
)
from handlers.nova.mappings.unmapped_rules import UNMAPPED as UNMAPPED_ROWS
from handlers.nova.mappings.unmapped_rules import Map
from handlers.nova.verdicts import Keep, Report, Wait

OLD = 10 * BOOT
UUID = str(uuid.uuid4())
MAPPING = MappingRow(1, UUID, "p", 2, False, OLD)
COPY = Copy(UUID, 2, "p", "u", "host", "active", None, deleted=False, hidden=False, created_age=OLD, age=OLD)
FACTS = Facts(MAPPING, None, (COPY,))
NO_CELL = replace(MAPPING, cell_id=None)
QUEUED = replace(MAPPING, queued=True)
UNKNOWN = replace(MAPPING, queued=None)
DELETED = replace(COPY, deleted=True)
HIDDEN = replace(COPY, cell_id=3, hidden=True)
HOMELESS = replace(COPY, host=None, vm_state="building", task_state="scheduling")
GONE = replace(FACTS, copies=())
LOST = replace(GONE, mapping=NO_CELL)
FREE = replace(GONE, allocated=False)
PROVED = replace(FREE, mapping=QUEUED, archived=True, cell_alive=True)
FAILED_DELETION = replace(FACTS, mapping=QUEUED, allocated=True)


def copy(**changed: Any) -> Facts:
    return replace(FACTS, copies=(replace(COPY, **changed),))


SET = Change(Problem.WITHOUT_CELL, "", {"cell_id": 2})
DROP = Change(Problem.STALE_REQUEST, "", {}, drop_request=True)
ALIVE = Change(Problem.WRONG_MARK, "", {"queued_for_delete": False})
DEAD = Change(Problem.WRONG_MARK, "", {"queued_for_delete": True})

RULES = {
    "right": (FACTS, Keep),
    "no mapping": (replace(FACTS, mapping=None), Keep),
    "no mapping, requested": (Facts(request_age=9.0), Wait),
    "no mapping, requested long ago": (Facts(request_age=OLD), "request-without-mapping"),
    "no mapping, requested long ago, in a cell": (replace(FACTS, mapping=None, request_age=OLD), Keep),
    "nova-manage's bookmark": (replace(LOST, mapping=replace(NO_CELL, project_id=MARKER)), Keep),
    "the bookmark's form": (replace(LOST, mapping=replace(NO_CELL, instance=UUID.replace("-", " "))), Keep),
    "the made-up instance": (replace(LOST, mapping=replace(NO_CELL, instance=FAKE, project_id=FAKE)), Keep),
    # nowhere
    "no cell, requested": (replace(LOST, mapping=replace(NO_CELL, age=9), request_age=9.0), Keep),
    "no cell, requested long ago": (replace(LOST, request_age=OLD), "build-stuck"),
    "no cell, requested again": (replace(LOST, request_age=9.0), Keep),
    "no cell, not requested, young": (replace(LOST, mapping=replace(NO_CELL, age=BOOT - 9)), Wait),
    "no cell, not requested": (replace(LOST, allocated=False), "mapping-orphaned"),
    "no cell, marked": (replace(LOST, mapping=replace(NO_CELL, queued=True), allocated=False), "mapping-orphaned"),
    "no cell, marked and archived": (
        replace(PROVED, mapping=replace(NO_CELL, queued=True)),
        Forget(Problem.ORPHANED, ""),
    ),
    "no cell, but allocated": (replace(LOST, allocated=True), "nowhere-but-holding"),
    "a cell, young": (replace(GONE, mapping=replace(MAPPING, age=BOOT - 9)), Wait),
    "a cell": (FREE, "mapping-left-behind"),
    "a cell, marked only": (replace(FREE, mapping=QUEUED), "mapping-left-behind"),
    "a cell, archived only": (replace(FREE, archived=True, cell_alive=True), "mapping-left-behind"),
    "a cell, never marked, archived": (replace(PROVED, mapping=UNKNOWN), "mapping-left-behind"),
    "a cell, marked and archived": (PROVED, Forget(Problem.LEFT_BEHIND, "")),
    "a cell, marked and archived, no live instance there": (replace(PROVED, cell_alive=False), "mapping-left-behind"),
    "a cell, marked and archived, but allocated": (replace(PROVED, allocated=True), "nowhere-but-holding"),
    "a cell, marked and archived, allocation not known": (replace(PROVED, allocated=None), "mapping-left-behind"),
    "a cell, marked and archived, requested": (replace(PROVED, request_age=OLD), "request-without-instance"),
    "a cell, requested, young": (replace(GONE, request_age=9.0), Wait),
    "a cell, requested": (replace(GONE, request_age=OLD), "request-without-instance"),
    # no cell, and the instance is in one
    "set the cell": (replace(FACTS, mapping=NO_CELL), SET),
    "set the cell, drop the request": (
        replace(FACTS, mapping=NO_CELL, request_age=OLD),
        replace(SET, drop_request=True),
    ),
    "set the cell and the mark": (
        replace(FACTS, mapping=NO_CELL, copies=(DELETED,)),
        replace(SET, values={"cell_id": 2, "queued_for_delete": True}),
    ),
    "set the cell, not the mark of one that works": (
        replace(FACTS, mapping=replace(NO_CELL, queued=True), copies=(replace(COPY, task_state="deleting"),)),
        SET,
    ),
    "set the cell of a young one on its host": (
        replace(FACTS, mapping=NO_CELL, copies=(replace(COPY, created_age=SETTLE + 1, age=1.0),)),
        SET,
    ),
    "no cell, just made": (replace(FACTS, mapping=NO_CELL, copies=(replace(COPY, created_age=9.0),)), Wait),
    "no cell, no host yet": (
        replace(FACTS, mapping=NO_CELL, request_age=99.0, copies=(replace(HOMELESS, created_age=BOOT - 9),)),
        Wait,
    ),
    "no cell, never got a host": (replace(FACTS, mapping=NO_CELL, copies=(HOMELESS,)), SET),
    # in another cell
    "mapped elsewhere": (copy(cell_id=3), "mapped-elsewhere"),
    "mapped elsewhere, just now": (copy(cell_id=3, age=9.0), Wait),
    "deleted in its cell, alive in another": (
        replace(FACTS, copies=(DELETED, replace(COPY, cell_id=3))),
        "mapped-elsewhere",
    ),
    "in two cells": (replace(FACTS, copies=(COPY, replace(COPY, cell_id=3))), "instance-in-several-cells"),
    "deleted in two cells": (
        replace(FACTS, copies=(DELETED, replace(DELETED, cell_id=3))),
        "instance-in-several-cells",
    ),
    "a cross-cell resize": (replace(FACTS, copies=(COPY, HIDDEN)), Keep),
    "a cross-cell resize, no cell": (replace(FACTS, mapping=NO_CELL, copies=(COPY, HIDDEN)), Keep),
    "only a hidden copy": (replace(FACTS, copies=(replace(HIDDEN, deleted=True),)), "only-hidden-copies"),
    "a hidden, deleted copy beside": (replace(FACTS, copies=(COPY, replace(HIDDEN, deleted=True))), Keep),
    # the build request
    "drop the request": (replace(FACTS, request_age=OLD), DROP),
    "drop the request, set the mark": (
        replace(FAILED_DELETION, request_age=OLD),
        replace(DROP, values={"queued_for_delete": False}),
    ),
    "drop the request, leave the mark of one without allocation": (
        replace(FACTS, mapping=QUEUED, request_age=OLD, allocated=False),
        DROP,
    ),
    "drop the request, leave the mark": (
        replace(FACTS, mapping=QUEUED, request_age=OLD, copies=(replace(COPY, task_state="deleting"),)),
        DROP,
    ),
    "the conductor has it": (replace(FACTS, request_age=99.0, copies=(replace(HOMELESS, created_age=99.0),)), Wait),
    "the conductor had it": (replace(FACTS, request_age=OLD, copies=(HOMELESS,)), DROP),
    # the mark
    "marked, alive, allocated": (FAILED_DELETION, ALIVE),
    "marked, alive, not allocated": (replace(FAILED_DELETION, allocated=False), "marked-without-allocation"),
    "marked, alive, allocation not known": (replace(FAILED_DELETION, allocated=None), "marked-without-allocation"),
    "marked, being deleted": (replace(FACTS, mapping=QUEUED, copies=(replace(COPY, task_state="deleting"),)), Wait),
    "marked, about to vanish": (replace(FACTS, mapping=QUEUED, copies=(replace(COPY, vm_state="deleted"),)), Wait),
    "marked, just changed": (replace(FACTS, mapping=QUEUED, copies=(replace(COPY, age=9.0),)), Wait),
    "marked, soft-deleted": (replace(FACTS, mapping=QUEUED, copies=(replace(COPY, vm_state="soft-delete"),)), Keep),
    "not marked, soft-deleted": (copy(vm_state="soft-delete"), DEAD),
    "not marked, deleted": (replace(FACTS, copies=(DELETED,)), DEAD),
    "not marked, just deleted": (replace(FACTS, copies=(replace(DELETED, age=9.0),)), Wait),
    "never marked, deleted": (replace(FACTS, mapping=UNKNOWN, copies=(DELETED,)), DEAD),
    "never marked, alive": (replace(FACTS, mapping=UNKNOWN), Keep),
    "marked, deleted": (replace(FACTS, mapping=QUEUED, copies=(DELETED,)), Keep),
}


@pytest.mark.parametrize("name", RULES)
def test_the_verdict_follows_from_the_records(name: str) -> None:
    facts, expected = RULES[name]
    verdict = decide(facts)
    if isinstance(expected, type):
        assert isinstance(verdict, expected), verdict
    elif isinstance(expected, str):
        assert isinstance(verdict, Report), verdict
        assert (verdict.problem, bool(verdict.refusal)) == (expected, True)
    else:
        assert isinstance(verdict, (Change, Forget)), verdict
        assert replace(verdict, summary="") == expected


@pytest.mark.parametrize("record", ["mapping", "archived", "allocated", "cell_alive"])
def test_nothing_is_deleted_without_each_record(record: str) -> None:
    without: dict[str, Any] = {"mapping": MAPPING, "archived": False, "allocated": None, "cell_alive": False}

    assert isinstance(decide(PROVED), Forget)
    assert isinstance(decide(replace(PROVED, **{record: without[record]})), Report)


@pytest.mark.parametrize(
    "contradiction", [{"copies": (COPY,)}, {"allocated": True}, {"request_age": OLD}, {"copies": (HIDDEN,)}]
)
def test_a_contradiction_forbids_the_deletion(contradiction: dict[str, Any]) -> None:
    assert not isinstance(decide(replace(PROVED, **contradiction)), Forget)


def test_a_mark_is_cleared_only_with_an_allocation() -> None:
    assert isinstance(decide(FAILED_DELETION), Change)
    for allocated in (False, None):
        assert isinstance(decide(replace(FAILED_DELETION, allocated=allocated)), Report)


@pytest.mark.parametrize("name", [name for name, (_, expected) in RULES.items() if isinstance(expected, str)])
def test_a_report_names_both_explanations(name: str) -> None:
    verdict = decide(RULES[name][0])
    assert isinstance(verdict, Report)
    assert "either" in verdict.refusal
    assert " or " in verdict.refusal


def test_each_row_of_the_tables_has_a_case(monkeypatch: pytest.MonkeyPatch) -> None:
    hit: set[tuple[str, int]] = set()
    cases = [(rules, "NOWHERE", facts) for facts, _ in RULES.values()]
    cases += [(rules, "AT_HOME", facts) for facts, _ in RULES.values()]
    cases += [(unmapped_rules, "UNMAPPED", facts) for facts, _ in MISSING.values()]
    for module, table, facts in cases:
        monkeypatch.setattr(module, table, _watched(table, TABLES[table], hit))
        module.decide(facts)
    assert hit == {(table, number) for table, rows in TABLES.items() for number in range(len(rows))}


TABLES = {"NOWHERE": NOWHERE, "AT_HOME": AT_HOME, "UNMAPPED": UNMAPPED_ROWS}


def _watched(table: str, rows: tuple[Any, ...], hit: set[tuple[str, int]]) -> tuple[Any, ...]:
    """Return the rows with verdicts that note which row gave one."""

    def noting(number: int, verdict: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def give(case: Any) -> Any:
            hit.add((table, number))
            return verdict(case)

        return give

    return tuple((applies, noting(number, verdict)) for number, (applies, verdict) in enumerate(rows))


def test_placement_and_the_archive_are_asked_only_where_the_verdict_depends_on_them() -> None:
    assert asks_allocation(GONE)
    assert asks_allocation(replace(FACTS, mapping=QUEUED))
    assert not asks_allocation(FACTS)
    assert not asks_allocation(replace(GONE, mapping=replace(MAPPING, age=1.0)))
    assert asks_allocation_in_range(replace(GONE, mapping=QUEUED))
    assert not asks_allocation_in_range(GONE)
    assert asks_archive(replace(FREE, mapping=QUEUED))
    assert not asks_archive(FREE)
    assert not asks_archive(replace(FREE, mapping=QUEUED, allocated=True))
    assert unmapped_rules.asks_allocation(replace(FACTS, mapping=None))
    assert not unmapped_rules.asks_allocation(replace(FACTS, mapping=None, specified=True))


UNMAPPED = replace(FACTS, mapping=None, specified=True)
MISSING = {
    "mapped": (FACTS, Keep),
    "mapped to no cell": (replace(FACTS, mapping=NO_CELL), Keep),
    "nowhere": (Facts(), Keep),
    "alive, with a specification": (UNMAPPED, Map(COPY)),
    "alive, with an allocation": (replace(UNMAPPED, specified=False, allocated=True), Map(COPY)),
    "alive, with neither": (replace(UNMAPPED, specified=False, allocated=False), Report),
    "deleted, with neither": (replace(UNMAPPED, specified=False, copies=(DELETED,)), Map(DELETED)),
    "deleted": (replace(UNMAPPED, copies=(DELETED,)), Map(DELETED)),
    "just made": (replace(UNMAPPED, copies=(replace(COPY, created_age=9.0),)), Wait),
    "being scheduled": (replace(UNMAPPED, request_age=9.0), Wait),
    "requested long ago": (replace(UNMAPPED, request_age=OLD), Map(COPY)),
    "in two cells": (replace(UNMAPPED, copies=(COPY, replace(DELETED, cell_id=3))), Report),
    "a cross-cell resize": (replace(UNMAPPED, copies=(COPY, HIDDEN)), Wait),
    "only hidden": (replace(UNMAPPED, copies=(replace(HIDDEN, deleted=True),)), Keep),
    "a hidden, deleted copy beside": (replace(UNMAPPED, copies=(COPY, replace(HIDDEN, deleted=True))), Map(COPY)),
    "nobody's": (replace(UNMAPPED, copies=(replace(COPY, project_id=None),)), Report),
}


@pytest.mark.parametrize("name", MISSING)
def test_the_verdict_about_an_instance_without_mapping(name: str) -> None:
    facts, expected = MISSING[name]
    verdict = unmapped_rules.decide(facts)
    assert isinstance(verdict, expected) if isinstance(expected, type) else verdict == expected


copies = st.builds(
    Copy,
    st.just(UUID),
    st.sampled_from([1, 2, 3]),
    st.sampled_from(["p", None]),
    st.just("u"),
    st.sampled_from(["host", None]),
    st.sampled_from(["active", "building", "error", "soft-delete", "deleted", None]),
    st.sampled_from([None, "deleting", "scheduling"]),
    deleted=st.booleans(),
    hidden=st.booleans(),
    created_age=st.sampled_from([0.0, 61.0, OLD]),
    age=st.sampled_from([0.0, 61.0, OLD]),
)
mappings = st.builds(
    MappingRow,
    st.just(1),
    st.just(UUID),
    st.just("p"),
    st.sampled_from([None, 1, 2]),
    st.sampled_from([None, True, False]),
    st.sampled_from([0.0, 61.0, OLD]),
)
anything = st.builds(
    Facts,
    st.none() | mappings,
    st.sampled_from([None, 0.0, OLD]),
    st.lists(copies, max_size=3, unique_by=lambda found: found.cell_id).map(tuple),
    st.sampled_from([None, True, False]),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)


@given(anything)
def test_every_deletion_has_two_records_and_no_contradiction(facts: Facts) -> None:
    verdict = decide(facts)
    if isinstance(verdict, Forget):
        assert facts.mapping is not None
        assert facts.mapping.queued
        assert facts.archived
        assert facts.cell_alive
        assert not facts.copies
        assert facts.allocated is False
        assert facts.request_age is None
        assert facts.mapping.age >= BOOT


@given(anything)
def test_no_mark_is_cleared_without_an_allocation(facts: Facts) -> None:
    verdict = decide(facts)
    if isinstance(verdict, Change) and verdict.values.get("queued_for_delete") is False:
        assert facts.allocated


@given(anything)
def test_no_request_is_taken_from_the_conductor(facts: Facts) -> None:
    verdict = decide(facts)
    if isinstance(verdict, Change) and verdict.drop_request:
        live = [found for found in facts.copies if not found.deleted]
        [found] = live or [found for found in facts.copies if not found.hidden]
        assert found.host is not None or found.created_age >= BOOT


@given(anything)
def test_one_change_repairs_the_mapping(facts: Facts) -> None:
    verdict = decide(facts)
    if isinstance(verdict, Change):
        assert verdict.values or verdict.drop_request
        assert facts.mapping is not None
        values: dict[str, Any] = dict(verdict.values)
        row = replace(
            facts.mapping,
            cell_id=values.get("cell_id", facts.mapping.cell_id),
            queued=values.get("queued_for_delete", facts.mapping.queued),
        )
        left = replace(facts, mapping=row, request_age=None if verdict.drop_request else facts.request_age)
        then = decide(left)
        assert isinstance(then, (Keep, Wait)) or then.problem == Problem.MARKED_WITHOUT_ALLOCATION


def test_a_notification_names_its_instance() -> None:
    for payload in ({"uuid": UUID}, {"instance_uuid": UUID.upper()}):
        assert keys.instance(Event("instance.exists", payload)) == Key("instance", UUID)
    for value in (None, "", 7, f"{UUID}/x"):
        with pytest.raises((ValueError, KeyError)):
            keys.instance(Event("instance.exists", {"uuid": value}))


def test_handlers_describe_themselves() -> None:
    for handler in (MapInstances, HealInstanceMappings):
        assert handler.group == "audit"
        assert handler.default_mode == "heal"
        assert handler.title
        assert {trigger.event for trigger in handler.triggers} >= {"instance.create.end"}
