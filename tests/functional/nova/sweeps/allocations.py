"""Drift of allocations in Placement."""

from __future__ import annotations

import json
import uuid

import sqlalchemy as sa

from handlers.nova import tables
from handlers.nova.allocations import consumers, missing_rules
from handlers.nova.allocations.audit_allocations import AuditAllocations
from handlers.nova.allocations.audit_migrations import AuditMigrations
from handlers.nova.allocations.heal_allocations import HealAllocations
from tests.functional.nova.proofs.stage import Stage
from tests.functional.nova.sweeps.drift import Drift
from tests.functional.nova.test_heal_allocations import own
from tests.functional.nova.test_port_requests import EGRESS, PACKETS, attach, cache, group, make_card
from tests.functional.nova.world import archive, make_provider, record_move, set_inventory, set_traits

HOUR = {"hours": 1}
EXCESS, MISSING = consumers.Problem, missing_rules.Problem


def boot(stage: Stage) -> str:
    with stage.cloud.ago(**HOUR):
        return stage.cloud.boot("a")


def on(stage: Stage, *hosts: str) -> dict[str, dict[str, int]]:
    return {stage.cloud.node(host).uuid: {"VCPU": 1, "MEMORY_MB": 512, "DISK_GB": 1} for host in hosts}


def change(stage: Stage, server: str, **values: object) -> None:
    with stage.cloud.ago(**HOUR):
        stage.cloud.set_instance(server, **values)


def delete_node(stage: Stage, host: str) -> None:
    nodes = tables.compute_nodes
    with stage.cloud.cells["cell1"].begin() as connection:
        connection.execute(sa.update(nodes).where(nodes.c.host == host).values(deleted=nodes.c.id))


def deleted(stage: Stage) -> str:
    server = boot(stage)
    with stage.cloud.ago(**HOUR):
        stage.cloud.delete(server, leak_allocation=True)
    return server


def unknown(stage: Stage) -> None:
    stage.cloud.hold(str(uuid.uuid4()), {stage.cloud.node("a").uuid: {"VCPU": 1}})


def only_hidden(stage: Stage) -> None:
    stage.cloud.set_instance(deleted(stage), hidden=True)


def leftover(stage: Stage) -> None:
    with stage.cloud.ago(**HOUR):
        migration = stage.cloud.start_migration(stage.cloud.boot("a"), "b")
        stage.cloud.finish_migration(migration)
        stage.cloud.confirm_migration(migration, leak_allocation=True)


def unproved(stage: Stage) -> None:
    server = boot(stage)
    migration = record_move(stage.cloud, server, "b", "error", "live-migration")
    stage.cloud.hold(migration, on(stage, "b"))


def misplaced(stage: Stage) -> None:
    with stage.cloud.ago(**HOUR):
        stage.cloud.fail_migration(
            stage.cloud.start_migration(stage.cloud.boot("a"), "b", live=True), leak_allocation=True
        )


def in_cell0(stage: Stage) -> None:
    with stage.cloud.ago(**HOUR):
        server = stage.cloud.request()
        stage.cloud.claim(server, "a")
        stage.cloud.create_instance(server, "cell0")
        stage.cloud.map_instance(server, "cell0")
        stage.cloud.set_instance(server, vm_state="error", task_state=None)


def offloaded(stage: Stage) -> None:
    server = boot(stage)
    with stage.cloud.ago(**HOUR):
        stage.cloud.shelve_offload(server, leak_allocation=True)


def without_host(stage: Stage) -> None:
    change(stage, boot(stage), vm_state="error", host=None, node=None)


def held_without_node(stage: Stage) -> None:
    boot(stage)
    delete_node(stage, "a")


def left_behind(stage: Stage) -> None:
    with stage.cloud.ago(**HOUR):
        stage.cloud.evacuate(stage.cloud.boot("a"), "b")


def on_several_nodes(stage: Stage) -> None:
    stage.cloud.hold(boot(stage), on(stage, "a", "b"))


def missing(stage: Stage) -> None:
    stage.cloud.hold(boot(stage), {})


def several_missing(stage: Stage) -> None:
    for server in (boot(stage), boot(stage)):
        stage.cloud.hold(server, {})


def wrong_provider(stage: Stage) -> None:
    stage.cloud.hold(boot(stage), on(stage, "b"))


