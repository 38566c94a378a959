from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import sqlalchemy as sa

from handlers.base import Conflict, Finding, Key, Refused, Resources, Unavailable
from handlers.nova import tables
from handlers.nova.allocations.heal_allocations import HealAllocations
from handlers.nova.simulation import NovaSimulation
from handlers.nova.simulation.neutron import Neutron
from tests.functional.nova.world import heal_only, instance_key, only_refused, record_move, swept_ids, unplug

pytestmark = pytest.mark.hosts(a="cell1", b="cell1")

EGRESS, INGRESS = "NET_BW_EGR_KILOBIT_PER_SEC", "NET_BW_IGR_KILOBIT_PER_SEC"
PACKETS = "NET_PACKET_RATE_KILOPACKET_PER_SEC"
PHYSNET = "CUSTOM_PHYSNET_PHYSNET1"
HOUR = {"hours": 1}


@pytest.fixture
def heal(resources: Resources, neutron: Neutron) -> HealAllocations:
    return HealAllocations.from_resources(resources)


@pytest.fixture
def alone(resources: Resources) -> HealAllocations:
    """The same in a cloud without Neutron."""
    resources.conf.set_override("network_endpoint_override", None, "openstack")
    return HealAllocations.from_resources(resources)


@pytest.fixture
def server(cloud: NovaSimulation) -> str:
    """An instance on host a that holds nothing."""
    with cloud.ago(**HOUR):
        made = cloud.boot("a")
    cloud.hold(made, {})
    return made


@pytest.fixture
def card(cloud: NovaSimulation) -> str:
    """The only network card of host a."""
    return make_card(cloud, "a")


def make_card(cloud: NovaSimulation, host: str, name: str = "eth0", total: int = 10_000, trait: str = PHYSNET) -> str:
    made = str(uuid.uuid4())
    ask = cloud.placement.request
    body = {"uuid": made, "name": f"{host}-{name}", "parent_provider_uuid": cloud.node(host).uuid}
    assert ask("POST", "/resource_providers", body).status in {200, 201}
    ask("PUT", f"/traits/{trait}")
    inventories = {
        "resource_provider_generation": 0,
        "inventories": {name: {"total": total} for name in (EGRESS, INGRESS, PACKETS)},
    }
    assert ask("PUT", f"/resource_providers/{made}/inventories", inventories).status == 200
    traits = {"resource_provider_generation": 1, "traits": [trait]}
    assert ask("PUT", f"/resource_providers/{made}/traits", traits).status == 200
    return made


def group(resources: Mapping[str, int], trait: str = PHYSNET) -> dict[str, Any]:
    return {"id": str(uuid.uuid4()), "required": [trait], "resources": resources}


def attach(cloud: NovaSimulation, neutron: Neutron, instance: str, *groups: Mapping[str, Any], **more: Any) -> str:
    """Give an instance a port that asks for this; Nova's cache knows of it."""
    asked = {"request_groups": list(groups), "same_subtree": [one["id"] for one in groups]} if groups else None
    bound = {"device_id": instance, "device_owner": "compute:nova", "binding_host_id": "a", "resource_request": asked}
    port = neutron.add(**{**bound, **more})
    cache(cloud, instance, *[one["id"] for one in neutron.ports.values() if one["device_id"] == instance])
    return port


def cache(cloud: NovaSimulation, instance: str, *ports: str, text: str | None = None) -> None:
    said = json.dumps([{"id": port, "profile": {}} for port in ports]) if text is None else text
    caches = tables.instance_info_caches
    with cloud.cells["cell1"].begin() as connection:
        connection.execute(sa.update(caches).where(caches.c.instance_uuid == instance).values(network_info=said))


def home(cloud: NovaSimulation, instance: str) -> dict[str, dict[str, int]]:
    return {cloud.node("a").uuid: cloud.flavor(instance).resources()}


def refused_untouched(cloud: NovaSimulation, neutron: Neutron, heal: HealAllocations, instance: str) -> Finding:
    before, held = json.dumps(neutron.ports), cloud.allocation(instance)
    finding = only_refused(heal, instance_key(instance))
    assert cloud.allocation(instance) == held
    assert json.dumps(neutron.ports) == before
    return finding


