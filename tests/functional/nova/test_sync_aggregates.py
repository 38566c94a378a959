from __future__ import annotations

import uuid
from collections.abc import Callable

import pytest
import sqlalchemy as sa

from handlers.base import Conflict, InFlight, Key, Refused, Unavailable
from handlers.nova import tables
from handlers.nova.hosts import sync_aggregates
from handlers.nova.hosts.sync_aggregates import SyncAggregates
from handlers.nova.placement import ProviderAggregates
from handlers.nova.simulation import NovaSimulation


@pytest.fixture
def aggregate(cloud: NovaSimulation) -> str:
    with cloud.ago(days=1):
        for host, cell in (("a", "cell1"), ("b", "cell1"), ("c", "cell2")):
            cloud.add_compute(host, cell)
            cloud.map_host(host)
    return cloud.create_aggregate("fast")


def key(aggregate: str) -> Key:
    return Key("aggregate", aggregate)


def members(cloud: NovaSimulation, aggregate: str) -> set[str]:
    return {node.name for node in cloud.nodes() if aggregate in cloud.provider_aggregates(node.uuid)}


def heal_all(sync: SyncAggregates, where: Key) -> list[str]:
    findings = list(sync.inspect(where))
    for finding in findings:
        sync.heal(finding)
    assert not list(sync.inspect(where))
    return [finding.problem for finding in findings]


def test_nothing_to_do(cloud: NovaSimulation, sync: SyncAggregates, aggregate: str) -> None:
    cloud.add_host_to_aggregate(aggregate, "a")
    assert not list(sync.sweep())
    assert not sync.inspect(key(aggregate))
    assert sync.population() == 1


def test_a_host_that_placement_was_not_told_of_is_added(
    cloud: NovaSimulation, sync: SyncAggregates, aggregate: str
) -> None:
    cloud.add_host_to_aggregate(aggregate, "a", placement_ok=False)
    cloud.add_host_to_aggregate(aggregate, "c", placement_ok=False)
    assert list(sync.sweep()) == [key(aggregate)]
    assert heal_all(sync, key(aggregate)) == ["membership-missing"]
    assert members(cloud, aggregate) == {"a", "c"}
    assert not list(sync.sweep())


def test_a_host_that_left_is_taken_out(cloud: NovaSimulation, sync: SyncAggregates, aggregate: str) -> None:
    cloud.add_host_to_aggregate(aggregate, "a")
    cloud.add_host_to_aggregate(aggregate, "b")
    cloud.remove_host_from_aggregate(aggregate, "b", placement_ok=False)
    assert list(sync.sweep()) == [key(aggregate)]
    assert heal_all(sync, key(aggregate)) == ["membership-stale"]
    assert members(cloud, aggregate) == {"a"}


def test_every_node_of_a_host_is_a_member(cloud: NovaSimulation, sync: SyncAggregates, aggregate: str) -> None:
    cloud.add_compute("ironic", "cell2", nodes=3)
    cloud.add_host_to_aggregate(aggregate, "ironic", placement_ok=False)
    assert heal_all(sync, Key("host", "ironic")) == ["membership-missing"]
    assert members(cloud, aggregate) == {"ironic-node-1", "ironic-node-2", "ironic-node-3"}


def test_one_provider_is_put_right_in_one_go(cloud: NovaSimulation, sync: SyncAggregates, aggregate: str) -> None:
    other, kept = cloud.create_aggregate("slow"), str(uuid.uuid4())
    cloud.add_host_to_aggregate(aggregate, "a", placement_ok=False)
    cloud.set_membership(other, "a", member=True)
    cloud.set_membership(kept, "a", member=True)
    [finding] = sync.inspect(Key("host", "a"))
    healed = sync.heal(finding)
    provider = cloud.node("a").uuid
    assert cloud.provider_aggregates(provider) == {aggregate, kept}
    assert set(healed.before["aggregates"][provider]) == {other, kept}
    assert provider in healed.undo
    assert kept in healed.undo


