"""States of real clouds, from public reports of bugs. The docstring of each test names its source."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import sqlalchemy as sa

from consumer import plugins
from consumer.engine.breaker import Breaker
from handlers.base import Finding, Handler, Key, Unavailable
from handlers.nova import tables
from handlers.nova.allocations.audit_allocations import AuditAllocations
from handlers.nova.allocations.audit_migrations import AuditMigrations
from handlers.nova.allocations.heal_allocations import HealAllocations
from handlers.nova.archive.archive_deleted_rows import ArchiveDeletedRows
from handlers.nova.names import HostNames
from tests.functional.nova.proofs.changes import LONG, alter, cut, mark_deleted, release, set_up
from tests.functional.nova.proofs.stage import Scene, Stage
from tests.functional.nova.world import bind, make_provider

HANDLERS = sorted(
    (one for one in plugins.handlers() if one.__module__.startswith("handlers.nova.")), key=lambda one: one.name
)


@pytest.fixture
def world(stage: Stage, empty: Scene) -> Stage:
    """Four hosts and two instances, a day old."""
    stage.show(empty)
    set_up(stage)
    return stage


def boot(stage: Stage) -> str:
    with stage.cloud.ago(**LONG):
        return stage.cloud.boot("a")


def findings(stage: Stage, kind: type[Handler]) -> Iterator[Finding]:
    """Yield the findings of a sweep."""
    with stage.handler(kind) as handler:
        for key in set(handler.sweep()):
            yield from handler.inspect(key)


def everything(stage: Stage) -> list[tuple[str, str]]:
    """Return what any handler finds by a sweep."""
    return [(kind.name, finding.problem) for kind in HANDLERS for finding in findings(stage, kind)]


def buried_in_cell0(stage: Stage, server: str) -> None:
    """Bugs 1852458 and 1837955: an instance without a host is in cell0."""
    cloud = stage.cloud
    with cloud.ago(**LONG):
        failed = cloud.request()
        cloud.create_instance(failed, "cell0")
        cloud.map_instance(failed, "cell0")
    stage.execute("nova_api", sa.delete(tables.build_requests))
    cloud.set_instance(failed, vm_state="error", task_state=None)


def bookmark(stage: Stage, server: str) -> None:
    """Bug 1825034: ``nova-manage cell_v2 map_instances`` left a mapping without an instance."""
    values = {"instance_uuid": server.replace("-", " "), "project_id": "INSTANCE_MIGRATION_MARKER", "cell_id": None}
    stage.execute("nova_api", sa.insert(tables.instance_mappings).values(values))


@pytest.mark.parametrize("drift", [buried_in_cell0, bookmark])
def test_a_state_that_is_right_or_of_another_service_is_no_drift(
    world: Stage, drift: Callable[[Stage, str], None]
) -> None:
    drift(world, boot(world))
    assert everything(world) == []


def test_a_mapping_to_a_volume_that_cinder_does_not_have_is_only_reported(world: Stage) -> None:
    """Bugs 2019078 and 2088066."""
    server = boot(world)
    world.cloud.attach_volume(server)
    values = {"instance_uuid": server, "source_type": "volume", "destination_type": "volume", "volume_id": server}
    world.execute("cell1", sa.insert(tables.block_device_mapping).values(values))
    assert everything(world) == [("audit_attachments", "mapping-of-missing-volume")]


def test_archiving_an_instance_spares_the_device_that_it_used(world: Stage) -> None:
    """Bug 1899541: ``pci_devices`` names an instance without a foreign key."""
    cloud = world.cloud
    with cloud.ago(days=41):
        server = cloud.boot("a")
    with cloud.ago(days=40):
        cloud.delete(server)
    cloud.add_device("a", "0000:81:00.0")
    world.execute("cell1", sa.update(tables.pci_devices).values(instance_uuid=server))
    world.options = {"audit": {"archive_deleted_rows_after_days": 30, "archive_deleted_rows_pause_seconds": 0}}
    with world.handler(ArchiveDeletedRows) as handler:
        [finding] = handler.inspect(Key("instance", server))
        handler.heal(finding)
    with cloud.cells["cell1"].connect() as connection:
        assert connection.scalar(sa.text("SELECT COUNT(*) FROM pci_devices")) == 1
        assert connection.scalar(sa.text("SELECT COUNT(*) FROM shadow_pci_devices")) == 0


@pytest.mark.parametrize("kind", [HealAllocations, AuditAllocations])
def test_an_instance_whose_ironic_node_was_deleted_is_only_reported(world: Stage, kind: type[Handler]) -> None:
    """Bugs 1839560 and 1853009: another nova-compute deleted the row of a node that lives."""
    server = boot(world)
    mark_deleted(world, tables.compute_nodes, "host", "a")
    if kind is HealAllocations:
        release(world, server)
    with world.handler(kind) as handler:
        [finding] = handler.inspect(Key("instance" if kind is HealAllocations else "consumer", server))
    assert (finding.problem, finding.healable) == ("node-unknown", False)
    for cause in ("[DEFAULT] host", "service was deleted", "Ironic"):
        assert cause in finding.refusal


def test_instances_of_a_deleted_ironic_node_do_not_trip_the_breaker(world: Stage) -> None:
    """Bug 1839560: each of them is reported, and no heal could follow."""
    servers = {boot(world) for _ in range(3)}
    mark_deleted(world, tables.compute_nodes, "host", "a")
    with world.handler(AuditAllocations) as handler:
        breaker = Breaker(handler, limit=1)
        assert {key.id for key in breaker.through(handler.sweep())} == servers
    assert not breaker.trips


def test_an_ended_migration_in_other_letters_is_not_given_twice(world: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bug 1709260: MySQL takes ``A`` and ``a`` for one host, and a migration may name either."""
    server = boot(world)
    cloud = world.cloud
    with cloud.ago(**LONG):
        made = cloud.start_migration(server, "b", live=True)
        cloud.fail_migration(made, leak_allocation=True)
    release(world, server)
    bind(world.neutron, server, "A")
    alter(tables.migrations, "uuid", source_compute="A", source_node="A")(world, made)
    monkeypatch.setattr(HostNames, "of", lambda url: HostNames(exact=False))
    with world.handler(HealAllocations) as handler:
        assert [one.healable for one in handler.inspect(Key("instance", server))] in ([], [False])
    with world.handler(AuditMigrations) as handler:
        [finding] = handler.inspect(Key("instance", server))
        handler.heal(finding)
    assert cloud.allocation(server) == {cloud.node("a").uuid: cloud.flavor(server).resources()}
    assert not cloud.allocation(made)


