"""Rare states of a real cloud, in which each handler that heals by default does what is right, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from consumer import plugins
from handlers.base import Handler, HandlerError, InFlight, Key, Mode
from handlers.nova import tables
from handlers.nova.simulation import NovaSimulation
from handlers.nova.simulation.neutron import Neutron
from tests.functional.nova.opened import opened
from tests.functional.nova.world import bind, dump, long_ago, record_move, restore, unplug

HOUR, DAY = {"hours": 1}, {"days": 1}
#: heals by handler and problem
Healed = list[tuple[str, str]]


@pytest.fixture(autouse=True)
def hosts(cloud: NovaSimulation) -> None:
    with cloud.ago(days=2):
        for host, cell in (("a", "cell1"), ("b", "cell1"), ("c", "cell2")):
            cloud.add_compute(host, cell)
            cloud.map_host(host)


@pytest.fixture
def handlers(cloud: NovaSimulation, tmp_path: Path) -> Iterator[list[Handler]]:
    """Nova's handlers that heal by default, in their order."""
    kinds = [kind for kind in plugins.handlers() if kind.service == "nova" and kind.default_mode == Mode.HEAL]
    order = ["discover_hosts", "map_instances", "heal_instance_mappings", "heal_allocations", "sync_aggregates"]
    with opened(cloud, tmp_path, kinds, archive_deleted_rows_pause_seconds=0) as resources:
        made = {kind.name: kind.from_resources(resources) for kind in kinds}
        yield [made.pop(name) for name in order] + list(made.values())


def heal_all(handlers: list[Handler], *keys: Key) -> Healed:
    """Let each handler sweep, inspect also these keys, and heal what it may."""
    done: Healed = []
    for handler in handlers:
        for key in dict.fromkeys([*handler.sweep(), *(key for key in keys if key.kind in handler.kinds)]):
            try:
                findings = list(handler.inspect(key))
            except InFlight:
                continue
            for finding in findings:
                if finding.healable:
                    handler.heal(finding)
                    done.append((handler.name, finding.problem))
    return done


def instance(uuid: str) -> Key:
    return Key("instance", uuid)


def mapping(cloud: NovaSimulation, uuid: str) -> tuple[int | None, bool | None] | None:
    c = tables.instance_mappings.c
    with cloud.api.connect() as connection:
        row = connection.execute(sa.select(c.cell_id, c.queued_for_delete).where(c.instance_uuid == uuid)).first()
    return None if row is None else (row.cell_id, row.queued_for_delete)


def at(cloud: NovaSimulation, host: str) -> dict[str, dict[str, int]]:
    return {cloud.node(host).uuid: {"VCPU": 1, "MEMORY_MB": 512, "DISK_GB": 1}}


def test_a_live_migration_whose_nova_compute_was_restarted_is_left_alone(
    cloud: NovaSimulation, handlers: list[Handler]
) -> None:
    """The source sets the migration to error and clears the task, while the guest may go on to the destination."""
    with cloud.ago(**HOUR):
        server = cloud.boot("a")
        migration = cloud.start_migration(server, "b", live=True)
        cloud.set_migration(migration, status="error")
        cloud.set_instance(server, task_state=None)
    assert heal_all(handlers, instance(server)) == []
    assert (cloud.allocation(server), cloud.allocation(migration)) == (at(cloud, "b"), at(cloud, "a"))


@pytest.mark.parametrize("bound", ["a", "b"])
def test_a_resize_that_failed_on_its_destination_stays_there(
    cloud: NovaSimulation, neutron: Neutron, handlers: list[Handler], bound: str
) -> None:
    """Nova leaves the instance on the destination, with the migration in error (_finish_resize, _revert_allocation)."""
    with cloud.ago(**HOUR):
        server = cloud.boot("a")
    record_move(cloud, server, "b", "error")
    cloud.set_instance(server, host="b", node="b", vm_state="error", updated_at=long_ago())
    cloud.hold(server, at(cloud, "a"))
    bind(neutron, server, bound)
    assert heal_all(handlers, instance(server)) == []
    assert cloud.allocation(server) == at(cloud, "a")


def test_a_dead_host_that_returns_in_the_middle_wins(cloud: NovaSimulation, handlers: list[Handler]) -> None:
    """It removes its part of the allocation of an evacuated instance, and names no other node."""
    with cloud.ago(**HOUR):
        server = cloud.boot("a")
        evacuation = cloud.evacuate(server, "b")
    cloud.hold(server, at(cloud, "a"))
    [heal] = [handler for handler in handlers if handler.name == "heal_allocations"]
    [finding] = heal.inspect(instance(server))
    assert (finding.problem, finding.healable) == ("wrong-provider", True)
    cloud.hold(server, {})
    cloud.set_migration(evacuation, status="completed", updated_at=long_ago())
    with pytest.raises(HandlerError):
        heal.heal(finding)
    assert cloud.allocation(server) == {}
    assert heal_all(handlers, instance(server)) == [("heal_allocations", "allocation-missing")]
    assert cloud.allocation(server) == at(cloud, "b")


