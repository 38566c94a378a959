from __future__ import annotations

import contextlib
import dataclasses
import json
import time
import uuid
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import sqlalchemy as sa

from handlers.base import Conflict, Event, InFlight, Key, Refused, Resources, Unavailable
from handlers.nova import tables
from handlers.nova.allocations.audit_allocations import AuditAllocations
from handlers.nova.allocations.audit_migrations import AuditMigrations
from handlers.nova.allocations.heal_allocations import HealAllocations
from handlers.nova.names import HostNames
from handlers.nova.placement import Allocation, Held
from handlers.nova.simulation import NovaSimulation
from handlers.nova.simulation.neutron import Neutron
from tests.functional.nova.world import (
    bind,
    heal_only,
    instance_key,
    make_provider,
    only_refused,
    record_move,
    set_inventory,
    swept_ids,
)

pytestmark = pytest.mark.hosts(a="cell1", b="cell1", c="cell2")

LONG = {"hours": 1}


@pytest.fixture
def server(cloud: NovaSimulation) -> str:
    """An instance on host a that holds nothing."""
    with cloud.ago(**LONG):
        made = cloud.boot("a")
    cloud.hold(made, {})
    return made


def home(cloud: NovaSimulation, instance: str, host: str = "a") -> dict[str, dict[str, int]]:
    return {cloud.node(host).uuid: cloud.flavor(instance).resources()}


def own(cloud: NovaSimulation, consumer: str, held: Held, project: str, user: str) -> None:
    generation = cloud.placement.request("GET", f"/allocations/{consumer}").body.get("consumer_generation")
    body = {
        "allocations": {provider: {"resources": dict(amounts)} for provider, amounts in held.items()},
        "project_id": project,
        "user_id": user,
        "consumer_generation": generation,
    }
    assert cloud.placement.request("PUT", f"/allocations/{consumer}", body).status == 204


def owner(cloud: NovaSimulation, consumer: str) -> tuple[Any, Any]:
    body = cloud.placement.request("GET", f"/allocations/{consumer}").body
    return body["project_id"], body["user_id"]


# what is missing


def test_a_missing_allocation_is_given(cloud: NovaSimulation, heal: HealAllocations, server: str) -> None:
    with cloud.ago(**LONG):
        other = cloud.boot("a")
    assert swept_ids(heal) == {server}
    assert heal_only(heal, instance_key(server)).problem == "allocation-missing"
    assert cloud.allocation(server) == home(cloud, server)
    assert owner(cloud, server) == (cloud.PROJECT, cloud.USER)
    assert cloud.allocation(other) == home(cloud, other)
    assert swept_ids(heal) == set()


def test_a_healthy_instance_is_left_alone_at_any_age(cloud: NovaSimulation, heal: HealAllocations) -> None:
    assert not list(heal.inspect(instance_key(cloud.boot("a"))))


def test_a_soft_deleted_instance_without_allocation(cloud: NovaSimulation, heal: HealAllocations, server: str) -> None:
    with cloud.ago(**LONG):
        cloud.set_instance(server, vm_state="soft-delete")
    assert swept_ids(heal) == {server}
    heal_only(heal, instance_key(server))
    assert cloud.allocation(server) == home(cloud, server)


def test_the_flavor_in_force_decides(cloud: NovaSimulation, heal: HealAllocations, server: str) -> None:
    specs = {"resources:CUSTOM_LICENCE": "2"}
    cloud.set_flavor(server, vcpus=3, swap=1025, ephemeral_gb=4, extra_specs=specs)
    assert cloud.placement.request("PUT", "/resource_classes/CUSTOM_LICENCE").status == 201
    node = cloud.node("a").uuid
    set_inventory(cloud, node, {**cloud.CAPACITY, "CUSTOM_LICENCE": 5})
    heal_only(heal, instance_key(server))
    assert cloud.allocation(server) == {node: {"VCPU": 3, "MEMORY_MB": 512, "DISK_GB": 7, "CUSTOM_LICENCE": 2}}