def said(neutron: Neutron, port: str) -> Any:
    return neutron.ports[port]["binding:profile"].get("allocation")


# what is given


def test_bandwidth_of_the_only_card(
    cloud: NovaSimulation, neutron: Neutron, heal: HealAllocations, server: str, card: str
) -> None:
    asked = group({EGRESS: 1000, INGRESS: 2000})
    port = attach(cloud, neutron, server, asked, binding_profile={"capabilities": ["switchdev"]})
    [finding] = heal.inspect(instance_key(server))
    healed = heal.heal(finding)
    assert cloud.allocation(server) == {**home(cloud, server), card: {EGRESS: 1000, INGRESS: 2000}}
    assert neutron.ports[port]["binding:profile"] == {
        "capabilities": ["switchdev"],
        "allocation": {asked["id"]: card},
    }
    assert f"port unset --binding-profile allocation {port}" in healed.undo
    assert not list(heal.inspect(instance_key(server)))


def test_the_old_way_of_one_group_without_a_name(
    cloud: NovaSimulation, neutron: Neutron, heal: HealAllocations, server: str, card: str
) -> None:
    port = attach(cloud, neutron, server, resource_request={"resources": {EGRESS: 7}, "required": [PHYSNET]})
    heal_only(heal, instance_key(server))
    assert cloud.allocation(server) == {**home(cloud, server), card: {EGRESS: 7}}
    assert said(neutron, port) == card


def test_several_ports_and_groups(
    cloud: NovaSimulation, neutron: Neutron, heal: HealAllocations, server: str, card: str
) -> None:
    pair = group({EGRESS: 1}), group({PACKETS: 10})
    attach(cloud, neutron, server)
    first, second = attach(cloud, neutron, server, *pair), attach(cloud, neutron, server, group({EGRESS: 30}))
    heal_only(heal, instance_key(server))
    assert cloud.allocation(server) == {**home(cloud, server), card: {EGRESS: 31, PACKETS: 10}}
    assert said(neutron, first) == {one["id"]: card for one in pair}
    assert list(said(neutron, second).values()) == [card]


def test_the_flavor_wants_a_card_for_each(
    cloud: NovaSimulation, neutron: Neutron, heal: HealAllocations, server: str, card: str
) -> None:
    other = make_card(cloud, "a", "eth1", total=5)
    attach(cloud, neutron, server, group({EGRESS: 1000}))
    attach(cloud, neutron, server, group({EGRESS: 5}))
    cloud.set_flavor(server, extra_specs={"group_policy": "isolate"})
    heal_only(heal, instance_key(server))
    assert cloud.allocation(server) == {**home(cloud, server), card: {EGRESS: 1000}, other: {EGRESS: 5}}


def test_the_port_names_the_card(
    cloud: NovaSimulation, neutron: Neutron, heal: HealAllocations, server: str, card: str
) -> None:
    other, asked = make_card(cloud, "a", "eth1"), group({EGRESS: 9})
    port = attach(cloud, neutron, server, asked, binding_profile={"allocation": {asked["id"]: other}})
    revision = neutron.ports[port]["revision_number"]
    assert "ports" not in heal_only(heal, instance_key(server)).evidence
    assert cloud.allocation(server) == {**home(cloud, server), other: {EGRESS: 9}}
    assert neutron.ports[port]["revision_number"] == revision, "it said so already"


def test_the_trait_names_the_card(
    cloud: NovaSimulation, neutron: Neutron, heal: HealAllocations, server: str, card: str
) -> None:
    other = make_card(cloud, "a", "eth1", trait="CUSTOM_PHYSNET_OTHER")
    attach(cloud, neutron, server, group({EGRESS: 9}, "CUSTOM_PHYSNET_OTHER"))
    heal_only(heal, instance_key(server))
    assert cloud.allocation(server) == {**home(cloud, server), other: {EGRESS: 9}}


