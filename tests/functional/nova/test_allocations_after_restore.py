"""Databases that were restored from a backup: absence proves nothing, and no heal of an allocation acts on it."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from handlers.base import Finding, Key, Refused, Resources
from handlers.nova import tables
from handlers.nova.allocations.audit_allocations import AuditAllocations
from handlers.nova.allocations.audit_migrations import AuditMigrations
from handlers.nova.allocations.heal_allocations import HealAllocations
from handlers.nova.simulation import NovaSimulation
from handlers.nova.simulation.neutron import Neutron
from tests.functional.nova.world import bind, dump, record_move, restore, set_traits

pytestmark = pytest.mark.hosts(a="cell1", b="cell1")

HOUR = {"hours": 1}


def boot(cloud: NovaSimulation, number: int) -> list[str]:
    with cloud.ago(**HOUR):
        return [cloud.boot("a") for _ in range(number)]


def sweep_and_heal(handler: HealAllocations | AuditAllocations | AuditMigrations) -> list[Finding]:
    """Let a handler find everything by its sweep and heal what it may; return its findings."""
    findings = [finding for key in list(handler.sweep()) for finding in handler.inspect(key)]
    for finding in findings:
        if finding.healable:
            handler.heal(finding)
        else:
            with pytest.raises(Refused):
                handler.heal(finding)
    return findings


def restore_before_moves(cloud: NovaSimulation, servers: list[str]) -> None:
    """Live-migrate servers to host b, then restore the cell from before: rows of host a, and no migrations."""
    for server in servers:
        with cloud.ago(**HOUR):
            cloud.finish_migration(cloud.start_migration(server, "b", live=True))
            cloud.set_instance(server, host="a", node="a")
    with cloud.cells["cell1"].begin() as connection:
        connection.execute(sa.delete(tables.migrations).where(tables.migrations.c.instance_uuid.in_(servers)))


def restore_before_deletions(cloud: NovaSimulation, servers: list[str]) -> None:
    """Delete servers, then restore the cell from before."""
    for server in servers:
        with cloud.ago(**HOUR):
            cloud.delete(server)
            cloud.set_instance(server, vm_state="active", task_state=None, deleted=0, deleted_at=None)


def test_a_cell_from_before_live_migrations_moves_no_allocation(
    cloud: NovaSimulation, heal: HealAllocations, audit: AuditAllocations
) -> None:
    servers = boot(cloud, 30)
    restore_before_moves(cloud, servers[:10])
    before = {server: cloud.allocation(server) for server in servers}

    findings = sweep_and_heal(heal) + sweep_and_heal(audit)

    assert {server: cloud.allocation(server) for server in servers} == before
    assert {finding.problem for finding in findings} == {"wrong-provider"}
    assert {finding.evidence["instance"] for finding in findings} == set(servers[:10])
    assert all("restored from before a move" in finding.refusal for finding in findings)


@pytest.mark.parametrize("bound", ["", "b"])
def test_a_cell_from_before_a_move_back_moves_no_allocation(
    cloud: NovaSimulation, neutron: Neutron, heal: HealAllocations, bound: str
) -> None:
    """An instance moved from b to a, and back to b after the backup: row and migration of the copy agree, and are wrong."""
    [server] = boot(cloud, 1)
    with cloud.ago(**HOUR):
        cloud.set_instance(server, host="b", node="b")
        cloud.finish_migration(cloud.start_migration(server, "a", live=True))
    cloud.hold(server, {cloud.node("b").uuid: {"VCPU": 1, "MEMORY_MB": 512, "DISK_GB": 1}})
    bind(neutron, server, bound)
    before = cloud.allocation(server)

    [finding] = sweep_and_heal(heal)

    assert finding.problem == "wrong-provider"
    assert "only its cell names the host" in finding.refusal
    assert cloud.allocation(server) == before


@pytest.mark.parametrize("bound", ["", "b"])
def test_a_cell_from_before_an_evacuation_takes_nothing_of_the_new_node(
    cloud: NovaSimulation, neutron: Neutron, audit: AuditAllocations, bound: str
) -> None:
    """An instance moved from b to a; after the backup, it was evacuated to b, so that it has allocations of both nodes."""
    [server] = boot(cloud, 1)
    with cloud.ago(**HOUR):
        cloud.set_instance(server, host="b", node="b")
        cloud.finish_migration(cloud.start_migration(server, "a", live=True))
    share = {"VCPU": 1, "MEMORY_MB": 512, "DISK_GB": 1}
    cloud.hold(server, {cloud.node(host).uuid: share for host in ("a", "b")})
    bind(neutron, server, bound)
    before = cloud.allocation(server)

    [finding] = sweep_and_heal(audit)

    assert finding.problem == "left-on-another-node"
    assert "only its cell names the host" in finding.refusal
    assert cloud.allocation(server) == before


@pytest.mark.parametrize("bound", ["", "b"])
def test_a_cell_from_before_a_move_leaves_the_allocation_of_a_failed_migration(
    cloud: NovaSimulation, neutron: Neutron, resources: Resources, bound: str
) -> None:
    """A first migration to b failed, and its roll-back did not reach Placement; after the backup, a second one succeeded."""
    [server] = boot(cloud, 1)
    with cloud.ago(**HOUR):
        migration = cloud.start_migration(server, "b", live=True)
        cloud.fail_migration(migration, leak_allocation=True)
    bind(neutron, server, bound)
    before = cloud.allocation(server), cloud.allocation(migration)

    [finding] = sweep_and_heal(AuditMigrations.from_resources(resources))

    assert finding.problem == "migration-holds-the-allocation"
    assert "only its cell names the host" in finding.refusal
    assert (cloud.allocation(server), cloud.allocation(migration)) == before


def test_a_migration_to_another_node_explains_nothing(cloud: NovaSimulation, heal: HealAllocations) -> None:
    [server] = boot(cloud, 1)
    with cloud.ago(**HOUR):
        cloud.add_compute("d", "cell1")
    record_move(cloud, server, "d", "failed")
    cloud.hold(server, {cloud.node("b").uuid: {"VCPU": 1, "MEMORY_MB": 512, "DISK_GB": 1}})
    [finding] = heal.inspect(Key("instance", server))
    assert not finding.healable


@pytest.mark.parametrize("status", ["completed", "error"])
def test_a_live_migration_that_contradicts_moves_no_allocation(
    cloud: NovaSimulation, heal: HealAllocations, status: str
) -> None:
    """A migration that led to the other node, or ended without proof, does not prove that the instance is here."""
    [server] = boot(cloud, 1)
    record_move(cloud, server, "b", "failed", "live-migration", hours=2)
    record_move(cloud, server, "b", status, "live-migration")
    cloud.hold(server, {cloud.node("b").uuid: {"VCPU": 1, "MEMORY_MB": 512, "DISK_GB": 1}})
    [finding] = heal.inspect(Key("instance", server))
    assert not finding.healable


def test_a_cell_from_before_deletions_gives_no_allocation(
    cloud: NovaSimulation, heal: HealAllocations, audit: AuditAllocations
) -> None:
    servers = boot(cloud, 30)
    restore_before_deletions(cloud, servers[:10])

    findings = sweep_and_heal(heal) + sweep_and_heal(audit)

    assert not any(cloud.allocation(server) for server in servers[:10])
    assert {finding.evidence["instance"] for finding in findings} == set(servers[:10])
    assert all("restored from before the deletion" in finding.refusal for finding in findings)


def test_a_cell_from_before_it_was_shelved_gives_no_allocation(
    cloud: NovaSimulation, heal: HealAllocations, audit: AuditAllocations
) -> None:
    """Mapping, host and flavor agree in the copy. Only Neutron knows that the server left the host."""
    servers = boot(cloud, 30)
    with cloud.ago(**HOUR):
        backup = dump(cloud, "cell1")
        for server in servers[:10]:
            cloud.shelve_offload(server)
        restore(cloud, "cell1", backup)

    findings = sweep_and_heal(heal) + sweep_and_heal(audit)

    assert not any(cloud.allocation(server) for server in servers[:10])
    assert {finding.evidence["instance"] for finding in findings} == set(servers[:10])
    assert all("restored from before the instance was shelved" in finding.refusal for finding in findings)


def test_a_binding_that_goes_before_the_write_stops_a_batch(cloud: NovaSimulation, heal: HealAllocations) -> None:
    servers = boot(cloud, 4)
    for server in servers:
        cloud.hold(server, {})
    [key] = heal.sweep()
    [finding] = heal.inspect(key)
    for server in servers[:3]:
        bind(cloud.neutron, server, "")
    heal.heal(finding)
    assert [bool(cloud.allocation(server)) for server in servers] == [False, False, False, True]


def test_a_marked_instance_is_left_out_of_a_batch(cloud: NovaSimulation, heal: HealAllocations) -> None:
    servers = boot(cloud, 6)
    restore_before_deletions(cloud, servers[:2])
    for server in servers[2:4]:
        cloud.hold(server, {})

    findings = sweep_and_heal(heal)

    assert {finding.problem for finding in findings} == {"allocation-missing", "allocations-missing"}
    assert [bool(cloud.allocation(server)) for server in servers] == [False, False, True, True, True, True]


def test_a_soft_deleted_instance_is_marked_and_still_gets_its_own(cloud: NovaSimulation, heal: HealAllocations) -> None:
    [server] = boot(cloud, 1)
    mapping = tables.instance_mappings
    with cloud.api.begin() as connection:
        connection.execute(sa.update(mapping).where(mapping.c.instance_uuid == server).values(queued_for_delete=True))
    with cloud.ago(**HOUR):
        cloud.set_instance(server, vm_state="soft-delete")
    cloud.hold(server, {})
    sweep_and_heal(heal)
    assert cloud.allocation(server)


def test_the_placement_of_another_region_is_not_written(
    cloud: NovaSimulation, heal: HealAllocations, audit: AuditAllocations
) -> None:
    """The consumer is known there by accident, but no compute node is."""
    servers = boot(cloud, 2)
    with cloud.ago(**HOUR):
        cloud.delete(servers[0], leak_allocation=True)
    cloud.hold(servers[1], {})
    found = [*audit.inspect(Key("consumer", servers[0])), *heal.inspect(Key("instance", servers[1]))]
    assert all(finding.healable for finding in found)
    nodes = tables.compute_nodes
    with cloud.cells["cell1"].begin() as connection:
        for row in connection.execute(sa.select(nodes.c.id)).all():
            other = f"00000000-0000-4000-8000-{row.id:012d}"
            connection.execute(sa.update(nodes).where(nodes.c.id == row.id).values(uuid=other))
    before = [cloud.allocation(server) for server in servers]
    for handler, finding in zip((audit, heal), found, strict=True):
        with pytest.raises(Refused, match="knows none of Nova's 2 compute nodes"):
            handler.heal(finding)
    assert [cloud.allocation(server) for server in servers] == before


def test_a_provider_without_the_trait_of_compute_nodes_does_not_prove_the_region(
    cloud: NovaSimulation, audit: AuditAllocations
) -> None:
    [server] = boot(cloud, 1)
    with cloud.ago(**HOUR):
        cloud.delete(server, leak_allocation=True)
    [finding] = audit.inspect(Key("consumer", server))
    for host in ("a", "b"):
        set_traits(cloud, cloud.node(host).uuid)
    with pytest.raises(Refused, match="knows none"):
        audit.heal(finding)
