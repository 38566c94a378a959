"""Whether an instance holds its entitlement: each rule, each refusal."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from handlers.nova.allocations.consumers import Located
from handlers.nova.allocations.entitlement import Unbuildable
from handlers.nova.allocations.missing_rules import (
    RULES,
    UNKNOWN_OWNER,
    Drift,
    Facts,
    Give,
    Problem,
    decide,
    has_departed,
    rule_of,
)
from handlers.nova.allocations.port_requests import Needs
from handlers.nova.placement import Allocation
from handlers.nova.records import Instance, InstanceMapping, Migration
from handlers.nova.verdicts import Report, Wait

HOME, AWAY, DISK, CARD = "home", "away", "shared-disk", "card"
HERE, THERE = ("host-1", "node-1"), ("host-2", "node-2")
EGRESS = "NET_BW_EGR_KILOBIT_PER_SEC"

INSTANCE = Instance("i", "p", "u", *HERE, "active", None, deleted=False, hidden=False, age=3600.0)
LED_HERE = Migration("m", "i", "completed", "live-migration", THERE, HERE, deleted=False, age=3600.0)
HELD = Allocation("i", {HOME: {"VCPU": 1}}, "p", "u", 3, "unknown")
MAPPED = InstanceMapping("i", 2, project_id="p", user_id="u")
HEALTHY = Facts(
    HELD,
    mapping=MAPPED,
    rows=(Located(INSTANCE, 2),),
    here=HERE,
    homes=(HOME,),
    roots={HOME: HOME},
    nodes={HOME: HERE, AWAY: THERE},
    wanted={"VCPU": 1},
)
LACKING = replace(
    HEALTHY,
    allocation=Allocation("i"),
    roots={},
    offers={HOME: {"VCPU": 8}},
    ports=Needs(),
    bound=frozenset({HERE[0]}),
)
STRAY = replace(
    LACKING,
    allocation=replace(HELD, providers={AWAY: {"VCPU": 1}}),
    roots={AWAY: AWAY},
    migrations=(LED_HERE,),
)


def instance(facts: Facts, **changed: Any) -> Facts:
    return replace(facts, rows=(Located(replace(INSTANCE, **changed), 2),))


#: facts, the rule that applies, and the problems of its drifts; None where it waits
CASES: dict[str, tuple[Facts, str, list[str] | None]] = {
    "a build request": (replace(LACKING, building=True), "being scheduled", []),
    "no cell yet": (replace(LACKING, mapping=replace(MAPPED, cell_id=None)), "being scheduled", []),
    "a container": (
        replace(HEALTHY, allocation=replace(HELD, consumer_type="CONTAINER")),
        "another service's consumer",
        [],
    ),
    "deleted": (instance(LACKING, deleted=True), "not alive", []),
    "hidden": (instance(LACKING, hidden=True), "cross-cell resize", []),
    "in two cells, holding nothing": (
        replace(LACKING, rows=(Located(INSTANCE, 2), Located(INSTANCE, 3))),
        "live in several cells",
        [],
    ),
    "in two cells": (replace(HEALTHY, rows=(Located(INSTANCE, 2), Located(INSTANCE, 3))), "live in several cells", []),
    "offloaded": (instance(LACKING, vm_state="shelved_offloaded", host=None), "on no host", []),
    "in cell0": (replace(LACKING, rows=(Located(INSTANCE, 1, True),)), "on no host", []),
    "rebooting": (instance(LACKING, task_state="rebooting"), "a task", None),
    "moving": (
        replace(LACKING, migrations=(replace(LED_HERE, status="running"),)),
        "a migration in progress",
        None,
    ),
    "resized": (
        replace(instance(LACKING, vm_state="resized"), migrations=(replace(LED_HERE, status="finished"),)),
        "waits for confirm or revert",
        [],
    ),
    "no compute node, holding nothing": (replace(LACKING, homes=()), "not one compute node", [Problem.NO_NODE]),
    "no compute node": (replace(HEALTHY, homes=()), "not one compute node", []),
    "a rolled-back migration": (replace(LACKING, owed=True), "a rolled-back migration holds it", []),
    "nothing": (LACKING, "holds nothing", [Problem.MISSING]),
    "nothing, changed just now": (instance(LACKING, age=3.0), "holds nothing", None),
    "of another node": (STRAY, "holds nothing of its node", [Problem.WRONG_PROVIDER]),
    "of storage only": (
        replace(HEALTHY, allocation=replace(HELD, providers={DISK: {"DISK_GB": 1}}), roots={DISK: DISK}),
        "holds nothing of its node",
        [Problem.NOTHING_AT_HOME],
    ),
    "of two nodes": (
        replace(
            HEALTHY,
            allocation=replace(HELD, providers={HOME: {"VCPU": 1}, AWAY: {"VCPU": 1}}),
            roots={HOME: HOME, AWAY: AWAY},
        ),
        "holds its node and another one",
        [],
    ),
    "healthy": (HEALTHY, "holds its node", []),
    "healthy, changed just now": (instance(HEALTHY, age=1.0), "holds its node", []),
    "of another owner": (
        replace(HEALTHY, allocation=replace(HELD, project_id="q")),
        "holds its node",
        [Problem.WRONG_OWNER],
    ),
    "too much": (replace(HEALTHY, wanted={"VCPU": 2}), "holds its node", [Problem.WRONG_AMOUNTS]),
    "bandwidth without a port": (
        replace(
            HEALTHY,
            allocation=replace(HELD, providers={HOME: {"VCPU": 1}, CARD: {EGRESS: 9}}),
            roots={HOME: HOME, CARD: HOME},
            ports=Needs(),
        ),
        "holds its node",
        [Problem.GONE_PORTS],
    ),
    "bandwidth, and nothing known of ports": (
        replace(
            HEALTHY,
            allocation=replace(HELD, providers={HOME: {"VCPU": 1}, CARD: {EGRESS: 9}}),
            roots={HOME: HOME, CARD: HOME},
        ),
        "holds its node",
        [],
    ),
    "bandwidth of the flavor": (
        replace(
            HEALTHY,
            allocation=replace(HELD, providers={HOME: {"VCPU": 1}, CARD: {EGRESS: 9}}),
            roots={HOME: HOME, CARD: HOME},
            wanted={"VCPU": 1, EGRESS: 9},
            ports=Needs(),
        ),
        "holds its node",
        [],
    ),
}


def drifts(facts: Facts) -> list[Drift]:
    """Decide; the verdict must not be to wait."""
    verdict = decide(facts)
    assert not isinstance(verdict, Wait)
    return list(verdict)


@pytest.mark.parametrize(("facts", "rule", "problems"), CASES.values(), ids=CASES)
def test_each_case_meets_its_rule(facts: Facts, rule: str, problems: list[str] | None) -> None:
    verdict = decide(facts)
    assert rule_of(facts).name == rule
    assert (None if isinstance(verdict, Wait) else [drift.problem for drift in verdict]) == problems


def test_every_rule_has_a_case() -> None:
    assert {rule for _, rule, _ in CASES.values()} == {rule.name for rule in RULES}


@pytest.mark.parametrize(
    ("facts", "give"),
    [
        (LACKING, {HOME: {"VCPU": 1}}),
        # Ironic binds a port to the node.
        (replace(LACKING, bound=frozenset({HERE[1]})), {HOME: {"VCPU": 1}}),
        (STRAY, {HOME: {"VCPU": 1}}),
        (
            instance(replace(LACKING, mapping=replace(MAPPED, queued=True)), vm_state="soft-delete"),
            {HOME: {"VCPU": 1}},
        ),
        (
            replace(
                STRAY,
                allocation=replace(HELD, providers={AWAY: {"VCPU": 1}, DISK: {"DISK_GB": 5}}),
                roots={AWAY: AWAY, DISK: DISK},
                wanted={"VCPU": 1, "DISK_GB": 5},
            ),
            {HOME: {"VCPU": 1}, DISK: {"DISK_GB": 5}},
        ),
    ],
)
def test_an_instance_gets_its_entitlement(facts: Facts, give: dict[str, dict[str, int]]) -> None:
    [drift] = drifts(facts)
    assert isinstance(drift, Give)
    assert drift.providers == give


REFUSALS = {
    "mapped elsewhere": (replace(LACKING, mapping=replace(MAPPED, cell_id=9)), "not mapped"),
    "not mapped": (replace(LACKING, mapping=None), "not mapped"),
    "marked, and holding nothing": (replace(LACKING, mapping=replace(MAPPED, queued=True)), "before the deletion"),
    "marked": (replace(STRAY, mapping=replace(MAPPED, queued=True)), "heal_instance_mappings comes first"),
    "the mapping is another project's": (
        replace(LACKING, mapping=replace(MAPPED, project_id="q")),
        "names another project or user",
    ),
    "the mapping is another user's": (
        replace(STRAY, mapping=replace(MAPPED, user_id="v")),
        "names another project or user",
    ),
    "counted for the owner in the mapping": (
        replace(HEALTHY, allocation=replace(HELD, project_id="q"), mapping=replace(MAPPED, project_id="q")),
        "names another project or user",
    ),
    "lacking after a live migration in error": (
        replace(LACKING, migrations=(replace(LED_HERE, source=HERE, dest=THERE, status="error"),)),
        "ended in error",
    ),
    "no migration": (replace(STRAY, migrations=()), "no ended migration explains it"),
    "a migration to another node": (
        replace(STRAY, migrations=(replace(LED_HERE, source=("host-3", "node-3")),)),
        "no ended migration explains it",
    ),
    "a migration that led there": (
        replace(STRAY, migrations=(replace(LED_HERE, source=HERE, dest=THERE),)),
        "no ended migration explains it",
    ),
    "a live migration in error": (
        replace(STRAY, migrations=(replace(LED_HERE, source=HERE, dest=THERE, status="error"),)),
        "no ended migration explains it",
    ),
    "nothing, and no bound port": (replace(LACKING, bound=frozenset()), "before the instance was shelved"),
    "nothing, bound to the other host": (
        replace(LACKING, bound=frozenset({THERE[0]})),
        "before the instance was shelved",
    ),
    "nothing, bound to host and node": (replace(LACKING, bound=frozenset(HERE)), "before the instance was shelved"),
    "no bound port": (replace(STRAY, bound=frozenset()), "only its cell names the host"),
    "bound to the other host": (replace(STRAY, bound=frozenset({THERE[0]})), "only its cell names the host"),
    "bound to both hosts": (replace(STRAY, bound=frozenset({HERE[0], THERE[0]})), "only its cell names the host"),
    "an earlier compute node": (replace(STRAY, nodes={HOME: HERE, AWAY: HERE}), "earlier compute node"),
    "devices there": (
        replace(
            STRAY,
            allocation=replace(HELD, providers={CARD: {"SRIOV_NET_VF": 1}}),
            roots={CARD: AWAY},
        ),
        "devices",
    ),
    "storage of another size": (
        replace(
            STRAY,
            allocation=replace(HELD, providers={AWAY: {"VCPU": 1}, DISK: {"DISK_GB": 7}}),
            roots={AWAY: AWAY, DISK: DISK},
            wanted={"VCPU": 1, "DISK_GB": 5},
        ),
        "DISK_GB=7",
    ),
    "a vGPU": (replace(LACKING, wanted=Unbuildable("vGPU")), "vGPU"),
    "no owner": (instance(LACKING, project_id=None), "no project"),
    "ports": (replace(LACKING, ports=Unbuildable("Cyborg")), "Cyborg"),
    "no provider": (replace(LACKING, offers={}), "no provider in Placement"),
    "nested": (replace(LACKING, offers={HOME: {}, CARD: {"VCPU": 8}}), "VCPU in nested providers"),
    "no such class": (replace(LACKING, offers={HOME: {"MEMORY_MB": 8}}), "itself has no VCPU"),
    "a reserved node": (replace(LACKING, offers={HOME: {"VCPU": 0}}), "VCPU 0 of 1"),
}


@pytest.mark.parametrize(("facts", "why"), REFUSALS.values(), ids=REFUSALS)
def test_nothing_is_given_without_proof(facts: Facts, why: str) -> None:
    [drift] = drifts(facts)
    assert isinstance(drift, Report)
    assert why in drift.refusal


@pytest.mark.parametrize(
    "changed",
    [
        {"deleted": True},
        {"host": "host-2"},
        {"node": "node-2"},
        {"task_state": "deleting"},
        {"task_state": "shelving_offloading"},
        {"vm_state": "deleted"},
        {"vm_state": "shelved_offloaded"},
    ],
)
def test_an_instance_that_leaves_has_departed(changed: dict[str, Any]) -> None:
    assert has_departed(INSTANCE, replace(INSTANCE, **changed))


def test_an_instance_that_stays_has_not_departed() -> None:
    assert has_departed(INSTANCE, None)
    assert not has_departed(INSTANCE, replace(INSTANCE, task_state="rebooting"))


@pytest.mark.parametrize(
    ("user", "kind"), [("another", Report), (UNKNOWN_OWNER, Give), ("u", Give)], ids=["another", "unknown", "the same"]
)
def test_a_mapping_without_a_user_proves_no_user(user: str, kind: type[Give | Report]) -> None:
    """The mapping is from before Stein. Placement's user for an unknown one contradicts nothing."""
    facts = replace(
        HEALTHY, mapping=replace(MAPPED, user_id=None), allocation=replace(HELD, project_id="q", user_id=user)
    )
    verdict = decide(facts)
    assert not isinstance(verdict, Wait)
    [drift] = verdict
    assert drift.problem == Problem.WRONG_OWNER
    assert isinstance(drift, kind)
