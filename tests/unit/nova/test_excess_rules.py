from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handlers.nova.allocations.consumers import Facts, Located, Move, Take, TakeIfWitnessed
from handlers.nova.allocations.entitlement import Unbuildable
from handlers.nova.allocations.excess_rules import RULES, decide, rule_of
from handlers.nova.allocations.moves import ROLLED_BACK, SUCCEEDED
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
    here=AT_HOME,
    home=HOME,
    roots={HOME: HOME, AWAY: AWAY, DISK: DISK},
    nodes={HOME: AT_HOME, AWAY: ELSEWHERE},
)


def rows(*instances: Instance, cell: int = 2, in_cell0: bool = False) -> tuple[Located, ...]:
    return tuple(Located(instance, cell + number, in_cell0) for number, instance in enumerate(instances))


def instance(**changed: Any) -> Facts:
    return replace(FACTS, rows=rows(replace(INSTANCE, **changed)))


OFFLOADED = replace(instance(vm_state="shelved_offloaded", host=None, node=None), home=None)
IN_CELL0 = replace(FACTS, rows=rows(replace(INSTANCE, host=None, vm_state="error"), in_cell0=True), home=None)


def migration(facts: Facts, **changed: Any) -> Facts:
    """The facts of a migration as a consumer, of the instance of these facts."""
    row = replace(EVACUATED, kind="resize", **changed)
    return replace(facts, migration=row, migrations=(row,), allocation=replace(HELD, consumer="m"), own=HELD.providers)


