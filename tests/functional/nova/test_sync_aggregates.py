from __future__ import annotations

import uuid
from collections.abc import Callable

import pytest
import sqlalchemy as sa

from handlers.access import schemas
from handlers.base import Conflict, InFlight, Key, Refused, Resources, Unavailable
from handlers.nova import tables
from handlers.nova.hosts import sync_aggregates
from handlers.nova.hosts.sync_aggregates import SyncAggregates
from handlers.nova.names import HostNames
from handlers.nova.placement import ProviderAggregates
from handlers.nova.simulation import NovaSimulation
from tests.functional.nova.world import heal_all, make_provider, refused, set_traits, swept


@pytest.fixture
def aggregate(cloud: NovaSimulation) -> str:
    with cloud.ago(days=1):
        for host, cell in (("a", "cell1"), ("b", "cell1"), ("c", "cell2")):
            cloud.add_compute(host, cell)
            cloud.map_host(host)
    return cloud.create_aggregate("fast")


def key(aggregate: str) -> Key:
    return Key("aggregate", aggregate)


@pytest.fixture
def removing(resources: Resources) -> SyncAggregates:
    """The handler of an operator who permits removals."""
    resources.conf.set_override("sync_aggregates_remove", True, "audit")
    return SyncAggregates.from_resources(resources)


def members(cloud: NovaSimulation, aggregate: str) -> set[str]:
    return {node.name for node in cloud.nodes() if aggregate in cloud.provider_aggregates(node.uuid)}


def test_nothing_to_do(cloud: NovaSimulation, sync: SyncAggregates, aggregate: str) -> None:
    cloud.add_host_to_aggregate(aggregate, "a")
    assert not list(sync.sweep())
    assert not sync.inspect(key(aggregate))
    assert sync.population() == 1


def test_a_host_that_placement_does_not_know_is_added(
    cloud: NovaSimulation, sync: SyncAggregates, aggregate: str
) -> None:
    cloud.add_host_to_aggregate(aggregate, "a", placement_ok=False)
    cloud.add_host_to_aggregate(aggregate, "c", placement_ok=False)
    assert list(sync.sweep()) == [key(aggregate)]
    assert [finding.problem for finding in heal_all(sync, key(aggregate))] == ["membership-missing"]
    assert members(cloud, aggregate) == {"a", "c"}
    assert not list(sync.sweep())


def test_a_host_that_left_is_removed_where_the_operator_permits_it(
    cloud: NovaSimulation, removing: SyncAggregates, aggregate: str
) -> None:
    cloud.add_host_to_aggregate(aggregate, "a")
    cloud.add_host_to_aggregate(aggregate, "b")
    cloud.remove_host_from_aggregate(aggregate, "b", placement_ok=False)
    assert swept(removing) == {key(aggregate)}
    assert [finding.problem for finding in heal_all(removing, key(aggregate))] == ["membership-stale"]
    assert members(cloud, aggregate) == {"a"}


def test_a_membership_that_nova_does_not_know_is_reported(
    cloud: NovaSimulation, sync: SyncAggregates, aggregate: str
) -> None:
    """Nova's guide "Tenant Isolation with Placement" puts a provider into an aggregate by hand."""
    cloud.add_host_to_aggregate(aggregate, "a")
    cloud.set_membership(aggregate, "b", member=True)
    assert swept(sync) == {key(aggregate)}
    for where in (key(aggregate), Key("host", "b")):
        [finding] = sync.inspect(where)
        assert refused(sync, finding).problem == "membership-stale"
        assert "an operator put the provider there" in finding.refusal
        assert "the host left the aggregate" in finding.refusal
        assert not finding.undo
    assert members(cloud, aggregate) == {"a", "b"}


@pytest.mark.parametrize("permitted", [True, False])
def test_single_nodes_of_an_ironic_host_that_a_tenant_has_stay(
    cloud: NovaSimulation, resources: Resources, aggregate: str, permitted: bool
) -> None:
    nodes = cloud.add_compute("ironic", "cell2", nodes=4)
    for node in nodes[:2]:
        cloud._report.set_member(node.uuid, aggregate, True)
    resources.conf.set_override("sync_aggregates_remove", permitted, "audit")
    handler = SyncAggregates.from_resources(resources)
    assert swept(handler) == {key(aggregate)}
    [finding] = handler.inspect(key(aggregate))
    assert "several compute nodes" in refused(handler, finding).refusal
    assert finding.weight == 2
    assert members(cloud, aggregate) == {node.name for node in nodes[:2]}


