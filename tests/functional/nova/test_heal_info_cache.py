from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa

from handlers.base import Conflict, InFlight, Refused, Resources, Unavailable, Unfinished
from handlers.nova import tables
from handlers.nova.info_cache import heal_info_cache
from handlers.nova.info_cache.heal_info_cache import HealInfoCache
from handlers.nova.simulation import NovaSimulation
from handlers.nova.simulation.neutron import Neutron
from tests.compute import Compute, remember
from tests.functional.nova.world import heal_all, heal_only, instance_key, refused, swept, unplug

pytestmark = pytest.mark.hosts(a="cell1", c="cell2")

NEW = [{"subnet_id": "s", "ip_address": "10.0.0.9"}]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heal_info_cache, "_PATIENCE", 0.2)
    monkeypatch.setattr(heal_info_cache, "_PAUSE", 0.05)


@pytest.fixture
def healer(resources: Resources, neutron: Neutron, compute: Compute) -> HealInfoCache:
    compute.neutron = neutron
    for group, options in HealInfoCache.options().items():
        resources.conf.register_opts(options, group)
    return HealInfoCache.from_resources(resources)


def server(cloud: NovaSimulation, neutron: Neutron, ports: int = 2) -> tuple[str, list[str]]:
    """Boot an instance with ports that Nova's cache has."""
    with cloud.ago(hours=3):
        instance = cloud.boot("a")
    unplug(neutron, instance)
    made = [
        neutron.add(
            device_id=instance,
            device_owner="compute:nova",
            binding_host_id="a",
            fixed_ips=[{"subnet_id": "s", "ip_address": f"10.0.0.{number}"}],
        )
        for number in range(1, ports + 1)
    ]
    remember(cloud, instance, [neutron.ports[port] for port in made])
    return instance, made


def addresses(cloud: NovaSimulation, instance: str) -> dict[str, list[str]]:
    """Return the addresses that Nova shows."""
    caches = tables.instance_info_caches
    row, _ = cloud._store.find(caches, caches.c.instance_uuid == instance)
    entries = json.loads(row.network_info)
    return {one["id"]: [ip["address"] for ip in one["network"]["subnets"][0]["ips"]] for one in entries}


def test_an_entry_with_an_old_address_is_renewed(
    cloud: NovaSimulation, neutron: Neutron, healer: HealInfoCache
) -> None:
    instance, (first, second) = server(cloud, neutron)
    assert swept(healer) == set()
    neutron.change(first, fixed_ips=NEW)
    assert swept(healer) == {instance_key(instance)}
    assert heal_only(healer, instance_key(instance)).problem == "cache-outdated"
    assert addresses(cloud, instance) == {first: ["10.0.0.9"], second: ["10.0.0.2"]}
    assert swept(healer) == set()


def test_a_port_that_the_cache_lacks_is_added(cloud: NovaSimulation, neutron: Neutron, healer: HealInfoCache) -> None:
    instance, ports = server(cloud, neutron)
    more = [neutron.add(device_id=instance, device_owner="compute:nova", binding_host_id="a") for _ in range(2)]
    assert len(heal_all(healer, instance_key(instance))) == 2
    assert set(addresses(cloud, instance)) == {*ports, *more}


def test_the_finding_names_write_and_objects(cloud: NovaSimulation, neutron: Neutron, healer: HealInfoCache) -> None:
    instance, (first, _) = server(cloud, neutron)
    neutron.change(first, fixed_ips=NEW)
    [finding] = healer.inspect(instance_key(instance))
    assert finding.plan.startswith("compute: POST /os-server-external-events ")
    assert '"name": "network-changed"' in finding.plan
    assert finding.undo.startswith("none: ")
    assert {"host:a", f"project:{cloud.PROJECT}", "cell:cell1", f"instance:{instance}"} <= finding.concerns
    assert json.loads(json.dumps(finding.evidence)) == finding.evidence


# no heals


@pytest.mark.parametrize(
    "values",
    [{"vm_state": "building"}, {"vm_state": "shelved_offloaded", "host": None}, {"deleted": 1}],
)
def test_an_instance_in_another_state(
    cloud: NovaSimulation, neutron: Neutron, healer: HealInfoCache, values: dict[str, Any]
) -> None:
    instance, (first, _) = server(cloud, neutron)
    with cloud.ago(hours=2):
        cloud.set_instance(instance, **values)
    neutron.change(first, fixed_ips=NEW)
    assert swept(healer) == set()
    assert not list(healer.inspect(instance_key(instance)))


@pytest.mark.parametrize("values", [{"task_state": "rebooting"}, {}])
def test_an_instance_that_nova_just_changed(
    cloud: NovaSimulation, neutron: Neutron, healer: HealInfoCache, values: dict[str, Any]
) -> None:
    instance, (first, _) = server(cloud, neutron)
    cloud.set_instance(instance, **values)
    neutron.change(first, fixed_ips=NEW)
    with pytest.raises(InFlight):
        list(healer.inspect(instance_key(instance)))