#: facts, the rule that applies, and the kind of verdict
CASES = {
    "holds nothing": (replace(FACTS, allocation=Allocation("i")), "holds nothing", Keep),
    "a container": (
        replace(FACTS, rows=(), allocation=replace(HELD, consumer_type="CONTAINER")),
        "another service's consumer",
        Keep,
    ),
    "an old Placement without types": (
        replace(FACTS, rows=rows(DELETED), allocation=replace(HELD, consumer_type=None)),
        "deleted",
        Take,
    ),
    "a build request": (replace(FACTS, rows=(), mapping=None, building=True), "build request", Keep),
    "a build request of a deleted one": (replace(FACTS, rows=rows(DELETED), building=True), "build request", Keep),
    "no cell yet": (replace(FACTS, rows=(), mapping=InstanceMapping("i", None)), "mapping without cell", Keep),
    "unknown": (replace(FACTS, rows=(), mapping=None), "no row anywhere", TakeIfWitnessed),
    "mapped, but nowhere": (replace(FACTS, rows=()), "no row anywhere", TakeIfWitnessed),
    "archived": (replace(FACTS, rows=(), mapping=None, archived=True), "archived", Take),
    "archived, marked as deleted": (
        replace(FACTS, rows=(), mapping=InstanceMapping("i", 9, queued=True), archived=True),
        "archived",
        Take,
    ),
    "archived, mapped as alive": (
        replace(FACTS, rows=(), mapping=InstanceMapping("i", 9), archived=True),
        "archived, but mapped as alive",
        Report,
    ),
    "deleted": (replace(FACTS, rows=rows(DELETED)), "deleted", Take),
    "deleted, mapped elsewhere": (
        replace(FACTS, rows=rows(DELETED), mapping=InstanceMapping("i", 9)),
        "deleted, but mapped to another cell",
        Report,
    ),
    "deleted, marked as deleted elsewhere": (
        replace(FACTS, rows=rows(DELETED), mapping=InstanceMapping("i", 9, queued=True)),
        "deleted",
        Take,
    ),
    "deleted just now": (replace(FACTS, rows=rows(replace(DELETED, age=2.0))), "deleted a moment ago", Wait),
    "deleted in one cell, hidden copy deleted too": (
        replace(FACTS, rows=rows(DELETED, replace(DELETED, hidden=True))),
        "deleted",
        Take,
    ),
    "only hidden copies": (
        replace(FACTS, rows=rows(replace(DELETED, hidden=True))),
        "only hidden copies, all deleted",
        Report,
    ),
    "deleted copy, live hidden one": (
        replace(FACTS, rows=rows(DELETED, replace(INSTANCE, hidden=True))),
        "a live hidden copy",
        Keep,
    ),
    "in two cells": (replace(FACTS, rows=rows(INSTANCE, INSTANCE)), "live in several cells", Keep),
    "task state": (instance(task_state="unshelving"), "a task", Wait),
    "about to be deleted": (instance(vm_state="deleted"), "about to be deleted", Wait),
    "resized": (replace(instance(vm_state="resized"), allocation=BOTH), "waits for confirm or revert", Keep),
    "finished migration": (
        replace(FACTS, allocation=BOTH, migrations=(replace(EVACUATED, status="finished"),)),
        "waits for confirm or revert",
        Keep,
    ),
    "still resized, though the resize to here was confirmed": (
        migration(instance(vm_state="resized"), status="confirmed"),
        "ended migration, instance holds its own",
        Take,
    ),
    "still resized, the confirmed resize led elsewhere": (
        migration(instance(vm_state="resized"), status="confirmed", source=AT_HOME, dest=ELSEWHERE),
        "waits for confirm or revert",
        Keep,
    ),
    "soft-deleted": (instance(vm_state="soft-delete"), "holds its node only", Keep),
    "shelved": (instance(vm_state="shelved"), "holds its node only", Keep),
    "offloaded": (OFFLOADED, "shelved and offloaded", Report),
    "offloaded just now": (
        replace(OFFLOADED, rows=rows(replace(OFFLOADED.instance, age=5.0))),
        "changed a moment ago",
        Wait,
    ),
    "offloaded, mapped elsewhere": (replace(OFFLOADED, mapping=InstanceMapping("i", 9)), "without host", Report),
    "offloaded, not mapped": (replace(OFFLOADED, mapping=None), "without host", Report),
    "building": (instance(vm_state="building", host=None, node=None), "building", Keep),
    "error without host": (
        replace(instance(vm_state="error", host=None, node=None), home=None),
        "without host",
        Report,
    ),
    "in cell0": (IN_CELL0, "in cell0", Take),
    "in cell0, mapped elsewhere": (replace(IN_CELL0, mapping=InstanceMapping("i", 9)), "without host", Report),
    "in cell0 with a host": (replace(FACTS, rows=rows(INSTANCE, in_cell0=True), home=None), "without host", Report),
    "on its node": (FACTS, "holds its node only", Keep),
    "on its node and a shared disk": (
        replace(FACTS, allocation=replace(HELD, providers={HOME: {"VCPU": 1}, DISK: {"DISK_GB": 1}})),
        "holds its node only",
        Keep,
    ),
    "its node unknown": (replace(FACTS, home=None), "its node has no compute node", Report),
    "nothing of its node": (
        replace(FACTS, allocation=replace(HELD, providers={AWAY: {"VCPU": 1}})),
        "holds nothing of its node",
        Keep,
    ),
    "evacuated": (replace(FACTS, allocation=BOTH, migrations=(EVACUATED,)), "another node that it has left", Take),
    "evacuated just now": (
        replace(FACTS, allocation=BOTH, migrations=(replace(EVACUATED, age=1.0),)),
        "changed a moment ago",
        Wait,
    ),
    "evacuated, mapped elsewhere": (
        replace(FACTS, allocation=BOTH, migrations=(EVACUATED,), mapping=InstanceMapping("i", 9)),
        "another node, unexplained",
        Report,
    ),
    "being evacuated": (
        replace(FACTS, allocation=BOTH, migrations=(replace(EVACUATED, status="pre-migrating"),)),
        "a migration in progress",
        Wait,
    ),
    "on two nodes": (replace(FACTS, allocation=BOTH), "another node, unexplained", Report),
    "on two nodes, the last migration led to the other one": (
        replace(FACTS, allocation=BOTH, migrations=(replace(EVACUATED, source=AT_HOME, dest=ELSEWHERE),)),
        "another node, unexplained",
        Report,
    ),
    "on two nodes, after a live migration in error": (
        replace(
            FACTS,
            allocation=BOTH,
            migrations=(replace(EVACUATED, kind="live-migration", status="error", source=AT_HOME, dest=ELSEWHERE),),
        ),
        "another node, unexplained",
        Report,
    ),
    "on its node under an older uuid": (
        replace(FACTS, allocation=BOTH, migrations=(EVACUATED,), nodes={HOME: AT_HOME, AWAY: AT_HOME}),
        "another node, unexplained",
        Report,
    ),
    "migration confirmed, instance at home": (
        migration(FACTS, status="confirmed"),
        "ended migration, instance holds its own",
        Take,
    ),
    "migration confirmed just now": (migration(FACTS, status="confirmed", age=3.0), "changed a moment ago", Wait),
    "migration holds a node that nothing proves left": (
        replace(migration(FACTS, status="confirmed", source=("x", "x")), allocation=replace(BOTH, consumer="m")),
        "migration of a node that nothing proves left",
        Report,
    ),
    "migration running": (migration(FACTS, status="running"), "a migration in progress", Wait),
    "migration waits for confirm": (migration(FACTS, status="finished"), "waits for confirm or revert", Keep),
    "migration confirmed, instance without its own": (
        replace(migration(FACTS, status="confirmed"), own={}),
        "garbage of a migration, instance without its own",
        Keep,
    ),
    "migration confirmed, instance is back on its source without its own": (
        replace(migration(FACTS, status="confirmed", source=AT_HOME, dest=ELSEWHERE), own={}),
        "garbage of a migration, instance without its own",
        Keep,
    ),
    "migration failed, instance lives elsewhere without its own": (
        replace(migration(FACTS, status="failed"), own={}),
        "garbage of a migration, instance without its own",
        Keep,
    ),
    "migration failed, and a younger one succeeded": (
        replace(
            migration(FACTS, status="failed", source=AT_HOME, dest=ELSEWHERE, age=7200.0),
            own={},
            migrations=(
                replace(EVACUATED, uuid="n", status="confirmed"),
                replace(EVACUATED, status="failed", source=AT_HOME, dest=ELSEWHERE, age=7200.0),
            ),
        ),
        "garbage of a migration, instance without its own",
        Keep,
    ),
    "migration failed, instance without its own": (
        replace(migration(FACTS, status="failed", source=AT_HOME, dest=ELSEWHERE), own={}),
        "migration, instance without its own",
        Move,
    ),
    "migration failed just now": (
        replace(migration(FACTS, status="failed", source=AT_HOME, dest=ELSEWHERE, age=3.0), own={}),
        "changed a moment ago",
        Wait,
    ),
    "migration of a deleted instance": (
        replace(migration(FACTS, status="finished", deleted=True), rows=rows(DELETED)),
        "deleted",
        Take,
    ),
    "migration of an instance deleted just now": (
        replace(migration(FACTS, status="running", deleted=True), rows=rows(replace(DELETED, age=20.0))),
        "deleted a moment ago",
        Wait,
    ),
}