def test_nova_api_restored_alone_from_before_and_during_boots(cloud: NovaSimulation, handlers: list[Handler]) -> None:
    with cloud.ago(**DAY):
        old, booting, new, deleted = [cloud.boot("a") for _ in range(4)]
        cloud.delete(deleted)
    api = tables.instance_mappings, tables.request_specs
    with cloud.api.begin() as connection:
        for table in api:
            connection.execute(sa.delete(table).where(table.c.instance_uuid == new))
        row = {"instance_uuid": booting, "project_id": cloud.PROJECT, "instance": "{}", "created_at": long_ago(days=1)}
        connection.execute(sa.insert(tables.build_requests).values(row))
        c = tables.instance_mappings.c
        connection.execute(sa.update(api[0]).where(c.instance_uuid == booting).values(cell_id=None))
        connection.execute(sa.update(api[0]).where(c.instance_uuid == deleted).values(queued_for_delete=False))
    held = {server: cloud.allocation(server) for server in (old, booting, new)}
    assert sorted(heal_all(handlers)) == [
        ("heal_instance_mappings", "mapping-without-cell"),
        ("heal_instance_mappings", "mark-of-deletion-wrong"),
        ("map_instances", "instance-unmapped"),
    ]
    assert {mapping(cloud, server) for server in (old, booting, new)} == {(2, False)}
    assert mapping(cloud, deleted) == (2, True)
    assert cloud.build_requests() == set()
    assert {server: cloud.allocation(server) for server in held} == held


def test_placement_restored_alone(cloud: NovaSimulation, handlers: list[Handler]) -> None:
    """Since the backup: one instance was booted, one moved, one shelved, one deleted, and one stayed."""
    with cloud.ago(**HOUR):
        booted, moved, shelved, deleted, stayed = [cloud.boot("a") for _ in range(5)]
        cloud.finish_migration(cloud.start_migration(moved, "b", live=True))
        cloud.shelve_offload(shelved)
        cloud.delete(deleted)
    for server in (moved, shelved, deleted):
        cloud.hold(server, at(cloud, "a"))
    cloud.hold(booted, {})
    healed = heal_all(handlers, *map(instance, (booted, moved, shelved, deleted, stayed)))
    assert sorted(healed) == [("heal_allocations", "allocation-missing"), ("heal_allocations", "wrong-provider")]
    assert [cloud.allocation(server) for server in (booted, moved, stayed)] == [at(cloud, host) for host in "aba"]
    assert [cloud.allocation(server) for server in (shelved, deleted)] == [at(cloud, "a")] * 2, (
        "audit_allocations has them"
    )


def test_a_cell_restored_alone_from_before_a_cross_cell_resize(
    cloud: NovaSimulation, neutron: Neutron, handlers: list[Handler]
) -> None:
    """Both cells then have a visible, live row, and the mapping names the cell where the guest runs."""
    with cloud.ago(**HOUR):
        server = cloud.boot("a")
    backup, row = dump(cloud, "cell1"), dict(cloud.instance(server)._mapping)
    restore(cloud, "cell1", {**backup, "instances": []})
    with cloud.cells["cell2"].begin() as connection:
        connection.execute(sa.insert(tables.instances).values({**row, "id": 77, "host": "c", "node": "c"}))
    with cloud.api.begin() as connection:
        connection.execute(sa.update(tables.instance_mappings).values(cell_id=3))
    cloud.hold(server, at(cloud, "c"))
    bind(neutron, server, "c")
    restore(cloud, "cell1", backup)
    assert heal_all(handlers, instance(server)) == []
    assert (mapping(cloud, server), cloud.allocation(server)) == ((3, False), at(cloud, "c"))


def test_a_server_deleted_during_its_boot_gets_its_cell_and_stays_marked(
    cloud: NovaSimulation, handlers: list[Handler]
) -> None:
    """The conductor made the row, and died before it saw that the build request was gone."""
    with cloud.ago(hours=3):
        server = cloud.request()
        cloud.create_instance(server, "cell1")
    with cloud.api.begin() as connection:
        connection.execute(sa.delete(tables.build_requests))
        connection.execute(sa.update(tables.instance_mappings).values(queued_for_delete=True))
    assert heal_all(handlers, instance(server)) == [("heal_instance_mappings", "mapping-without-cell")]
    assert mapping(cloud, server) == (2, True)
    assert cloud.allocation(server) == {}


def test_a_failed_unshelving_leaves_a_port_bound_and_gets_nothing(
    cloud: NovaSimulation, neutron: Neutron, handlers: list[Handler]
) -> None:
    """Nova releases the allocation and does not unbind the port (_unshelve_instance)."""
    with cloud.ago(**HOUR):
        server = cloud.boot("a")
        cloud.shelve_offload(server)
    for port in list(neutron.ports):
        neutron.change(port, binding_host_id="a")
    assert heal_all(handlers, instance(server)) == []
    assert cloud.allocation(server) == {}


@pytest.mark.parametrize("change", [lambda neutron, server: None, unplug])
def test_a_deleted_server_whose_dead_host_returns(
    cloud: NovaSimulation, neutron: Neutron, handlers: list[Handler], change: Callable[[Neutron, str], object]
) -> None:
    """nova-api deleted it alone; the guest still runs until nova-compute reaps it."""
    with cloud.ago(**DAY):
        server = cloud.boot("a")
        cloud.force_down("a")
    with cloud.ago(**HOUR):
        cloud.delete(server)
    cloud.heartbeat("a")
    change(neutron, server)
    assert heal_all(handlers, instance(server)) == []
    assert (mapping(cloud, server), cloud.allocation(server)) == ((2, True), {})
