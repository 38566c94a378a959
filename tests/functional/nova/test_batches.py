"""Several instances of a node that hold nothing are one finding and one write, and each is as safe as alone."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import sqlalchemy as sa

from handlers.base import Conflict, Finding, Key, Refused, Resources, Unavailable
from handlers.nova.allocations import batches, placement_cache
from handlers.nova.allocations.heal_allocations import HealAllocations
from handlers.nova.placement import Allocation, Held
from handlers.nova.simulation import NovaSimulation
from tests.functional.nova.site import Site


@pytest.fixture
def servers(site: Site, cloud: NovaSimulation) -> list[str]:
    """Thirty instances on host a, of which the first three hold nothing."""
    return site.begin("thirty", thirty)


def thirty(cloud: NovaSimulation) -> list[str]:
    with cloud.ago(days=1):
        cloud.add_compute("a", "cell1")
        cloud.map_host("a")
        made = [cloud.boot("a") for _ in range(30)]
    for server in made[:3]:
        cloud.hold(server, {})
    return made


def node(cloud: NovaSimulation) -> Key:
    return Key("node", cloud.node("a").uuid)


def full(cloud: NovaSimulation, server: str) -> dict[str, dict[str, int]]:
    return {cloud.node("a").uuid: cloud.flavor(server).resources()}


def leave_empty_consumer(cloud: NovaSimulation, server: str) -> None:
    """Let a worker of Placement die between its two transactions: the consumer is there, its allocation is not."""
    cloud.hold(server, full(cloud, server))
    engine = sa.create_engine(f"sqlite:///{cloud.placement.database}")
    with engine.begin() as connection:
        connection.execute(sa.text("DELETE FROM allocations WHERE consumer_id = :server"), {"server": server})
    engine.dispose()


def found(cloud: NovaSimulation, heal: HealAllocations) -> Finding:
    [finding] = heal.inspect(node(cloud))
    assert finding.healable
    return finding


def around(
    heal: HealAllocations,
    monkeypatch: pytest.MonkeyPatch,
    before: Callable[[], None] = lambda: None,
    after: Callable[[], None] = lambda: None,
) -> None:
    """Let something happen right before, or right after, all are written."""
    replace = heal._placement.replace_allocations

    def at_once(changes: Iterable[tuple[Allocation, Held]]) -> None:
        before()
        replace(changes)
        after()

    monkeypatch.setattr(heal._placement, "replace_allocations", at_once)


def test_a_few_of_a_node_are_healed_together(cloud: NovaSimulation, heal: HealAllocations, servers: list[str]) -> None:
    assert list(heal.sweep()) == [node(cloud)]
    finding = found(cloud, heal)
    assert (finding.problem, set(finding.evidence["instances"])) == ("allocations-missing", set(servers[:3]))
    healed = heal.heal(finding)
    assert [cloud.allocation(server) for server in servers] == [full(cloud, server) for server in servers]
    assert all(f"allocation delete {server}" in healed.undo for server in servers[:3])
    assert not list(heal.sweep())
    assert not list(heal.inspect(node(cloud)))


def test_the_heal_asks_placement_for_little_but_the_write(
    cloud: NovaSimulation, heal: HealAllocations, servers: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Inventories and consumers were proved just before; the write proves again that they hold nothing."""
    finding = found(cloud, heal)
    asked: list[str] = []
    read = heal._placement._service.read
    monkeypatch.setattr(heal._placement._service, "read", lambda url, **query: asked.append(url) or read(url, **query))
    heal.heal(finding)
    assert asked == ["/resource_providers"], "one question proves that it is this cloud's Placement"
    assert [cloud.allocation(server) for server in servers] == [full(cloud, server) for server in servers]