def test_a_node_that_joins_an_ironic_host_meanwhile_stops_the_removal(
    cloud: NovaSimulation, removing: SyncAggregates, aggregate: str
) -> None:
    cloud.set_membership(aggregate, "b", member=True)
    [finding] = removing.inspect(key(aggregate))
    with cloud.ago(days=1):
        cloud.report_node("b", "b-node-2")
    with pytest.raises(Conflict):
        removing.heal(finding)
    assert members(cloud, aggregate) == {"b"}


def test_adding_and_removing_are_two_findings(
    cloud: NovaSimulation, sync: SyncAggregates, removing: SyncAggregates, aggregate: str
) -> None:
    cloud.add_host_to_aggregate(aggregate, "a", placement_ok=False)
    cloud.set_membership(aggregate, "b", member=True)
    cloud.set_membership(aggregate, "c", member=True)
    findings = {finding.problem: finding for finding in sync.inspect(key(aggregate))}
    assert {problem: (one.healable, one.weight) for problem, one in findings.items()} == {
        "membership-missing": (True, 1),
        "membership-stale": (False, 2),
    }
    sync.heal(findings["membership-missing"])
    assert members(cloud, aggregate) == {"a", "b", "c"}
    assert [finding.problem for finding in heal_all(removing, key(aggregate))] == ["membership-stale"]
    assert members(cloud, aggregate) == {"a"}


def test_the_undo_is_known_before_the_heal(cloud: NovaSimulation, sync: SyncAggregates, aggregate: str) -> None:
    other = str(uuid.uuid4())
    cloud.set_membership(other, "a", member=True)
    cloud.add_host_to_aggregate(aggregate, "a", placement_ok=False)
    [finding] = sync.inspect(key(aggregate))
    provider = cloud.node("a").uuid
    command = "openstack --os-placement-api-version 1.18 resource provider aggregate set"
    assert finding.undo == f"{command} --aggregate {other} {provider}"
    assert sync.heal(finding).undo == finding.undo


def test_memberships_that_changed_meanwhile_are_read_again(
    cloud: NovaSimulation, sync: SyncAggregates, aggregate: str
) -> None:
    cloud.add_host_to_aggregate(aggregate, "a", placement_ok=False)
    [finding] = sync.inspect(key(aggregate))
    cloud.set_membership(str(uuid.uuid4()), "a", member=True)
    with pytest.raises(Conflict):
        sync.heal(finding)
    assert members(cloud, aggregate) == set()
    assert [finding.problem for finding in heal_all(sync, key(aggregate))] == ["membership-missing"]