def test_resources_of_another_node_are_replaced(
    cloud: NovaSimulation, neutron: Neutron, heal: HealAllocations, server: str, card: str
) -> None:
    make_card(cloud, "b")
    record_move(cloud, server, "b", "failed")
    cloud.hold(server, {cloud.node("b").uuid: cloud.flavor(server).resources()})
    attach(cloud, neutron, server, group({EGRESS: 9}))
    assert heal_only(heal, instance_key(server)).problem == "wrong-provider"
    assert cloud.allocation(server) == {**home(cloud, server), card: {EGRESS: 9}}


def test_a_port_that_nova_did_not_know_of(
    cloud: NovaSimulation, neutron: Neutron, heal: HealAllocations, server: str, card: str
) -> None:
    attach(cloud, neutron, server, group({EGRESS: 9}))
    cache(cloud, server)
    heal_only(heal, instance_key(server))
    assert cloud.allocation(server) == {**home(cloud, server), card: {EGRESS: 9}}


def test_ports_that_ask_for_nothing(
    cloud: NovaSimulation, neutron: Neutron, heal: HealAllocations, server: str
) -> None:
    attach(cloud, neutron, server)
    attach(cloud, neutron, server, resource_request={"request_groups": []})
    attach(cloud, neutron, server, binding_profile={"pci_slot": "0000:01:00.1"})
    heal_only(heal, instance_key(server))
    assert cloud.allocation(server) == home(cloud, server)


def test_a_neutron_without_the_extension(
    cloud: NovaSimulation, neutron: Neutron, heal: HealAllocations, server: str
) -> None:
    neutron.extensions, neutron.hidden = set(), {"resource_request"}
    attach(cloud, neutron, server)
    heal_only(heal, instance_key(server))
    assert cloud.allocation(server) == home(cloud, server)


def test_neutron_is_asked_once_for_several_instances_whether_it_has_the_extension(
    cloud: NovaSimulation, neutron: Neutron, heal: HealAllocations, server: str
) -> None:
    neutron.extensions, neutron.hidden = set(), {"resource_request"}
    with cloud.ago(**HOUR):
        other = cloud.boot("a")
    cloud.hold(other, {})
    for one in (server, other):
        attach(cloud, neutron, one)
    asked: list[str] = []
    neutron.before["GET"] = asked.append
    assert sum(finding.weight for finding in heal.inspect(Key("host", "a"))) == 2
    assert asked.count("port-resource-request") == 1


# what cannot be told


def test_two_cards_could(
    cloud: NovaSimulation, neutron: Neutron, heal: HealAllocations, server: str, card: str
) -> None:
    make_card(cloud, "a", "eth1")
    attach(cloud, neutron, server, group({EGRESS: 9}))
    assert "several providers" in refused_untouched(cloud, neutron, heal, server).refusal


@pytest.mark.parametrize("name", [EGRESS, "NO_SUCH_CLASS"])
def test_no_card_can(
    cloud: NovaSimulation, neutron: Neutron, heal: HealAllocations, server: str, card: str, name: str
) -> None:
    make_card(cloud, "b", total=100_000)
    attach(cloud, neutron, server, group({name: 10_001}))
    finding = refused_untouched(cloud, neutron, heal, server)
    assert "no room" in finding.refusal or "rejects the query" in finding.refusal


def test_a_full_node_is_not_written_into_the_ports(
    cloud: NovaSimulation, neutron: Neutron, heal: HealAllocations, server: str, card: str
) -> None:
    cloud.hold(str(uuid.uuid4()), {cloud.node("a").uuid: {"VCPU": cloud.CAPACITY["VCPU"]}})
    attach(cloud, neutron, server, group({EGRESS: 9}))
    assert "no room" in refused_untouched(cloud, neutron, heal, server).refusal


def test_a_port_that_names_a_card_of_another_node(
    cloud: NovaSimulation, neutron: Neutron, heal: HealAllocations, server: str, card: str
) -> None:
    asked = group({EGRESS: 9})
    said = {"allocation": {asked["id"]: make_card(cloud, "b")}}
    attach(cloud, neutron, server, asked, binding_profile=said)
    assert "cannot give their resources on its node" in refused_untouched(cloud, neutron, heal, server).refusal


