from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import time
import uuid
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa

from handlers.access.database import Database
from handlers.base import Conflict, InFlight, Key, Refused, Resources, Unavailable
from handlers.nova import nodes, queries, tables
from handlers.nova.allocations import shared_looks
from handlers.nova.allocations.audit_allocations import AuditAllocations
from handlers.nova.names import HostNames
from handlers.nova.placement import Allocation, Held
from handlers.nova.simulation import NovaSimulation
from handlers.nova.simulation.neutron import Neutron
from tests.functional.nova.world import (
    bind,
    heal_all,
    make_provider,
    map_alive,
    only_refused,
    record_move,
    refused,
    swept_ids,
)

pytestmark = pytest.mark.hosts(a="cell1", b="cell1", c="cell2")

LONG = {"hours": 1}


def key(consumer: str) -> Key:
    return Key("consumer", consumer)


def archive(cloud: NovaSimulation, cell: str, instance: str) -> None:
    """What nova-manage db archive_deleted_rows does to one instance."""
    with cloud.cells[cell].begin() as connection:
        for table, shadow, column in (
            (tables.migrations, tables.shadow_migrations, tables.migrations.c.instance_uuid),
            (tables.instances, tables.shadow_instances, tables.instances.c.uuid),
        ):
            names = [c.name for c in table.columns]
            connection.execute(
                sa.insert(shadow).from_select(names, sa.select(*table.columns).where(column == instance))
            )
            connection.execute(sa.delete(table).where(column == instance))
    with cloud.api.begin() as connection:
        for table in (tables.instance_mappings, tables.request_specs):
            connection.execute(sa.delete(table).where(table.c.instance_uuid == instance))


# what it exists for


def test_a_deleted_instance_loses_everything(cloud: NovaSimulation, audit: AuditAllocations) -> None:
    with cloud.ago(**LONG):
        server, other = cloud.boot("a"), cloud.boot("a")
        cloud.delete(server, leak_allocation=True)
    assert swept_ids(audit) == {server}
    [finding] = heal_all(audit, key(server))
    assert finding.problem == "instance-deleted"
    assert cloud.allocation(server) == {}
    assert cloud.allocation(other) != {}
    assert swept_ids(audit) == set()


def test_an_instance_deleted_while_placement_was_down(cloud: NovaSimulation, audit: AuditAllocations) -> None:
    with cloud.ago(**LONG):
        server = cloud.boot("a")
    cloud.placement.stop()
    with pytest.raises(Unavailable) as caught:
        audit.inspect(key(server))
    assert caught.value.dependency == "placement"
    with cloud.ago(seconds=15):
        cloud.delete(server, leak_allocation=True)
    cloud.placement.start()
    heal_all(audit, key(server))
    assert cloud.allocation(server) == {}


def test_an_archived_instance_loses_everything(cloud: NovaSimulation, audit: AuditAllocations) -> None:
    with cloud.ago(**LONG):
        server = cloud.boot("a")
        cloud.delete(server, leak_allocation=True)
    archive(cloud, "cell1", server)
    assert swept_ids(audit) == {server}
    [finding] = heal_all(audit, key(server))
    assert finding.problem == "instance-archived"
    assert cloud.allocation(server) == {}


def test_a_migration_of_an_archived_instance(cloud: NovaSimulation, audit: AuditAllocations) -> None:
    with cloud.ago(**LONG):
        server = cloud.boot("a")
        migration = cloud.start_migration(server, "b")
        cloud.finish_migration(migration)
        cloud.confirm_migration(migration, leak_allocation=True)
        cloud.delete(server)
    archive(cloud, "cell1", server)
    assert swept_ids(audit) == {migration}
    [finding] = heal_all(audit, key(migration))
    assert finding.problem == "instance-archived"
    assert cloud.allocation(migration) == {}


@pytest.mark.parametrize("home", ["cell1", "cell2"])
def test_an_archived_instance_that_is_mapped_as_alive_keeps_its_resources(
    cloud: NovaSimulation, audit: AuditAllocations, home: str
) -> None:
    """It may have come to the mapping's cell, whose database was restored from before that."""
    with cloud.ago(**LONG):
        server = cloud.boot("a")
        cloud.delete(server, leak_allocation=True)
    archive(cloud, "cell1", server)
    map_alive(cloud, server, home)
    held = cloud.allocation(server)
    [finding] = audit.inspect(key(server))
    assert finding.problem == "instance-archived"
    refused(audit, finding)
    assert cloud.allocation(server) == held


def test_an_archived_instance_that_is_marked_as_deleted_loses_everything(
    cloud: NovaSimulation, audit: AuditAllocations
) -> None:
    with cloud.ago(**LONG):
        server = cloud.boot("a")
        cloud.delete(server, leak_allocation=True)
    archive(cloud, "cell1", server)
    map_alive(cloud, server, "cell1", queued_for_delete=True)
    heal_all(audit, key(server))
    assert cloud.allocation(server) == {}


