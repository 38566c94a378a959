from __future__ import annotations

import uuid
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handlers.base import Event, Key
from handlers.nova import keys
from handlers.nova.mappings import map_instances
from handlers.nova.mappings.heal_instance_mappings import HealInstanceMappings
from handlers.nova.mappings.map_instances import Map, MapInstances
from handlers.nova.mappings.rules import BOOT, FAKE, MARKER, SETTLE, Change, Copy, Facts, Forget, MappingRow, decide
from handlers.nova.verdicts import Keep, Report, Wait

OLD = 10 * BOOT
UUID = str(uuid.uuid4())
MAPPING = MappingRow(1, UUID, "p", 2, False, OLD)
COPY = Copy(UUID, 2, "p", "u", "host", "active", None, deleted=False, hidden=False, born=OLD, age=OLD)
FACTS = Facts(MAPPING, None, (COPY,))
NO_CELL = replace(MAPPING, cell_id=None)
QUEUED = replace(MAPPING, queued=True)
UNKNOWN = replace(MAPPING, queued=None)
DELETED = replace(COPY, deleted=True)
HIDDEN = replace(COPY, cell_id=3, hidden=True)
HOMELESS = replace(COPY, host=None, vm_state="building", task_state="scheduling")
GONE = replace(FACTS, copies=())
LOST = replace(GONE, mapping=NO_CELL)


def copy(**changed: object) -> Facts:
    return replace(FACTS, copies=(replace(COPY, **changed),))


SET = Change("mapping-without-cell", "", {"cell_id": 2})
DROP = Change("build-request-stale", "", {}, drop_request=True)
ALIVE = Change("mark-of-deletion-wrong", "", {"queued_for_delete": False})
DEAD = Change("mark-of-deletion-wrong", "", {"queued_for_delete": True})

RULES = {
    "right": (FACTS, Keep),
    "no mapping": (replace(FACTS, mapping=None), Keep),
    "nova-manage's bookmark": (replace(LOST, mapping=replace(NO_CELL, project_id=MARKER)), Keep),
    "the bookmark's form": (replace(LOST, mapping=replace(NO_CELL, instance=UUID.replace("-", " "))), Keep),
    "the made-up instance": (replace(LOST, mapping=replace(NO_CELL, instance=FAKE, project_id=FAKE)), Keep),
    # nowhere
    "no cell, requested": (replace(LOST, mapping=replace(NO_CELL, age=9), request_age=9.0), Keep),
    "no cell, requested long ago": (replace(LOST, request_age=OLD), "build-stuck"),
    "no cell, requested again": (replace(LOST, request_age=9.0), Keep),
    "no cell, not requested, young": (replace(LOST, mapping=replace(NO_CELL, age=BOOT - 9)), Wait),
    "no cell, not requested": (LOST, Forget("mapping-orphaned", "")),
    "no cell, but holds": (replace(LOST, holds=True), "nowhere-but-holding"),
    "a cell, young": (replace(GONE, mapping=replace(MAPPING, age=BOOT - 9)), Wait),
    "a cell": (GONE, Forget("mapping-left-behind", "")),
    "a cell, deleted": (replace(GONE, mapping=QUEUED), Forget("mapping-left-behind", "")),
    "a cell, but holds": (replace(GONE, holds=True), "nowhere-but-holding"),
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
        replace(FACTS, mapping=NO_CELL, copies=(replace(COPY, born=SETTLE + 1, age=1.0),)),
        SET,
    ),
    "no cell, just made": (replace(FACTS, mapping=NO_CELL, copies=(replace(COPY, born=9.0),)), Wait),
    "no cell, no host yet": (
        replace(FACTS, mapping=NO_CELL, request_age=99.0, copies=(replace(HOMELESS, born=BOOT - 9),)),
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
        replace(FACTS, mapping=QUEUED, request_age=OLD),
        replace(DROP, values={"queued_for_delete": False}),
    ),
    "drop the request, leave the mark": (
        replace(FACTS, mapping=QUEUED, request_age=OLD, copies=(replace(COPY, task_state="deleting"),)),
        DROP,
    ),
    "the conductor has it": (replace(FACTS, request_age=99.0, copies=(replace(HOMELESS, born=99.0),)), Wait),
    "the conductor had it": (replace(FACTS, request_age=OLD, copies=(HOMELESS,)), DROP),
    # the mark
    "marked, alive": (replace(FACTS, mapping=QUEUED), ALIVE),
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
def test_verdict(name: str) -> None:
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


