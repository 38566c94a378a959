from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handlers.nova.allocations.excess_rules import Facts, Located, Move, Take, decide
from handlers.nova.placement import Allocation
from handlers.nova.records import TERMINAL, Instance, InstanceMapping, Migration
from handlers.nova.verdicts import BUSY, Keep, Report, Wait

HOME, AWAY, DISK = "home", "away", "shared-disk"
OLD = 3600.0
AT_HOME = ("host-1", "node-1")
ELSEWHERE = ("host-2", "node-2")

INSTANCE = Instance("i", "p", "u", *AT_HOME, "active", None, deleted=False, hidden=False, age=OLD)
DELETED = replace(INSTANCE, deleted=True)
EVACUATED = Migration("m", "i", "done", "evacuation", ELSEWHERE, AT_HOME, deleted=False, age=OLD)
HELD = Allocation("i", {HOME: {"VCPU": 1}}, "p", "u", 3, "unknown")
BOTH = replace(HELD, providers={HOME: {"VCPU": 1}, AWAY: {"VCPU": 1}, DISK: {"DISK_GB": 1}})
FACTS = Facts(
    HELD,
    mapping=InstanceMapping("i", 2),
    rows=(Located(INSTANCE, 2),),
    home=HOME,
    roots={HOME: HOME, AWAY: AWAY, DISK: DISK},
    nodes={HOME: AT_HOME, AWAY: ELSEWHERE},
)


def rows(*instances: Instance, cell: int = 2, in_cell0: bool = False) -> tuple[Located, ...]:
    return tuple(Located(instance, cell + number, in_cell0) for number, instance in enumerate(instances))


def instance(**changed: object) -> Facts:
    return replace(FACTS, rows=rows(replace(INSTANCE, **changed)))


def migration(facts: Facts, **changed: object) -> Facts:
    """The facts of a migration as a consumer, of the instance of these facts."""
    row = replace(EVACUATED, kind="resize", **changed)
    return replace(facts, migration=row, migrations=(row,), allocation=replace(HELD, consumer="m"), own=HELD.providers)


