from __future__ import annotations

import json
import uuid
from collections.abc import Callable

import pytest
import sqlalchemy as sa

from handlers.base import Conflict, Event, Finding, InFlight, Key, Refused, Resources, Unavailable
from handlers.nova import tables
from handlers.nova.allocations.audit_allocations import AuditAllocations
from handlers.nova.allocations.audit_migrations import AuditMigrations
from handlers.nova.allocations.heal_allocations import HealAllocations
from handlers.nova.placement import Placement
from handlers.nova.simulation import NovaSimulation
from handlers.nova.simulation.neutron import Neutron
from tests.functional.nova.world import bind, instance_key, make_provider, record_move, refused, swept_ids

pytestmark = pytest.mark.hosts(a="cell1", b="cell1", d="cell1", c="cell2")

LONG = {"hours": 1}
Held = dict[str, dict[str, int]]


@pytest.fixture
def migrations(resources: Resources) -> AuditMigrations:
    return AuditMigrations.from_resources(resources)


@pytest.fixture
def placement(resources: Resources) -> Placement:
    return Placement.from_resources(resources)


def failed(cloud: NovaSimulation, neutron: Neutron, **age: float) -> tuple[str, str]:
    """An instance on a, whose move to b failed and was not rolled back in Placement."""
    with cloud.ago(**(age or LONG)):
        server = cloud.boot("a")
        migration = cloud.start_migration(server, "b", live=True)
        cloud.fail_migration(migration, leak_allocation=True)
    bind(neutron, server, "a")
    return server, migration


def used(cloud: NovaSimulation, host: str) -> dict[str, int]:
    url = f"/resource_providers/{cloud.node(host).uuid}/usages"
    return dict(cloud.placement.request("GET", url).body["usages"])


# what it exists for


def test_moves_back_the_share_of_a_failed_migration(
    cloud: NovaSimulation, neutron: Neutron, migrations: AuditMigrations
) -> None:
    server, migration = failed(cloud, neutron)
    held = cloud.allocation(migration)
    assert swept_ids(migrations) == {server}
    [finding] = migrations.inspect(instance_key(server))
    assert (finding.problem, finding.healable) == ("migration-holds-the-allocation", True)

    healed = migrations.heal(finding)

    assert cloud.allocation(server) == held == {cloud.node("a").uuid: {"VCPU": 1, "MEMORY_MB": 512, "DISK_GB": 1}}
    assert cloud.allocation(migration) == {}
    assert used(cloud, "b") == {"VCPU": 0, "MEMORY_MB": 0, "DISK_GB": 0}
    assert migration in healed.undo
    assert not migrations.inspect(instance_key(server))
    assert swept_ids(migrations) == set()


def test_moves_back_to_an_instance_that_holds_nothing(
    cloud: NovaSimulation, neutron: Neutron, migrations: AuditMigrations
) -> None:
    server, migration = failed(cloud, neutron)
    cloud.hold(server, {})
    held = cloud.allocation(migration)
    [finding] = migrations.inspect(instance_key(server))
    migrations.heal(finding)
    assert (cloud.allocation(server), cloud.allocation(migration)) == (held, {})


def test_works_on_a_full_node(cloud: NovaSimulation, neutron: Neutron, migrations: AuditMigrations) -> None:
    server, migration = failed(cloud, neutron)
    rest = {name: total - used(cloud, "a")[name] for name, total in cloud.CAPACITY.items()}
    cloud.hold(str(uuid.uuid4()), {cloud.node("a").uuid: rest})
    [finding] = migrations.inspect(instance_key(server))
    migrations.heal(finding)
    assert used(cloud, "a") == dict(cloud.CAPACITY)
    assert cloud.allocation(migration) == {}