@pytest.mark.parametrize(
    "port",
    [
        {"binding_profile": {"allocation": "somewhere"}},
        {"binding_profile": {"arq_uuid": "x"}},
        {"resource_request": {"request_groups": [{"id": "g"}]}},
        {"resource_request": {"request_groups": [{"id": "g", "resources": {EGRESS: 0}}]}},
        {"resource_request": {"request_groups": 7}},
        {"resource_request": {"resources": {EGRESS: "many"}}},
        {
            "resource_request": {"request_groups": [{"id": "g", "resources": {EGRESS: 1}}]},
            "binding_profile": {"allocation": {"h": "p"}},
        },
    ],
)
def test_a_port_that_cannot_be_understood(
    cloud: NovaSimulation, neutron: Neutron, heal: HealAllocations, server: str, card: str, port: Mapping[str, Any]
) -> None:
    made = attach(cloud, neutron, server, **port)
    assert made in refused_untouched(cloud, neutron, heal, server).refusal


def test_a_port_that_neutron_does_not_show(
    cloud: NovaSimulation, neutron: Neutron, heal: HealAllocations, server: str
) -> None:
    attach(cloud, neutron, server)
    missing = str(uuid.uuid4())
    cache(cloud, server, *neutron.ports, missing)
    assert missing in refused_untouched(cloud, neutron, heal, server).refusal


@pytest.mark.parametrize("text", [None, "", "{", "7", '[["x"]]'])
def test_neither_neutron_nor_the_cache_knows_a_port(
    cloud: NovaSimulation, neutron: Neutron, heal: HealAllocations, server: str, text: str | None
) -> None:
    caches = tables.instance_info_caches
    unplug(neutron, server)
    with cloud.cells["cell1"].begin() as connection:
        connection.execute(sa.update(caches).values(network_info=text))
    assert "network cache" in refused_untouched(cloud, neutron, heal, server).refusal
    attach(cloud, neutron, server)
    with cloud.cells["cell1"].begin() as connection:
        connection.execute(sa.update(caches).values(network_info=text))
    heal_only(heal, instance_key(server))


# what does not answer


@pytest.mark.parametrize("status", [403, 404, 500, 503])
def test_without_neutron_no_missing_allocation_is_given(
    cloud: NovaSimulation, neutron: Neutron, heal: HealAllocations, server: str, status: int
) -> None:
    neutron.faults = {"GET": status}
    with pytest.raises(Unavailable) as error:
        list(heal.inspect(instance_key(server)))
    assert error.value.dependency == "network"
    assert cloud.allocation(server) == {}
    neutron.faults = {}
    heal_only(heal, instance_key(server))


def test_a_cloud_without_neutron(cloud: NovaSimulation, alone: HealAllocations, server: str) -> None:
    for ports in ([str(uuid.uuid4())], []):
        cache(cloud, server, *ports)
        with pytest.raises(Unavailable, match="network_endpoint_override"):
            list(alone.inspect(instance_key(server)))
    assert cloud.allocation(server) == {}


def test_a_healthy_instance_needs_no_neutron(cloud: NovaSimulation, neutron: Neutron, heal: HealAllocations) -> None:
    with cloud.ago(**HOUR):
        healthy = cloud.boot("a")
    attach(cloud, neutron, healthy)
    neutron.faults = {"GET": 500}
    assert not list(heal.inspect(instance_key(healthy)))


def test_credentials_that_do_not_show_the_requests_of_ports(
    cloud: NovaSimulation, neutron: Neutron, heal: HealAllocations, server: str
) -> None:
    attach(cloud, neutron, server)
    neutron.hidden = {"resource_request"}
    with pytest.raises(Unavailable, match="administrator"):
        list(heal.inspect(instance_key(server)))


# what changes, or dies, in between