RULES = {
    "holds nothing": (replace(FACTS, allocation=Allocation("i")), Keep),
    "somebody else's type": (replace(FACTS, rows=(), allocation=replace(HELD, consumer_type="CONTAINER")), Keep),
    "old placement tells no type": (
        replace(FACTS, rows=rows(DELETED), allocation=replace(HELD, consumer_type=None)),
        Take,
    ),
    "build request": (replace(FACTS, rows=(), mapping=None, building=True), Keep),
    "build request of a deleted one": (replace(FACTS, rows=rows(DELETED), building=True), Keep),
    "no cell yet": (replace(FACTS, rows=(), mapping=InstanceMapping("i", None)), Keep),
    "unknown": (replace(FACTS, rows=(), mapping=None), Report),
    "mapped, but nowhere": (replace(FACTS, rows=()), Report),
    "archived": (replace(FACTS, rows=(), mapping=None, archived=True), Take),
    "deleted": (replace(FACTS, rows=rows(DELETED)), Take),
    "deleted just now": (replace(FACTS, rows=rows(replace(DELETED, age=2.0))), Wait),
    "deleted in one cell, hidden copy deleted too": (
        replace(FACTS, rows=rows(DELETED, replace(DELETED, hidden=True))),
        Take,
    ),
    "deleted, only hidden copies": (replace(FACTS, rows=rows(replace(DELETED, hidden=True))), Report),
    "deleted copy, live hidden one": (replace(FACTS, rows=rows(DELETED, replace(INSTANCE, hidden=True))), Keep),
    "live, hidden copy too": (replace(FACTS, rows=rows(INSTANCE, replace(INSTANCE, hidden=True))), Keep),
    "in two cells": (replace(FACTS, rows=rows(INSTANCE, INSTANCE)), Report),
    "task state": (instance(task_state="unshelving"), Wait),
    "about to be deleted": (instance(vm_state="deleted"), Wait),
    "resized": (replace(instance(vm_state="resized"), allocation=BOTH), Keep),
    "finished migration": (
        replace(FACTS, allocation=BOTH, migrations=(replace(EVACUATED, status="finished"),)),
        Keep,
    ),
    "soft-deleted": (instance(vm_state="soft-delete"), Keep),
    "shelved": (instance(vm_state="shelved"), Keep),
    "offloaded": (instance(vm_state="shelved_offloaded", host=None, node=None), Take),
    "offloaded just now": (instance(vm_state="shelved_offloaded", host=None, node=None, age=5.0), Wait),
    "offloaded, mapped elsewhere": (
        replace(instance(vm_state="shelved_offloaded", host=None), mapping=InstanceMapping("i", 9)),
        Report,
    ),
    "offloaded, not mapped": (replace(instance(vm_state="shelved_offloaded", host=None), mapping=None), Report),
    "building": (instance(vm_state="building", host=None, node=None), Keep),
    "error without host": (instance(vm_state="error", host=None, node=None), Report),
    "cell0": (replace(FACTS, rows=rows(replace(INSTANCE, host=None, vm_state="error"), in_cell0=True)), Take),
    "cell0, mapped elsewhere": (
        replace(
            FACTS,
            rows=rows(replace(INSTANCE, host=None, vm_state="error"), in_cell0=True),
            mapping=InstanceMapping("i", 9),
        ),
        Report,
    ),
    "cell0 with a host": (replace(FACTS, rows=rows(INSTANCE, in_cell0=True)), Report),
    "on its node": (FACTS, Keep),
    "on its node and a shared disk": (
        replace(FACTS, allocation=replace(HELD, providers={HOME: {"VCPU": 1}, DISK: {"DISK_GB": 1}})),
        Keep,
    ),
    "its node unknown": (replace(FACTS, home=None), Report),
    "nothing of its node": (replace(FACTS, allocation=replace(HELD, providers={AWAY: {"VCPU": 1}})), Report),
    "nothing of its node, though a migration left the other": (
        replace(FACTS, allocation=replace(HELD, providers={AWAY: {"VCPU": 1}}), migrations=(EVACUATED,)),
        Report,
    ),
    "evacuated": (replace(FACTS, allocation=BOTH, migrations=(EVACUATED,)), Take),
    "evacuated just now": (replace(FACTS, allocation=BOTH, migrations=(replace(EVACUATED, age=1.0),)), Wait),
    "evacuated, mapped elsewhere": (
        replace(FACTS, allocation=BOTH, migrations=(EVACUATED,), mapping=InstanceMapping("i", 9)),
        Report,
    ),
    "being evacuated": (
        replace(FACTS, allocation=BOTH, migrations=(replace(EVACUATED, status="pre-migrating"),)),
        Wait,
    ),
    "on two nodes, unexplained": (replace(FACTS, allocation=BOTH), Report),
    "on its node under an older uuid": (
        replace(FACTS, allocation=BOTH, migrations=(EVACUATED,), nodes={HOME: AT_HOME, AWAY: AT_HOME}),
        Report,
    ),
    "migration done, instance at home": (migration(FACTS, status="confirmed"), Take),
    "migration done just now": (migration(FACTS, status="confirmed", age=3.0), Wait),
    "migration running": (migration(FACTS, status="running"), Wait),
    "migration waits for confirm": (migration(FACTS, status="finished"), Keep),
    "migration done, instance without": (replace(migration(FACTS, status="error"), own={}), Move),
    "migration done just now, instance without": (replace(migration(FACTS, status="error", age=3.0), own={}), Wait),
    "migration done, instance elsewhere": (replace(migration(FACTS, status="error"), own={AWAY: {"VCPU": 1}}), Move),
    "migration of a deleted instance": (
        replace(migration(FACTS, status="finished", deleted=True), rows=rows(DELETED)),
        Take,
    ),
    "migration of an instance deleted just now": (
        replace(migration(FACTS, status="running", deleted=True), rows=rows(replace(DELETED, age=20.0))),
        Wait,
    ),
}