def test_a_sharing_provider_stays_a_member(cloud: NovaSimulation, sync: SyncAggregates, aggregate: str) -> None:
    storage = str(uuid.uuid4())
    cloud.placement.request("POST", "/resource_providers", {"uuid": storage, "name": "storage"})
    url = f"/resource_providers/{storage}/aggregates"
    body = {"aggregates": [aggregate], "resource_provider_generation": 0}
    assert cloud.placement.request("PUT", url, body).status == 200
    cloud.add_host_to_aggregate(aggregate, "a")
    assert not sync.inspect(key(aggregate))
    assert not list(sync.sweep())
    assert cloud.provider_aggregates(storage) == {aggregate}


def test_an_aggregate_that_nova_does_not_have_is_reported(
    cloud: NovaSimulation, sync: SyncAggregates, aggregate: str
) -> None:
    cloud.add_host_to_aggregate(aggregate, "a")
    with cloud.api.begin() as connection:
        connection.execute(sa.delete(tables.aggregate_hosts))
        connection.execute(sa.delete(tables.aggregates))
    [finding] = sync.inspect(key(aggregate))
    assert (finding.problem, finding.healable) == ("members-of-unknown-aggregate", False)
    with pytest.raises(Refused):
        sync.heal(finding)
    assert not sync.inspect(Key("host", "a"))
    assert members(cloud, aggregate) == {"a"}


def test_a_new_host_gets_time_to_make_its_node_and_provider(
    cloud: NovaSimulation, sync: SyncAggregates, aggregate: str
) -> None:
    cloud.register_host("new", "cell1")
    assert not sync.inspect(Key("host", "new")), "it is in no aggregate"
    cloud.add_host_to_aggregate(aggregate, "new", placement_ok=False)
    with pytest.raises(InFlight):
        sync.inspect(Key("host", "new"))
    with cloud.cells["cell1"].begin() as connection:
        row = {"uuid": str(uuid.uuid4()), "host": "new", "hypervisor_hostname": "new", "created_at": sa.func.now()}
        connection.execute(sa.insert(tables.compute_nodes).values(row))
    with pytest.raises(InFlight):
        sync.inspect(Key("host", "new"))
    with pytest.raises(InFlight):
        sync.inspect(key(aggregate))
    cloud.add_host_to_aggregate(aggregate, "a", placement_ok=False)
    [finding] = sync.inspect(key(aggregate))
    assert [one["host"] for one in finding.evidence["providers"]] == ["a"], "others need not wait"


def test_an_old_host_without_node_or_provider_is_reported(
    cloud: NovaSimulation, sync: SyncAggregates, aggregate: str
) -> None:
    with cloud.api.begin() as connection:
        connection.execute(sa.insert(tables.aggregate_hosts).values(host="gone", aggregate_id=1))
    [finding] = sync.inspect(key(aggregate))
    assert (finding.problem, finding.evidence) == ("member-without-node", {"hosts": ["gone"]})
    cloud.add_host_to_aggregate(aggregate, "a")
    url = f"/resource_providers/{cloud.node('a').uuid}"
    assert cloud.placement.request("DELETE", url).status == 204
    problems = {finding.problem for finding in sync.inspect(key(aggregate))}
    assert problems == {"member-without-node", "provider-missing"}


def test_nothing_is_judged_while_a_cell_is_silent(
    cloud: NovaSimulation, sync: SyncAggregates, aggregate: str, cut: Callable[[str], None]
) -> None:
    cloud.add_host_to_aggregate(aggregate, "a", placement_ok=False)
    cloud.add_host_to_aggregate(aggregate, "c")
    cut("cell2")
    with pytest.raises(Unavailable):
        sync.inspect(key(aggregate))
    sweep = sync.sweep()
    assert next(sweep) == key(aggregate)
    with pytest.raises(Unavailable, match="cell:cell2"):
        next(sweep)
    assert members(cloud, aggregate) == {"c"}


