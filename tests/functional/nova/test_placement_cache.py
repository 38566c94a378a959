"""Sweeps that follow each other read the consumers of a node once, and miss nothing for that."""

from __future__ import annotations

import pytest

from handlers.base import Key, Resources
from handlers.nova.allocations import placement_cache
from handlers.nova.allocations.audit_allocations import AuditAllocations
from handlers.nova.allocations.heal_allocations import HealAllocations
from handlers.nova.placement import Placement
from handlers.nova.simulation import NovaSimulation


@pytest.fixture
def servers(cloud: NovaSimulation) -> list[str]:
    """Two instances on each of the hosts a and b, all as they should be."""
    with cloud.ago(days=1):
        for host in ("a", "b"):
            cloud.add_compute(host, "cell1")
            cloud.map_host(host)
        return [cloud.boot("a"), cloud.boot("a"), cloud.boot("b"), cloud.boot("b")]


@pytest.fixture
def asked(resources: Resources, servers: list[str], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The providers of which was asked who holds something, from now on."""
    providers: list[str] = []
    service = resources.get(Placement.from_resources)._service
    read = service.read

    def noted(url: str, **arguments: object) -> object:
        if url.startswith("/resource_providers/") and url.endswith("/allocations"):
            providers.append(url.split("/")[2])
        return read(url, **arguments)

    monkeypatch.setattr(service, "read", noted)
    return providers


def nodes(cloud: NovaSimulation) -> list[str]:
    return sorted(cloud.node(host).uuid for host in ("a", "b"))


def test_two_tasks_ask_once_and_both_find_theirs(
    cloud: NovaSimulation, resources: Resources, servers: list[str], asked: list[str]
) -> None:
    with cloud.ago(days=1):
        orphan = cloud.boot("a")
        cloud.delete(orphan, leak_allocation=True)
    cloud.hold(servers[2], {})
    audit, heal = AuditAllocations.from_resources(resources), HealAllocations.from_resources(resources)
    assert list(audit.sweep()) == [Key("consumer", orphan)]
    assert list(heal.sweep()) == [Key("instance", servers[2])]
    assert sorted(asked) == nodes(cloud)


def test_a_sweep_does_not_use_its_own_cached_answers(
    cloud: NovaSimulation, resources: Resources, servers: list[str], asked: list[str]
) -> None:
    heal = HealAllocations.from_resources(resources)
    assert list(heal.sweep()) == []
    cloud.hold(servers[2], {})
    assert list(heal.sweep()) == [Key("instance", servers[2])]
    assert sorted(asked) == sorted([*nodes(cloud), *nodes(cloud)])


def test_an_answer_serves_one_other_sweep(
    cloud: NovaSimulation, resources: Resources, servers: list[str], asked: list[str]
) -> None:
    audit, heal = AuditAllocations.from_resources(resources), HealAllocations.from_resources(resources)
    for task in (audit, heal):
        assert list(task.sweep()) == []
    cloud.hold(servers[2], {})
    assert list(heal.sweep()) == [Key("instance", servers[2])]


def test_an_answer_is_cached_for_seconds_only(
    cloud: NovaSimulation, resources: Resources, servers: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(placement_cache, "SWEEP_TTL", 0.0)
    assert list(AuditAllocations.from_resources(resources).sweep()) == []
    cloud.hold(servers[2], {})
    assert list(HealAllocations.from_resources(resources).sweep()) == [Key("instance", servers[2])]


def test_an_inspection_reads_again(cloud: NovaSimulation, resources: Resources, servers: list[str]) -> None:
    """Sweeps suspect; what is looked at after them is what is there."""
    audit, heal = AuditAllocations.from_resources(resources), HealAllocations.from_resources(resources)
    assert list(audit.sweep()) == []
    cloud.hold(servers[2], {})
    [finding] = heal.inspect(Key("host", "b"))
    assert finding.evidence["instance"] == servers[2]


def test_in_a_larger_fleet_some_are_kept_and_the_others_asked_again(
    cloud: NovaSimulation, resources: Resources, servers: list[str], asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(placement_cache, "_NODES", 1)
    for task in (AuditAllocations, HealAllocations):
        assert list(task.from_resources(resources).sweep()) == []
    assert sorted(set(asked)) == nodes(cloud)
    assert len(asked) == 3