def wrong_owner(stage: Stage) -> None:
    own(stage.cloud, boot(stage), on(stage, "a"), "p", "u")


def wrong_amounts(stage: Stage) -> None:
    stage.cloud.hold(boot(stage), {stage.cloud.node("a").uuid: {"VCPU": 7, "MEMORY_MB": 512, "DISK_GB": 1}})


def nothing_at_home(stage: Stage) -> None:
    stage.cloud.hold(boot(stage), {make_provider(stage.cloud, "nfs", {"DISK_GB": 100}): {"DISK_GB": 1}})


def nothing_without_node(stage: Stage) -> None:
    missing(stage)
    delete_node(stage, "a")


def gone_ports(stage: Stage, resource: str = EGRESS) -> None:
    server = boot(stage)
    cache(stage.cloud, server)
    stage.cloud.hold(server, {**on(stage, "a"), make_card(stage.cloud, "a"): {resource: 5}})


# below and beside compute nodes


def card(stage: Stage, host: str) -> str:
    return make_provider(stage.cloud, f"{host}-card", {"SRIOV_NET_VF": 8}, stage.cloud.node(host).uuid)


def storage(stage: Stage) -> str:
    made = make_provider(stage.cloud, "nfs", {"DISK_GB": 1000})
    set_traits(stage.cloud, made, "MISC_SHARES_VIA_AGGREGATE")
    return made


def deleted_on_card(stage: Stage) -> None:
    stage.cloud.hold(deleted(stage), {card(stage, "a"): {"SRIOV_NET_VF": 1}})


def unknown_on_storage(stage: Stage) -> None:
    stage.cloud.hold(str(uuid.uuid4()), {storage(stage): {"DISK_GB": 1}})


def left_card(stage: Stage) -> None:
    with stage.cloud.ago(**HOUR):
        server = stage.cloud.boot("a")
        stage.cloud.evacuate(server, "b")
    stage.cloud.hold(server, {**on(stage, "b"), card(stage, "a"): {"SRIOV_NET_VF": 1}})


def left_card_of_deleted_node(stage: Stage) -> None:
    left_card(stage)
    delete_node(stage, "a")


def unexplained_card(stage: Stage) -> None:
    stage.cloud.hold(boot(stage), {**on(stage, "a"), card(stage, "b"): {"SRIOV_NET_VF": 1}})


def left_card_of_migration(stage: Stage) -> None:
    server = boot(stage)
    migration = record_move(stage.cloud, server, "b", "failed")
    stage.cloud.hold(migration, {card(stage, "a"): {"SRIOV_NET_VF": 1}})


# migrations


def misplaced_of_deleted_row(stage: Stage) -> None:
    """Let the migration's row be deleted before it ended, as a restored database has it."""
    server = boot(stage)
    migration = record_move(stage.cloud, server, "b", "running")
    with stage.cloud.ago(**HOUR):
        stage.cloud.set_migration(migration, deleted=1)
    stage.cloud.hold(migration, on(stage, "a"))
    stage.cloud.hold(server, {})


def misplaced_without_node(stage: Stage) -> None:
    misplaced(stage)
    delete_node(stage, "a")


# amounts


def without_memory(stage: Stage) -> None:
    """Leave out a class that no other instance of the node holds."""
    stage.cloud.hold(boot(stage), {stage.cloud.node("a").uuid: {"VCPU": 1, "DISK_GB": 1}})


# Ironic


def missing_on_moved_node(stage: Stage) -> None:
    """Let the hash ring move the node of an instance without allocation to another nova-compute."""
    missing(stage)
    nodes = tables.compute_nodes
    here = sa.update(nodes).where(nodes.c.host == "a").values(hypervisor_type="ironic", host="b")
    stage.execute("cell1", here)


# ports


def gone_port_beside_another(stage: Stage) -> None:
    """Delete one of two ports of one card."""
    server, adapter, asked = boot(stage), make_card(stage.cloud, "a"), group({EGRESS: 5})
    given = {"allocation": {asked["id"]: adapter}}
    port = attach(stage.cloud, stage.neutron, server, asked, binding_profile=given)
    cache(stage.cloud, server, text=json.dumps([{"id": port, "profile": given}]))
    stage.cloud.hold(server, {**on(stage, "a"), adapter: {EGRESS: 10}})


