from __future__ import annotations

import uuid
from collections.abc import Callable

import pytest
import sqlalchemy as sa

from handlers.base import Finding, InFlight, Key, Resources, Unavailable
from handlers.nova import tables
from handlers.nova.hosts.audit_providers import AuditProviders
from handlers.nova.hosts.audit_services import AuditServices
from handlers.nova.simulation import NovaSimulation
from tests.functional.nova.world import refused

HOST = Key("host", "a")
OLD = {"days": 1}


@pytest.fixture(autouse=True)
def hosts(cloud: NovaSimulation) -> None:
    with cloud.ago(**OLD):
        for host, cell in (("a", "cell1"), ("b", "cell1"), ("c", "cell2")):
            cloud.add_compute(host, cell)
            cloud.map_host(host)


@pytest.fixture
def audit(resources: Resources) -> AuditProviders:
    return AuditProviders.from_resources(resources)


def reborn(cloud: NovaSimulation, cell: str = "cell1", host: str = "a", name: str = "a") -> str:
    """A compute node that finds its name taken, so that nova-compute cannot make its provider."""
    node = str(uuid.uuid4())
    with cloud.ago(**OLD):
        cloud.register_host(host, cell)
        row = {"uuid": node, "host": host, "hypervisor_hostname": name, "created_at": cloud._store.now()}
    with cloud.cells[cell].begin() as connection:
        connection.execute(sa.insert(tables.compute_nodes).values(row))
    return node


def replaced(cloud: NovaSimulation) -> tuple[str, str]:
    """Host a comes back with a new compute node, while the provider of its old one is still there."""
    old = cloud.node("a").uuid
    with cloud.ago(**OLD):
        cloud.delete_service("a", leak_providers=True)
    return old, reborn(cloud)


def reported(cloud: NovaSimulation, audit: AuditProviders, key: Key = HOST) -> Finding:
    before = cloud.placement.request("GET", "/resource_providers").body
    [finding] = audit.inspect(key)
    assert refused(audit, finding).problem == "provider-uuid-wrong"
    assert cloud.placement.request("GET", "/resource_providers").body == before
    return finding


def test_a_provider_without_allocations(cloud: NovaSimulation, audit: AuditProviders, resources: Resources) -> None:
    old, new = replaced(cloud)
    assert list(audit.sweep()) == [HOST]
    finding = reported(cloud, audit)
    assert (finding.evidence["provider"], finding.evidence["compute_node"]) == (old, new)
    assert f"openstack resource provider delete {old}" in finding.refusal
    assert not AuditServices.from_resources(resources).inspect(HOST), "one of the two tells"


def test_its_advice_ends_it(cloud: NovaSimulation, audit: AuditProviders) -> None:
    old, new = replaced(cloud)
    assert cloud.placement.request("POST", "/resource_providers", {"uuid": new, "name": "a"}).status == 409
    assert cloud.placement.request("DELETE", f"/resource_providers/{old}").status == 204
    assert cloud.placement.request("POST", "/resource_providers", {"uuid": new, "name": "a"}).status == 200
    assert not audit.inspect(HOST)
    assert not list(audit.sweep())


def test_a_provider_with_allocations(cloud: NovaSimulation, audit: AuditProviders) -> None:
    with cloud.ago(**OLD):
        server = cloud.boot("a")
    old, _ = replaced(cloud)
    finding = reported(cloud, audit)
    assert finding.evidence["holders"] == [server]
    assert f"resource provider set --name a-{old[:8]} {old}" in finding.refusal
    assert "provider delete" not in finding.refusal


def test_two_hosts_of_one_name(cloud: NovaSimulation, audit: AuditProviders) -> None:
    reborn(cloud, "cell2", host="e", name="a")
    assert list(audit.sweep()) == [Key("host", "e")]
    assert not audit.inspect(HOST)
    finding = reported(cloud, audit, Key("host", "e"))
    assert finding.evidence["owners"] == ["a"]
    assert "either one machine changed its name" in finding.refusal
    assert "two machines report one hypervisor name" in finding.refusal


def test_a_host_whose_name_gained_its_domain_gets_its_name_back(cloud: NovaSimulation, audit: AuditProviders) -> None:
    reborn(cloud, "cell1", host="a.example.org", name="a")
    finding = reported(cloud, audit, Key("host", "a.example.org"))
    assert "most likely one machine changed its name" in finding.refusal
    assert "give it the name a back" in finding.refusal


def test_a_child_that_has_the_name(cloud: NovaSimulation, audit: AuditProviders) -> None:
    root = cloud.node("b").uuid
    body = {"uuid": str(uuid.uuid4()), "name": "e", "parent_provider_uuid": root}
    assert cloud.placement.request("POST", "/resource_providers", body).status == 200
    reborn(cloud, host="e", name="e")
    assert root in reported(cloud, audit, Key("host", "e")).refusal


# look-alikes


def test_a_healthy_cloud(cloud: NovaSimulation, audit: AuditProviders) -> None:
    with cloud.ago(**OLD):
        cloud.add_compute("ironic", "cell2", nodes=3)
    assert not list(audit.sweep())
    for host in ("a", "b", "c", "ironic"):
        assert not audit.inspect(Key("host", host))
    assert audit.population() == 6


def test_a_node_that_has_no_provider_yet(cloud: NovaSimulation, audit: AuditProviders) -> None:
    reborn(cloud, host="e", name="e")
    assert not list(audit.sweep())
    assert not audit.inspect(Key("host", "e"))


def test_a_deleted_node(cloud: NovaSimulation, audit: AuditProviders) -> None:
    with cloud.ago(**OLD):
        cloud.delete_service("a", leak_providers=True)
    assert not list(audit.sweep())
    assert not audit.inspect(HOST)


def test_a_young_node_is_waited_for(cloud: NovaSimulation, audit: AuditProviders) -> None:
    _, new = replaced(cloud)
    with cloud.cells["cell1"].begin() as connection:
        nodes = tables.compute_nodes
        connection.execute(sa.update(nodes).where(nodes.c.uuid == new).values(created_at=cloud._store.now()))
    with pytest.raises(InFlight, match="just now"):
        audit.inspect(HOST)


# failures


@pytest.mark.parametrize("cell", ["cell1", "cell2"])
def test_a_silent_cell(cloud: NovaSimulation, audit: AuditProviders, cut: Callable[[str], None], cell: str) -> None:
    replaced(cloud)
    cut(cell)
    with pytest.raises(Unavailable, match=f"cell:{cell}"):
        audit.inspect(HOST)
    found: list[Key] = []
    with pytest.raises(Unavailable, match=f"cell:{cell}"):
        found.extend(audit.sweep())


def test_a_placement_that_is_down(cloud: NovaSimulation, audit: AuditProviders) -> None:
    cloud.placement.stop()
    with pytest.raises(Unavailable, match="placement"):
        audit.inspect(HOST)
    with pytest.raises(Unavailable, match="placement"):
        list(audit.sweep())