def test_an_inspection_reads_the_inventory_of_a_node_once(
    cloud: NovaSimulation, heal: HealAllocations, servers: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    read = heal._placement._service.read
    monkeypatch.setattr(heal._placement._service, "read", lambda url, **query: asked.append(url) or read(url, **query))
    found(cloud, heal)
    provider = f"/resource_providers/{cloud.node('a').uuid}"
    held = [f"/allocations/{server}" for server in servers[:3]]
    assert sorted(asked) == sorted([*held, "/resource_providers", f"{provider}/allocations", f"{provider}/inventories"])


def test_the_second_inspection_reads_only_the_consumers(
    cloud: NovaSimulation, heal: HealAllocations, servers: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    finding = found(cloud, heal)
    asked: list[str] = []
    read = heal._placement._service.read
    monkeypatch.setattr(heal._placement._service, "read", lambda url, **query: asked.append(url) or read(url, **query))
    assert found(cloud, heal) == finding
    assert asked == [f"/resource_providers/{cloud.node('a').uuid}/allocations"]
    cloud.hold(servers[0], full(cloud, servers[0]))
    assert set(found(cloud, heal).evidence["instances"]) == set(servers[1:3])


def test_an_answer_is_cached_for_seconds_only(
    cloud: NovaSimulation, resources: Resources, servers: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An instance that got something of another node after the first look is not missing it."""
    monkeypatch.setattr(placement_cache, "TTL", 0.0)
    heal = HealAllocations.from_resources(resources)
    found(cloud, heal)
    cloud.add_compute("b", "cell1")
    cloud.hold(servers[0], {cloud.node("b").uuid: cloud.flavor(servers[0]).resources()})
    findings = {finding.problem: finding for finding in heal.inspect(node(cloud))}
    assert set(findings) == {"allocations-missing", "wrong-provider"}
    assert set(findings["allocations-missing"].evidence["instances"]) == set(servers[1:3])


def test_key_and_finding_weigh_as_much_as_the_instances(
    cloud: NovaSimulation, heal: HealAllocations, servers: list[str]
) -> None:
    """Budgets and the breaker count what a heal changes, however many instances of a node it is."""
    for server in servers[:20]:
        cloud.hold(server, {})
    [key] = heal.sweep()
    assert (key, key.weight) == (node(cloud), 20)
    assert found(cloud, heal).weight == 20


def test_another_drift_is_a_finding_of_its_own(
    cloud: NovaSimulation, heal: HealAllocations, servers: list[str]
) -> None:
    cloud.set_flavor(servers[0], extra_specs={"accel:device_profile": "gpu"})
    findings = {finding.problem: finding for finding in heal.inspect(node(cloud))}
    assert set(findings) == {"allocations-missing", "allocation-missing"}
    assert not findings["allocation-missing"].healable
    heal.heal(findings["allocations-missing"])
    assert [cloud.allocation(server) for server in servers[:3]] == [{}, *(full(cloud, one) for one in servers[1:3])]


def test_a_claim_before_the_heal_wins(cloud: NovaSimulation, heal: HealAllocations, servers: list[str]) -> None:
    finding = found(cloud, heal)
    claimed = {cloud.node("a").uuid: {"VCPU": 7}}
    cloud.hold(servers[0], claimed)
    healed = heal.heal(finding)
    assert not healed.complete
    assert [cloud.allocation(one) for one in servers[:3]] == [claimed, full(cloud, servers[1]), full(cloud, servers[2])]


def test_a_consumer_without_resources_keeps_no_other_from_its_own(
    cloud: NovaSimulation, heal: HealAllocations, servers: list[str]
) -> None:
    leave_empty_consumer(cloud, servers[0])
    heal.heal(found(cloud, heal))
    assert [cloud.allocation(one) for one in servers[:3]] == [{}, full(cloud, servers[1]), full(cloud, servers[2])]
    [finding] = heal.inspect(Key("instance", servers[0]))
    with pytest.raises(Refused, match="without resources"):
        heal.heal(finding)


def silent_after(heal: HealAllocations, monkeypatch: pytest.MonkeyPatch, number: int) -> list[str]:
    """Let Placement refuse the request for all, make that many single writes, and not answer the last of them.

    Return the consumers that it wrote.
    """
    replace = heal._placement.replace_allocation
    written: list[str] = []

    def refuse(changes: Iterable[tuple[Allocation, Held]]) -> None:
        raise Refused("the node is full")

    def one(before: Allocation, providers: Held) -> None:
        replace(before, providers)
        written.append(before.consumer)
        if len(written) == number:
            raise Unavailable("placement", "is away")

    monkeypatch.setattr(heal._placement, "replace_allocations", refuse)
    monkeypatch.setattr(heal._placement, "replace_allocation", one)
    return written


def test_a_write_without_an_answer_is_in_the_undo(
    cloud: NovaSimulation, heal: HealAllocations, servers: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    finding = found(cloud, heal)
    written = silent_after(heal, monkeypatch, 2)
    healed = heal.heal(finding)
    assert [bool(cloud.allocation(one)) for one in written] == [True, True]
    assert not healed.complete
    assert (list(healed.after["allocations"]), healed.after["unanswered"]) == ([written[0]], [written[1]])
    assert healed.undo == batches.undo(written)
    monkeypatch.undo()
    heal.heal(found(cloud, heal))
    assert [cloud.allocation(server) for server in servers] == [full(cloud, server) for server in servers]


def test_an_instance_that_leaves_during_a_write_without_an_answer_gets_nothing(
    cloud: NovaSimulation, heal: HealAllocations, servers: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    finding = found(cloud, heal)
    written = silent_after(heal, monkeypatch, 2)
    read = heal._reader.rows

    def rows(*arguments: Any) -> Any:
        cloud.set_instance(written[1], task_state="deleting")
        return read(*arguments)

    monkeypatch.setattr(heal._reader, "rows", rows)
    healed = heal.heal(finding)
    assert [bool(cloud.allocation(one)) for one in written[:2]] == [True, False]
    assert healed.undo == batches.undo([written[0]])


def test_a_first_write_without_an_answer_is_not_called_refused(
    cloud: NovaSimulation, heal: HealAllocations, servers: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    finding = found(cloud, heal)
    silent_after(heal, monkeypatch, 1)
    with pytest.raises(Unavailable):
        heal.heal(finding)
    assert sum(bool(cloud.allocation(one)) for one in servers[:3]) == 1
    assert all(one in finding.undo for one in servers[:3]), "the open entry of the history keeps the undo of all"


def test_an_instance_that_changed_since_is_left_out(
    cloud: NovaSimulation, heal: HealAllocations, servers: list[str]
) -> None:
    finding = found(cloud, heal)
    cloud.set_instance(servers[0], task_state="migrating")
    cloud.delete(servers[1])
    heal.heal(finding)
    assert [cloud.allocation(server) for server in servers[:3]] == [{}, {}, full(cloud, servers[2])]


def test_a_batch_of_changed_instances_is_a_conflict(
    cloud: NovaSimulation, heal: HealAllocations, servers: list[str]
) -> None:
    finding = found(cloud, heal)
    for server in servers[:3]:
        cloud.set_instance(server, task_state="migrating")
    with pytest.raises(Conflict):
        heal.heal(finding)
    assert not any(cloud.allocation(server) for server in servers[:3])


def test_an_instance_that_leaves_meanwhile_gets_nothing(
    cloud: NovaSimulation, heal: HealAllocations, servers: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    finding = found(cloud, heal)
    around(heal, monkeypatch, before=lambda: cloud.delete(servers[0]))
    healed = heal.heal(finding)
    assert [cloud.allocation(server) for server in servers[:3]] == [{}, *(full(cloud, one) for one in servers[1:3])]
    assert set(healed.after["allocations"]) == set(servers[1:3])
    assert servers[0] not in healed.undo


def test_a_cell_that_is_lost_in_the_middle(
    cloud: NovaSimulation,
    heal: HealAllocations,
    servers: list[str],
    monkeypatch: pytest.MonkeyPatch,
    cut: Callable[[str], None],
) -> None:
    finding = found(cloud, heal)
    around(heal, monkeypatch, after=lambda: cut("cell1"))
    with pytest.raises(Unavailable, match="cell:cell1"):
        heal.heal(finding)
    assert not any(cloud.allocation(server) for server in servers[:3])


def test_where_not_all_fit_some_get_theirs(cloud: NovaSimulation, heal: HealAllocations, servers: list[str]) -> None:
    finding = found(cloud, heal)
    one = cloud.flavor(servers[0]).resources()["MEMORY_MB"]
    cloud.hold(str(uuid.uuid4()), {cloud.node("a").uuid: {"MEMORY_MB": 131072 - 28 * one}})
    heal.heal(finding)
    assert sum(bool(cloud.allocation(server)) for server in servers[:3]) == 1
    with pytest.raises(Refused, match="the node cannot give 2 instances"):
        heal.heal(found(cloud, heal))


def test_inspections_after_a_sweep_do_not_read_the_consumers_again(
    cloud: NovaSimulation, heal: HealAllocations, servers: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert list(heal.sweep()) == [node(cloud)]
    asked: list[str] = []
    read = heal._placement._service.read
    monkeypatch.setattr(heal._placement._service, "read", lambda url, **query: asked.append(url) or read(url, **query))
    finding = found(cloud, heal)
    assert found(cloud, heal) == finding
    provider = f"/resource_providers/{cloud.node('a').uuid}"
    held = [f"/allocations/{server}" for server in servers[:3]]
    assert sorted(asked) == sorted([*held, "/resource_providers", f"{provider}/inventories"])
    heal.heal(finding)
    assert [cloud.allocation(server) for server in servers] == [full(cloud, server) for server in servers]


def test_a_write_forgets_the_findings_of_a_sweep(
    cloud: NovaSimulation, heal: HealAllocations, servers: list[str]
) -> None:
    assert list(heal.sweep()) == [node(cloud)]
    finding = found(cloud, heal)
    claimed = full(cloud, servers[0])
    cloud.hold(servers[0], claimed)
    heal.heal(finding)
    assert not heal.inspect(node(cloud))
    assert [cloud.allocation(server) for server in servers] == [full(cloud, server) for server in servers]


def test_an_instance_that_moved_since_the_sweep_does_not_belong_to_its_node(
    cloud: NovaSimulation, heal: HealAllocations, servers: list[str]
) -> None:
    assert list(heal.sweep()) == [node(cloud)]
    with cloud.ago(days=1):
        cloud.add_compute("b", "cell1")
        cloud.set_instance(servers[0], host="b", node="b")
    findings = {finding.problem: finding for finding in heal.inspect(node(cloud))}
    assert set(findings["allocations-missing"].evidence["instances"]) == set(servers[1:3])
    assert findings["allocation-missing"].evidence["host"] == "b"


@pytest.fixture
def racks(site: Site, cloud: NovaSimulation) -> dict[str, list[str]]:
    """Four hosts with twenty instances each, of which two hold nothing; by compute node."""
    return site.begin("racks", four_hosts)


def four_hosts(cloud: NovaSimulation) -> dict[str, list[str]]:
    lacking = {}
    with cloud.ago(days=1):
        for host in ("r1", "r2", "r3", "r4"):
            cloud.add_compute(host, "cell1")
            cloud.map_host(host)
            made = [cloud.boot(host) for _ in range(20)]
            for server in made[:2]:
                cloud.hold(server, {})
            lacking[cloud.node(host).uuid] = made[:2]
    return dict(sorted(lacking.items()))


def test_a_few_of_several_nodes_are_healed_together(
    cloud: NovaSimulation, heal: HealAllocations, racks: dict[str, list[str]]
) -> None:
    [key] = heal.sweep()
    assert key == Key("nodes", next(iter(racks)))
    [finding] = heal.inspect(key)
    lacking = {server: node for node, some in racks.items() for server in some}
    assert set(finding.evidence["instances"]) == set(lacking)
    assert finding.evidence["compute_nodes"] == list(racks)
    healed = heal.heal(finding)
    assert healed.complete
    for server, node_of_it in lacking.items():
        assert cloud.allocation(server) == {node_of_it: cloud.flavor(server).resources()}
    assert not list(heal.sweep())
    assert not list(heal.inspect(key))


def test_a_key_of_several_nodes_means_the_same_to_another_replica(
    cloud: NovaSimulation, heal: HealAllocations, resources: Resources, racks: dict[str, list[str]]
) -> None:
    [key] = heal.sweep()
    [finding] = heal.inspect(key)
    assert list(HealAllocations.from_resources(resources).inspect(key)) == [finding]
    _, *rest = racks
    [later] = HealAllocations.from_resources(resources).inspect(Key("nodes", rest[0]))
    assert later.evidence["compute_nodes"] == rest


def test_instances_inspected_together_are_one_finding(
    cloud: NovaSimulation,
    heal: HealAllocations,
    racks: dict[str, list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(batches, "BATCH", 5)
    first, _, third, _ = racks
    keys = list(heal.sweep())
    assert keys == [Key("nodes", first), Key("nodes", third)]
    assert [len(finding.evidence["instances"]) for key in keys for finding in heal.inspect(key)] == [4, 4]
    monkeypatch.setattr(batches, "BATCH", 3)
    assert list(heal.sweep()) == [Key("node", one) for one in racks]