@pytest.mark.parametrize(("facts", "verdict"), RULES.values(), ids=RULES)
def test_rule(facts: Facts, verdict: type) -> None:
    assert type(decide(facts)) is verdict


FAILED = replace(EVACUATED, kind="live-migration", status="failed", source=AT_HOME, dest=ELSEWHERE)
STAYED = replace(
    FACTS, migration=FAILED, migrations=(FAILED,), allocation=replace(HELD, consumer="m"), own={AWAY: {"VCPU": 1}}
)


def stayed(**changed: object) -> Facts:
    row = replace(FAILED, **changed)
    return replace(STAYED, migration=row, migrations=(row,))


IMMOVABLE = {
    "of a deleted row": (stayed(status="running", deleted=True), "row is deleted"),
    "on a node without a compute node": (replace(STAYED, home=None), "not one compute node"),
    "not mapped": (replace(STAYED, mapping=None), "not mapped"),
    "mapped elsewhere": (replace(STAYED, mapping=InstanceMapping("i", 9)), "not mapped"),
    "on the destination": (stayed(source=ELSEWHERE, dest=AT_HOME), "not where the migration began"),
    "within its node": (stayed(dest=AT_HOME), "within one node"),
    "within its host, before a node was claimed": (stayed(dest=("host-1", None)), "within one node"),
    "holds another node": (replace(STAYED, allocation=BOTH), "another compute node"),
    "holds no node": (
        replace(STAYED, allocation=replace(HELD, providers={DISK: {"DISK_GB": 1}})),
        "nothing of the node where the instance lives",
    ),
    "instance holds a node that nothing explains": (
        replace(STAYED, nodes={HOME: AT_HOME, AWAY: ("host-3", "node-3")}),
        "no migration explains",
    ),
    "instance holds a disk that the migration does not": (
        replace(STAYED, own={DISK: {"DISK_GB": 1}}),
        "no migration explains",
    ),
}


@pytest.mark.parametrize(("facts", "why"), IMMOVABLE.values(), ids=IMMOVABLE)
def test_what_a_migration_holds_is_not_moved(facts: Facts, why: str) -> None:
    verdict = decide(facts)
    assert isinstance(verdict, Move)
    assert why in verdict.refusal


@pytest.mark.parametrize("own", [{}, {AWAY: {"VCPU": 1}}, {AWAY: {"VCPU": 1}, DISK: {"DISK_GB": 1}}])
def test_what_a_migration_holds_is_moved_to_where_it_began(own: dict[str, dict[str, int]]) -> None:
    held = replace(HELD, consumer="m", providers={HOME: {"VCPU": 1}, DISK: {"DISK_GB": 1}})
    for dest in (ELSEWHERE, (None, None)):
        row = replace(FAILED, dest=dest)
        others = (row, FAILED)  # the last one of a reschedule explains what an earlier one could not
        verdict = decide(replace(STAYED, migration=row, migrations=others, allocation=held, own=own))
        assert isinstance(verdict, Move)
        assert not verdict.refusal


def test_of_an_evacuated_instance_only_the_old_node_is_taken() -> None:
    verdict = decide(replace(FACTS, allocation=BOTH, migrations=(EVACUATED,)))
    assert isinstance(verdict, Take)
    assert verdict.keep == {HOME: {"VCPU": 1}, DISK: {"DISK_GB": 1}}


def test_a_wait_says_how_long() -> None:
    just_now = decide(replace(FACTS, rows=rows(replace(DELETED, age=4.0))))
    assert just_now == Wait("was deleted only just now", 6.0)
    assert decide(instance(task_state="spawning")) == Wait("the instance is spawning", BUSY)


