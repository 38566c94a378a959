from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa

from handlers.base import Conflict, Event, Finding, InFlight, Key, Refused, Resources, Unavailable
from handlers.nova import tables
from handlers.nova.cells import Cell
from handlers.nova.hosts.audit_services import AuditServices
from handlers.nova.hosts.discover_hosts import DiscoverHosts
from handlers.nova.names import HostNames
from handlers.nova.placement import Placement
from handlers.nova.simulation import NovaSimulation
from handlers.nova.simulation.records import Node
from tests.functional.nova.world import (
    dump,
    execute,
    heal_all,
    long_ago,
    make_provider,
    refused,
    restore,
    set_traits,
    swept,
)

LONG = {"hours": 1}
HOST = Key("host", "a")


@pytest.fixture(autouse=True)
def node(cloud: NovaSimulation) -> Node:
    """The compute node of host a, beside which b and c live on."""
    with cloud.ago(days=1):
        for host, cell in (("a", "cell1"), ("b", "cell1"), ("c", "cell2")):
            cloud.add_compute(host, cell)
            cloud.map_host(host)
    return cloud.node("a")


@pytest.fixture
def services(resources: Resources) -> AuditServices:
    return AuditServices.from_resources(resources)


def retire(cloud: NovaSimulation, mapping: bool = False, providers: bool = False) -> None:
    with cloud.ago(**LONG):
        cloud.delete_service("a", leak_mapping=mapping, leak_providers=providers)


def archive_services(cloud: NovaSimulation) -> None:
    for table in (tables.services, tables.compute_nodes):
        shadow = tables.cell.tables[f"shadow_{table.name}"]
        names = [column.name for column in table.columns]
        with cloud.cells["cell1"].begin() as connection:
            gone = sa.select(*table.columns).where(table.c.deleted != 0)
            connection.execute(sa.insert(shadow).from_select(names, gone))
            connection.execute(sa.delete(table).where(table.c.deleted != 0))


def purge_services(cloud: NovaSimulation) -> None:
    archive_services(cloud)
    with cloud.cells["cell1"].begin() as connection:
        connection.execute(sa.delete(tables.shadow_services))
        connection.execute(sa.delete(tables.shadow_compute_nodes))


def providers(cloud: NovaSimulation) -> dict[str, str]:
    listed = cloud.placement.request("GET", "/resource_providers").body["resource_providers"]
    return {row["name"]: row["uuid"] for row in listed}


def make_storage(cloud: NovaSimulation, name: str, parent: str | None = None, *traits: str) -> str:
    provider = make_provider(cloud, name, {"DISK_GB": 1000}, parent)
    set_traits(cloud, provider, *traits)
    return provider


def world(cloud: NovaSimulation) -> tuple[dict[str, str], dict[str, str]]:
    return cloud.host_mappings(), providers(cloud)


def reported(cloud: NovaSimulation, services: AuditServices, key: Key = HOST) -> Finding:
    before = world(cloud)
    [finding] = services.inspect(key)
    refused(services, finding)
    assert world(cloud) == before
    return finding


# what it exists for


@pytest.mark.parametrize("archived", [False, True])
def test_a_mapping_that_a_deleted_service_left(cloud: NovaSimulation, services: AuditServices, archived: bool) -> None:
    retire(cloud, mapping=True)
    if archived:
        archive_services(cloud)
    assert list(services.sweep()) == [HOST]
    [finding] = heal_all(services, HOST)
    assert finding.problem == "mapping-left"
    assert cloud.host_mappings() == {"b": "cell1", "c": "cell2"}
    assert not list(services.sweep())


def test_the_undo_of_a_mapping_restores_it(cloud: NovaSimulation, services: AuditServices) -> None:
    retire(cloud, mapping=True)
    [finding] = services.inspect(HOST)
    assert services.heal(finding).undo == finding.undo, "the undo is known before the heal"
    execute(cloud, finding.undo)
    assert cloud.host_mappings()["a"] == "cell1"


@pytest.mark.parametrize("archived", [False, True])
@pytest.mark.parametrize("by", ["host", "provider"])
def test_a_provider_that_a_deleted_service_left(
    cloud: NovaSimulation, services: AuditServices, node: Node, archived: bool, by: str
) -> None:
    retire(cloud, providers=True)
    if archived:
        archive_services(cloud)
    assert list(services.sweep()) == [Key("provider", node.uuid)]
    [finding] = heal_all(services, HOST if by == "host" else Key("provider", node.uuid))
    assert finding.problem == "provider-left"
    assert set(providers(cloud)) == {"b", "c"}
    assert not list(services.sweep())


