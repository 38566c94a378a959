"""Every problem of an allocation is found by a sweep, without any event."""

from __future__ import annotations

import uuid
from collections.abc import Callable

import pytest
import sqlalchemy as sa

from handlers.base import Handler, Resources
from handlers.nova import tables
from handlers.nova.allocations import excess_rules, missing_rules
from handlers.nova.allocations.audit_allocations import AuditAllocations
from handlers.nova.allocations.audit_migrations import AuditMigrations
from handlers.nova.allocations.heal_allocations import HealAllocations
from handlers.nova.simulation import NovaSimulation
from tests.functional.nova.test_audit_allocations import archive
from tests.functional.nova.test_heal_allocations import own
from tests.functional.nova.test_port_requests import EGRESS, cache, make_card
from tests.functional.nova.world import make_provider, record_move
from tests.neutron import Neutron

HOUR = {"hours": 1}
EXCESS, MISSING = excess_rules.Problem, missing_rules.Problem


@pytest.fixture(autouse=True)
def hosts(cloud: NovaSimulation, neutron: Neutron) -> None:
    with cloud.ago(days=1):
        for host in ("a", "b"):
            cloud.add_compute(host, "cell1")
            cloud.map_host(host)
        cloud.add_compute("c", "cell2")
        cloud.map_host("c")


def boot(cloud: NovaSimulation) -> str:
    with cloud.ago(**HOUR):
        return cloud.boot("a")


def on(cloud: NovaSimulation, *hosts: str) -> dict[str, dict[str, int]]:
    return {cloud.node(host).uuid: {"VCPU": 1, "MEMORY_MB": 512, "DISK_GB": 1} for host in hosts}


def change(cloud: NovaSimulation, server: str, **values: object) -> None:
    with cloud.ago(**HOUR):
        cloud.set_instance(server, **values)


def delete_node(cloud: NovaSimulation, host: str) -> None:
    nodes = tables.compute_nodes
    with cloud.cells["cell1"].begin() as connection:
        connection.execute(sa.update(nodes).where(nodes.c.host == host).values(deleted=nodes.c.id))


def copy_to_other_cell(cloud: NovaSimulation, server: str) -> None:
    row = cloud.instance(server)
    with cloud.cells["cell2"].begin() as connection:
        connection.execute(sa.insert(tables.instances).values({**row._mapping}))


def deleted(cloud: NovaSimulation) -> None:
    server = boot(cloud)
    with cloud.ago(**HOUR):
        cloud.delete(server, leak_allocation=True)


def archived(cloud: NovaSimulation) -> None:
    server = boot(cloud)
    with cloud.ago(**HOUR):
        cloud.delete(server, leak_allocation=True)
    archive(cloud, "cell1", server)


def unknown(cloud: NovaSimulation) -> None:
    cloud.hold(str(uuid.uuid4()), {cloud.node("a").uuid: {"VCPU": 1}})


def only_hidden(cloud: NovaSimulation) -> None:
    deleted(cloud)
    with cloud.cells["cell1"].begin() as connection:
        connection.execute(sa.update(tables.instances).values(hidden=True))


def several_cells(cloud: NovaSimulation) -> None:
    server = boot(cloud)
    copy_to_other_cell(cloud, server)
    cloud.hold(server, on(cloud, "b"))


def leftover(cloud: NovaSimulation) -> None:
    with cloud.ago(**HOUR):
        migration = cloud.start_migration(cloud.boot("a"), "b")
        cloud.finish_migration(migration)
        cloud.confirm_migration(migration, leak_allocation=True)


def unproved(cloud: NovaSimulation) -> None:
    server = boot(cloud)
    migration = record_move(cloud, server, "b", "error", "live-migration")
    cloud.hold(migration, on(cloud, "b"))


def misplaced(cloud: NovaSimulation) -> None:
    with cloud.ago(**HOUR):
        cloud.fail_migration(cloud.start_migration(cloud.boot("a"), "b", live=True), leak_allocation=True)


def in_cell0(cloud: NovaSimulation) -> None:
    with cloud.ago(**HOUR):
        server = cloud.request()
        cloud.claim(server, "a")
        cloud.create_instance(server, "cell0")
        cloud.map_instance(server, "cell0")
        cloud.set_instance(server, vm_state="error", task_state=None)


def offloaded(cloud: NovaSimulation) -> None:
    server = boot(cloud)
    with cloud.ago(**HOUR):
        cloud.shelve_offload(server, leak_allocation=True)


def without_host(cloud: NovaSimulation) -> None:
    change(cloud, boot(cloud), vm_state="error", host=None, node=None)


