"""Sweeps find consumers of the providers below and beside compute nodes, at a bounded cost."""

from __future__ import annotations

import pytest

from handlers.base import Resources
from handlers.nova.allocations import nested
from handlers.nova.allocations.audit_allocations import AuditAllocations
from handlers.nova.allocations.nested import Nested
from handlers.nova.placement import Placement
from handlers.nova.simulation import NovaSimulation
from handlers.nova.simulation.neutron import Neutron
from tests.functional.nova.world import bind, make_provider, set_traits, swept_ids

pytestmark = pytest.mark.hosts(a="cell1", b="cell1")

HOUR = {"hours": 1}


@pytest.fixture
def card(cloud: NovaSimulation) -> str:
    return make_provider(cloud, "card", {"SRIOV_NET_VF": 8}, cloud.node("a").uuid)


@pytest.fixture
def storage(cloud: NovaSimulation) -> str:
    made = make_provider(cloud, "nfs", {"DISK_GB": 1000})
    set_traits(cloud, made, "MISC_SHARES_VIA_AGGREGATE")
    return made


def heal_swept(audit: AuditAllocations) -> list[str]:
    findings = [finding for key in list(audit.sweep()) for finding in audit.inspect(key)]
    for finding in findings:
        audit.heal(finding)
    return [finding.problem for finding in findings]


@pytest.mark.parametrize("where", ["card", "storage"])
def test_a_deleted_instance_that_holds_only_of_it(
    cloud: NovaSimulation, audit: AuditAllocations, card: str, storage: str, where: str
) -> None:
    with cloud.ago(**HOUR):
        server = cloud.boot("a")
        cloud.delete(server)
    left = {card: {"SRIOV_NET_VF": 1}} if where == "card" else {storage: {"DISK_GB": 1}}
    cloud.hold(server, left)
    assert heal_swept(audit) == ["instance-deleted"]
    assert cloud.allocation(server) == {}
    assert swept_ids(audit) == set()


def test_a_card_of_a_former_node(cloud: NovaSimulation, neutron: Neutron, audit: AuditAllocations, card: str) -> None:
    with cloud.ago(**HOUR):
        server = cloud.boot("a")
        cloud.evacuate(server, "b")
        bind(neutron, server, "b")
    home = {cloud.node("b").uuid: cloud.allocation(server)[cloud.node("b").uuid]}
    cloud.hold(server, {**home, card: {"SRIOV_NET_VF": 1}})
    assert heal_swept(audit) == ["left-on-another-node"]
    assert cloud.allocation(server) == home


def test_rightful_consumers_are_not_suspected(
    cloud: NovaSimulation, audit: AuditAllocations, card: str, storage: str
) -> None:
    with cloud.ago(**HOUR):
        server = cloud.boot("a")
        cloud.hold(server, {**cloud.allocation(server), card: {"SRIOV_NET_VF": 1}, storage: {"DISK_GB": 1}})
        moving = cloud.boot("a")
        migration = cloud.start_migration(moving, "b")
        cloud.hold(migration, {**cloud.allocation(migration), card: {"SRIOV_NET_VF": 1}, storage: {"DISK_GB": 1}})
    assert swept_ids(audit) == set()


def test_the_suspects_of_a_host_include_those_of_its_cards(
    cloud: NovaSimulation, audit: AuditAllocations, card: str
) -> None:
    with cloud.ago(**HOUR):
        server = cloud.boot("a")
        cloud.delete(server)
    cloud.hold(server, {card: {"SRIOV_NET_VF": 1}})
    assert audit._suspects_of_host("a") == [server]


def test_a_sweep_asks_about_a_part_and_the_next_one_goes_on(
    cloud: NovaSimulation, resources: Resources, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nested, "FLOOR", 2)
    root = cloud.node("a").uuid
    cards = {make_provider(cloud, f"card-{number}", {"SRIOV_NET_VF": 1}, root) for number in range(5)}
    turns = Nested(resources.get(Placement.from_resources))
    asked = [set(turns.due({root})) for _ in range(3)]
    assert all(len(some) == 2 for some in asked)
    assert set().union(*asked) == cards
    assert all(one == root for one in turns.due({root}).values())