def test_a_port_that_changes_meanwhile(
    cloud: NovaSimulation, neutron: Neutron, heal: HealAllocations, server: str, card: str
) -> None:
    first, second = (attach(cloud, neutron, server, group({EGRESS: 9})) for _ in range(2))
    [finding] = heal.inspect(instance_key(server))
    later = max(first, second)

    def change(port: str) -> None:
        if port == later:
            neutron.before.clear()
            neutron.change(port, name="new")

    neutron.before["PUT"] = change
    with pytest.raises(Conflict):
        heal.heal(finding)
    assert cloud.allocation(server) == {}
    assert said(neutron, first) is said(neutron, second) is None
    heal_only(heal, instance_key(server))


def test_the_node_fills_up_meanwhile(
    cloud: NovaSimulation, neutron: Neutron, heal: HealAllocations, server: str, card: str
) -> None:
    port = attach(cloud, neutron, server, group({EGRESS: 9}))
    [finding] = heal.inspect(instance_key(server))

    def fill(_port: str) -> None:
        neutron.before.clear()
        cloud.hold(str(uuid.uuid4()), {cloud.node("a").uuid: {"VCPU": cloud.CAPACITY["VCPU"]}})

    neutron.before["PUT"] = fill
    with pytest.raises(Refused, match="full"):
        heal.heal(finding)
    assert cloud.allocation(server) == {}
    assert said(neutron, port) is None


def test_a_claim_meanwhile_wins(
    cloud: NovaSimulation, neutron: Neutron, heal: HealAllocations, server: str, card: str
) -> None:
    port = attach(cloud, neutron, server, group({EGRESS: 9}))
    [finding] = heal.inspect(instance_key(server))

    def claim(_port: str) -> None:
        neutron.before.clear()
        cloud.hold(server, {cloud.node("b").uuid: {"VCPU": 1}})

    neutron.before["PUT"] = claim
    with pytest.raises(Conflict):
        heal.heal(finding)
    assert cloud.allocation(server) == {cloud.node("b").uuid: {"VCPU": 1}}
    assert said(neutron, port) is None


def test_an_instance_that_leaves_meanwhile(
    cloud: NovaSimulation, neutron: Neutron, heal: HealAllocations, server: str, card: str
) -> None:
    port = attach(cloud, neutron, server, group({EGRESS: 9}))
    [finding] = heal.inspect(instance_key(server))

    def leave(_port: str) -> None:
        neutron.before.clear()
        cloud.delete(server)

    neutron.before["PUT"] = leave
    with pytest.raises(Conflict):
        heal.heal(finding)
    assert cloud.allocation(server) == {}
    assert said(neutron, port) is None