instances = st.builds(
    Instance,
    uuid=st.just("i"),
    project_id=st.just("p"),
    user_id=st.just("u"),
    host=st.sampled_from([None, "host-1", "host-2"]),
    node=st.sampled_from([None, "node-1"]),
    vm_state=st.sampled_from(
        ["active", "building", "resized", "error", "shelved", "shelved_offloaded", "soft-delete", "stopped"]
    ),
    task_state=st.sampled_from([None, None, None, "migrating", "unshelving", "spawning"]),
    deleted=st.booleans(),
    hidden=st.sampled_from([False, False, False, True]),
    age=st.sampled_from([0.0, 9.0, 30.0, OLD]),
)
migrations = st.builds(
    Migration,
    uuid=st.just("m"),
    instance_uuid=st.just("i"),
    status=st.sampled_from([*sorted(TERMINAL), "accepted", "pre-migrating", "running", "finished", "confirming"]),
    kind=st.sampled_from(["evacuation", "resize", "migration", "live-migration", None]),
    source=st.sampled_from([AT_HOME, ELSEWHERE]),
    dest=st.sampled_from([AT_HOME, ELSEWHERE]),
    deleted=st.booleans(),
    age=st.sampled_from([0.0, 30.0, OLD]),
)
held = st.dictionaries(st.sampled_from([HOME, AWAY, DISK]), st.just({"VCPU": 1}))
facts = st.builds(
    Facts,
    st.builds(
        Allocation,
        st.just("i"),
        held,
        st.just("p"),
        st.just("u"),
        st.just(1),
        st.sampled_from([None, "unknown", "INSTANCE", "CONTAINER"]),
    ),
    building=st.sampled_from([False, False, False, True]),
    mapping=st.sampled_from([None, InstanceMapping("i", None), InstanceMapping("i", 1), InstanceMapping("i", 2)]),
    rows=st.lists(
        st.builds(Located, instances, st.sampled_from([1, 2]), st.sampled_from([False, False, True])), max_size=3
    ).map(tuple),
    migration=st.none() | migrations,
    migrations=st.lists(migrations, max_size=3).map(tuple),
    archived=st.booleans(),
    home=st.sampled_from([None, HOME]),
    roots=st.just(FACTS.roots),
    nodes=st.just(FACTS.nodes),
    own=held,
)


@given(facts)
def test_nothing_rightful_is_ever_taken(known: Facts) -> None:
    verdict = decide(known)
    if not isinstance(verdict, Take):
        return
    live = [row.instance for row in known.rows if not row.instance.deleted]
    assert known.allocation.providers
    assert known.allocation.consumer_type != "CONTAINER"
    assert not known.building
    assert known.mapping is None or known.mapping.cell_id is not None
    assert not any(row.hidden or row.task_state for row in live)
    assert len(live) <= 1
    assert all(row.instance.age >= 10 for row in known.rows)
    if not known.rows:
        assert known.archived
    if live:
        assert all(move.terminal or move.deleted for move in known.migrations)
        assert live[0].vm_state != "resized"
        assert all(row.instance.age >= 60 for row in known.rows)
    if live and live[0].host is not None and known.migration is None:
        assert HOME in verdict.keep
    if live and known.migration is not None:
        assert HOME in known.own


@given(facts)
def test_only_what_an_instance_lacks_is_moved_to_it(known: Facts) -> None:
    verdict = decide(known)
    if not isinstance(verdict, Move) or verdict.refusal:
        return
    [live] = [row.instance for row in known.rows if not row.instance.deleted]
    assert live.task_state is None
    assert live.vm_state != "resized"
    assert known.migration is not None
    assert (live.host, live.node) == known.migration.source == AT_HOME
    assert all(move.terminal or move.deleted for move in known.migrations)
    assert HOME in known.allocation.providers
    assert AWAY not in known.allocation.providers
    assert HOME not in known.own
    assert all(age >= 60 for age in (live.age, *(move.age for move in known.migrations)))


@given(facts)
def test_what_stays_is_part_of_what_was_held(known: Facts) -> None:
    verdict = decide(known)
    if isinstance(verdict, Take):
        assert verdict.keep.items() <= known.allocation.providers.items()
        assert verdict.keep != known.allocation.providers
        assert set(known.allocation.providers) - set(verdict.keep) <= {AWAY} or not verdict.keep


@given(facts)
def test_a_wait_ends(known: Facts) -> None:
    verdict = decide(known)
    if isinstance(verdict, Wait):
        assert 0 < verdict.after <= 60