@pytest.mark.parametrize(("facts", "rule", "verdict"), CASES.values(), ids=CASES)
def test_each_case_meets_its_rule(facts: Facts, rule: str, verdict: type) -> None:
    assert rule_of(facts).name == rule
    assert type(decide(facts)) is verdict


def test_every_rule_has_a_case() -> None:
    assert {rule for _, rule, _ in CASES.values()} == {rule.name for rule in RULES}


FAILED = replace(EVACUATED, kind="live-migration", status="failed", source=AT_HOME, dest=ELSEWHERE)
STAYED = replace(
    FACTS,
    migration=FAILED,
    migrations=(FAILED,),
    allocation=replace(HELD, consumer="m"),
    own={AWAY: {"VCPU": 1}},
    wanted={"VCPU": 1},
)


def stayed(**changed: Any) -> Facts:
    row = replace(FAILED, **changed)
    return replace(STAYED, migration=row, migrations=(row,))


IMMOVABLE = {
    "of a deleted row": (stayed(status="running", deleted=True), "row is deleted"),
    "a live migration in error": (stayed(status="error"), "does not prove on which node the guest runs"),
    "on a node without a compute node": (replace(STAYED, home=None), "exactly one compute node"),
    "not mapped": (replace(STAYED, mapping=None), "not mapped"),
    "mapped elsewhere": (replace(STAYED, mapping=InstanceMapping("i", 9)), "not mapped"),
    "marked as deleted": (replace(STAYED, mapping=InstanceMapping("i", 2, True)), "marks it as deleted"),
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
    "amounts of another flavor": (replace(STAYED, wanted={"VCPU": 8}), "VCPU 1 instead of 8"),
    "a flavor that determines no amounts": (replace(STAYED, wanted=Unbuildable("vGPU")), "right amounts: vGPU"),
    "a flavor that was not read": (replace(STAYED, wanted=None), "not read"),
}


@pytest.mark.parametrize(("facts", "why"), IMMOVABLE.values(), ids=IMMOVABLE)
def test_a_share_is_not_moved(facts: Facts, why: str) -> None:
    verdict = decide(facts)
    assert isinstance(verdict, Move)
    assert why in verdict.refusal


@pytest.mark.parametrize("own", [{}, {AWAY: {"VCPU": 1}}, {AWAY: {"VCPU": 1}, DISK: {"DISK_GB": 1}}])
@pytest.mark.parametrize("status", sorted(ROLLED_BACK))
def test_a_share_is_moved_back_to_where_the_migration_began(status: str, own: dict[str, dict[str, int]]) -> None:
    held = replace(HELD, consumer="m", providers={HOME: {"VCPU": 1}, DISK: {"DISK_GB": 1}})
    for dest in (ELSEWHERE, (None, None)):
        row = replace(FAILED, kind="migration", status=status, dest=dest)
        others = (row, FAILED)  # the last one of a reschedule explains what an earlier one could not
        facts = replace(STAYED, migration=row, migrations=others, allocation=held, own=own)
        verdict = decide(replace(facts, wanted={"VCPU": 1, "DISK_GB": 1}))
        assert isinstance(verdict, Move)
        assert not verdict.refusal


@pytest.mark.parametrize("status", sorted(SUCCEEDED))
def test_a_share_is_never_moved_after_a_success(status: str) -> None:
    assert isinstance(decide(stayed(status=status)), Keep)


def test_of_an_evacuated_instance_only_the_old_node_is_taken() -> None:
    verdict = decide(replace(FACTS, allocation=BOTH, migrations=(EVACUATED,)))
    assert isinstance(verdict, Take)
    assert verdict.keep == {HOME: {"VCPU": 1}, DISK: {"DISK_GB": 1}}


def test_a_wait_names_its_seconds() -> None:
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
    here=st.just(AT_HOME),
    home=st.sampled_from([None, HOME]),
    roots=st.just(FACTS.roots),
    nodes=st.just(FACTS.nodes),
    own=held,
    wanted=st.just({"VCPU": 1}),
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
        assert known.mapping is None or known.mapping.queued
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
def test_the_rest_is_part_of_the_former_allocation(known: Facts) -> None:
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