def test_both_at_once(cloud: NovaSimulation, services: AuditServices) -> None:
    retire(cloud, mapping=True, providers=True)
    assert list(services.sweep()) == [HOST], "what is of one host is found once"
    assert {finding.problem for finding in heal_all(services, HOST)} == {"mapping-left", "provider-left"}
    assert world(cloud)[0].keys() == world(cloud)[1].keys() == {"b", "c"}


def test_a_host_with_several_nodes(cloud: NovaSimulation, services: AuditServices) -> None:
    with cloud.ago(days=1):
        cloud.add_compute("many", "cell2", nodes=3)
        cloud.map_host("many")
        cloud.delete_service("many", leak_mapping=True, leak_providers=True)
    assert len(heal_all(services, Key("host", "many"))) == 4
    assert set(providers(cloud)) == {"a", "b", "c"}


def test_its_event_names_the_host(cloud: NovaSimulation) -> None:
    [trigger] = AuditServices.triggers
    assert trigger.event == "service.delete"
    payload = {"host": "a", "binary": "nova-compute"}
    assert trigger.key(Event("service.delete", payload)) == HOST
    assert trigger.key(Event("service.delete", {**payload, "binary": "nova-conductor"})) is None
    assert trigger.after >= 60, "Nova gets time to finish"


# look-alikes, left alone


def test_a_healthy_cloud(cloud: NovaSimulation, services: AuditServices) -> None:
    cloud.boot("a")
    assert not list(services.sweep())
    for host in "abc":
        assert not services.inspect(Key("host", host))
        assert not services.inspect(Key("provider", cloud.node(host).uuid))
    assert services.population() == 3


def test_a_service_that_was_deleted_as_it_should_be(cloud: NovaSimulation, services: AuditServices) -> None:
    retire(cloud)
    assert not list(services.sweep())
    assert not services.inspect(HOST)


def test_a_dead_or_disabled_host(cloud: NovaSimulation, services: AuditServices) -> None:
    cloud.force_down("a")
    with cloud.cells["cell1"].begin() as connection:
        connection.execute(sa.update(tables.services).values(disabled=True))
    assert not list(services.sweep())
    assert not services.inspect(HOST)


def test_a_new_host_that_has_no_node_yet(cloud: NovaSimulation, services: AuditServices) -> None:
    retire(cloud, mapping=True)
    cloud.register_host("a", "cell1")
    assert not list(services.sweep())
    assert not services.inspect(HOST)


def test_a_node_whose_service_is_gone_is_still_there(cloud: NovaSimulation, services: AuditServices) -> None:
    with cloud.cells["cell1"].begin() as connection:
        table = tables.services
        connection.execute(sa.update(table).where(table.c.host == "a").values(deleted=table.c.id))
    assert not list(services.sweep())
    assert not services.inspect(HOST)


def test_a_node_that_lives_in_another_cell_under_the_same_uuid(
    cloud: NovaSimulation, services: AuditServices, node: Node
) -> None:
    retire(cloud, providers=True)
    cloud.register_host("e", "cell2")
    row = {"uuid": node.uuid, "host": "e", "hypervisor_hostname": "e"}
    with cloud.cells["cell2"].begin() as connection:
        connection.execute(sa.insert(tables.compute_nodes).values(row))
    assert not services.inspect(Key("provider", node.uuid))
    assert not services.inspect(HOST)
    assert not list(services.sweep())


@pytest.mark.parametrize("traits", [(), ("MISC_SHARES_VIA_AGGREGATE",)])
def test_providers_of_others(cloud: NovaSimulation, services: AuditServices, traits: tuple[str, ...]) -> None:
    stranger = make_storage(cloud, "foreign", None, *traits)
    assert not services.inspect(Key("provider", stranger))
    assert not list(services.sweep())


def test_what_hangs_below_a_node(cloud: NovaSimulation, services: AuditServices, node: Node) -> None:
    child = make_storage(cloud, "a:Open vSwitch agent", node.uuid, "COMPUTE_NODE")
    assert not services.inspect(Key("provider", child))
    retire(cloud, providers=True)
    assert not services.inspect(Key("provider", child))
    assert child in reported(cloud, services).refusal
    assert "Neutron" in reported(cloud, services).refusal


def test_a_provider_whose_name_a_new_node_needs(cloud: NovaSimulation, services: AuditServices, node: Node) -> None:
    retire(cloud, providers=True)
    with cloud.ago(**LONG):
        cloud.register_host("a", "cell1")
    row = {"uuid": str(uuid.uuid4()), "host": "a", "hypervisor_hostname": "a"}
    with cloud.cells["cell1"].begin() as connection:
        connection.execute(sa.insert(tables.compute_nodes).values(row))
    assert not services.inspect(Key("provider", node.uuid)), "audit_providers reports it"