def test_a_cell_that_kept_its_old_address_heals_nothing_and_is_named(world: Stage) -> None:
    """A repaired deployment of gacybercenter/kinetic: ``cell_mappings`` names the old database."""
    server = boot(world)
    release(world, server)
    cut("cell1")(world, "")
    with world.handler(HealAllocations) as handler, pytest.raises(Unavailable, match="cell:cell1"):
        list(handler.inspect(Key("instance", server)))
    assert not world.cloud.allocation(server)


def test_an_allocation_of_a_card_does_not_hide_a_deleted_instance(world: Stage) -> None:
    """Bugs 1848343 and 1679750, with a nested provider: the deleted server still has resources."""
    cloud = world.cloud
    server = boot(world)
    with cloud.ago(**LONG):
        cloud.delete(server)
    card = make_provider(cloud, "card", {"VGPU": 4}, cloud.node("a").uuid)
    cloud.hold(server, {card: {"VGPU": 1}})
    found = list(findings(world, AuditAllocations))
    assert [(one.key.id, one.problem, one.healable) for one in found] == [(server, "instance-deleted", True)]
    with world.handler(AuditAllocations) as handler:
        handler.heal(found[0])
    assert not cloud.allocation(server)


def test_a_shared_bug_of_several_handlers_is_reported_once(world: Stage) -> None:
    """Bugs 1949808 and 1960412: an aborted live migration has what its instance should have."""
    cloud = world.cloud
    server = boot(world)
    with cloud.ago(**LONG):
        made = cloud.start_migration(server, "b", live=True)
        cloud.set_migration(made, status="cancelled")
        cloud.set_instance(server, task_state=None)
    release(world, server)
    assert everything(world) == [("audit_migrations", "migration-holds-the-allocation")]
