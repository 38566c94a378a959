"""The sweep of heal_allocations finds wrong owners and amounts with few requests."""

from __future__ import annotations

import uuid
from collections.abc import Mapping

import pytest

from handlers.base import Key
from handlers.nova import nodes
from handlers.nova.allocations.heal_allocations import HealAllocations
from handlers.nova.placement import Allocation
from handlers.nova.simulation import NovaSimulation
from tests.functional.nova.site import Site

SOMEBODY = "somebody"


@pytest.fixture
def servers(site: Site, cloud: NovaSimulation) -> list[str]:
    """Three instances on host a and one on host c of the other cell, all as they should be."""
    return site.begin("three and one", three_and_one)


def three_and_one(cloud: NovaSimulation) -> list[str]:
    with cloud.ago(days=1):
        for host, cell in (("a", "cell1"), ("c", "cell2")):
            cloud.add_compute(host, cell)
            cloud.map_host(host)
        return [cloud.boot("a"), cloud.boot("a"), cloud.boot("a"), cloud.boot("c")]


@pytest.fixture
def asked(heal: HealAllocations, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths of Placement that are read from now on."""
    paths: list[str] = []
    read = heal._placement._service.read

    def noted(url: str, **arguments: object) -> object:
        paths.append(url)
        return read(url, **arguments)

    monkeypatch.setattr(heal._placement._service, "read", noted)
    return paths


def give_away(heal: HealAllocations, server: str, to: str = SOMEBODY) -> None:
    """Let a server's allocation be another project's."""
    now = heal._placement.allocation(server)
    heal._placement.replace_allocation(
        Allocation(server, project_id=to, user_id=to, generation=now.generation), now.providers
    )


def owner(heal: HealAllocations, server: str) -> tuple[str | None, str | None]:
    held = heal._placement.allocation(server)
    return held.project_id, held.user_id


def amounts(cloud: NovaSimulation, server: str, **changed: int) -> dict[str, Mapping[str, int]]:
    return {cloud.node("a").uuid: {**cloud.flavor(server).resources(), **changed}}


def instances(*servers: str) -> set[Key]:
    return {Key("instance", server) for server in servers}


def test_a_healthy_fleet_costs_a_request_per_node_and_one_per_owner(
    cloud: NovaSimulation, heal: HealAllocations, servers: list[str], asked: list[str]
) -> None:
    assert not list(heal.sweep())
    nodes = [f"/resource_providers/{cloud.node(host).uuid}/allocations" for host in "ac"]
    assert sorted(asked) == sorted([*["/resource_providers"] * 3, *nodes, "/usages"])


def test_wrong_owners_are_found_and_put_right(cloud: NovaSimulation, heal: HealAllocations, servers: list[str]) -> None:
    give_away(heal, servers[0])
    give_away(heal, servers[3])
    found = list(heal.sweep())
    assert set(found) == instances(servers[0], servers[3])
    for key in found:
        [finding] = heal.inspect(key)
        assert finding.problem == "wrong-owner"
        heal.heal(finding)
    assert {owner(heal, server) for server in servers} == {(cloud.PROJECT, cloud.USER)}
    assert not list(heal.sweep())


def test_a_wrong_user_of_the_right_project_is_found(
    cloud: NovaSimulation, heal: HealAllocations, servers: list[str]
) -> None:
    now = heal._placement.allocation(servers[1])
    wrong = Allocation(servers[1], project_id=cloud.PROJECT, user_id=SOMEBODY, generation=now.generation)
    heal._placement.replace_allocation(wrong, now.providers)
    assert set(heal.sweep()) == instances(servers[1])


def test_allocations_of_others_cost_nothing_more(
    cloud: NovaSimulation, heal: HealAllocations, servers: list[str], asked: list[str]
) -> None:
    """A deleted instance, a migration under way and a consumer that Nova does not know."""
    cloud.delete(servers[1], leak_allocation=True)
    cloud.add_compute("b", "cell1")
    cloud.start_migration(servers[2], "b")
    cloud.hold(str(uuid.uuid4()), {cloud.node("a").uuid: {"VCPU": 1}})
    asked.clear()
    assert not list(heal.sweep())
    assert not any(path.startswith("/allocations/") for path in asked)


def test_a_migrations_share_belongs_to_its_instances_owner(
    cloud: NovaSimulation, heal: HealAllocations, servers: list[str]
) -> None:
    """What the migration holds is counted for the owner; it does not stand in for what another instance's lacks."""
    with cloud.ago(days=1):
        cloud.add_compute("b", "cell1")
        cloud.boot("b")
    cloud.start_migration(servers[2], "b")
    give_away(heal, servers[0])
    assert set(heal.sweep()) == instances(servers[0])


def test_one_wrong_amount_is_a_key_of_its_own(cloud: NovaSimulation, heal: HealAllocations, servers: list[str]) -> None:
    cloud.hold(servers[0], amounts(cloud, servers[0], VCPU=2))
    assert set(heal.sweep()) == instances(servers[0])
    [finding] = heal.inspect(Key("instance", servers[0]))
    assert (finding.problem, finding.healable) == ("wrong-amounts", False)


def test_wrong_amounts_of_a_node_are_one_report(
    cloud: NovaSimulation, heal: HealAllocations, servers: list[str]
) -> None:
    cloud.hold(servers[0], amounts(cloud, servers[0], VCPU=2))
    cloud.hold(servers[1], amounts(cloud, servers[1], MEMORY_MB=1))
    key = Key("amounts", cloud.node("a").uuid)
    assert list(heal.sweep()) == [key]
    [finding] = heal.inspect(key)
    assert (finding.problem, finding.healable) == ("wrong-amounts", False)
    assert set(finding.evidence["instances"]) == set(servers[:2])
    assert "VCPU 2 instead of 1" in finding.evidence["instances"][servers[0]]
    for server in servers[:2]:
        cloud.hold(server, amounts(cloud, server))
    assert not list(heal.inspect(key))


def test_a_class_that_is_missing_is_a_wrong_amount(
    cloud: NovaSimulation, heal: HealAllocations, servers: list[str]
) -> None:
    [held] = amounts(cloud, servers[0]).values()
    cloud.hold(servers[0], {cloud.node("a").uuid: {"VCPU": held["VCPU"]}})
    assert set(heal.sweep()) == instances(servers[0])


def test_a_class_without_consumers_on_the_node_is_elsewhere(
    cloud: NovaSimulation, heal: HealAllocations, servers: list[str]
) -> None:
    """Disks may be given by shared storage; then no instance has them of its node."""
    for server in servers[:3]:
        [held] = amounts(cloud, server).values()
        cloud.hold(server, {cloud.node("a").uuid: {name: held[name] for name in ("VCPU", "MEMORY_MB")}})
    assert not list(heal.sweep())


@pytest.mark.parametrize("image", ["", "dedicated"])
def test_the_requests_of_the_image_count(
    cloud: NovaSimulation, heal: HealAllocations, servers: list[str], image: str
) -> None:
    if image:
        cloud.set_image_property(servers[0], "hw_cpu_policy", image)
        provider = f"/resource_providers/{cloud.node('a').uuid}"
        generation = cloud.placement.request("GET", provider).body["generation"]
        body = {"resource_class": "PCPU", "total": 8, "resource_provider_generation": generation}
        assert cloud.placement.request("POST", f"{provider}/inventories", body).status == 201
    [held] = amounts(cloud, servers[0]).values()
    pinned = {"PCPU": held["VCPU"], "MEMORY_MB": held["MEMORY_MB"], "DISK_GB": held["DISK_GB"]}
    if image:
        cloud.hold(servers[0], {cloud.node("a").uuid: pinned})
    assert not list(heal.sweep())


def test_nodes_are_read_in_parts(
    cloud: NovaSimulation, heal: HealAllocations, servers: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nodes, "GROUP", 2)
    with cloud.ago(days=1):
        cloud.add_compute("ironic", "cell2", nodes=5)
        made = [cloud.boot("ironic", node=f"ironic-node-{number}") for number in range(1, 6)]
    for server in (made[0], made[4]):
        cloud.hold(server, {})
    assert set(heal.sweep()) == instances(made[0], made[4])