def test_keys_of_nothing(services: AuditServices) -> None:
    assert not services.inspect(Key("host", "no-such-host"))
    assert not services.inspect(Key("provider", str(uuid.uuid4())))


@pytest.mark.parametrize("what", ["mapping", "providers"])
def test_nova_gets_time_to_finish(cloud: NovaSimulation, services: AuditServices, what: str) -> None:
    cloud.delete_service("a", leak_mapping=what == "mapping", leak_providers=what == "providers")
    with pytest.raises(InFlight, match="just now"):
        services.inspect(HOST)


# wrong, but not to be taken away


def test_instances_still_live_there(cloud: NovaSimulation, services: AuditServices) -> None:
    with cloud.ago(**LONG):
        server = cloud.boot("a")
    cloud.hold(server, {})
    retire(cloud, mapping=True, providers=True)
    findings = list(services.inspect(HOST))
    assert len(findings) == 2
    for finding in findings:
        assert "1 instances" in finding.refusal
        with pytest.raises(Refused):
            services.heal(finding)


@pytest.mark.parametrize("status", ["finished", "running", None])
def test_a_migration_has_not_ended(cloud: NovaSimulation, services: AuditServices, status: str | None) -> None:
    with cloud.ago(**LONG):
        server = cloud.boot("b")
        migration = cloud._create_migration(server, cloud.instance(server), cloud.node("a"), "migration")
        cloud.set_migration(migration, status=status)
    retire(cloud, mapping=True)
    assert "1 migrations" in reported(cloud, services).refusal
    cloud.set_migration(migration, status="failed")
    heal_all(services, HOST)


def test_a_provider_with_an_allocation(cloud: NovaSimulation, services: AuditServices, node: Node) -> None:
    consumer = str(uuid.uuid4())
    cloud.hold(consumer, {node.uuid: {"VCPU": 1}})
    retire(cloud, providers=True)
    assert "1 consumers" in reported(cloud, services).refusal
    assert cloud.allocation(consumer)


def test_a_provider_whose_child_has_an_allocation(cloud: NovaSimulation, services: AuditServices, node: Node) -> None:
    cloud.hold(str(uuid.uuid4()), {make_storage(cloud, "card", node.uuid): {"DISK_GB": 1}})
    retire(cloud, providers=True)
    assert "1 consumers" in reported(cloud, services).refusal


def test_the_host_runs_nova_compute_again(cloud: NovaSimulation, services: AuditServices, node: Node) -> None:
    retire(cloud, providers=True)
    cloud.register_host("a", "cell2")
    assert "has a nova-compute service" in reported(cloud, services, Key("provider", node.uuid)).refusal


def test_a_bare_metal_node(cloud: NovaSimulation, services: AuditServices, node: Node) -> None:
    retire(cloud, providers=True)
    with cloud.cells["cell1"].begin() as connection:
        table = tables.compute_nodes
        connection.execute(sa.update(table).where(table.c.host == "a").values(hypervisor_hostname=node.uuid))
    assert "bare metal" in reported(cloud, services).refusal


def test_a_purge_leaves_no_proof(cloud: NovaSimulation, services: AuditServices, node: Node) -> None:
    retire(cloud, mapping=True, providers=True)
    purge_services(cloud)
    assert set(services.sweep()) == {HOST, Key("provider", node.uuid)}
    mapping = reported(cloud, services)
    assert mapping.problem == "mapping-unexplained"
    assert "delete_host" in mapping.refusal
    assert reported(cloud, services, Key("provider", node.uuid)).problem == "provider-unexplained"


def test_a_host_whose_service_was_deleted_in_another_cell(cloud: NovaSimulation, services: AuditServices) -> None:
    """What was deleted in one cell proves nothing about the mapping to another one."""
    retire(cloud, mapping=True)
    with cloud.api.begin() as connection:
        table = tables.host_mappings
        connection.execute(sa.update(table).where(table.c.host == "a").values(cell_id=3))
    assert reported(cloud, services).problem == "mapping-unexplained"


def test_a_cell_restored_from_before_the_host_came_back(
    cloud: NovaSimulation, services: AuditServices, node: Node
) -> None:
    """The host was deleted, came back and was mapped again; the restored cell only has the deleted service."""
    with cloud.ago(hours=3):
        cloud.delete_service("a")
    backup = dump(cloud, "cell1")
    with cloud.ago(**LONG):
        cloud.add_compute("a", "cell1")
        cloud.map_host("a")
    restore(cloud, "cell1", backup)
    assert HOST in swept(services)
    found = [finding for finding in services.inspect(HOST) if finding.problem.startswith("mapping")]
    assert "mapped after its service was deleted" in refused(services, *found).refusal
    assert cloud.host_mappings()["a"] == "cell1"


