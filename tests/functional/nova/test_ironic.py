"""Ironic: a node moves to another nova-compute with the hash ring, and its instance keeps the former host."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from handlers.base import Key, Refused
from handlers.nova import tables
from handlers.nova.allocations.audit_allocations import AuditAllocations
from handlers.nova.allocations.heal_allocations import HealAllocations
from handlers.nova.simulation import NovaSimulation
from tests.functional.nova.world import set_inventory, swept_ids

HOUR = {"hours": 1}


@pytest.fixture
def servers(cloud: NovaSimulation) -> list[str]:
    """An instance on each of two nodes of one nova-compute."""
    with cloud.ago(days=1):
        for host in ("conductor-1", "conductor-2"):
            cloud.add_compute(host, "cell1", nodes=2)
            cloud.map_host(host)
        nodes = tables.compute_nodes
        with cloud.cells["cell1"].begin() as connection:
            connection.execute(sa.update(nodes).values(hypervisor_type="ironic"))
        return [cloud.boot("conductor-1", node=f"conductor-1-node-{number}") for number in (1, 2)]


def move_nodes(cloud: NovaSimulation) -> None:
    nodes = tables.compute_nodes
    with cloud.cells["cell1"].begin() as connection:
        connection.execute(sa.update(nodes).where(nodes.c.host == "conductor-1").values(host="conductor-2"))


def test_healthy_instances_on_nodes_that_moved_are_not_suspected(
    cloud: NovaSimulation, heal: HealAllocations, audit: AuditAllocations, servers: list[str]
) -> None:
    move_nodes(cloud)
    assert (swept_ids(heal), swept_ids(audit)) == (set(), set())
    for server in servers:
        assert not heal.inspect(Key("instance", server))
        assert not audit.inspect(Key("consumer", server))


def test_an_instance_on_a_node_that_moved_gets_its_missing_allocation(
    cloud: NovaSimulation, heal: HealAllocations, servers: list[str]
) -> None:
    held = cloud.allocation(servers[0])
    cloud.hold(servers[0], {})
    move_nodes(cloud)
    [finding] = heal.inspect(Key("instance", servers[0]))
    heal.heal(finding)
    assert cloud.allocation(servers[0]) == held


def test_a_reserved_node_is_reported_with_the_cause(
    cloud: NovaSimulation, heal: HealAllocations, servers: list[str]
) -> None:
    cloud.hold(servers[0], {})
    node = cloud.node("conductor-1", "conductor-1-node-1").uuid
    set_inventory(cloud, node, {"VCPU": 8, "MEMORY_MB": 8, "DISK_GB": 8}, reserved=8)
    assert swept_ids(heal) == {servers[0]}
    [finding] = heal.inspect(Key("instance", servers[0]))
    assert "skip_reserve_in_use_ironic_nodes" in finding.refusal
    with pytest.raises(Refused):
        heal.heal(finding)