def test_devices_and_shared_storage_go_with_it(
    cloud: NovaSimulation, neutron: Neutron, migrations: AuditMigrations
) -> None:
    server, migration = failed(cloud, neutron)
    card = make_provider(cloud, "card", {"SRIOV_NET_VF": 4}, cloud.node("a").uuid)
    shared = make_provider(cloud, "nfs", {"DISK_GB": 100})
    held = {cloud.node("a").uuid: {"VCPU": 1, "MEMORY_MB": 512}, card: {"SRIOV_NET_VF": 1}, shared: {"DISK_GB": 1}}
    cloud.hold(migration, held)
    cloud.hold(server, {**cloud.allocation(server), shared: {"DISK_GB": 1}})
    [finding] = migrations.inspect(instance_key(server))
    migrations.heal(finding)
    assert cloud.allocation(server) == held


def test_a_second_heal_is_a_conflict(cloud: NovaSimulation, neutron: Neutron, migrations: AuditMigrations) -> None:
    server, _ = failed(cloud, neutron)
    [finding] = migrations.inspect(instance_key(server))
    migrations.heal(finding)
    held = cloud.allocation(server)
    with pytest.raises(Conflict):
        migrations.heal(finding)
    assert cloud.allocation(server) == held


def test_its_events_name_the_instance(cloud: NovaSimulation, neutron: Neutron) -> None:
    server, _ = failed(cloud, neutron)
    sent = {json.loads(json.loads(one.body)["oslo.message"])["event_type"] for one in cloud.take()}
    events = {trigger.event: trigger for trigger in AuditMigrations.triggers}
    assert "instance.live_migration_rollback.end" in sent & set(events)
    for trigger in events.values():
        for name in ("uuid", "instance_uuid"):
            assert trigger.key(Event(trigger.event, {name: server})) == instance_key(server)
        assert trigger.after >= 60, "Nova gets time to finish"


# look-alikes, left alone


@pytest.mark.parametrize("live", [False, True])
def test_a_move_in_progress(cloud: NovaSimulation, migrations: AuditMigrations, live: bool) -> None:
    with cloud.ago(**LONG):
        server = cloud.boot("a")
        migration = cloud.start_migration(server, "b", live=live)
    before = cloud.allocation(server), cloud.allocation(migration)
    assert not migrations.inspect(instance_key(server)), "a migration in progress is nobody's"
    cloud.set_instance(server, task_state=None)
    assert not migrations.inspect(instance_key(server))
    assert swept_ids(migrations) == set()
    assert (cloud.allocation(server), cloud.allocation(migration)) == before


def test_a_roll_back_that_has_only_just_begun(cloud: NovaSimulation, migrations: AuditMigrations) -> None:
    """The conductor writes the migration's error first, and moves the allocation then."""
    with cloud.ago(**LONG):
        server = cloud.boot("a")
        migration = cloud.start_migration(server, "b")
        cloud.set_migration(migration, status="error")
    with pytest.raises(InFlight, match="resize_migrating"):
        migrations.inspect(instance_key(server))
    assert swept_ids(migrations) == set()
    cloud.set_instance(server, task_state=None)
    with pytest.raises(InFlight, match="just now"):
        migrations.inspect(instance_key(server))


def test_a_second_move_is_waited_for(cloud: NovaSimulation, neutron: Neutron, migrations: AuditMigrations) -> None:
    server, _ = failed(cloud, neutron)
    with cloud.ago(**LONG):
        second = cloud._create_migration(server, cloud.instance(server), cloud.node("d"), "migration")
    with pytest.raises(InFlight, match="accepted"):
        migrations.inspect(instance_key(server))
    cloud.set_migration(second, status="finished")
    assert not migrations.inspect(instance_key(server)), "a resize waits to be confirmed"


def test_a_resize_that_waits_to_be_confirmed(cloud: NovaSimulation, migrations: AuditMigrations) -> None:
    with cloud.ago(days=3):
        server = cloud.boot("a")
        cloud.finish_migration(cloud.start_migration(server, "b"))
    assert not migrations.inspect(instance_key(server))
    assert swept_ids(migrations) == set()