@pytest.mark.parametrize("key", [HOST, None])
def test_a_cell_restored_from_before_the_host_came_back_with_its_uuid(
    cloud: NovaSimulation, services: AuditServices, node: Node, key: Key | None
) -> None:
    """The file compute_id stayed, so that the node came back with its uuid. The restored cell has it as deleted."""
    with cloud.ago(hours=3):
        cloud.delete_service("a")
    backup = dump(cloud, "cell1")
    with cloud.ago(**LONG):
        cloud.register_host("a", "cell1")
        cloud.map_host("a")
        cloud._report.create_provider(node.uuid, node.name, cloud.CAPACITY)
    restore(cloud, "cell1", backup)
    found = {one.problem: one for one in services.inspect(key or Key("provider", node.uuid))}
    assert "mapped after" in refused(services, found["provider-left"]).refusal
    assert world(cloud)[1]["a"] == node.uuid


@pytest.mark.parametrize("hours", [2, 12])
def test_a_provider_whose_host_is_mapped_since_before_the_deletion(
    cloud: NovaSimulation, services: AuditServices, node: Node, hours: int
) -> None:
    retire(cloud, mapping=True, providers=True)
    with cloud.api.begin() as connection:
        table = tables.host_mappings
        connection.execute(sa.update(table).where(table.c.host == "a").values(created_at=long_ago(hours=hours)))
    heal_all(services, Key("provider", node.uuid))
    assert node.uuid not in providers(cloud).values()


def test_a_younger_provider_of_the_name_speaks_for_the_host(
    cloud: NovaSimulation, services: AuditServices, node: Node
) -> None:
    retire(cloud, mapping=True)
    successor = make_storage(cloud, "a", None, "COMPUTE_NODE")
    finding = reported(cloud, services)
    assert finding.problem == "mapping-left"
    assert successor in finding.refusal


def test_a_sweep_finds_a_provider_without_the_trait_of_compute_nodes(
    cloud: NovaSimulation, services: AuditServices, node: Node
) -> None:
    url = f"/resource_providers/{node.uuid}"
    generation = cloud.placement.request("GET", url).body["generation"]
    body = {"traits": [], "resource_provider_generation": generation}
    assert cloud.placement.request("PUT", f"{url}/traits", body).status == 200
    retire(cloud, providers=True)
    assert swept(services) == {Key("provider", node.uuid)}
    assert [finding.problem for finding in heal_all(services, Key("provider", node.uuid))] == ["provider-left"]


def test_a_host_mapped_in_other_letters_is_there_for_mysql(
    cloud: NovaSimulation, services: AuditServices, monkeypatch: pytest.MonkeyPatch
) -> None:
    with cloud.api.begin() as connection:
        table = tables.host_mappings
        connection.execute(sa.update(table).where(table.c.host == "a").values(host="A"))
    assert swept(services) == {Key("host", "A")}
    monkeypatch.setattr(services._databases, "host_names", HostNames(exact=False))
    assert not swept(services)


# races and failures


def test_a_mapping_that_changed_meanwhile(
    cloud: NovaSimulation, services: AuditServices, monkeypatch: pytest.MonkeyPatch
) -> None:
    retire(cloud, mapping=True)
    findings = list(services.inspect(HOST))
    with cloud.api.begin() as connection:
        table = tables.host_mappings
        connection.execute(sa.update(table).where(table.c.host == "a").values(cell_id=3))
    with pytest.raises(Conflict):
        services.heal(findings[0])
    monkeypatch.setattr(services, "inspect", lambda key: findings)  # it changed after the proof
    with pytest.raises(Conflict):
        services.heal(findings[0])
    assert cloud.host_mappings()["a"] == "cell2"