def test_a_migration_of_an_archived_instance_that_is_mapped_as_alive_keeps_its_resources(
    cloud: NovaSimulation, audit: AuditAllocations
) -> None:
    with cloud.ago(**LONG):
        server = cloud.boot("a")
        migration = cloud.start_migration(server, "b")
        cloud.finish_migration(migration)
        cloud.confirm_migration(migration, leak_allocation=True)
        cloud.delete(server)
    archive(cloud, "cell1", server)
    map_alive(cloud, server, "cell2")
    held = cloud.allocation(migration)
    only_refused(audit, key(migration))
    assert cloud.allocation(migration) == held


def test_the_dead_host_of_an_evacuation_is_given_back(
    cloud: NovaSimulation, neutron: Neutron, audit: AuditAllocations
) -> None:
    with cloud.ago(**LONG):
        server = cloud.boot("a")
        cloud.evacuate(server, "b")
        bind(neutron, server, "b")
    a, b = cloud.node("a").uuid, cloud.node("b").uuid
    assert set(cloud.allocation(server)) == {a, b}
    assert swept_ids(audit) == {server}
    [finding] = heal_all(audit, key(server))
    assert finding.problem == "left-on-another-node"
    assert set(cloud.allocation(server)) == {b}
    assert swept_ids(audit) == set()


def test_a_sharing_provider_stays_when_a_tree_is_taken(
    cloud: NovaSimulation, neutron: Neutron, audit: AuditAllocations
) -> None:
    with cloud.ago(**LONG):
        server = cloud.boot("a")
        cloud.evacuate(server, "b")
        bind(neutron, server, "b")
    shared = make_provider(cloud, "shared-storage", {"DISK_GB": 1000})
    child = make_provider(cloud, "a-card", {"DISK_GB": 1000}, cloud.node("a").uuid)
    held = {**cloud.allocation(server), shared: {"DISK_GB": 5}, child: {"DISK_GB": 3}}
    cloud.hold(server, held)
    heal_all(audit, key(server))
    b = cloud.node("b").uuid
    assert cloud.allocation(server) == {b: held[b], shared: {"DISK_GB": 5}}


@pytest.mark.parametrize("asked", ["instance", "migration"])
def test_the_share_of_a_confirmed_migration_is_taken(
    cloud: NovaSimulation, audit: AuditAllocations, asked: str
) -> None:
    with cloud.ago(**LONG):
        server = cloud.boot("a")
        migration = cloud.start_migration(server, "b")
        cloud.finish_migration(migration)
        cloud.confirm_migration(migration, leak_allocation=True)
    assert swept_ids(audit) == {migration}
    held = cloud.allocation(server)
    [finding] = heal_all(audit, key(server if asked == "instance" else migration))
    assert (finding.problem, finding.evidence["consumer"]) == ("migration-leftover", migration)
    assert cloud.allocation(migration) == {}
    assert cloud.allocation(server) == held


def test_a_confirmed_migration_of_an_instance_that_is_still_resized(
    cloud: NovaSimulation, audit: AuditAllocations
) -> None:
    """nova-compute died between the two writes of the confirmation; no user can confirm or revert it any more."""
    with cloud.ago(**LONG):
        server = cloud.boot("a")
        migration = cloud.start_migration(server, "b")
        cloud.finish_migration(migration)
        held = cloud.allocation(migration)
        cloud.confirm_migration(migration)
        cloud.set_instance(server, vm_state="resized")
    cloud.hold(migration, held)
    assert swept_ids(audit) == {migration}
    [finding] = heal_all(audit, key(migration))
    assert finding.problem == "migration-leftover"
    assert cloud.allocation(migration) == {}
    assert set(cloud.allocation(server)) == {cloud.node("b").uuid}


def test_another_node_after_a_live_migration_in_error_is_reported(
    cloud: NovaSimulation, audit: AuditAllocations
) -> None:
    """The guest may run on either node."""
    with cloud.ago(**LONG):
        server = cloud.boot("a")
    record_move(cloud, server, "b", "error", "live-migration")
    held = {**cloud.allocation(server), cloud.node("b").uuid: {"VCPU": 1}}
    cloud.hold(server, held)
    assert swept_ids(audit) == {server}
    [finding] = audit.inspect(key(server))
    assert (finding.problem, finding.healable) == ("on-several-nodes", False)
    assert cloud.allocation(server) == held