def test_the_image_pins_the_cpus(cloud: NovaSimulation, heal: HealAllocations, server: str) -> None:
    node = cloud.node("a").uuid
    set_inventory(cloud, node, {**cloud.CAPACITY, "PCPU": 8})
    cloud.set_image_property(server, "hw_cpu_policy", "dedicated")
    heal_only(heal, instance_key(server))
    assert cloud.allocation(server) == {node: {"PCPU": 1, "MEMORY_MB": 512, "DISK_GB": 1}}


@pytest.mark.parametrize("image", [True, False])
@pytest.mark.parametrize(("boot_index", "destination"), [(0, "volume"), (0, "local"), (1, "volume"), (None, None)])
def test_a_root_disk_that_is_a_volume(
    cloud: NovaSimulation,
    heal: HealAllocations,
    server: str,
    boot_index: int | None,
    destination: str | None,
    image: bool,
) -> None:
    if not image:
        with cloud.ago(**LONG):
            cloud.set_instance(server, image_ref="")
    if destination is not None:
        row = {"instance_uuid": server, "boot_index": boot_index, "destination_type": destination, "deleted": 0}
        with cloud.cells["cell1"].begin() as connection:
            connection.execute(sa.insert(tables.block_device_mapping).values(row))
            gone = {**row, "destination_type": "volume", "deleted": 7, "boot_index": 0}
            connection.execute(sa.insert(tables.block_device_mapping).values(gone))
    heal_only(heal, instance_key(server))
    volume = destination == "volume" if boot_index == 0 else not image
    assert ("DISK_GB" in cloud.allocation(server)[cloud.node("a").uuid]) is not volume


def test_all_instances_of_a_host(cloud: NovaSimulation, heal: HealAllocations, server: str) -> None:
    with cloud.ago(**LONG):
        cloud.boot("a")
        elsewhere = cloud.boot("b")
    cloud.hold(elsewhere, {})
    [finding] = heal.inspect(Key("host", "a"))
    assert (finding.key, finding.evidence["instance"]) == (Key("host", "a"), server)
    heal.heal(finding)
    assert cloud.allocation(server) == home(cloud, server)
    assert swept_ids(heal) == {elsewhere}


# what is held elsewhere, or for somebody else


def test_the_wrong_owner(cloud: NovaSimulation, heal: HealAllocations, server: str) -> None:
    own(cloud, server, home(cloud, server), "somebody", cloud.USER)
    finding = heal_only(heal, instance_key(server))
    assert finding.problem == "wrong-owner"
    assert owner(cloud, server) == (cloud.PROJECT, cloud.USER)
    assert cloud.allocation(server) == home(cloud, server)


def test_another_node_from_which_an_ended_migration_proves_it_away(
    cloud: NovaSimulation, neutron: Neutron, heal: HealAllocations, server: str
) -> None:
    record_move(cloud, server, "b", "failed")
    bind(neutron, server, "a")
    own(cloud, server, home(cloud, server, "b"), "somebody", "else")
    assert swept_ids(heal) == {server}
    assert heal_only(heal, instance_key(server)).problem == "wrong-provider"
    assert cloud.allocation(server) == home(cloud, server)
    assert owner(cloud, server) == (cloud.PROJECT, cloud.USER)


def test_the_share_of_a_failed_migration_is_not_given_a_second_time(
    cloud: NovaSimulation, neutron: Neutron, heal: HealAllocations, resources: Resources
) -> None:
    with cloud.ago(**LONG):
        server = cloud.boot("a")
        migration = cloud.start_migration(server, "b", live=True)
        cloud.fail_migration(migration, leak_allocation=True)
    bind(neutron, server, "a")
    assert not heal.inspect(instance_key(server)), "audit_migrations finds it"
    migrations = AuditMigrations.from_resources(resources)
    [finding] = migrations.inspect(instance_key(server))
    migrations.heal(finding)
    assert cloud.allocation(migration) == {}
    assert cloud.allocation(server) == home(cloud, server)
    assert not heal.inspect(instance_key(server))