def test_an_entry_with_other_values_that_nova_does_not_copy(
    cloud: NovaSimulation, neutron: Neutron, healer: HealInfoCache
) -> None:
    instance, (first, _) = server(cloud, neutron)
    neutron.change(first, name="new", status="ACTIVE", binding_profile={"x": 1})
    assert swept(healer) == set()
    assert not list(healer.inspect(instance_key(instance)))


def test_ports_on_other_hosts_and_of_other_owners(
    cloud: NovaSimulation, neutron: Neutron, healer: HealInfoCache
) -> None:
    instance, (first, _) = server(cloud, neutron)
    neutron.change(first, fixed_ips=NEW, binding_host_id="b")
    neutron.add(device_id=instance, device_owner="network:dhcp", binding_host_id="a")
    assert not list(healer.inspect(instance_key(instance)))


def test_a_copy_in_another_cell(cloud: NovaSimulation, neutron: Neutron, healer: HealInfoCache) -> None:
    instance, (first, _) = server(cloud, neutron)
    neutron.change(first, fixed_ips=NEW)
    row = {**cloud.instance(instance)._mapping, "hidden": True}
    with cloud.cells["cell2"].begin() as connection:
        connection.execute(sa.insert(tables.instances).values(row))
    assert not list(healer.inspect(instance_key(instance)))


# what is reported


def test_an_empty_cache(cloud: NovaSimulation, neutron: Neutron, healer: HealInfoCache) -> None:
    instance, _ = server(cloud, neutron, ports=1)
    remember(cloud, instance, [])
    assert swept(healer) == {instance_key(instance)}
    [finding] = healer.inspect(instance_key(instance))
    assert refused(healer, finding).problem == "cache-empty"


def test_an_entry_of_a_port_that_is_gone(cloud: NovaSimulation, neutron: Neutron, healer: HealInfoCache) -> None:
    instance, (first, second) = server(cloud, neutron)
    del neutron.ports[first]
    assert swept(healer) == {instance_key(instance)}
    [finding] = healer.inspect(instance_key(instance))
    assert refused(healer, finding).problem == "cache-names-lost-port"
    assert set(addresses(cloud, instance)) == {first, second}


@pytest.mark.parametrize("values", [{"binding_vif_type": "binding_failed"}, {"binding_vnic_type": "macvtap"}])
def test_an_entry_that_would_break_the_next_start(
    cloud: NovaSimulation, neutron: Neutron, healer: HealInfoCache, values: dict[str, str]
) -> None:
    instance, (first, _) = server(cloud, neutron)
    neutron.change(first, **values)
    [finding] = healer.inspect(instance_key(instance))
    assert refused(healer, finding).problem == "cache-outdated"


# what changes in between, and what does not answer


def test_a_heal_counts_only_when_the_cache_is_right(
    cloud: NovaSimulation, neutron: Neutron, healer: HealInfoCache, compute: Compute
) -> None:
    instance, (first, _) = server(cloud, neutron)
    neutron.change(first, fixed_ips=NEW)
    [finding] = healer.inspect(instance_key(instance))
    compute.neutron = None
    with pytest.raises(Unfinished, match="nova-compute on a"):
        healer.heal(finding)
    assert addresses(cloud, instance)[first] == ["10.0.0.1"]


def test_a_port_that_changes_meanwhile(cloud: NovaSimulation, neutron: Neutron, healer: HealInfoCache) -> None:
    instance, (first, _) = server(cloud, neutron)
    neutron.change(first, fixed_ips=NEW)
    [finding] = healer.inspect(instance_key(instance))
    neutron.change(first, fixed_ips=[])
    with pytest.raises(Conflict):
        healer.heal(finding)
    assert addresses(cloud, instance)[first] == ["10.0.0.1"]


def test_an_instance_that_is_deleted_before_the_event_arrives(
    cloud: NovaSimulation, neutron: Neutron, healer: HealInfoCache, compute: Compute
) -> None:
    instance, (first, _) = server(cloud, neutron)
    neutron.change(first, fixed_ips=NEW)
    [finding] = healer.inspect(instance_key(instance))
    compute.before["POST"] = lambda _: cloud.delete(instance)
    with pytest.raises(Conflict):
        healer.heal(finding)


@pytest.mark.parametrize(("status", "error"), [(400, Refused), (403, Unavailable), (503, Unavailable)])
def test_nova_refuses_the_event(
    cloud: NovaSimulation,
    neutron: Neutron,
    healer: HealInfoCache,
    compute: Compute,
    status: int,
    error: type[Exception],
) -> None:
    instance, (first, _) = server(cloud, neutron)
    neutron.change(first, fixed_ips=NEW)
    [finding] = healer.inspect(instance_key(instance))
    compute.faults = {"POST": status}
    with pytest.raises(error):
        healer.heal(finding)
    assert addresses(cloud, instance)[first] == ["10.0.0.1"]


def test_a_cell_that_does_not_answer_stops_the_proof(
    cloud: NovaSimulation, neutron: Neutron, healer: HealInfoCache, cut: Callable[[str], None]
) -> None:
    instance, (first, _) = server(cloud, neutron)
    neutron.change(first, fixed_ips=NEW)
    [finding] = healer.inspect(instance_key(instance))
    cut("cell2")
    with pytest.raises(Unavailable):
        healer.heal(finding)
    with pytest.raises(Unavailable):
        swept(healer)