def test_a_host_in_other_letters_is_the_same_host_for_mysql(
    cloud: NovaSimulation, removing: SyncAggregates, aggregate: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nova's own sync_aggregates made the member, for MySQL found the node of ``A``."""
    cloud.set_membership(aggregate, "a", member=True)
    with cloud.api.begin() as connection:
        connection.execute(sa.insert(tables.aggregate_hosts).values(host="A", aggregate_id=1))
    monkeypatch.setattr(removing._databases, "host_names", HostNames(exact=False))
    assert not swept(removing)
    assert not any(finding.problem == "membership-stale" for finding in removing.inspect(key(aggregate)))
    assert not removing.inspect(Key("host", "a"))
    assert members(cloud, aggregate) == {"a"}


def test_a_sweep_finds_hosts_without_node_and_nodes_without_provider(
    cloud: NovaSimulation, sync: SyncAggregates, aggregate: str
) -> None:
    cloud.add_host_to_aggregate(aggregate, "a")
    assert not swept(sync)
    with cloud.api.begin() as connection:
        connection.execute(sa.insert(tables.aggregate_hosts).values(host="gone", aggregate_id=1))
    assert swept(sync) == {key(aggregate)}
    assert [refused(sync, finding).problem for finding in sync.inspect(key(aggregate))] == ["member-without-node"]
    with cloud.api.begin() as connection:
        connection.execute(sa.delete(tables.aggregate_hosts).where(tables.aggregate_hosts.c.host == "gone"))
    assert cloud.placement.request("DELETE", f"/resource_providers/{cloud.node('a').uuid}").status == 204
    assert swept(sync) == {key(aggregate)}
    assert [refused(sync, finding).problem for finding in sync.inspect(key(aggregate))] == ["provider-missing"]


def test_every_node_of_a_host_is_a_member(cloud: NovaSimulation, sync: SyncAggregates, aggregate: str) -> None:
    cloud.add_compute("many", "cell2", nodes=3)
    cloud.add_host_to_aggregate(aggregate, "many", placement_ok=False)
    assert [finding.problem for finding in heal_all(sync, Key("host", "many"))] == ["membership-missing"]
    assert members(cloud, aggregate) == {"many-node-1", "many-node-2", "many-node-3"}


@pytest.mark.parametrize("permitted", [True, False])
def test_a_node_of_ironic_that_moved_to_another_host_keeps_its_aggregates(
    cloud: NovaSimulation, resources: Resources, aggregate: str, permitted: bool
) -> None:
    """The nova-compute of rack a is down, so that the hash ring gives its node to the one of rack b, for a while."""
    resources.conf.set_override("sync_aggregates_remove", permitted, "audit")
    handler = SyncAggregates.from_resources(resources)
    racks = {name: cloud.create_aggregate(name) for name in ("rack-a", "rack-b")}
    for host in "ab":
        cloud.add_host_to_aggregate(racks[f"rack-{host}"], host)
    moved, nodes = cloud.node("a").uuid, tables.compute_nodes
    with cloud.cells["cell1"].begin() as connection:
        connection.execute(sa.update(nodes).values(hypervisor_type="ironic", host="b"))
    assert swept(handler) == {key(rack) for rack in racks.values()}
    found = [refused(handler, finding) for rack in racks.values() for finding in handler.inspect(key(rack))]
    refusals = {str(finding.problem): finding.refusal for finding in found}
    assert refusals.keys() == {"membership-stale", "membership-missing", "member-without-node"}
    assert "nodes of Ironic move between hosts" in refusals["membership-stale"]
    assert "nodes of Ironic move between hosts" in refusals["membership-missing"]
    assert f"--aggregate {racks['rack-b']}" in refusals["membership-missing"]
    assert cloud.provider_aggregates(moved) == {racks["rack-a"]}


def test_other_memberships_of_a_provider_stay(cloud: NovaSimulation, sync: SyncAggregates, aggregate: str) -> None:
    other, unknown = cloud.create_aggregate("slow"), str(uuid.uuid4())
    cloud.add_host_to_aggregate(aggregate, "a", placement_ok=False)
    cloud.set_membership(other, "a", member=True)
    cloud.set_membership(unknown, "a", member=True)
    missing, extra = sync.inspect(Key("host", "a"))
    healed = sync.heal(missing)
    refused(sync, extra)
    provider = cloud.node("a").uuid
    assert cloud.provider_aggregates(provider) == {aggregate, other, unknown}
    assert set(healed.before["aggregates"][provider]) == {other, unknown}


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
    """Each claim changes the provider's generation, but not its aggregates."""
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


def test_a_host_that_left_meanwhile_does_not_stop_the_others(
    cloud: NovaSimulation, sync: SyncAggregates, aggregate: str
) -> None:
    hosts = crowd(cloud, aggregate, 3)
    [finding] = sync.inspect(key(aggregate))
    cloud.remove_host_from_aggregate(aggregate, hosts[0])
    healed = sync.heal(finding)
    assert members(cloud, aggregate) == set(hosts[1:])
    assert not healed.complete, "who left has to be looked at again"
    assert cloud.node(hosts[0]).uuid not in healed.undo


def test_a_heal_reports_the_writes_before_placement_fell_silent(
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
    assert [finding.problem for finding in heal_all(sync, key(aggregate))] == ["membership-missing"]
    assert members(cloud, aggregate) == set(hosts)


def test_a_write_without_an_answer_is_in_the_undo(
    cloud: NovaSimulation, sync: SyncAggregates, aggregate: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hosts = crowd(cloud, aggregate, 3)
    [finding] = sync.inspect(key(aggregate))
    write = sync._placement.set_aggregates
    written: list[str] = []

    def silent_after_the_second(before: ProviderAggregates, aggregates: set[str]) -> None:
        write(before, aggregates)
        written.append(before.provider)
        if len(written) == 2:
            raise Unavailable("placement", "is away")

    monkeypatch.setattr(sync._placement, "set_aggregates", silent_after_the_second)
    healed = sync.heal(finding)
    assert len(members(cloud, aggregate)) == 2
    assert not healed.complete
    assert set(healed.before["aggregates"]) == set(written)
    assert set(healed.after["aggregates"]) == {written[0]}
    assert all(provider in healed.undo for provider in written)
    assert "Placement did not answer for the provider of" in healed.action
    monkeypatch.undo()
    heal_all(sync, key(aggregate))
    assert members(cloud, aggregate) == set(hosts)


def test_more_than_a_batch_is_several_findings(
    cloud: NovaSimulation, sync: SyncAggregates, aggregate: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sync_aggregates, "BATCH", 2)
    hosts = crowd(cloud, aggregate, 5)
    assert [finding.problem for finding in heal_all(sync, key(aggregate))] == ["membership-missing"] * 3
    assert members(cloud, aggregate) == set(hosts)


# aggregates that Nova does not have


def test_a_sweep_finds_an_aggregate_that_nova_does_not_have(
    cloud: NovaSimulation, sync: SyncAggregates, aggregate: str
) -> None:
    unknown = str(uuid.uuid4())
    cloud.set_membership(unknown, "c", member=True)
    assert swept(sync) == {key(unknown)}
    [finding] = sync.inspect(key(unknown))
    assert refused(sync, finding).problem == "members-of-unknown-aggregate"


def test_an_aggregate_of_shared_storage_is_no_drift(
    cloud: NovaSimulation, sync: SyncAggregates, aggregate: str
) -> None:
    shared, unknown = str(uuid.uuid4()), str(uuid.uuid4())
    storage = make_provider(cloud, "nfs", {"DISK_GB": 1000})
    set_traits(cloud, storage, "MISC_SHARES_VIA_AGGREGATE")
    generation = cloud.placement.request("GET", f"/resource_providers/{storage}").body["generation"]
    body = {"aggregates": [shared], "resource_provider_generation": generation}
    assert cloud.placement.request("PUT", f"/resource_providers/{storage}/aggregates", body).status == 200
    cloud.set_membership(shared, "a", member=True)
    assert not swept(sync)
    assert not sync.inspect(key(shared))
    cloud.set_membership(unknown, "a", member=True)
    assert swept(sync) == {key(unknown)}


@pytest.mark.parametrize("part", ["NODES", "UNKNOWN"])
def test_a_sweep_asks_for_a_part_and_the_next_one_continues(
    cloud: NovaSimulation, sync: SyncAggregates, aggregate: str, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    monkeypatch.setattr(sync_aggregates, part, 1)
    unknown = {host: str(uuid.uuid4()) for host in "abc"}
    for host, one in unknown.items():
        cloud.set_membership(one, host, member=True)
    found = [swept(sync) for _ in unknown]
    assert [len(some) for some in found] == [1, 1, 1]
    assert set().union(*found) == {key(one) for one in unknown.values()}


@pytest.mark.parametrize("added", [True, False])
def test_a_replica_that_is_late_changes_no_aggregate(
    cloud: NovaSimulation,
    sync: SyncAggregates,
    removing: SyncAggregates,
    aggregate: str,
    monkeypatch: pytest.MonkeyPatch,
    added: bool,
) -> None:
    """Placement has the operator's latest change, and this nova_api does not: all looks at it agree for minutes."""
    cloud.add_host_to_aggregate(aggregate, "a")
    handler = removing if added else sync
    rows = tables.aggregate_hosts
    if added:
        with cloud.api.begin() as connection:
            connection.execute(sa.delete(rows))
    else:
        cloud.remove_host_from_aggregate(aggregate, "a")
        with cloud.api.begin() as connection:
            [number] = connection.scalars(sa.select(tables.aggregates.c.id))
            connection.execute(sa.insert(rows).values(host="a", aggregate_id=number))
    before = members(cloud, aggregate)
    [finding] = handler.inspect(key(aggregate))
    assert finding.healable
    monkeypatch.setitem(schemas.READ_ONLY, "sqlite", "SELECT 1")
    with pytest.raises(Refused, match="may be a replica"):
        handler.heal(finding)
    assert members(cloud, aggregate) == before
    monkeypatch.setitem(schemas.READ_ONLY, "sqlite", "SELECT 0")
    handler.heal(finding)
    assert members(cloud, aggregate) != before