@pytest.mark.parametrize("case", ["confirmed", "evacuated", "both"])
def test_garbage_is_left_to_audit_allocations(
    cloud: NovaSimulation, neutron: Neutron, migrations: AuditMigrations, audit: AuditAllocations, case: str
) -> None:
    with cloud.ago(**LONG):
        server = cloud.boot("a")
        if case == "confirmed":
            migration = cloud.start_migration(server, "b")
            cloud.finish_migration(migration)
            cloud.confirm_migration(migration, leak_allocation=True)
        elif case == "evacuated":
            cloud.evacuate(server, "b")
            bind(neutron, server, "b")
        else:
            migration = cloud.start_migration(server, "b", live=True)
            held = cloud.allocation(migration)
            cloud.fail_migration(migration)
            cloud.hold(migration, held)
    assert not migrations.inspect(instance_key(server))
    assert [finding.healable for finding in audit.inspect(Key("consumer", server))] == [True]


def test_an_instance_that_is_deleted_is_left_to_audit_allocations(
    cloud: NovaSimulation, neutron: Neutron, migrations: AuditMigrations
) -> None:
    server, _ = failed(cloud, neutron)
    with cloud.ago(**LONG):
        cloud.delete(server, leak_allocation=True)
    assert not migrations.inspect(instance_key(server))
    assert swept_ids(migrations) == set()


def test_an_unknown_instance(migrations: AuditMigrations) -> None:
    assert not migrations.inspect(instance_key(str(uuid.uuid4())))


# wrong, but not to be moved


def refused_untouched(migrations: AuditMigrations, cloud: NovaSimulation, server: str) -> Finding:
    before = cloud.allocation(server)
    findings = list(migrations.inspect(instance_key(server)))
    assert findings
    for finding in findings:
        refused(migrations, finding)
    assert cloud.allocation(server) == before
    return findings[0]


@pytest.mark.parametrize("case", ["on the destination", "resized within its node", "confirmed, and back on its source"])
def test_garbage_is_never_moved(
    cloud: NovaSimulation, migrations: AuditMigrations, audit: AuditAllocations, resources: Resources, case: str
) -> None:
    """The instance gets its own node by its flavor, and then the share of the migration is taken."""
    with cloud.ago(**LONG):
        server = cloud.boot("a")
        migration = cloud.start_migration(server, "b", live=True)
        cloud.fail_migration(migration, leak_allocation=True)
        if case == "on the destination":
            cloud.neutron.move(server, "b")
            cloud.set_instance(server, host="b", node="b")
            cloud.set_migration(migration, status="completed")
        elif case == "resized within its node":
            cloud.set_migration(migration, dest_compute="a", dest_node="a")
        else:
            cloud.set_migration(migration, status="confirmed", migration_type="resize")
            cloud.set_instance(server, host="b", node="b")
            back = cloud._create_migration(server, cloud.instance(server), cloud.node("a"), "live-migration")
            cloud.set_migration(back, status="completed")
            cloud.set_instance(server, host="a", node="a")
    cloud.set_flavor(server, vcpus=8)
    cloud.hold(server, {})
    leaked = cloud.allocation(migration)
    assert not migrations.inspect(instance_key(server))
    assert not audit.inspect(Key("consumer", migration)), "the instance needs its own first"
    assert cloud.allocation(migration) == leaked

    heal = HealAllocations.from_resources(resources)
    [missing] = heal.inspect(instance_key(server))
    heal.heal(missing)
    [leftover] = audit.inspect(Key("consumer", migration))
    audit.heal(leftover)

    host = "b" if case == "on the destination" else "a"
    assert cloud.allocation(server) == {cloud.node(host).uuid: {"VCPU": 8, "MEMORY_MB": 512, "DISK_GB": 1}}
    assert cloud.allocation(migration) == {}


