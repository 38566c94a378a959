from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa

from handlers.base import Conflict, Incomplete, InFlight, Resources, Unavailable
from handlers.nova import queries, tables
from handlers.nova.bindings.audit_bindings import AuditBindings
from handlers.nova.simulation import NovaSimulation
from handlers.nova.simulation.neutron import Neutron
from tests.functional.nova.world import heal_only, instance_key, record_move, refused, swept, unplug

pytestmark = pytest.mark.hosts(a="cell1", b="cell1", d="cell1", c="cell2")

LONG = {"hours": 3}


@pytest.fixture
def bindings(resources: Resources, neutron: Neutron) -> AuditBindings:
    for group, options in AuditBindings.options().items():
        resources.conf.register_opts(options, group)
    return AuditBindings.from_resources(resources)


def plug(neutron: Neutron, instance: str, host: str, *inactive: str, owner: str = "compute:nova") -> str:
    port = neutron.add(device_id=instance, device_owner=owner, binding_host_id=host)
    for one in inactive:
        neutron.bind(port, one)
    return port


def moved(cloud: NovaSimulation) -> str:
    """Live-migrate an instance from a to b."""
    with cloud.ago(**LONG):
        instance = cloud.boot("a")
        unplug(cloud.neutron, instance)
        cloud.finish_migration(cloud.start_migration(instance, "b", live=True))
    return instance


def stayed(cloud: NovaSimulation, status: str = "failed") -> str:
    """Let a live migration from b to a end without success."""
    with cloud.ago(**LONG):
        instance = cloud.boot("b")
        unplug(cloud.neutron, instance)
        migration = cloud.start_migration(instance, "a", live=True)
        cloud.fail_migration(migration)
        cloud.set_migration(migration, status=status)
    return instance


def stayed_on_b(cloud: NovaSimulation) -> str:
    with cloud.ago(**LONG):
        instance = cloud.boot("b")
        unplug(cloud.neutron, instance)
    return instance


@pytest.mark.parametrize("made", [moved, stayed])
def test_the_binding_that_a_live_migration_left_is_deleted(
    cloud: NovaSimulation, neutron: Neutron, bindings: AuditBindings, made: Callable[[NovaSimulation], str]
) -> None:
    instance = made(cloud)
    port, other = plug(neutron, instance, "b", "a"), plug(neutron, instance, "b")
    assert swept(bindings) == {instance_key(instance)}
    assert heal_only(bindings, instance_key(instance)).problem == "binding-inactive"
    assert neutron.hosts(port) == neutron.hosts(other) == ("b", set())
    assert swept(bindings) == set()


def test_the_finding_names_write_and_objects(cloud: NovaSimulation, neutron: Neutron, bindings: AuditBindings) -> None:
    instance = moved(cloud)
    port = plug(neutron, instance, "b", "a")
    [finding] = bindings.inspect(instance_key(instance))
    assert finding.plan == f"network: DELETE /v2.0/ports/{port}/bindings/a"
    assert finding.undo.startswith("none: ")
    objects = {"host:a", "host:b", f"project:{cloud.PROJECT}", "cell:cell1", f"instance:{instance}"}
    assert objects <= finding.concerns
    assert {one.partition(":")[0] for one in finding.concerns} <= bindings.concerned_kinds


# no heals


def runs(cloud: NovaSimulation) -> str:
    with cloud.ago(**LONG):
        instance = cloud.boot("b")
        unplug(cloud.neutron, instance)
        cloud.start_migration(instance, "a", live=True)
    return instance


def unfinished(cloud: NovaSimulation) -> str:
    """The source has not written ``completed`` yet."""
    instance = moved(cloud)
    with cloud.ago(**LONG):
        record_move(cloud, instance, "a", "running", "live-migration", hours=2)
    return instance


def just_moved(cloud: NovaSimulation) -> str:
    instance = moved(cloud)
    cloud.set_instance(instance)
    return instance