def test_a_share_is_not_given_a_second_time_when_only_the_letter_case_differs(
    cloud: NovaSimulation, heal: HealAllocations, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The host changed its letters; for MySQL the migration began on the node where the instance is."""
    with cloud.ago(**LONG):
        server = cloud.boot("a")
        migration = cloud.start_migration(server, "b", live=True)
        cloud.fail_migration(migration, leak_allocation=True)
        cloud.set_migration(migration, source_compute="A", source_node="A")
    cloud.hold(server, {})
    monkeypatch.setattr(heal._databases, "host_names", HostNames(exact=False))
    assert not heal.inspect(instance_key(server)), "audit_migrations moves it back"
    assert cloud.allocation(server) == {}


def test_after_a_resize_within_its_node_the_flavor_counts(
    cloud: NovaSimulation, heal: HealAllocations, audit: AuditAllocations
) -> None:
    with cloud.ago(**LONG):
        server = cloud.boot("a")
        migration = cloud.start_migration(server, "b", live=True)
        cloud.fail_migration(migration, leak_allocation=True)
        cloud.set_migration(migration, dest_compute="a", dest_node="a")
    cloud.hold(server, {})
    heal_only(heal, instance_key(server))
    assert cloud.allocation(server) == home(cloud, server)
    [leftover] = audit.inspect(Key("consumer", server))
    audit.heal(leftover)
    assert cloud.allocation(migration) == {}


def test_shared_storage_stays_and_is_not_given_twice(
    cloud: NovaSimulation, neutron: Neutron, heal: HealAllocations, server: str
) -> None:
    bind(neutron, server, "a")
    record_move(cloud, server, "b", "failed")
    shared = make_provider(cloud, "nfs", {"DISK_GB": 100})
    cloud.hold(server, {cloud.node("b").uuid: {"VCPU": 1, "MEMORY_MB": 512}, shared: {"DISK_GB": 1}})
    heal_only(heal, instance_key(server))
    node = cloud.node("a").uuid
    assert cloud.allocation(server) == {node: {"VCPU": 1, "MEMORY_MB": 512}, shared: {"DISK_GB": 1}}


def test_shared_storage_of_another_size_is_reported(
    cloud: NovaSimulation, neutron: Neutron, heal: HealAllocations, server: str
) -> None:
    bind(neutron, server, "a")
    record_move(cloud, server, "b", "failed")
    shared = make_provider(cloud, "nfs", {"DISK_GB": 100})
    cloud.hold(server, {cloud.node("b").uuid: {"VCPU": 1, "MEMORY_MB": 512}, shared: {"DISK_GB": 7}})
    assert "DISK_GB=7" in only_refused(heal, instance_key(server)).refusal


def test_nothing_but_shared_storage_is_reported(cloud: NovaSimulation, heal: HealAllocations, server: str) -> None:
    cloud.hold(server, {make_provider(cloud, "nfs", {"DISK_GB": 100}): {"DISK_GB": 1}})
    assert only_refused(heal, instance_key(server)).problem == "nothing-at-home"


def test_devices_of_another_node_are_reported(cloud: NovaSimulation, heal: HealAllocations, server: str) -> None:
    card = make_provider(cloud, "card", {"SRIOV_NET_VF": 4}, cloud.node("b").uuid)
    cloud.hold(server, {**home(cloud, server, "b"), card: {"SRIOV_NET_VF": 1}})
    assert "devices" in only_refused(heal, instance_key(server)).refusal


def test_an_earlier_node_of_the_same_name_is_reported(
    cloud: NovaSimulation, heal: HealAllocations, server: str
) -> None:
    cloud.hold(server, home(cloud, server))
    with cloud.cells["cell1"].begin() as connection:
        nodes = tables.compute_nodes
        connection.execute(sa.update(nodes).where(nodes.c.host == "a").values(deleted=nodes.c.id))
        row = {"uuid": str(uuid.uuid4()), "host": "a", "hypervisor_hostname": "a"}
        connection.execute(sa.insert(nodes).values(row))
    assert "earlier compute node" in only_refused(heal, instance_key(server)).refusal


def test_a_node_and_another_one_are_for_the_audit(cloud: NovaSimulation, heal: HealAllocations, server: str) -> None:
    cloud.hold(server, {**home(cloud, server), **home(cloud, server, "b")})
    assert not heal.inspect(instance_key(server))


# amounts


def test_doubled_amounts_are_reported_with_the_numbers(
    cloud: NovaSimulation, heal: HealAllocations, server: str
) -> None:
    held = {cloud.node("a").uuid: {"VCPU": 2, "MEMORY_MB": 1024, "DISK_GB": 1}}
    cloud.hold(server, held)
    finding = only_refused(heal, instance_key(server))
    assert finding.problem == "wrong-amounts"
    assert "MEMORY_MB 1024 instead of 512, VCPU 2 instead of 1 " in finding.summary
    assert cloud.allocation(server) == held


def test_resources_of_ports_and_devices_are_not_wrong_amounts(
    cloud: NovaSimulation, heal: HealAllocations, server: str
) -> None:
    card = make_provider(cloud, "card", {"NET_BW_EGR_KILOBIT_PER_SEC": 4000}, cloud.node("a").uuid)
    cloud.hold(server, {**home(cloud, server), card: {"NET_BW_EGR_KILOBIT_PER_SEC": 1000}})
    assert "wrong-amounts" not in {finding.problem for finding in heal.inspect(instance_key(server))}


def test_pinned_cpus_of_a_node_without_such_an_inventory(
    cloud: NovaSimulation, heal: HealAllocations, server: str
) -> None:
    cloud.set_image_property(server, "hw_cpu_policy", "dedicated")
    cloud.hold(server, home(cloud, server))
    assert not heal.inspect(instance_key(server)), "the scheduler falls back to VCPU"
    cloud.hold(server, {})
    assert "no PCPU" in only_refused(heal, instance_key(server)).refusal


def test_a_healthy_vgpu_is_not_judged(cloud: NovaSimulation, heal: HealAllocations, server: str) -> None:
    cloud.hold(server, home(cloud, server))
    cloud.set_flavor(server, vcpus=9, extra_specs={"resources:VGPU": "1"})
    assert not heal.inspect(instance_key(server))


# what cannot be rebuilt


@pytest.mark.parametrize(
    ("specs", "reason"),
    [
        ({"resources:VGPU": "1"}, "vGPU"),
        ({"resources7:VGPU": "1"}, "vGPU"),
        ({"accel:device_profile": "x"}, "device profile"),
        ({"resources1:SRIOV_NET_VF": "1"}, "group of their own"),
        ({"hw:mem_encryption": "true"}, "encrypted"),
        ({"hw:pmem": "4GB"}, "persistent"),
        ({"resources:FPGA": "1"}, "itself has no FPGA"),
        ({"resources:PCPU": "1", "hw:cpu_policy": "dedicated"}, "contradict"),
    ],
)
def test_flavors_that_cannot_be_rebuilt(
    cloud: NovaSimulation, heal: HealAllocations, server: str, specs: Mapping[str, str], reason: str
) -> None:
    cloud.set_flavor(server, extra_specs=dict(specs))
    with cloud.ago(**LONG):
        other = cloud.boot("a")
    cloud.hold(other, {})
    finding = only_refused(heal, instance_key(server))
    assert finding.problem == "allocation-missing"
    assert reason in finding.refusal
    assert cloud.allocation(server) == {}
    heal_only(heal, instance_key(other))


def test_a_class_that_the_node_has_below(cloud: NovaSimulation, heal: HealAllocations, server: str) -> None:
    make_provider(cloud, "numa0", {"VCPU": 8, "SRIOV_NET_VF": 1}, cloud.node("a").uuid)
    assert "VCPU in nested providers" in only_refused(heal, instance_key(server)).refusal


def test_a_node_below_which_there_is_something_else(cloud: NovaSimulation, heal: HealAllocations, server: str) -> None:
    make_provider(cloud, "card", {"SRIOV_NET_VF": 1}, cloud.node("a").uuid)
    heal_only(heal, instance_key(server))
    assert cloud.allocation(server) == home(cloud, server)


def test_a_flavor_that_cannot_be_read(cloud: NovaSimulation, heal: HealAllocations, server: str) -> None:
    with cloud.cells["cell1"].begin() as connection:
        connection.execute(sa.delete(tables.instance_extra))
    assert "flavor cannot be read" in only_refused(heal, instance_key(server)).refusal


def test_an_instance_without_an_owner(cloud: NovaSimulation, heal: HealAllocations, server: str) -> None:
    with cloud.ago(**LONG):
        cloud.set_instance(server, user_id=None)
    assert "no project or user" in only_refused(heal, instance_key(server)).refusal
    cloud.hold(server, home(cloud, server))
    assert only_refused(heal, instance_key(server)).problem == "wrong-owner"


@pytest.mark.parametrize("cell", ["cell2", None])
def test_an_instance_that_is_not_mapped_to_its_cell(
    cloud: NovaSimulation, heal: HealAllocations, server: str, cell: str | None
) -> None:
    with cloud.api.begin() as connection:
        connection.execute(sa.delete(tables.instance_mappings))
    if cell:
        with cloud.api.begin() as connection:
            row = {"instance_uuid": server, "project_id": "p", "cell_id": 3}
            connection.execute(sa.insert(tables.instance_mappings).values(row))
    assert "not mapped" in only_refused(heal, instance_key(server)).refusal


def test_an_unknown_node(cloud: NovaSimulation, heal: HealAllocations, server: str) -> None:
    with cloud.ago(**LONG):
        cloud.set_instance(server, node="gone")
    assert swept_ids(heal) == {server}
    assert only_refused(heal, instance_key(server)).problem == "node-unknown"
    cloud.hold(server, home(cloud, server))
    assert not heal.inspect(instance_key(server))


def test_a_node_without_provider(cloud: NovaSimulation, heal: HealAllocations, server: str) -> None:
    assert cloud.placement.request("DELETE", f"/resource_providers/{cloud.node('a').uuid}").status == 204
    assert swept_ids(heal) == {server}
    assert "no provider in Placement" in only_refused(heal, instance_key(server)).refusal


def test_an_instance_in_two_cells_gets_nothing(cloud: NovaSimulation, heal: HealAllocations, server: str) -> None:
    row = cloud.instance(server)
    with cloud.cells["cell2"].begin() as connection:
        connection.execute(sa.insert(tables.instances).values({**row._mapping}))
    assert not heal.inspect(instance_key(server))


# no heals


def test_building(cloud: NovaSimulation, heal: HealAllocations) -> None:
    with cloud.ago(**LONG):
        server = cloud.request()
        assert not heal.inspect(instance_key(server))
        cloud.create_instance(server, "cell1")
        cloud.set_instance(server, host="a", node="a", task_state=None, vm_state="active")
        assert not heal.inspect(instance_key(server)), "has a build request"
        with cloud.api.begin() as connection:
            connection.execute(sa.delete(tables.build_requests))
        assert not heal.inspect(instance_key(server)), "mapped to no cell"
        cloud.map_instance(server, "cell1")
        cloud.set_instance(server, vm_state="building")
    assert not heal.inspect(instance_key(server))
    assert swept_ids(heal) == set()


def test_never_scheduled(cloud: NovaSimulation, heal: HealAllocations) -> None:
    with cloud.ago(**LONG):
        server = cloud.request()
        cloud.create_instance(server, "cell0")
        cloud.map_instance(server, "cell0")
        cloud.set_instance(server, vm_state="error", task_state=None)
    assert not heal.inspect(instance_key(server))


@pytest.mark.parametrize("state", ["deleted", "hidden", "offloaded", "about to be deleted", "without host"])
def test_an_instance_that_should_hold_nothing(
    cloud: NovaSimulation, heal: HealAllocations, server: str, state: str
) -> None:
    with cloud.ago(**LONG):
        if state == "deleted":
            cloud.delete(server)
        elif state == "offloaded":
            cloud.shelve_offload(server)
        else:
            change: dict[str, dict[str, object]] = {
                "hidden": {"hidden": True},
                "about to be deleted": {"vm_state": "deleted"},
                "without host": {"host": None, "vm_state": "error"},
            }
            cloud.set_instance(server, **change[state])
    assert not heal.inspect(instance_key(server))
    assert swept_ids(heal) == set()


def test_an_unknown_instance(heal: HealAllocations) -> None:
    assert not heal.inspect(instance_key(str(uuid.uuid4())))


def test_a_task_is_waited_for(cloud: NovaSimulation, heal: HealAllocations, server: str) -> None:
    with cloud.ago(**LONG):
        cloud.set_instance(server, task_state="rebooting")
    with pytest.raises(InFlight, match="rebooting"):
        heal.inspect(instance_key(server))
    assert swept_ids(heal) == set()


@pytest.mark.parametrize("status", ["accepted", "running", "confirming"])
def test_a_migration_in_progress_is_waited_for(cloud: NovaSimulation, heal: HealAllocations, status: str) -> None:
    with cloud.ago(**LONG):
        server = cloud.boot("a")
        migration = cloud.start_migration(server, "b")
        cloud.set_migration(migration, status=status)
        cloud.set_instance(server, task_state=None)
    with pytest.raises(InFlight, match=f"migration of the instance is {status}"):
        heal.inspect(instance_key(server))


def test_a_resize_that_waits_to_be_confirmed(cloud: NovaSimulation, heal: HealAllocations) -> None:
    with cloud.ago(days=3):
        server = cloud.boot("a")
        migration = cloud.start_migration(server, "b")
        cloud.finish_migration(migration)
    cloud.hold(server, {})
    assert not heal.inspect(instance_key(server))
    with cloud.ago(**LONG):
        cloud.set_instance(server, vm_state="active")
    assert not heal.inspect(instance_key(server)), "the migration is still finished"
    assert swept_ids(heal) == {server}


def test_a_change_a_moment_ago_is_waited_for(cloud: NovaSimulation, heal: HealAllocations) -> None:
    server = cloud.boot("a")
    cloud.hold(server, {})
    with pytest.raises(InFlight) as caught:
        heal.inspect(instance_key(server))
    assert 50 < caught.value.after <= 60


def test_a_consumer_of_another_service(cloud: NovaSimulation, heal: HealAllocations, server: str) -> None:
    body = {
        "allocations": {cloud.node("b").uuid: {"resources": {"VCPU": 1}}},
        "project_id": "p",
        "user_id": "u",
        "consumer_generation": None,
        "consumer_type": "CONTAINER",
    }
    assert cloud.placement.request("PUT", f"/allocations/{server}", body, version="1.38").status == 204
    assert not heal.inspect(instance_key(server))


# races


Replace = Callable[[Allocation, Held], None]


def around(
    heal: HealAllocations,
    monkeypatch: pytest.MonkeyPatch,
    before: Callable[[], None] = lambda: None,
    after: Callable[[], None] = lambda: None,
) -> None:
    """Let something happen right before, or right after, the first write."""
    replace: Replace = heal._placement.replace_allocation
    written: list[Held] = []

    def at_once(allocation: Allocation, providers: Held) -> None:
        first = not written
        written.append(providers)
        if first:
            before()
        replace(allocation, providers)
        if first:
            after()

    monkeypatch.setattr(heal._placement, "replace_allocation", at_once)


def test_a_claim_before_the_heal_wins(cloud: NovaSimulation, heal: HealAllocations, server: str) -> None:
    [finding] = heal.inspect(instance_key(server))
    cloud.hold(server, home(cloud, server, "b"))
    with pytest.raises(Conflict):
        heal.heal(finding)
    assert cloud.allocation(server) == home(cloud, server, "b")


@pytest.mark.parametrize("problem", ["allocation-missing", "wrong-provider", "wrong-owner"])
def test_a_claim_in_the_middle_of_the_heal_wins(
    cloud: NovaSimulation,
    neutron: Neutron,
    heal: HealAllocations,
    server: str,
    monkeypatch: pytest.MonkeyPatch,
    problem: str,
) -> None:
    if problem == "wrong-provider":
        record_move(cloud, server, "b", "failed")
        bind(neutron, server, "a")
        cloud.hold(server, home(cloud, server, "b"))
    elif problem == "wrong-owner":
        own(cloud, server, home(cloud, server), "p", "u")
    [finding] = heal.inspect(instance_key(server))
    assert finding.problem == problem
    claimed = {cloud.node("b").uuid: {"VCPU": 7}}
    around(heal, monkeypatch, before=lambda: cloud.hold(server, claimed))
    with pytest.raises(Conflict):
        heal.heal(finding)
    assert cloud.allocation(server) == claimed


@pytest.mark.parametrize("how", ["deleted", "deleting", "offloaded", "moved"])
def test_an_instance_that_leaves_meanwhile_gets_nothing(
    cloud: NovaSimulation, heal: HealAllocations, server: str, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    leave: dict[str, Callable[[], None]] = {
        "deleted": lambda: cloud.delete(server),
        "deleting": lambda: cloud.set_instance(server, task_state="deleting"),
        "offloaded": lambda: cloud.shelve_offload(server),
        "moved": lambda: cloud.set_instance(server, host="b", node="b"),
    }
    [finding] = heal.inspect(instance_key(server))
    around(heal, monkeypatch, before=leave[how])
    with pytest.raises(Conflict, match="went away"):
        heal.heal(finding)
    assert cloud.allocation(server) == {}


def test_an_instance_that_works_meanwhile_keeps_it(
    cloud: NovaSimulation, heal: HealAllocations, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    [finding] = heal.inspect(instance_key(server))
    around(heal, monkeypatch, before=lambda: cloud.set_instance(server, task_state="rebooting"))
    heal.heal(finding)
    assert cloud.allocation(server) == home(cloud, server)


def test_a_claim_after_the_write_is_not_taken_back(
    cloud: NovaSimulation, heal: HealAllocations, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    [finding] = heal.inspect(instance_key(server))
    claimed = home(cloud, server, "b")

    def move() -> None:
        cloud.hold(server, claimed)
        cloud.set_instance(server, host="b", node="b")

    around(heal, monkeypatch, after=move)
    with pytest.raises(Conflict):
        heal.heal(finding)
    assert cloud.allocation(server) == claimed


def test_a_cell_that_is_lost_in_the_middle(
    cloud: NovaSimulation,
    heal: HealAllocations,
    server: str,
    monkeypatch: pytest.MonkeyPatch,
    cut: Callable[[str], None],
) -> None:
    [finding] = heal.inspect(instance_key(server))
    around(heal, monkeypatch, after=lambda: cut("cell1"))
    with pytest.raises(Unavailable, match="cell:cell1"):
        heal.heal(finding)
    assert cloud.allocation(server) == {}


def test_a_full_node_refuses_and_others_go_on(cloud: NovaSimulation, heal: HealAllocations, server: str) -> None:
    with cloud.ago(**LONG):
        other = cloud.boot("b")
    cloud.hold(other, {})
    cloud.hold(str(uuid.uuid4()), {cloud.node("a").uuid: {"MEMORY_MB": 131072}})
    [finding] = heal.inspect(instance_key(server))
    with pytest.raises(Refused, match=r"node a cannot give .*MEMORY_MB=512.*full\?.*409"):
        heal.heal(finding)
    assert cloud.allocation(server) == {}
    heal_only(heal, instance_key(other))
    assert cloud.allocation(other) == home(cloud, other, "b")


def test_a_task_since_the_proof(cloud: NovaSimulation, heal: HealAllocations, server: str) -> None:
    [finding] = heal.inspect(instance_key(server))
    cloud.set_instance(server, task_state="resize_prep")
    with pytest.raises(InFlight):
        heal.heal(finding)
    assert cloud.allocation(server) == {}


def test_another_flavor_since_the_proof(cloud: NovaSimulation, heal: HealAllocations, server: str) -> None:
    [finding] = heal.inspect(instance_key(server))
    cloud.set_flavor(server, vcpus=2)
    with pytest.raises(Conflict):
        heal.heal(finding)
    assert cloud.allocation(server) == {}


def test_healing_twice_is_a_conflict(cloud: NovaSimulation, heal: HealAllocations, server: str) -> None:
    [finding] = heal.inspect(instance_key(server))
    heal.heal(finding)
    with pytest.raises(Conflict):
        heal.heal(finding)
    assert cloud.allocation(server) == home(cloud, server)


def test_two_inspections_are_equal_and_survive_json(cloud: NovaSimulation, heal: HealAllocations, server: str) -> None:
    [finding] = heal.inspect(instance_key(server))
    time.sleep(1.1)
    assert [finding] == list(heal.inspect(instance_key(server)))
    stored = json.loads(json.dumps(finding.evidence, sort_keys=True))
    heal.heal(dataclasses.replace(finding, evidence=stored))
    assert cloud.allocation(server) == home(cloud, server)


def test_the_undo(cloud: NovaSimulation, neutron: Neutron, heal: HealAllocations, server: str) -> None:
    bind(neutron, server, "a")
    [finding] = heal.inspect(instance_key(server))
    assert heal.heal(finding).undo == f"openstack resource provider allocation delete {server}"
    held = home(cloud, server, "b")
    record_move(cloud, server, "b", "failed")
    own(cloud, server, held, "p", "u")
    [finding] = heal.inspect(instance_key(server))
    healed = heal.heal(finding)
    assert finding.undo == healed.undo, "known before the heal"
    assert "--project-id p --user-id u" in healed.undo
    assert f"--allocation rp={cloud.node('b').uuid},DISK_GB=1,MEMORY_MB=512,VCPU=1 {server}" in healed.undo
    assert healed.before["allocations"] == held
    assert healed.after["allocations"] == home(cloud, server)


# cells and services that do not answer


@pytest.mark.parametrize("cell", ["cell0", "cell1", "cell2"])
def test_a_silent_cell_proves_nothing(
    cloud: NovaSimulation, heal: HealAllocations, server: str, cut: Callable[[str], None], cell: str
) -> None:
    with cloud.ago(**LONG):
        far = cloud.boot("c")
    cloud.hold(far, {})
    [finding] = heal.inspect(instance_key(server))
    cut(cell)
    for instance in (server, far):
        with pytest.raises(Unavailable, match=f"cell:{cell}"):
            heal.inspect(instance_key(instance))
    with pytest.raises(Unavailable):
        heal.heal(finding)
    assert cloud.allocation(server) == {}
    keys: set[str] = set()
    with contextlib.suppress(Unavailable):
        for found in heal.sweep():
            keys.add(found.id)
    assert keys == {"cell0": {server, far}, "cell1": {far}, "cell2": {server}}[cell]


def test_a_cell_that_is_lost_during_a_sweep(
    cloud: NovaSimulation, heal: HealAllocations, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with cloud.ago(**LONG):
        far = cloud.boot("c")
    cloud.hold(far, {})
    listed = heal._placement.compute_providers

    def lose() -> object:
        with cloud.cells["cell1"].begin() as connection:
            connection.execute(sa.text("ALTER TABLE instances RENAME TO lost"))
        return listed()

    monkeypatch.setattr(heal._placement, "compute_providers", lose)
    keys: set[str] = set()
    with pytest.raises(Unavailable, match="cell:cell1"):
        keys.update(found.id for found in heal.sweep())
    assert keys == {far}


def test_a_silent_placement(cloud: NovaSimulation, heal: HealAllocations, server: str) -> None:
    cloud.placement.stop()
    with pytest.raises(Unavailable, match="placement"):
        heal.inspect(instance_key(server))
    with pytest.raises(Unavailable, match="placement"):
        list(heal.sweep())


def test_a_providers_listing_that_is_empty_is_an_error(heal: HealAllocations, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heal._placement, "compute_providers", dict)
    with pytest.raises(Unavailable, match="lists no compute node's provider"):
        list(heal.sweep())


def test_a_sweep_asks_once_per_node(
    cloud: NovaSimulation, heal: HealAllocations, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with cloud.ago(**LONG):
        for _ in range(5):
            cloud.boot("a")
    asked: list[str] = []
    read = heal._placement._service.read
    monkeypatch.setattr(heal._placement._service, "read", lambda url, **query: asked.append(url) or read(url, **query))
    assert swept_ids(heal) == {server}
    listings = ["/resource_providers"] * 3
    assert sorted(asked) == sorted([*listings, f"/resource_providers/{cloud.node('a').uuid}/allocations", "/usages"])


def test_population_counts_live_instances(
    cloud: NovaSimulation, heal: HealAllocations, server: str, cut: Callable[[str], None]
) -> None:
    cloud.boot("c")
    assert heal.population() == 2
    cut("cell2")
    assert heal.population() == 1


def test_the_events_name_the_instance(heal: HealAllocations) -> None:
    server = str(uuid.uuid4())
    hinting = {trigger.event: trigger for trigger in heal.triggers}
    assert hinting["instance.create.end"].key(Event("instance.create.end", {"uuid": server})) == instance_key(server)
    assert all(trigger.after > 0 for trigger in heal.triggers)