def test_a_host_that_comes_back_while_its_mapping_goes_keeps_it(
    cloud: NovaSimulation, services: AuditServices, discover: DiscoverHosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    retire(cloud, mapping=True)
    findings = list(services.inspect(HOST))
    cloud.register_host("a", "cell1")
    monkeypatch.setattr(services, "inspect", lambda key: findings)  # it came after the proof
    with pytest.raises(Conflict):
        services.heal(findings[0])
    assert cloud.host_mappings()["a"] == "cell1"
    assert not discover.inspect(HOST)


def test_a_cell_that_goes_silent_after_the_proof_keeps_the_mapping(
    cloud: NovaSimulation, services: AuditServices, cut: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    retire(cloud, mapping=True)
    findings = list(services.inspect(HOST))
    monkeypatch.setattr(services, "inspect", lambda key: findings)
    monkeypatch.setattr(services._databases, "require_known_schema", lambda: None)
    cut("cell2")
    with pytest.raises(Unavailable, match="cell:cell2"):
        services.heal(findings[0])
    assert cloud.host_mappings()["a"] == "cell1"


def test_the_mapping_goes_only_after_the_last_look_at_the_cells(
    cloud: NovaSimulation, services: AuditServices, monkeypatch: pytest.MonkeyPatch
) -> None:
    retire(cloud, mapping=True)
    [finding] = services.inspect(HOST)
    read, seen = services._databases.run_in_all, list[str | None]()

    def look(*arguments: Any) -> dict[Cell, Any]:
        seen.append(cloud.host_mappings().get("a"))
        return read(*arguments)

    monkeypatch.setattr(services._databases, "run_in_all", look)
    services.heal(finding)
    assert set(seen) == {"cell1"}
    assert "a" not in cloud.host_mappings()


def test_an_allocation_made_after_the_proof_keeps_the_provider(
    cloud: NovaSimulation, services: AuditServices, node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    retire(cloud, providers=True)
    findings = list(services.inspect(HOST))
    cloud.hold(str(uuid.uuid4()), {node.uuid: {"VCPU": 1}})
    with pytest.raises(Conflict):
        services.heal(findings[0])
    monkeypatch.setattr(services, "inspect", lambda key: findings)
    with pytest.raises(Conflict, match="in use"):
        services.heal(findings[0])
    assert providers(cloud)["a"] == node.uuid


def test_a_second_heal_is_a_conflict(
    cloud: NovaSimulation, services: AuditServices, monkeypatch: pytest.MonkeyPatch
) -> None:
    retire(cloud, mapping=True, providers=True)
    findings = list(services.inspect(HOST))
    for finding in findings:
        services.heal(finding)
    monkeypatch.setattr(services, "inspect", lambda key: findings)
    for finding in findings:
        with pytest.raises(Conflict):
            services.heal(finding)


@pytest.mark.parametrize("cell", ["cell1", "cell2"])
def test_a_silent_cell_keeps_everything(
    cloud: NovaSimulation, services: AuditServices, cut: Callable[[str], None], cell: str
) -> None:
    retire(cloud, mapping=True, providers=True)
    findings = list(services.inspect(HOST))
    before = world(cloud)
    cut(cell)
    for look in (lambda: services.inspect(HOST), lambda: list(services.sweep())):
        with pytest.raises(Unavailable, match=f"cell:{cell}"):
            look()
    for finding in findings:
        with pytest.raises(Unavailable):
            services.heal(finding)
    assert world(cloud) == before


def test_cells_without_any_host_are_not_believed(cloud: NovaSimulation, services: AuditServices) -> None:
    for engine in cloud.cells.values():
        with engine.begin() as connection:
            for table in (tables.services, tables.compute_nodes):
                connection.execute(sa.delete(table))
    with pytest.raises(Unavailable, match="maps 3 hosts"):
        list(services.sweep())


def test_a_placement_that_is_down(cloud: NovaSimulation, services: AuditServices) -> None:
    retire(cloud, providers=True)
    cloud.placement.stop()
    with pytest.raises(Unavailable, match="placement"):
        services.inspect(HOST)
    with pytest.raises(Unavailable, match="placement"):
        list(services.sweep())


@pytest.mark.parametrize("database", ["nova_api", "cell2"])
def test_an_unknown_schema_stops_the_heal(cloud: NovaSimulation, services: AuditServices, database: str) -> None:
    retire(cloud, mapping=True, providers=True)
    before = world(cloud)
    engine = cloud.api if database == "nova_api" else cloud.cells[database]
    with engine.begin() as connection:
        connection.execute(sa.update(tables.cell_version).values(version_num="ffffffffffff"))
    findings = list(services.inspect(HOST))
    assert len(findings) == 2
    for finding in findings:
        with pytest.raises(Refused, match="ffffffffffff"):
            services.heal(finding)
    assert world(cloud) == before


def test_placement_knows_which_provider_is_a_compute_node(
    cloud: NovaSimulation, resources: Resources, node: Node
) -> None:
    placement = Placement.from_resources(resources)
    assert placement.is_compute_node(node.uuid)
    assert not placement.is_compute_node(make_storage(cloud, "other"))
    assert not placement.is_compute_node(str(uuid.uuid4()))