@pytest.mark.parametrize("made", [runs, unfinished, just_moved])
def test_a_migration_that_may_need_the_binding_delays_the_verdict(
    cloud: NovaSimulation, neutron: Neutron, bindings: AuditBindings, made: Callable[[NovaSimulation], str]
) -> None:
    instance = made(cloud)
    plug(neutron, instance, "b", "a")
    with pytest.raises(InFlight):
        list(bindings.inspect(instance_key(instance)))


@pytest.mark.parametrize("state", [{"vm_state": "resized"}, {"host": None, "node": None}, {"deleted": 1}])
def test_an_instance_in_another_state_keeps_its_bindings(
    cloud: NovaSimulation, neutron: Neutron, bindings: AuditBindings, state: dict[str, Any]
) -> None:
    instance = moved(cloud)
    with cloud.ago(**LONG):
        cloud.set_instance(instance, **state)
    plug(neutron, instance, "b", "a")
    assert not list(bindings.inspect(instance_key(instance)))


def test_a_copy_in_another_cell(cloud: NovaSimulation, neutron: Neutron, bindings: AuditBindings) -> None:
    instance = moved(cloud)
    row = {**cloud.instance(instance)._mapping, "hidden": True}
    with cloud.cells["cell2"].begin() as connection:
        connection.execute(sa.insert(tables.instances).values(row))
    plug(neutron, instance, "b", "a")
    assert not list(bindings.inspect(instance_key(instance)))


def test_ports_of_other_owners(cloud: NovaSimulation, neutron: Neutron, bindings: AuditBindings) -> None:
    instance = moved(cloud)
    plug(neutron, instance, "b", "a", owner="network:dhcp")
    assert swept(bindings) == set()
    assert not list(bindings.inspect(instance_key(instance)))


def test_a_neutron_without_bindings_as_objects(
    cloud: NovaSimulation, neutron: Neutron, bindings: AuditBindings, monkeypatch: pytest.MonkeyPatch
) -> None:
    instance = moved(cloud)
    plug(neutron, instance, "b", "a")
    monkeypatch.setattr(neutron, "_bindings", lambda *request: (404, None))
    assert not list(bindings.inspect(instance_key(instance)))


# what nothing proves


@pytest.mark.parametrize("status", ["error"])
def test_after_an_error_the_guest_may_run_on_either_host(
    cloud: NovaSimulation, neutron: Neutron, bindings: AuditBindings, status: str
) -> None:
    instance = stayed(cloud, status)
    port = plug(neutron, instance, "b", "a")
    assert swept(bindings) == {instance_key(instance)}
    [finding] = bindings.inspect(instance_key(instance))
    assert refused(bindings, finding).refusal.endswith(f"DELETE /v2.0/ports/{port}/bindings/a")
    assert neutron.hosts(port) == ("b", {"a"})


def test_a_binding_of_another_program(cloud: NovaSimulation, neutron: Neutron, bindings: AuditBindings) -> None:
    instance = moved(cloud)
    plug(neutron, instance, "b", "d")
    [finding] = bindings.inspect(instance_key(instance))
    assert refused(bindings, finding).problem == "binding-inactive"


def test_nova_still_names_the_source_of_a_completed_migration(
    cloud: NovaSimulation, neutron: Neutron, bindings: AuditBindings
) -> None:
    instance = moved(cloud)
    with cloud.ago(**LONG):
        cloud.set_instance(instance, host="a", node="a")
    plug(neutron, instance, "b")
    assert swept(bindings) == {instance_key(instance)}
    [finding] = bindings.inspect(instance_key(instance))
    assert refused(bindings, finding).problem == "binding-on-another-host"
    assert "in the database of cell:cell1:\nUPDATE instances SET " in finding.refusal
    assert "instances.task_state IS NULL" in finding.refusal


