"""One drift is one finding: the handlers of allocations share the states of an instance among them."""

from __future__ import annotations

import pytest

from handlers.base import Handler, Key, Resources
from handlers.nova.allocations.audit_allocations import AuditAllocations
from handlers.nova.allocations.audit_migrations import AuditMigrations
from handlers.nova.allocations.heal_allocations import HealAllocations
from handlers.nova.simulation import NovaSimulation
from handlers.nova.simulation.neutron import Neutron
from tests.functional.nova.world import bind

pytestmark = pytest.mark.hosts(a="cell1", b="cell1", d="cell1")

HANDLERS: tuple[tuple[type[Handler], str], ...] = (
    (AuditAllocations, "consumer"),
    (AuditMigrations, "instance"),
    (HealAllocations, "instance"),
)


@pytest.mark.parametrize("holds", ["the destination", "nothing", "a third node"])
@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("live-migration", "failed"),
        ("live-migration", "error"),
        ("live-migration", "cancelled"),
        ("migration", "error"),
        ("resize", "reverted"),
    ],
)
def test_a_leaked_rollback_is_found_by_one_handler(
    cloud: NovaSimulation, neutron: Neutron, resources: Resources, kind: str, status: str, holds: str
) -> None:
    with cloud.ago(hours=1):
        server = cloud.boot("a")
        migration = cloud.start_migration(server, "b", live=True)
        cloud.fail_migration(migration, leak_allocation=True)
        cloud.set_migration(migration, status=status, migration_type=kind)
    bind(neutron, server, "a")
    if holds == "nothing":
        cloud.hold(server, {})
    if holds == "a third node":
        cloud.hold(server, {cloud.node("d").uuid: {"VCPU": 1}})

    found = [
        (handler.name, finding.problem)
        for handler, kind_of_key in HANDLERS
        for finding in handler.from_resources(resources).inspect(Key(kind_of_key, server))
    ]

    assert found == [("audit_migrations", "migration-holds-the-allocation")]