def test_a_live_migration_in_error_is_not_moved(
    cloud: NovaSimulation, neutron: Neutron, migrations: AuditMigrations
) -> None:
    server, migration = failed(cloud, neutron)
    with cloud.ago(**LONG):
        cloud.set_migration(migration, status="error")
    assert "on which node the guest runs" in refused_untouched(migrations, cloud, server).refusal


def test_nothing_is_moved_over_a_younger_success(
    cloud: NovaSimulation, neutron: Neutron, migrations: AuditMigrations
) -> None:
    server, migration = failed(cloud, neutron)
    record_move(cloud, server, "d", "completed", "live-migration")
    with cloud.ago(**LONG):
        cloud.set_instance(server, host="d", node="d")
    record_move(cloud, server, "a", "completed", "live-migration")
    with cloud.ago(**LONG):
        cloud.set_instance(server, host="a", node="a")
    held = cloud.allocation(migration)
    assert held
    assert not migrations.inspect(instance_key(server))
    assert cloud.allocation(migration) == held


def test_amounts_of_another_flavor_are_not_moved(
    cloud: NovaSimulation, neutron: Neutron, migrations: AuditMigrations
) -> None:
    server, _ = failed(cloud, neutron)
    cloud.set_flavor(server, vcpus=8)
    assert "VCPU 1 instead of 8" in refused_untouched(migrations, cloud, server).refusal


def test_an_instance_that_is_marked_as_deleted_gets_nothing(
    cloud: NovaSimulation, neutron: Neutron, migrations: AuditMigrations
) -> None:
    server, _ = failed(cloud, neutron)
    mapping = tables.instance_mappings
    with cloud.api.begin() as connection:
        connection.execute(sa.update(mapping).where(mapping.c.instance_uuid == server).values(queued_for_delete=True))
    assert "marks it as deleted" in refused_untouched(migrations, cloud, server).refusal


def test_one_leaked_roll_back_is_found_by_one_handler(
    cloud: NovaSimulation, neutron: Neutron, migrations: AuditMigrations, audit: AuditAllocations, resources: Resources
) -> None:
    server, migration = failed(cloud, neutron)
    heal = HealAllocations.from_resources(resources)
    found = [*migrations.inspect(instance_key(server)), *heal.inspect(instance_key(server))]
    for consumer in (server, migration):
        found += audit.inspect(Key("consumer", consumer))
    assert [finding.problem for finding in found] == ["migration-holds-the-allocation"]


def test_an_unexplained_allocation(cloud: NovaSimulation, neutron: Neutron, migrations: AuditMigrations) -> None:
    server, _ = failed(cloud, neutron)
    cloud.hold(server, {cloud.node("d").uuid: {"VCPU": 1}})
    assert "no migration explains" in refused_untouched(migrations, cloud, server).refusal


def test_two_migrations_that_both_hold_the_node(
    cloud: NovaSimulation, neutron: Neutron, migrations: AuditMigrations
) -> None:
    server, migration = failed(cloud, neutron)
    with cloud.ago(**LONG):
        other = cloud._create_migration(server, cloud.instance(server), cloud.node("d"), "migration")
        cloud.set_migration(other, status="error")
    cloud.hold(other, cloud.allocation(migration))
    assert "2 migrations" in refused_untouched(migrations, cloud, server).refusal


def test_an_instance_that_is_mapped_elsewhere(
    cloud: NovaSimulation, neutron: Neutron, migrations: AuditMigrations
) -> None:
    server, _ = failed(cloud, neutron)
    mapping = tables.instance_mappings
    with cloud.api.begin() as connection:
        connection.execute(sa.update(mapping).where(mapping.c.instance_uuid == server).values(cell_id=3))
    assert "not mapped" in refused_untouched(migrations, cloud, server).refusal


# races and failures