@pytest.mark.parametrize("hosts", [("a", "b"), ("d", "b"), ("b", "a", "b")])
def test_the_sweep_finds_each_port_on_another_host_among_several_ports(
    cloud: NovaSimulation, neutron: Neutron, bindings: AuditBindings, hosts: tuple[str, ...]
) -> None:
    """The instance lives on b. In the order of hosts, the wrong one may come before or after the right one."""
    instance = stayed_on_b(cloud)
    ports = [plug(neutron, instance, host) for host in hosts]
    wrong = {port for port, host in zip(ports, hosts, strict=True) if host != "b"}
    assert swept(bindings) == {instance_key(instance)}
    found = list(bindings.inspect(instance_key(instance)))
    assert {(one.problem, one.evidence["port"]) for one in found} == {
        ("binding-on-another-host", port) for port in wrong
    }


def test_a_port_on_another_host_that_no_migration_explains(
    cloud: NovaSimulation, neutron: Neutron, bindings: AuditBindings
) -> None:
    instance = moved(cloud)
    plug(neutron, instance, "d", "a")
    [finding] = bindings.inspect(instance_key(instance))
    assert refused(bindings, finding).problem == "binding-on-another-host"
    assert "UPDATE" not in finding.refusal


# what changes in between


def test_a_port_that_changed_since_it_was_found(
    cloud: NovaSimulation, neutron: Neutron, bindings: AuditBindings
) -> None:
    instance = moved(cloud)
    port = plug(neutron, instance, "b", "a")
    [finding] = bindings.inspect(instance_key(instance))
    neutron.change(port, name="new")
    with pytest.raises(Conflict):
        bindings.heal(finding)
    assert neutron.hosts(port) == ("b", {"a"})


def test_a_binding_that_becomes_active_before_the_request_arrives_is_created_again(
    cloud: NovaSimulation, neutron: Neutron, bindings: AuditBindings
) -> None:
    instance = moved(cloud)
    port = plug(neutron, instance, "b", "a")
    [finding] = bindings.inspect(instance_key(instance))
    neutron.before["DELETE"] = lambda one: neutron.activate(one, "a")
    with pytest.raises(Conflict, match="created again"):
        bindings.heal(finding)
    assert neutron.hosts(port) == ("a", {"b"})


def test_a_migration_that_begins_meanwhile(cloud: NovaSimulation, neutron: Neutron, bindings: AuditBindings) -> None:
    instance = moved(cloud)
    port = plug(neutron, instance, "b", "a")
    [finding] = bindings.inspect(instance_key(instance))
    cloud.start_migration(instance, "d", live=True)
    with pytest.raises(InFlight):
        bindings.heal(finding)
    assert neutron.hosts(port) == ("b", {"a"})


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_neutron_does_not_answer(cloud: NovaSimulation, neutron: Neutron, bindings: AuditBindings, method: str) -> None:
    instance = moved(cloud)
    port = plug(neutron, instance, "b", "a")
    [finding] = bindings.inspect(instance_key(instance))
    neutron.faults = {method: 403}
    with pytest.raises(Unavailable):
        bindings.heal(finding)
    assert neutron.hosts(port) == ("b", {"a"})


def test_a_cell_does_not_answer(
    cloud: NovaSimulation, neutron: Neutron, bindings: AuditBindings, cut: Callable[[str], None]
) -> None:
    instance = moved(cloud)
    port = plug(neutron, instance, "b", "a")
    [finding] = bindings.inspect(instance_key(instance))
    cut("cell2")
    with pytest.raises(Unavailable):
        bindings.heal(finding)
    assert neutron.hosts(port) == ("b", {"a"})


def test_a_sweep_names_each_cell_that_was_silent_for_some_instances(
    cloud: NovaSimulation, neutron: Neutron, bindings: AuditBindings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queries, "CHUNK", 1)
    for _ in range(2):
        plug(neutron, moved(cloud), "b", "a")
    silent = iter(["cell:cell1", "cell:cell2"])
    real = bindings._databases.run_in_available

    def run_in_available(*arguments: Any) -> Any:
        found, _ = real(*arguments)
        name = next(silent, None)
        return found, None if name is None else Unavailable(name, "is away")

    monkeypatch.setattr(bindings._databases, "run_in_available", run_in_available)
    with pytest.raises(Incomplete) as caught:
        list(bindings.sweep())
    assert caught.value.missing == {"cell:cell1", "cell:cell2"}