def test_allocations_on_the_node_do_not_stop_the_heal(
    cloud: NovaSimulation, sync: SyncAggregates, aggregate: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each claim moves the provider's generation; that says nothing about its aggregates."""
    cloud.add_host_to_aggregate(aggregate, "a", placement_ok=False)
    [finding] = sync.inspect(key(aggregate))
    booted: list[str] = []
    write = sync._placement.set_aggregates

    def boot_first(before: ProviderAggregates, aggregates: set[str]) -> None:
        if not booted:
            booted.append(cloud.boot("a"))
        write(before, aggregates)

    monkeypatch.setattr(sync._placement, "set_aggregates", boot_first)
    sync.heal(finding)
    assert booted
    assert members(cloud, aggregate) == {"a"}


def test_a_host_that_leaves_before_the_heal_is_not_added(
    cloud: NovaSimulation, sync: SyncAggregates, aggregate: str
) -> None:
    cloud.add_host_to_aggregate(aggregate, "a", placement_ok=False)
    [finding] = sync.inspect(key(aggregate))
    cloud.remove_host_from_aggregate(aggregate, "a")
    with pytest.raises(Conflict):
        sync.heal(finding)
    assert members(cloud, aggregate) == set()


def crowd(cloud: NovaSimulation, aggregate: str, number: int) -> list[str]:
    """Hosts that are in the aggregate, of which Placement knows nothing."""
    hosts = [f"crowd-{index}" for index in range(number)]
    with cloud.ago(days=1):
        for host in hosts:
            cloud.add_compute(host, "cell2")
    for host in hosts:
        cloud.add_host_to_aggregate(aggregate, host, placement_ok=False)
    return hosts


def test_all_members_are_one_finding_and_confirmed_together(
    cloud: NovaSimulation, sync: SyncAggregates, aggregate: str
) -> None:
    hosts = crowd(cloud, aggregate, 8)
    [finding] = sync.inspect(key(aggregate))
    assert [finding] == list(sync.inspect(key(aggregate))), "one look confirms all of them"
    healed = sync.heal(finding)
    assert members(cloud, aggregate) == set(hosts)
    assert healed.complete
    assert all(cloud.node(host).uuid in healed.undo for host in hosts)


def test_who_left_meanwhile_does_not_keep_the_others_from_being_added(
    cloud: NovaSimulation, sync: SyncAggregates, aggregate: str
) -> None:
    hosts = crowd(cloud, aggregate, 3)
    [finding] = sync.inspect(key(aggregate))
    cloud.remove_host_from_aggregate(aggregate, hosts[0])
    healed = sync.heal(finding)
    assert members(cloud, aggregate) == set(hosts[1:])
    assert not healed.complete, "who left has to be looked at again"
    assert cloud.node(hosts[0]).uuid not in healed.undo


def test_what_was_done_before_placement_fell_silent_is_told(
    cloud: NovaSimulation, sync: SyncAggregates, aggregate: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hosts = crowd(cloud, aggregate, 3)
    [finding] = sync.inspect(key(aggregate))
    write = sync._placement.set_aggregates
    written: list[str] = []

    def once(before: ProviderAggregates, aggregates: set[str]) -> None:
        if written:
            raise Unavailable("placement", "is away")
        write(before, aggregates)
        written.append(before.provider)

    monkeypatch.setattr(sync._placement, "set_aggregates", once)
    healed = sync.heal(finding)
    assert not healed.complete
    assert written[0] in healed.undo
    assert len(members(cloud, aggregate)) == 1
    with pytest.raises(Unavailable):
        sync.heal(finding)
    monkeypatch.undo()
    assert heal_all(sync, key(aggregate)) == ["membership-missing"]
    assert members(cloud, aggregate) == set(hosts)


def test_more_than_a_batch_is_several_findings(
    cloud: NovaSimulation, sync: SyncAggregates, aggregate: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sync_aggregates, "BATCH", 2)
    hosts = crowd(cloud, aggregate, 5)
    assert heal_all(sync, key(aggregate)) == ["membership-missing"] * 3
    assert members(cloud, aggregate) == set(hosts)