def test_death_between_the_ports_and_the_allocation(
    cloud: NovaSimulation,
    neutron: Neutron,
    heal: HealAllocations,
    server: str,
    card: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is killed runs nothing more: neither the next write nor any that takes back."""
    ports = [attach(cloud, neutron, server, group({EGRESS: 9})) for _ in range(3)]
    [finding] = heal.inspect(instance_key(server))
    for alive in range(1, 4):
        with monkeypatch.context() as dying:
            _die_after(dying, neutron, alive)
            with pytest.raises(KeyboardInterrupt):
                heal.heal(finding)
        assert sum(said(neutron, port) is not None for port in ports) == alive
        assert cloud.allocation(server) == {}
        [finding] = heal.inspect(instance_key(server))
    assert {one.id for one in heal.sweep()} == {server}, "the sweep finds it again"
    heal_only(heal, instance_key(server))
    assert cloud.allocation(server) == {**home(cloud, server), card: {EGRESS: 27}}


def _die_after(patch: pytest.MonkeyPatch, neutron: Neutron, alive: int) -> None:
    """Let the process end once so many of three ports are written."""
    from handlers.access.neutron import Network
    from handlers.nova.placement import Placement

    write = Network.update

    def update(self: Network, *arguments: Any) -> Any:
        if sum(bool(port["binding:profile"]) for port in neutron.ports.values()) == alive:
            raise KeyboardInterrupt
        return write(self, *arguments)

    def die(*_arguments: Any) -> None:
        raise KeyboardInterrupt

    patch.setattr(Network, "update", update)
    patch.setattr(Placement, "replace_allocation", die)


def test_a_lost_answer_of_placement(
    cloud: NovaSimulation,
    neutron: Neutron,
    heal: HealAllocations,
    server: str,
    card: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from handlers.nova.placement import Placement

    port, write = attach(cloud, neutron, server, group({EGRESS: 9})), Placement.replace_allocation
    [finding] = heal.inspect(instance_key(server))

    def lose(self: Placement, *arguments: Any) -> None:
        write(self, *arguments)
        raise Unavailable("placement", "lost")

    monkeypatch.setattr(Placement, "replace_allocation", lose)
    with pytest.raises(Unavailable):
        heal.heal(finding)
    assert said(neutron, port) is not None, "the allocation may be there, and is"
    assert not list(heal.inspect(instance_key(server)))


def test_a_cut_cell_after_the_write(
    cloud: NovaSimulation,
    neutron: Neutron,
    heal: HealAllocations,
    server: str,
    card: str,
    cut: Callable[[str], None],
) -> None:
    attach(cloud, neutron, server, group({EGRESS: 9}))
    [finding] = heal.inspect(instance_key(server))
    neutron.before["PUT"] = lambda _port: cut("cell1")
    with pytest.raises(Unavailable):
        heal.heal(finding)
    assert cloud.allocation(server) == {}, "nothing tells whether it is still entitled"


# ports that are gone


def test_bandwidth_of_a_deleted_port_is_found_by_a_sweep_and_reported(
    cloud: NovaSimulation, neutron: Neutron, heal: HealAllocations, server: str, card: str
) -> None:
    held = {**home(cloud, server), card: {EGRESS: 1000, INGRESS: 500}}
    cloud.hold(server, held)
    cache(cloud, server)
    assert swept_ids(heal) == {server}
    finding = refused_untouched(cloud, neutron, heal, server)
    assert finding.problem == "resources-of-gone-ports"
    assert f"{EGRESS} 1000 instead of 0, {INGRESS} 500 instead of 0" in finding.summary
    assert cloud.allocation(server) == held


def test_bandwidth_of_one_of_two_ports_is_reported(
    cloud: NovaSimulation, neutron: Neutron, heal: HealAllocations, server: str, card: str
) -> None:
    attach(cloud, neutron, server, group({EGRESS: 9}))
    cloud.hold(server, {**home(cloud, server), card: {EGRESS: 18}})
    assert f"{EGRESS} 18 instead of 9" in refused_untouched(cloud, neutron, heal, server).summary


def test_bandwidth_of_the_ports_there_are_is_right(
    cloud: NovaSimulation, neutron: Neutron, heal: HealAllocations, server: str, card: str
) -> None:
    asked = group({EGRESS: 9})
    port = attach(cloud, neutron, server, asked, binding_profile={"allocation": {asked["id"]: card}})
    cloud.hold(server, {**home(cloud, server), card: {EGRESS: 9}})
    assert not heal.inspect(instance_key(server))
    cache(cloud, server, text=json.dumps([{"id": port, "profile": {"allocation": {asked["id"]: card}}}]))
    assert swept_ids(heal) == set()


def test_a_sweep_without_neutron_is_incomplete_only_where_instances_have_bandwidth(
    cloud: NovaSimulation, neutron: Neutron, heal: HealAllocations, server: str, card: str
) -> None:
    neutron.faults = {"GET": 503}
    assert swept_ids(heal) == {server}
    cloud.hold(server, {**home(cloud, server), card: {EGRESS: 1000}})
    with pytest.raises(Unavailable) as error:
        swept_ids(heal)
    assert error.value.dependency == "network"


def test_without_neutron_nothing_is_known_of_bandwidth(
    cloud: NovaSimulation, alone: HealAllocations, server: str, card: str
) -> None:
    cache(cloud, server)
    cloud.hold(server, {**home(cloud, server), card: {EGRESS: 1000}})
    assert not alone.inspect(instance_key(server))