def test_letter_case_of_names_follows_the_database(
    cloud: NovaSimulation, neutron: Neutron, audit: AuditAllocations, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For MySQL, a migration from host A left the node of host a."""
    with cloud.ago(**LONG):
        server = cloud.boot("a")
        migration = cloud.evacuate(server, "b")
        bind(neutron, server, "b")
        cloud.set_migration(migration, source_compute="A", source_node="A")
    [finding] = audit.inspect(key(server))
    assert not finding.healable, "for PostgreSQL, A is another host"
    monkeypatch.setattr(audit._databases, "host_names", HostNames(exact=False))
    heal_all(audit, key(server))
    assert set(cloud.allocation(server)) == {cloud.node("b").uuid}


def test_a_migration_of_a_deleted_instance_in_any_state(cloud: NovaSimulation, audit: AuditAllocations) -> None:
    with cloud.ago(**LONG):
        server = cloud.boot("a")
        migration = cloud.start_migration(server, "b")
        cloud.finish_migration(migration)
        cloud.delete(server)
        cloud.set_migration(migration, deleted=1)
    heal_all(audit, key(server))
    assert cloud.allocation(migration) == {}


def test_an_offloaded_instance_is_reported_because_one_row_alone_proves_it(
    cloud: NovaSimulation, audit: AuditAllocations
) -> None:
    """A cell that was restored from before an unshelve has this row of a running instance."""
    with cloud.ago(**LONG):
        server = cloud.boot("a")
        cloud.shelve_offload(server, leak_allocation=True)
    held = cloud.allocation(server)
    assert swept_ids(audit) == {server}
    [finding] = audit.inspect(key(server))
    assert finding.problem == "instance-offloaded"
    assert f"openstack resource provider allocation delete {server}" in finding.refusal
    with pytest.raises(Refused):
        audit.heal(finding)
    assert cloud.allocation(server) == held


def test_an_instance_in_cell0_loses_everything(cloud: NovaSimulation, audit: AuditAllocations) -> None:
    with cloud.ago(**LONG):
        server = cloud.request()
        cloud.claim(server, "a")
        cloud.create_instance(server, "cell0")
        cloud.map_instance(server, "cell0")
        cloud.set_instance(server, vm_state="error", task_state=None)
    assert swept_ids(audit) == {server}
    heal_all(audit, key(server))
    assert cloud.allocation(server) == {}


def test_an_evacuated_instance_whose_lost_host_was_archived(
    cloud: NovaSimulation, neutron: Neutron, audit: AuditAllocations
) -> None:
    with cloud.ago(**LONG):
        server = cloud.boot("a")
        cloud.evacuate(server, "b")
        bind(neutron, server, "b")
    nodes, shadow = tables.compute_nodes, tables.shadow_compute_nodes
    with cloud.cells["cell1"].begin() as connection:
        connection.execute(sa.update(nodes).where(nodes.c.host == "a").values(deleted=nodes.c.id))
        gone = sa.select(*nodes.columns).where(nodes.c.host == "a")
        connection.execute(sa.insert(shadow).from_select([column.name for column in nodes.columns], gone))
        connection.execute(sa.delete(nodes).where(nodes.c.host == "a"))
    assert swept_ids(audit) == {server}
    [finding] = heal_all(audit, key(server))
    assert finding.problem == "left-on-another-node"
    assert set(cloud.allocation(server)) == {cloud.node("b").uuid}


def test_the_consumers_of_a_deleted_host(cloud: NovaSimulation, neutron: Neutron, audit: AuditAllocations) -> None:
    with cloud.ago(**LONG):
        gone, moved = cloud.boot("a"), cloud.boot("a")
        cloud.delete(gone, leak_allocation=True)
        cloud.evacuate(moved, "b")
        bind(neutron, moved, "b")
    with cloud.cells["cell1"].begin() as connection:
        nodes = tables.compute_nodes
        connection.execute(sa.update(nodes).where(nodes.c.host == "a").values(deleted=nodes.c.id))
    findings = list(audit.inspect(Key("host", "a")))
    assert {finding.evidence["consumer"] for finding in findings} == {gone, moved}
    assert {finding.key for finding in findings} == {Key("host", "a")}
    assert swept_ids(audit) == {gone, moved}
    for finding in findings:
        audit.heal(finding)
    assert cloud.allocation(gone) == {}
    assert set(cloud.allocation(moved)) == {cloud.node("b").uuid}


# what nova-manage takes for orphans


def test_building_before_the_instance_exists(cloud: NovaSimulation, audit: AuditAllocations) -> None:
    server = cloud.request()
    cloud.claim(server, "a")
    assert not audit.inspect(key(server))
    assert swept_ids(audit) == set()


@pytest.mark.parametrize("reads", [1, 2, 3])
def test_built_while_the_databases_are_read(
    cloud: NovaSimulation, audit: AuditAllocations, monkeypatch: pytest.MonkeyPatch, reads: int
) -> None:
    """Nova writes the instance into its cell before it forgets the build request: one of the two is seen."""
    server = cloud.request()
    cloud.claim(server, "a")
    run, left = Database.run, [reads]

    def run_and_build(database: Database, work: Callable[[sa.Connection], Any]) -> Any:
        done = run(database, work)
        left[0] -= 1
        if left[0] == 0:
            cloud.create_instance(server, "cell1")
            cloud.map_instance(server, "cell1")
        return done

    monkeypatch.setattr(Database, "run", run_and_build)
    with contextlib.suppress(InFlight):
        assert not audit.inspect(key(server))
    assert left[0] <= 0, "it was built meanwhile"


def test_building_without_a_host(cloud: NovaSimulation, audit: AuditAllocations) -> None:
    server = cloud.request()
    cloud.claim(server, "a")
    cloud.create_instance(server, "cell1")
    assert not audit.inspect(key(server))
    cloud.map_instance(server, "cell1")
    with pytest.raises(InFlight, match="scheduling"):
        audit.inspect(key(server))
    with cloud.ago(**LONG):
        cloud.set_instance(server, task_state=None)
    assert not audit.inspect(key(server)), "vm_state building"


def test_mapped_to_no_cell(cloud: NovaSimulation, audit: AuditAllocations) -> None:
    server = cloud.request()
    cloud.claim(server, "a")
    with cloud.api.begin() as connection:
        connection.execute(sa.delete(tables.build_requests))
    assert not audit.inspect(key(server))
    assert swept_ids(audit) == set()


@pytest.mark.parametrize("live", [False, True])
def test_both_sides_of_a_move_in_progress(cloud: NovaSimulation, audit: AuditAllocations, live: bool) -> None:
    with cloud.ago(**LONG):
        server = cloud.boot("a")
        migration = cloud.start_migration(server, "b", live=live)
    for consumer in (server, migration):
        with pytest.raises(InFlight):
            audit.inspect(key(consumer))
    cloud.set_instance(server, task_state=None)
    for consumer in (server, migration):
        with pytest.raises(InFlight, match="migration of the instance"):
            audit.inspect(key(consumer))
    assert swept_ids(audit) == set()


def test_a_resize_that_waits_to_be_confirmed(cloud: NovaSimulation, audit: AuditAllocations) -> None:
    with cloud.ago(days=3):
        server = cloud.boot("a")
        migration = cloud.start_migration(server, "b")
        cloud.finish_migration(migration)
    for consumer in (server, migration):
        assert not audit.inspect(key(consumer))
    assert swept_ids(audit) == set()


def test_an_evacuation_in_progress(cloud: NovaSimulation, audit: AuditAllocations) -> None:
    with cloud.ago(**LONG):
        server = cloud.boot("a")
        cloud.start_evacuation(server, "b")
    with pytest.raises(InFlight):
        audit.inspect(key(server))
    assert swept_ids(audit) == set()


def test_an_instance_that_is_being_unshelved(cloud: NovaSimulation, audit: AuditAllocations) -> None:
    with cloud.ago(**LONG):
        server = cloud.boot("a")
        cloud.shelve_offload(server)
        cloud.set_instance(server, task_state="unshelving")
        cloud.claim(server, "b")
    with pytest.raises(InFlight, match="unshelving"):
        audit.inspect(key(server))


def test_the_hidden_copy_of_a_cross_cell_resize(cloud: NovaSimulation, audit: AuditAllocations) -> None:
    with cloud.ago(**LONG):
        server = cloud.boot("a")
        row = cloud.instance(server)
    with cloud.cells["cell2"].begin() as connection:
        values = {**row._mapping, "host": None, "node": None, "hidden": True}
        connection.execute(sa.insert(tables.instances).values(values))
    cloud.hold(server, {cloud.node("c").uuid: {"VCPU": 1}})
    assert not audit.inspect(key(server))


def test_a_deleted_hidden_copy_proves_nothing(cloud: NovaSimulation, audit: AuditAllocations) -> None:
    with cloud.ago(**LONG):
        server = cloud.boot("a")
        cloud.delete(server, leak_allocation=True)
        cloud.set_instance(server, hidden=True)
    [finding] = audit.inspect(key(server))
    assert (finding.problem, finding.healable) == ("only-hidden-copies", False)


@pytest.mark.parametrize("cell", ["cell0", "cell1", "cell2"])
def test_a_silent_cell_keeps_everything(
    cloud: NovaSimulation, audit: AuditAllocations, cut: Callable[[str], None], cell: str
) -> None:
    with cloud.ago(**LONG):
        gone, lives, far = cloud.boot("a"), cloud.boot("a"), cloud.boot("c")
        cloud.delete(gone, leak_allocation=True)
    [finding] = audit.inspect(key(gone))
    cut(cell)
    for consumer in (gone, lives, far):
        with pytest.raises(Unavailable, match=f"cell:{cell}"):
            audit.inspect(key(consumer))
    with pytest.raises(Unavailable):
        audit.heal(finding)
    keys: set[str] = set()
    with contextlib.suppress(Unavailable):
        for found in audit.sweep():
            keys.add(found.id)
    assert not keys & {lives, far}
    for consumer in (gone, lives, far):
        assert cloud.allocation(consumer)


def test_a_recreated_compute_node(cloud: NovaSimulation, audit: AuditAllocations) -> None:
    """The service was deleted and started again: the instance's allocation is on the provider of the old node."""
    with cloud.ago(**LONG):
        server = cloud.boot("a")
    with cloud.cells["cell1"].begin() as connection:
        nodes = tables.compute_nodes
        connection.execute(sa.update(nodes).where(nodes.c.host == "a").values(deleted=nodes.c.id))
    [finding] = audit.inspect(key(server))
    assert (finding.problem, finding.healable) == ("node-unknown", False)
    with cloud.cells["cell1"].begin() as connection:
        row = {"uuid": str(uuid.uuid4()), "host": "a", "hypervisor_hostname": "a"}
        connection.execute(sa.insert(tables.compute_nodes).values(row))
    assert not audit.inspect(key(server)), "heal_allocations reports that it holds nothing of its node"


def test_a_consumer_of_another_service(cloud: NovaSimulation, audit: AuditAllocations) -> None:
    stranger = str(uuid.uuid4())
    body = {
        "allocations": {cloud.node("a").uuid: {"resources": {"VCPU": 1}}},
        "project_id": "p",
        "user_id": "u",
        "consumer_generation": None,
        "consumer_type": "CONTAINER",
    }
    assert cloud.placement.request("PUT", f"/allocations/{stranger}", body, version="1.38").status == 204
    assert swept_ids(audit) == {stranger}
    assert not audit.inspect(key(stranger))


def test_an_unknown_consumer_is_reported(cloud: NovaSimulation, audit: AuditAllocations) -> None:
    stranger = str(uuid.uuid4())
    cloud.hold(stranger, {cloud.node("a").uuid: {"VCPU": 1}})
    assert swept_ids(audit) == {stranger}
    [finding] = audit.inspect(key(stranger))
    assert (finding.problem, finding.healable, finding.approvable) == ("unknown-consumer", False, True)
    with pytest.raises(Refused):
        audit.heal(finding)
    assert cloud.allocation(stranger)


def test_an_operator_is_the_second_witness_of_an_unknown_consumer(
    cloud: NovaSimulation, audit: AuditAllocations
) -> None:
    stranger = str(uuid.uuid4())
    cloud.hold(stranger, {cloud.node("a").uuid: {"VCPU": 1}})
    [finding] = audit.inspect(key(stranger))
    assert finding.plan.startswith(f"placement: PUT /allocations/{stranger} ")
    healed = audit.heal(dataclasses.replace(finding, witnessed=True))
    assert healed.action.endswith("an operator is the second witness")
    assert cloud.allocation(stranger) == {}


def written_again(cloud: NovaSimulation, stranger: str) -> None:
    cloud.hold(stranger, {cloud.node("a").uuid: {"VCPU": 1}})


def scheduled(cloud: NovaSimulation, stranger: str) -> None:
    with cloud.api.begin() as connection:
        connection.execute(sa.insert(tables.build_requests).values(instance_uuid=stranger, project_id="p"))


@pytest.mark.parametrize("change", [written_again, scheduled])
def test_no_witness_replaces_a_contradiction(
    cloud: NovaSimulation, audit: AuditAllocations, change: Callable[[NovaSimulation, str], None]
) -> None:
    """Between approval and heal, the allocation changes, or Nova schedules the consumer as an instance."""
    stranger = str(uuid.uuid4())
    cloud.hold(stranger, {cloud.node("a").uuid: {"VCPU": 1}})
    [finding] = audit.inspect(key(stranger))
    change(cloud, stranger)
    with pytest.raises(Conflict):
        audit.heal(dataclasses.replace(finding, witnessed=True))
    assert cloud.allocation(stranger)


def test_a_soft_deleted_instance_can_come_back(cloud: NovaSimulation, audit: AuditAllocations) -> None:
    with cloud.ago(**LONG):
        server = cloud.boot("a")
        cloud.set_instance(server, vm_state="soft-delete", task_state=None)
    assert not audit.inspect(key(server))
    assert swept_ids(audit) == set()


def test_a_shelved_instance_keeps_its_host(cloud: NovaSimulation, audit: AuditAllocations) -> None:
    with cloud.ago(**LONG):
        server = cloud.boot("a")
        cloud.set_instance(server, vm_state="shelved")
    assert not audit.inspect(key(server))


def test_a_providers_listing_that_is_empty_is_an_error(
    audit: AuditAllocations, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit._placement, "compute_providers", dict)
    with pytest.raises(Unavailable, match="lists no compute node's provider"):
        list(audit.sweep())


# what is strange but not proved


def test_two_nodes_without_a_migration(cloud: NovaSimulation, audit: AuditAllocations) -> None:
    with cloud.ago(**LONG):
        server = cloud.boot("a")
    cloud.hold(server, {cloud.node("a").uuid: {"VCPU": 1}, cloud.node("b").uuid: {"VCPU": 1}})
    [finding] = audit.inspect(key(server))
    assert (finding.problem, finding.healable) == ("on-several-nodes", False)


def test_a_rightful_share_is_left_to_audit_migrations(
    cloud: NovaSimulation, neutron: Neutron, audit: AuditAllocations
) -> None:
    with cloud.ago(**LONG):
        server = cloud.boot("a")
        migration = cloud.start_migration(server, "b", live=True)
        cloud.fail_migration(migration, leak_allocation=True)
    assert not audit.inspect(key(server))
    assert not audit.inspect(key(migration))


def test_an_error_without_a_host(cloud: NovaSimulation, audit: AuditAllocations) -> None:
    with cloud.ago(**LONG):
        server = cloud.boot("a")
        cloud.set_instance(server, vm_state="error", host=None, node=None)
    [finding] = audit.inspect(key(server))
    assert (finding.problem, finding.healable) == ("instance-without-host", False)


# time and races


def test_nova_gets_time_to_finish(cloud: NovaSimulation, audit: AuditAllocations) -> None:
    deleted, moved = cloud.boot("a"), cloud.boot("a")
    cloud.delete(deleted, leak_allocation=True)
    cloud.evacuate(moved, "b")
    with pytest.raises(InFlight) as caught:
        audit.inspect(key(deleted))
    assert 0 < caught.value.after <= 10
    with pytest.raises(InFlight) as caught:
        audit.inspect(key(moved))
    assert 0 < caught.value.after <= 60


def test_a_claim_between_proof_and_heal_wins(cloud: NovaSimulation, neutron: Neutron, audit: AuditAllocations) -> None:
    with cloud.ago(**LONG):
        server = cloud.boot("a")
        cloud.evacuate(server, "b")
        bind(neutron, server, "b")
        [finding] = audit.inspect(key(server))
        cloud.claim(server, "c")
    held = cloud.allocation(server)
    with pytest.raises(Conflict):
        audit.heal(finding)
    assert cloud.allocation(server) == held


def test_a_claim_in_the_middle_of_the_heal_wins(
    cloud: NovaSimulation, neutron: Neutron, audit: AuditAllocations, monkeypatch: pytest.MonkeyPatch
) -> None:
    with cloud.ago(**LONG):
        server = cloud.boot("a")
        cloud.evacuate(server, "b")
        bind(neutron, server, "b")
    [finding] = audit.inspect(key(server))
    replace = audit._placement.replace_allocation

    def claim_first(before: Allocation, providers: Held) -> None:
        cloud.claim(server, "c")
        replace(before, providers)

    monkeypatch.setattr(audit._placement, "replace_allocation", claim_first)
    with pytest.raises(Conflict):
        audit.heal(finding)
    assert cloud.node("c").uuid in cloud.allocation(server)


def test_evidence_that_is_no_longer_exact_heals_nothing(cloud: NovaSimulation, audit: AuditAllocations) -> None:
    with cloud.ago(**LONG):
        server = cloud.boot("a")
        cloud.delete(server, leak_allocation=True)
    [finding] = audit.inspect(key(server))
    changed = {cloud.node("b").uuid: {"VCPU": 1}}
    cloud.hold(server, changed)
    with pytest.raises(Conflict):
        audit.heal(finding)
    assert cloud.allocation(server) == changed


def test_evidence_may_have_been_stored_as_json(cloud: NovaSimulation, audit: AuditAllocations) -> None:
    with cloud.ago(**LONG):
        server = cloud.boot("a")
        cloud.delete(server, leak_allocation=True)
    [finding] = audit.inspect(key(server))
    stored = json.loads(json.dumps(finding.evidence, sort_keys=True))
    audit.heal(dataclasses.replace(finding, evidence=stored))
    assert cloud.allocation(server) == {}


def test_an_archived_hidden_copy_proves_nothing(cloud: NovaSimulation, audit: AuditAllocations) -> None:
    with cloud.ago(**LONG):
        server = cloud.boot("a")
        cloud.delete(server, leak_allocation=True)
        cloud.set_instance(server, hidden=True)
    archive(cloud, "cell1", server)
    [finding] = audit.inspect(key(server))
    assert (finding.problem, finding.healable, finding.approvable) == ("unknown-consumer", False, True)


def test_healing_twice_is_a_conflict(cloud: NovaSimulation, audit: AuditAllocations) -> None:
    with cloud.ago(**LONG):
        server = cloud.boot("a")
        cloud.delete(server, leak_allocation=True)
    [finding] = audit.inspect(key(server))
    audit.heal(finding)
    with pytest.raises(Conflict):
        audit.heal(finding)


def test_the_undo_names_everything_that_was_taken(cloud: NovaSimulation, audit: AuditAllocations) -> None:
    with cloud.ago(**LONG):
        server = cloud.boot("a")
        cloud.delete(server, leak_allocation=True)
    held = cloud.allocation(server)
    [finding] = audit.inspect(key(server))
    healed = audit.heal(finding)
    [(provider, resources)] = held.items()
    amounts = ",".join(f"{name}={amount}" for name, amount in sorted(resources.items()))
    assert f"--project-id {cloud.PROJECT} --user-id {cloud.USER}" in healed.undo
    assert f"--allocation rp={provider},{amounts} {server}" in healed.undo
    assert healed.before["allocations"] == held


def test_two_inspections_of_the_same_drift_are_equal(cloud: NovaSimulation, audit: AuditAllocations) -> None:
    with cloud.ago(**LONG):
        server = cloud.boot("a")
        cloud.delete(server, leak_allocation=True)
    first = list(audit.inspect(key(server)))
    time.sleep(1.1)
    assert first == list(audit.inspect(key(server)))


def test_population_counts_live_instances(
    cloud: NovaSimulation, audit: AuditAllocations, cut: Callable[[str], None]
) -> None:
    for host in ("a", "b", "c"):
        cloud.boot(host)
    cloud.delete(cloud.boot("a"))
    assert audit.population() == 3
    cut("cell2")
    assert audit.population() == 2


def test_a_sweep_scans_the_archive_once_for_all(
    cloud: NovaSimulation, audit: AuditAllocations, monkeypatch: pytest.MonkeyPatch
) -> None:
    with cloud.ago(**LONG):
        servers = [cloud.boot("a") for _ in range(5)]
        for server in servers:
            cloud.delete(server, leak_allocation=True)
    for server in servers:
        archive(cloud, "cell1", server)
    scans: list[int] = []
    scan = audit._archive._instances
    monkeypatch.setattr(audit._archive, "_instances", lambda wanted: scans.append(len(wanted)) or scan(wanted))
    assert swept_ids(audit) == set(servers)
    for server in servers:
        heal_all(audit, key(server))
    assert [size for size in scans if size] == [5]


# looks that inspections share


def orphan(cloud: NovaSimulation) -> str:
    with cloud.ago(**LONG):
        server = cloud.boot("a")
        cloud.delete(server, leak_allocation=True)
    return server


def test_a_shared_look_gives_the_findings_of_a_look_at_one_consumer(
    cloud: NovaSimulation, neutron: Neutron, audit: AuditAllocations, resources: Resources
) -> None:
    deleted, archived = orphan(cloud), orphan(cloud)
    archive(cloud, "cell1", archived)
    with cloud.ago(**LONG):
        moved, confirmed = cloud.boot("a"), cloud.boot("a")
        cloud.evacuate(moved, "b")
        bind(neutron, moved, "b")
        migration = cloud.start_migration(confirmed, "b")
        cloud.finish_migration(migration)
        cloud.confirm_migration(migration, leak_allocation=True)
        elsewhere = cloud.boot("c")
        cloud.delete(elsewhere, leak_allocation=True)
        unscheduled = cloud.request()
        cloud.claim(unscheduled, "a")
        cloud.create_instance(unscheduled, "cell0")
        cloud.map_instance(unscheduled, "cell0")
        cloud.set_instance(unscheduled, vm_state="error", task_state=None)
    unknown = str(uuid.uuid4())
    cloud.hold(unknown, {cloud.node("a").uuid: {"VCPU": 1}})
    keys = list(audit.sweep())
    assert {one.id for one in keys} == {deleted, archived, moved, migration, elsewhere, unscheduled, unknown}
    no_sweep = AuditAllocations.from_resources(resources)
    for one in keys:
        [shared], [alone] = audit.inspect_suspect(one, math.inf), no_sweep.inspect(one)
        assert shared == alone
        [proved] = audit.inspect_alone(one)
        assert shared.same_as(proved)


def test_a_look_at_an_instance_and_at_its_migration(
    cloud: NovaSimulation, neutron: Neutron, audit: AuditAllocations, resources: Resources
) -> None:
    """Both hold resources of the node that the instance left, and only the migration proves that it left."""
    with cloud.ago(**LONG):
        server = cloud.boot("a")
        before = cloud.allocation(server)
        migration = cloud.start_migration(server, "b")
        cloud.finish_migration(migration)
        cloud.confirm_migration(migration, leak_allocation=True)
        cloud.hold(server, {**before, **cloud.allocation(server)})
    bind(neutron, server, "b")
    no_sweep = AuditAllocations.from_resources(resources)
    keys = list(audit.sweep())
    assert {one.id for one in keys} == {server, migration}
    for one in keys:
        alone = list(no_sweep.inspect(one))
        assert [finding.problem for finding in alone if not finding.healable] == []
        assert list(audit.inspect_suspect(one, math.inf)) == alone
    for one in keys:
        heal_all(audit, one)
    assert set(cloud.allocation(server)) == {cloud.node("b").uuid}
    assert cloud.allocation(migration) == {}


def test_a_finding_of_a_shared_look_is_proved_again_before_the_write(
    cloud: NovaSimulation, audit: AuditAllocations, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cell is restored after the look that both inspections share."""
    monkeypatch.setattr(shared_looks, "FRESH", math.inf)
    orphans = {orphan(cloud), orphan(cloud)}
    first, second = audit.sweep()
    assert {first.id, second.id} == orphans
    assert audit.inspect_suspect(first, math.inf)
    with cloud.ago(**LONG):
        cloud.set_instance(second.id, deleted=0, vm_state="active")
    held = cloud.allocation(second.id)
    [finding] = audit.inspect_suspect(second, math.inf)
    with pytest.raises(Conflict):
        audit.heal(finding)
    assert cloud.allocation(second.id) == held


def test_only_a_finding_rests_on_a_shared_look(
    cloud: NovaSimulation, audit: AuditAllocations, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An event after the look leads to an inspection, which must see what the event announced."""
    monkeypatch.setattr(shared_looks, "FRESH", math.inf)
    orphans = {orphan(cloud), orphan(cloud)}
    first, second = audit.sweep()
    assert {first.id, second.id} == orphans
    cloud.set_instance(second.id, deleted=0, vm_state="active")
    assert audit.inspect_suspect(first, math.inf)
    with cloud.ago(**LONG):
        cloud.delete(second.id, leak_allocation=True)
    [finding] = audit.inspect_suspect(second, math.inf)
    assert finding.problem == "instance-deleted"


@pytest.mark.parametrize(
    ("mark", "column"), [("vm_state", "uuid"), ("migration_type", "instance_uuid"), ("cell_id", "instance_uuid")]
)
def test_a_row_of_another_uuid_ends_the_inspection(
    cloud: NovaSimulation, audit: AuditAllocations, monkeypatch: pytest.MonkeyPatch, mark: str, column: str
) -> None:
    """A database that compares uuids otherwise returns, under another name, a live row that contradicts the drift."""
    with cloud.ago(**LONG):
        server = cloud.boot("a")
        cloud.confirm_migration(cloud.start_migration(server, "b"))
    read_both = queries.read_both

    def renamed(*arguments: Any) -> Any:
        return tuple(
            [{**row, column: f"{row[column]}-"} if mark in row else row for row in rows]
            for rows in read_both(*arguments)
        )

    monkeypatch.setattr(queries, "read_both", renamed)
    with pytest.raises(Refused, match="which it takes for one of the consumers"):
        audit.inspect(key(server))


def test_no_look_mixes_uuids_that_differ_only_in_the_case_of_letters(
    cloud: NovaSimulation, audit: AuditAllocations
) -> None:
    """For PostgreSQL these are two consumers, and the rows of one prove nothing about the other."""
    server = orphan(cloud)
    with pytest.raises(Refused, match="differ only in the case"):
        audit._judge.look([server, server.upper()])


def test_whose_placement_it_is_stays_known_for_a_minute(
    cloud: NovaSimulation, audit: AuditAllocations, monkeypatch: pytest.MonkeyPatch
) -> None:
    servers = [orphan(cloud) for _ in range(3)]
    first, second, third = (finding for server in servers for finding in audit.inspect(key(server)))
    audit.heal(first)
    for engine in cloud.cells.values():
        with engine.begin() as connection:
            strange = {"uuid": tables.compute_nodes.c.uuid.concat("-")}
            connection.execute(sa.update(tables.compute_nodes).values(strange))
    audit.heal(second)
    monkeypatch.setattr(nodes, "OWN_FOR", 0.0)
    with pytest.raises(Refused, match="knows none of Nova's 3 compute nodes"):
        audit.heal(third)
    assert [bool(cloud.allocation(server)) for server in servers] == [False, False, True]