def held_without_node(cloud: NovaSimulation) -> None:
    boot(cloud)
    delete_node(cloud, "a")


def left_behind(cloud: NovaSimulation) -> None:
    with cloud.ago(**HOUR):
        cloud.evacuate(cloud.boot("a"), "b")


def on_several_nodes(cloud: NovaSimulation) -> None:
    cloud.hold(boot(cloud), on(cloud, "a", "b"))


def missing(cloud: NovaSimulation) -> None:
    cloud.hold(boot(cloud), {})


def several_missing(cloud: NovaSimulation) -> None:
    for server in (boot(cloud), boot(cloud)):
        cloud.hold(server, {})


def wrong_provider(cloud: NovaSimulation) -> None:
    cloud.hold(boot(cloud), on(cloud, "b"))


def wrong_owner(cloud: NovaSimulation) -> None:
    own(cloud, boot(cloud), on(cloud, "a"), "p", "u")


def wrong_amounts(cloud: NovaSimulation) -> None:
    cloud.hold(boot(cloud), {cloud.node("a").uuid: {"VCPU": 7, "MEMORY_MB": 512, "DISK_GB": 1}})


def nothing_at_home(cloud: NovaSimulation) -> None:
    cloud.hold(boot(cloud), {make_provider(cloud, "nfs", {"DISK_GB": 100}): {"DISK_GB": 1}})


def nothing_without_node(cloud: NovaSimulation) -> None:
    missing(cloud)
    delete_node(cloud, "a")


def nothing_in_several_cells(cloud: NovaSimulation) -> None:
    server = boot(cloud)
    copy_to_other_cell(cloud, server)
    cloud.hold(server, {})


def gone_ports(cloud: NovaSimulation) -> None:
    server = boot(cloud)
    cache(cloud, server)
    cloud.hold(server, {**on(cloud, "a"), make_card(cloud, "a"): {EGRESS: 5}})


DRIFTS: dict[tuple[type[Handler], str], Callable[[NovaSimulation], None]] = {
    (AuditAllocations, EXCESS.ARCHIVED): archived,
    (AuditAllocations, EXCESS.UNKNOWN): unknown,
    (AuditAllocations, EXCESS.ONLY_HIDDEN): only_hidden,
    (AuditAllocations, EXCESS.DELETED): deleted,
    (AuditAllocations, EXCESS.SEVERAL_CELLS): several_cells,
    (AuditAllocations, EXCESS.LEFTOVER): leftover,
    (AuditAllocations, EXCESS.UNPROVED): unproved,
    (AuditAllocations, EXCESS.IN_CELL0): in_cell0,
    (AuditAllocations, EXCESS.OFFLOADED): offloaded,
    (AuditAllocations, EXCESS.NO_HOST): without_host,
    (AuditAllocations, EXCESS.NO_NODE): held_without_node,
    (AuditAllocations, EXCESS.LEFT_BEHIND): left_behind,
    (AuditAllocations, EXCESS.SEVERAL_NODES): on_several_nodes,
    (AuditMigrations, EXCESS.MISPLACED): misplaced,
    (HealAllocations, MISSING.MISSING): missing,
    (HealAllocations, MISSING.SEVERAL_MISSING): several_missing,
    (HealAllocations, MISSING.WRONG_PROVIDER): wrong_provider,
    (HealAllocations, MISSING.WRONG_OWNER): wrong_owner,
    (HealAllocations, MISSING.WRONG_AMOUNTS): wrong_amounts,
    (HealAllocations, MISSING.NOTHING_AT_HOME): nothing_at_home,
    (HealAllocations, MISSING.NO_NODE): nothing_without_node,
    (HealAllocations, MISSING.SEVERAL_CELLS): nothing_in_several_cells,
    (HealAllocations, MISSING.GONE_PORTS): gone_ports,
}


@pytest.mark.parametrize(("handler", "problem"), DRIFTS, ids=[f"{one.name}-{problem}" for one, problem in DRIFTS])
def test_a_sweep_finds_the_drift(
    cloud: NovaSimulation, resources: Resources, handler: type[Handler], problem: str
) -> None:
    DRIFTS[handler, problem](cloud)
    made = handler.from_resources(resources)
    found = {finding.problem for key in list(made.sweep()) for finding in made.inspect(key)}
    assert found == {problem}


def test_every_problem_has_a_drift() -> None:
    assert {problem for _, problem in DRIFTS} == {*EXCESS, *MISSING}


def test_every_healable_problem_is_a_problem() -> None:
    for handler in (AuditAllocations, AuditMigrations, HealAllocations):
        assert handler.healable_problems <= {problem for owner, problem in DRIFTS if owner is handler}