def gone_port_in_the_cache(stage: Stage) -> None:
    """Delete a port; Nova's network cache still names it, because Neutron's event was lost."""
    server = boot(stage)
    cache(stage.cloud, server, text=json.dumps([{"id": str(uuid.uuid4())}]))
    stage.cloud.hold(server, {**on(stage, "a"), make_card(stage.cloud, "a"): {EGRESS: 5}})


def gone_port_of_a_node(stage: Stage) -> None:
    """Let the compute node itself give bandwidth."""
    server, node = boot(stage), stage.cloud.node("a").uuid
    set_inventory(stage.cloud, node, {**stage.cloud.CAPACITY, EGRESS: 100})
    stage.cloud.hold(server, {node: {**on(stage, "a")[node], EGRESS: 5}})


DRIFTS = (
    Drift(AuditAllocations, EXCESS.ARCHIVED, lambda stage: archive(stage.cloud, deleted(stage))),
    Drift(AuditAllocations, EXCESS.UNKNOWN, unknown),
    Drift(AuditAllocations, EXCESS.ONLY_HIDDEN, only_hidden),
    Drift(AuditAllocations, EXCESS.DELETED, deleted),
    Drift(AuditAllocations, EXCESS.LEFTOVER, leftover),
    Drift(AuditAllocations, EXCESS.UNPROVED, unproved),
    Drift(AuditAllocations, EXCESS.IN_CELL0, in_cell0),
    Drift(AuditAllocations, EXCESS.OFFLOADED, offloaded),
    Drift(AuditAllocations, EXCESS.NO_HOST, without_host),
    Drift(AuditAllocations, EXCESS.NO_NODE, held_without_node),
    Drift(AuditAllocations, EXCESS.LEFT_BEHIND, left_behind),
    Drift(AuditAllocations, EXCESS.SEVERAL_NODES, on_several_nodes),
    Drift(AuditAllocations, EXCESS.DELETED, deleted_on_card, "on a card"),
    Drift(AuditAllocations, EXCESS.UNKNOWN, unknown_on_storage, "on shared storage"),
    Drift(AuditAllocations, EXCESS.LEFT_BEHIND, left_card, "on a card"),
    Drift(AuditAllocations, EXCESS.LEFT_BEHIND, left_card_of_deleted_node, "on a card of a deleted node"),
    Drift(AuditAllocations, EXCESS.SEVERAL_NODES, unexplained_card, "on a card"),
    Drift(AuditAllocations, EXCESS.LEFTOVER, left_card_of_migration, "on a card"),
    Drift(AuditMigrations, EXCESS.MISPLACED, misplaced),
    Drift(AuditMigrations, EXCESS.MISPLACED, misplaced_of_deleted_row, "deleted before its end"),
    Drift(AuditMigrations, EXCESS.MISPLACED, misplaced_without_node, "of a deleted node"),
    Drift(HealAllocations, MISSING.MISSING, missing),
    Drift(HealAllocations, MISSING.SEVERAL_MISSING, several_missing),
    Drift(HealAllocations, MISSING.WRONG_PROVIDER, wrong_provider),
    Drift(HealAllocations, MISSING.WRONG_OWNER, wrong_owner),
    Drift(HealAllocations, MISSING.WRONG_AMOUNTS, wrong_amounts),
    Drift(HealAllocations, MISSING.NOTHING_AT_HOME, nothing_at_home),
    Drift(HealAllocations, MISSING.NO_NODE, nothing_without_node),
    Drift(HealAllocations, MISSING.GONE_PORTS, gone_ports),
    Drift(HealAllocations, MISSING.GONE_PORTS, lambda stage: gone_ports(stage, PACKETS), "packet rate"),
    Drift(HealAllocations, MISSING.GONE_PORTS, gone_port_beside_another, "beside another port"),
    Drift(HealAllocations, MISSING.GONE_PORTS, gone_port_of_a_node, "of the node itself"),
    Drift(HealAllocations, MISSING.GONE_PORTS, gone_port_in_the_cache, "that the cache names"),
    Drift(HealAllocations, MISSING.MISSING, missing_on_moved_node, "on an Ironic node that moved"),
    Drift(HealAllocations, MISSING.WRONG_AMOUNTS, without_memory, "a class is missing"),
)