UNMAPPED = replace(FACTS, mapping=None)
MISSING = {
    "mapped": (FACTS, Keep),
    "mapped to no cell": (replace(FACTS, mapping=NO_CELL), Keep),
    "nowhere": (Facts(), Keep),
    "alive": (UNMAPPED, Map(COPY)),
    "deleted": (replace(UNMAPPED, copies=(DELETED,)), Map(DELETED)),
    "just made": (replace(UNMAPPED, copies=(replace(COPY, born=9.0),)), Wait),
    "being scheduled": (replace(UNMAPPED, request_age=9.0), Wait),
    "requested long ago": (replace(UNMAPPED, request_age=OLD), Map(COPY)),
    "in two cells": (replace(UNMAPPED, copies=(COPY, replace(DELETED, cell_id=3))), Report),
    "a cross-cell resize": (replace(UNMAPPED, copies=(COPY, HIDDEN)), Wait),
    "only hidden": (replace(UNMAPPED, copies=(replace(HIDDEN, deleted=True),)), Keep),
    "a hidden, deleted copy beside": (replace(UNMAPPED, copies=(COPY, replace(HIDDEN, deleted=True))), Map(COPY)),
    "nobody's": (replace(UNMAPPED, copies=(replace(COPY, project_id=None),)), Report),
}


@pytest.mark.parametrize("name", MISSING)
def test_missing(name: str) -> None:
    facts, expected = MISSING[name]
    verdict = map_instances.decide(facts)
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
    born=st.sampled_from([0.0, 61.0, OLD]),
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
    st.booleans(),
)


@given(anything)
def test_whatever_is_known_nothing_is_forgotten_that_somebody_may_need(facts: Facts) -> None:
    verdict = decide(facts)
    if isinstance(verdict, Forget):
        assert not facts.copies
        assert not facts.holds
        assert facts.request_age is None
        assert facts.mapping.age >= BOOT


@given(anything)
def test_whatever_is_known_a_request_is_not_taken_from_the_conductor(facts: Facts) -> None:
    verdict = decide(facts)
    if isinstance(verdict, Change) and verdict.drop_request:
        live = [found for found in facts.copies if not found.deleted]
        [found] = live or [found for found in facts.copies if not found.hidden]
        assert found.host is not None or found.born >= BOOT


@given(anything)
def test_what_is_changed_once_is_right(facts: Facts) -> None:
    verdict = decide(facts)
    if isinstance(verdict, Change):
        assert verdict.values or verdict.drop_request
        row = replace(
            facts.mapping,
            cell_id=verdict.values.get("cell_id", facts.mapping.cell_id),
            queued=verdict.values.get("queued_for_delete", facts.mapping.queued),
        )
        left = replace(facts, mapping=row, request_age=None if verdict.drop_request else facts.request_age)
        assert isinstance(decide(left), (Keep, Wait))


def test_the_instance_of_a_notification() -> None:
    for payload in ({"uuid": UUID}, {"instance_uuid": UUID.upper()}):
        assert keys.instance(Event("instance.exists", payload)) == Key("instance", UUID)
    for value in (None, "", 7, f"{UUID}/x"):
        with pytest.raises((ValueError, KeyError)):
            keys.instance(Event("instance.exists", {"uuid": value}))


def test_handlers_say_what_they_are() -> None:
    for handler in (MapInstances, HealInstanceMappings):
        assert handler.group == "audit"
        assert handler.default_mode == "heal"
        assert handler.title
        assert {trigger.event for trigger in handler.triggers} >= {"instance.create.end"}