@pytest.mark.parametrize("who", ["instance", "migration"])
def test_a_write_in_between_wins(
    cloud: NovaSimulation,
    neutron: Neutron,
    migrations: AuditMigrations,
    monkeypatch: pytest.MonkeyPatch,
    who: str,
) -> None:
    server, migration = failed(cloud, neutron)
    [finding] = migrations.inspect(instance_key(server))
    proved = migrations._swaps(server)
    consumer = server if who == "instance" else migration
    cloud.hold(consumer, {provider: {"VCPU": 2} for provider in cloud.allocation(consumer)})
    before = cloud.allocation(server), cloud.allocation(migration)
    with pytest.raises(Conflict):
        migrations.heal(finding)
    monkeypatch.setattr(migrations, "_swaps", lambda instance: proved)  # it was written after the proof
    with pytest.raises(Conflict):
        migrations.heal(finding)
    assert (cloud.allocation(server), cloud.allocation(migration)) == before, "both or neither"


def test_nova_s_own_late_roll_back_wins(
    cloud: NovaSimulation, neutron: Neutron, migrations: AuditMigrations, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, migration = failed(cloud, neutron)
    cloud.hold(server, {})
    [finding] = migrations.inspect(instance_key(server))
    proved = migrations._swaps(server)
    cloud._report.move(migration, server)
    monkeypatch.setattr(migrations, "_swaps", lambda instance: proved)
    with pytest.raises(Conflict):
        migrations.heal(finding)
    assert set(cloud.allocation(server)) == {cloud.node("a").uuid}


@pytest.mark.parametrize("cell", ["cell0", "cell1", "cell2"])
def test_a_silent_cell_moves_nothing(
    cloud: NovaSimulation, neutron: Neutron, migrations: AuditMigrations, cut: Callable[[str], None], cell: str
) -> None:
    server, migration = failed(cloud, neutron)
    before = cloud.allocation(server), cloud.allocation(migration)
    [finding] = migrations.inspect(instance_key(server))
    cut(cell)
    with pytest.raises(Unavailable, match=f"cell:{cell}"):
        migrations.inspect(instance_key(server))
    with pytest.raises(Unavailable):
        migrations.heal(finding)
    assert (cloud.allocation(server), cloud.allocation(migration)) == before


def test_a_sweep_reports_a_silent_cell(
    cloud: NovaSimulation, neutron: Neutron, migrations: AuditMigrations, cut: Callable[[str], None]
) -> None:
    server, _ = failed(cloud, neutron)
    cut("cell2")
    sweep = migrations.sweep()
    assert next(sweep) == instance_key(server)
    with pytest.raises(Unavailable, match="cell:cell2"):
        next(sweep)
    assert migrations.population() == 1


def test_a_placement_that_is_down(cloud: NovaSimulation, neutron: Neutron, migrations: AuditMigrations) -> None:
    server, _ = failed(cloud, neutron)
    cloud.placement.stop()
    with pytest.raises(Unavailable, match="placement"):
        migrations.inspect(instance_key(server))
    with pytest.raises(Unavailable, match="placement"):
        list(migrations.sweep())


def test_an_unknown_schema_is_inspected_and_not_changed(
    cloud: NovaSimulation, neutron: Neutron, migrations: AuditMigrations
) -> None:
    server, migration = failed(cloud, neutron)
    held = cloud.allocation(migration)
    with cloud.cells["cell2"].begin() as connection:
        connection.execute(sa.update(tables.cell_version).values(version_num="ffffffffffff"))
    [finding] = migrations.inspect(instance_key(server))
    with pytest.raises(Refused, match="ffffffffffff"):
        migrations.heal(finding)
    assert cloud.allocation(migration) == held


def test_placement_moves_a_whole_allocation_or_nothing(
    cloud: NovaSimulation, neutron: Neutron, placement: Placement
) -> None:
    server, migration = failed(cloud, neutron)
    source, target = placement.allocation(migration), placement.allocation(server)
    placement.move_allocation(source, target)
    assert cloud.allocation(server) == source.providers
    with pytest.raises(Conflict):
        placement.move_allocation(source, target)
    assert cloud.allocation(server) == source.providers
