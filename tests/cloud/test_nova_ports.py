"""Ports beside a real Nova and a real Neutron: left behind for real, freed, and given back what they ask of Placement."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from keystoneauth1 import adapter

from handlers.access.cloud import Service
from handlers.access.neutron import HOST, PROFILE, Network, Port
from handlers.base import Conflict, Unavailable
from handlers.nova.simulation.neutron import Neutron
from tests.cloud.control_plane import ControlPlane, wait_until
from tests.program import Program, only

#: under which Neutron's Open vSwitch driver makes the ids of providers (``resource_provider_uuid5_namespace``)
OPENVSWITCH = uuid.UUID("87ee7d5c-73bb-11e8-9008-c4d987b2a692")
EGRESS, INGRESS = "NET_BW_EGR_KILOBIT_PER_SEC", "NET_BW_IGR_KILOBIT_PER_SEC"
TRAITS = ("CUSTOM_PHYSNET_PHYSNET1", "CUSTOM_VNIC_TYPE_NORMAL")


@dataclass(frozen=True)
class Wires:
    """A network of the real cloud, and who may do everything to its ports."""

    cloud: ControlPlane
    nova: Any
    network: str

    def port(self, **more: Any) -> str:
        """Make a port as a user does."""
        made: str = self.cloud.admin.network.create_port(network_id=self.network, **more).id
        return made

    def show(self, port: str) -> dict[str, Any] | None:
        """Return a port as it is, or None."""
        response = self.nova.network.get(f"/ports/{port}", raise_exc=False)
        return response.json()["port"] if response.status_code == 200 else None

    def device(self, port: str) -> str:
        """Return the instance that a port says it is of."""
        shown = self.show(port)
        assert shown is not None
        return str(shown["device_id"])

    def placement(self, method: str, url: str, body: Any = None) -> Any:
        """Ask Placement."""
        headers = {"OpenStack-API-Version": "placement 1.36"}
        response = self.nova.placement.request(url, method, json=body, headers=headers, raise_exc=False)
        assert response.ok, response.text
        return response.json() if response.content else {}

    def held(self, consumer: str) -> dict[str, dict[str, int]]:
        """Return what a consumer holds, by provider."""
        found = self.placement("GET", f"/allocations/{consumer}")["allocations"]
        return {provider: held["resources"] for provider, held in found.items()}

    def age(self, server: str, cell: str = "cell1") -> None:
        """Let it be an hour since an instance was last changed; nobody waits for that."""
        times = ["created_at", "updated_at", "deleted_at"]
        earlier = ", ".join(f"{name} = {name} - INTERVAL 1 HOUR" for name in times)
        self.cloud.mariadb.execute(f"UPDATE instances SET {earlier} WHERE uuid = '{server}'", f"nova_{cell}")


@pytest.fixture(scope="module")
def wires(cloud: ControlPlane) -> Wires:
    made = cloud.admin.network.create_network(
        name="wires", provider_network_type="vlan", provider_physical_network="physnet1"
    )
    cloud.admin.network.create_subnet(network_id=made.id, ip_version=4, cidr="10.9.0.0/24")
    return Wires(cloud, cloud.connection(username="nova", project_name="service"), made.id)


@pytest.fixture
def stackmend(cloud: ControlPlane, tmp_path: Path) -> Iterator[Program]:
    with Program(tmp_path / "stackmend", options(cloud)) as program:
        yield program
        print(program.log.read_text()[-6000:] if program.log.exists() else "")


def options(cloud: ControlPlane, **audit: object) -> dict[str, dict[str, object]]:
    """Two tasks in heal mode, next to a controller."""
    tasks = ("audit_ports", "heal_allocations")
    modes = {f"{task}_{option}": value for task in tasks for option, value in (("mode", "heal"), ("interval", 0))}
    return {
        **cloud.account.options(),
        "audit": {**only(*tasks), **modes, **audit},
        "engine": {"poll_seconds": 0.2, "breaker_count": 100_000, "heals_per_hour": 0},
    }


def heal(program: Program, key: str) -> list[dict[str, Any]]:
    """Sweep, and return what was healed of a key; nothing else may be."""
    done = program.run("sweep", "-f", "json")
    assert done.returncode == 0, done.stdout + done.stderr
    lines: list[dict[str, Any]] = program.json("history", "--outcome", "healed", "--limit", "1000")
    assert {line["key"] for line in lines} <= {key}
    return lines


def leak(wires: Wires, port: str, name: str) -> str:
    """Boot a server with a port and delete it while Neutron cannot let go of that port; Nova goes on, the port stays."""
    cloud = wires.cloud
    server: str = cloud.boot(name, host="compute-1", networks=[{"port": port}]).id
    stuck = f"IF(OLD.id = '{port}' AND NEW.device_id = '', (SELECT 1 UNION SELECT 2), NEW.device_id)"
    trigger = f"CREATE TRIGGER stuck BEFORE UPDATE ON ports FOR EACH ROW SET NEW.device_id = {stuck}"
    cloud.mariadb.execute(trigger, "neutron")
    try:
        cloud.delete(server)
    finally:
        cloud.mariadb.execute("DROP TRIGGER stuck", "neutron")
    assert wires.device(port) == server, "the leak that this is about did not happen"
    return server


# what the client says of Neutron holds for the real one and for the double


def client_of(connection: Any) -> Network:
    """Return the client with somebody's credentials, on the catalogue's endpoint."""
    client = adapter.Adapter(connection.session, service_type="network", interface="public")
    return Network(Service(client, "network"))


@pytest.fixture(params=["real", "double"])
def client(request: pytest.FixtureRequest, wires: Wires) -> Iterator[tuple[Network, Callable[..., str]]]:
    """The client, and how to make a port."""
    if request.param == "real":
        yield client_of(wires.nova), wires.port
        return
    double = Neutron()
    try:
        plain = adapter.Adapter(wires.nova.session, endpoint_override=double.url)
        yield Network(Service(plain, "network")), double.add
    finally:
        double.close()


def test_ports_are_listed_in_pages(client: tuple[Network, Callable[..., str]], monkeypatch: pytest.MonkeyPatch) -> None:
    network, make = client
    monkeypatch.setattr("handlers.access.neutron.PAGE", 2)
    name = uuid.uuid4().hex
    made = [make(name=name) for _ in range(5)]
    make(name="another")
    found = list(network.ports({"name": name}, fields=("device_id",)))
    assert [port.id for port in found] == sorted(made)
    assert set(found[0].shown) == {"id", "device_id"}
    some = {port.id for port in network.ports({"id": made[:3]})}
    assert some == set(made[:3])
    assert not list(network.ports({"device_id": str(uuid.uuid4())}))


def test_a_port_is_written_at_its_revision(client: tuple[Network, Callable[..., str]]) -> None:
    network, make = client
    before = network.port(make(name="one"))
    assert before is not None
    bound = {"device_id": "x", "device_owner": "compute:nova", HOST: "compute-1", PROFILE: {"a": {"b": "c"}}}
    network.update(before, bound)
    now = network.port(before.id)
    assert now is not None
    assert (now.device, now.owner, now.host, now.profile) == ("x", "compute:nova", "compute-1", {"a": {"b": "c"}})
    for write in (lambda: network.update(before, {"name": "two"}), lambda: network.delete(before)):
        with pytest.raises(Conflict):
            write()
    freed = network.update(now, {"device_id": "", "device_owner": "", HOST: None, PROFILE: {}})
    assert (freed.device, freed.owner, freed.host, freed.profile) == ("", "", "", {})
    network.delete(freed)
    assert network.port(before.id) is None
    for write in (lambda: network.update(freed, {"name": "two"}), lambda: network.delete(freed)):
        with pytest.raises(Conflict):
            write()


def test_what_else_is_asked(client: tuple[Network, Callable[..., str]]) -> None:
    network, make = client
    port = network.port(make())
    assert port is not None
    assert network.dns_domain(port.shown["network_id"]) == ""
    assert network.has("port-resource-request")
    assert not network.has("no-such-thing")
    with pytest.raises(Unavailable):
        list(network.ports({"no_such_thing": "x"}))


def test_a_user_without_the_administrator_s_role_gets_an_error(wires: Wires, cloud: ControlPlane) -> None:
    identity: Any = cloud.admin.identity
    name = uuid.uuid4().hex
    project = identity.create_project(name=name, domain_id="default")
    user = identity.create_user(name=name, password=name, domain_id="default")
    identity.assign_project_role_to_user(project, user, identity.find_role("member"))
    theirs = cloud.connection(username=name, password=name, project_name=name)
    made = theirs.network.create_network(name=name)
    theirs.network.create_port(network_id=made.id)
    shown: list[Port] = list(client_of(theirs).ports({}))
    assert len(shown) == 1, "they see their own only, and no error"
    with pytest.raises(Unavailable, match="administrator"):
        _ = shown[0].profile


# ports of deleted instances


def test_a_port_that_nova_could_not_unbind(wires: Wires, cloud: ControlPlane, stackmend: Program) -> None:
    mine, beside = wires.port(name="mine"), wires.port(name="beside")
    lives = cloud.boot("lives", host="compute-1", networks=[{"port": beside}])
    server = leak(wires, mine, "leaves")
    wires.age(server)
    audit = stackmend.run("sweep", "--audit", "-f", "json")
    assert audit.returncode == 2, audit.stdout + audit.stderr
    assert mine in audit.stdout
    assert wires.device(mine) == server, "an audit changes nothing"
    untouched = wires.show(beside)
    [line] = heal(stackmend, f"instance:{server}")
    shown = wires.show(mine)
    assert shown is not None
    assert (shown["device_id"], shown["device_owner"], shown["binding:host_id"]) == ("", "", "")
    assert (shown["name"], shown["binding:vif_type"]) == ("mine", "unbound")
    assert wires.show(beside) == untouched
    assert line["undo"].startswith("openstack port set")
    heir = cloud.boot("heir", host="compute-1", networks=[{"port": mine}])
    assert wires.device(mine) == heir.id, "the user can use it again"
    for one in (heir, lives):
        cloud.delete(one.id)


def test_a_port_of_an_archived_instance(wires: Wires, cloud: ControlPlane, stackmend: Program) -> None:
    port = wires.port()
    server = leak(wires, port, "archived")
    cloud.nova_manage("db", "archive_deleted_rows", "--all-cells", "--until-complete")
    rows = cloud.mariadb.execute(f"SELECT 1 FROM shadow_instances WHERE uuid = '{server}'", "nova_cell1")
    assert rows.strip() == "1"
    heal(stackmend, f"instance:{server}")
    assert wires.device(port) == ""


def test_a_port_that_nova_made(wires: Wires, cloud: ControlPlane, stackmend: Program) -> None:
    """Its instance is deleted in the database only, as by somebody who was in despair; so its cache is as it was."""
    server = cloud.boot("made", host="compute-1", networks=[{"uuid": wires.network}]).id
    [port] = [one.id for one in cloud.admin.network.ports(device_id=server)]
    for table, column in (("instance_info_caches", "instance_uuid"), ("instances", "uuid")):
        gone = f"UPDATE {table} SET deleted = id, deleted_at = utc_timestamp() WHERE {column} = '{server}'"
        cloud.mariadb.execute(gone, "nova_cell1")
    wires.age(server)
    refused = stackmend.run("sweep", "-f", "json")
    assert refused.returncode == 2, refused.stdout + refused.stderr
    assert "audit_ports_delete" in refused.stdout
    assert wires.device(port) == server
    journal = {"connection": f"sqlite:///{stackmend.folder}/journal.sqlite"}
    stackmend.configure({**options(cloud, audit_ports_delete=True), "journal": journal})
    heal(stackmend, f"instance:{server}")
    assert wires.show(port) is None


@pytest.mark.timeout(1200)
def test_an_event_starts_the_heal_and_ports_in_use_stay(wires: Wires, cloud: ControlPlane, stackmend: Program) -> None:
    kept = {name: wires.port(name=name) for name in ("shelved", "resized", "stopped")}
    servers = {name: cloud.boot(name, host="compute-1", networks=[{"port": kept[name]}]) for name in kept}
    compute = cloud.admin.compute
    compute.shelve_server(servers["shelved"])
    cloud.wait_for_server(servers["shelved"].id, "SHELVED_OFFLOADED")
    compute.resize_server(servers["resized"], "small")
    cloud.wait_for_server(servers["resized"].id, "VERIFY_RESIZE")
    compute.stop_server(servers["stopped"])
    cloud.wait_for_server(servers["stopped"].id, "SHUTOFF")
    stackmend.start()
    wait_until(lambda: "runs as" in stackmend.log.read_text(), 60, "the start of stackmend")
    port = wires.port()
    server = leak(wires, port, "told")
    wait_until(lambda: wires.device(port) == "", 400, "the unbinding, a minute after the deletion")
    found: list[dict[str, Any]] = []

    def recorded() -> bool:
        found[:] = stackmend.json("history", "--key", f"instance:{server}", "--outcome", "healed")
        return bool(found)

    wait_until(recorded, 30, "the line in the history")
    assert found[0]["hint"] in {"instance.delete.end", "instance.delete.start"}
    assert {name: wires.device(kept[name]) for name in kept} == {name: servers[name].id for name in kept}
    for one in servers.values():
        cloud.delete(one.id)


# what ports ask of Placement


@pytest.fixture(scope="module")
def bandwidth(wires: Wires, cloud: ControlPlane) -> str:
    """What Neutron's agent on compute-1 would report of its bridge; the policy that asks for some of it."""
    host = "compute-1"
    [root] = wires.placement("GET", f"/resource_providers?name={host}")["resource_providers"]
    agent, bridge = str(uuid.uuid5(OPENVSWITCH, host)), str(uuid.uuid5(OPENVSWITCH, f"{host}:br-ex"))
    for made, name, parent in ((agent, "agent", root["uuid"]), (bridge, "br-ex", agent)):
        body = {"uuid": made, "name": f"{host}:{name}", "parent_provider_uuid": parent}
        wires.placement("POST", "/resource_providers", body)
    for trait in TRAITS:
        wires.placement("PUT", f"/traits/{trait}")
    inventories = {name: {"total": 10_000} for name in (EGRESS, INGRESS)}
    url, generation = f"/resource_providers/{bridge}", "resource_provider_generation"
    wires.placement("PUT", f"{url}/inventories", {generation: 0, "inventories": inventories})
    wires.placement("PUT", f"{url}/traits", {generation: 1, "traits": list(TRAITS)})
    reported = {
        "bridge_mappings": {"physnet1": "br-ex"},
        "tunnel_types": [],
        "datapath_type": "system",
        "resource_provider_bandwidths": {"br-ex": {"egress": 10_000, "ingress": 10_000}},
        "resource_provider_hypervisors": {"br-ex": host},
    }
    cloud.mariadb.execute(
        f"UPDATE agents SET configurations = '{json.dumps(reported)}' WHERE host = '{host}'", "neutron"
    )
    policy: str = cloud.admin.network.create_qos_policy(name="guaranteed").id
    cloud.admin.network.create_qos_minimum_bandwidth_rule(policy, min_kbps=1000, direction="egress")
    cloud.admin.network.create_qos_minimum_bandwidth_rule(policy, min_kbps=2000, direction="ingress")
    return policy


@pytest.mark.parametrize("forgotten", [False, True], ids=["the port says it", "the port forgot it, too"])
def test_a_lost_allocation_with_bandwidth(
    wires: Wires, cloud: ControlPlane, stackmend: Program, bandwidth: str, forgotten: bool
) -> None:
    port = wires.port(qos_policy_id=bandwidth)
    server = cloud.boot("fast", host="compute-1", networks=[{"port": port}]).id
    held, shown = wires.held(server), wires.show(port)
    assert shown is not None
    assert any(EGRESS in resources for resources in held.values())
    wires.placement("DELETE", f"/allocations/{server}")
    if forgotten:
        wires.nova.network.put(f"/ports/{port}", json={"port": {"binding:profile": {}}})
    wires.age(server)
    [line] = heal(stackmend, f"instance:{server}")
    assert wires.held(server) == held
    after = wires.show(port)
    assert after is not None
    assert after["binding:profile"] == shown["binding:profile"]
    assert (after["binding:vif_type"], after["binding:host_id"]) == ("ovs", "compute-1")
    assert ("port unset" in line["undo"]) is forgotten
    cloud.delete(server)
    assert wires.held(server) == {}


def test_without_neutron_the_heal_waits_for_it(
    wires: Wires, cloud: ControlPlane, stackmend: Program, bandwidth: str
) -> None:
    wired = cloud.boot("wired", host="compute-1", networks=[{"port": wires.port(qos_policy_id=bandwidth)}]).id
    plain = cloud.boot("plain", host="compute-1", networks=[{"port": wires.port()}]).id
    held = {server: wires.held(server) for server in (wired, plain)}
    for server in (wired, plain):
        wires.placement("DELETE", f"/allocations/{server}")
        wires.age(server)
    cloud.stop_service("neutron")
    try:
        for server in (wired, plain):
            done = stackmend.run("heal", "heal_allocations", f"instance:{server}", "-f", "json")
            assert "network" in done.stdout + done.stderr
            assert wires.held(server) == {}
    finally:
        cloud.start_service("neutron")
    for server in (wired, plain):
        stackmend.run("heal", "heal_allocations", f"instance:{server}")
        assert wires.held(server) == held[server]
        cloud.delete(server)


def test_a_server_whose_port_is_bound_nowhere_is_only_reported(
    wires: Wires, cloud: ControlPlane, stackmend: Program
) -> None:
    """So Nova leaves the port of a shelved server, which an older copy of its cell shows on its former host."""
    port = wires.port()
    server = cloud.boot("unbound", host="compute-1", networks=[{"port": port}]).id
    held = wires.held(server)
    wires.placement("DELETE", f"/allocations/{server}")
    wires.age(server)
    rebind(wires, port, "")
    assert unattested(stackmend, server)
    assert wires.held(server) == {}
    rebind(wires, port, "compute-2")
    assert unattested(stackmend, server)
    assert wires.held(server) == {}
    rebind(wires, port, "compute-1")
    [line] = heal(stackmend, f"instance:{server}")
    assert line["problem"] == "allocation-missing"
    assert wires.held(server) == held
    cloud.delete(server)


def test_a_server_without_ports_is_only_reported(wires: Wires, cloud: ControlPlane, stackmend: Program) -> None:
    server = cloud.boot("bare", host="compute-1").id
    wires.placement("DELETE", f"/allocations/{server}")
    wires.age(server)
    assert unattested(stackmend, server)
    assert wires.held(server) == {}
    cloud.delete(server)


def rebind(wires: Wires, port: str, host: str) -> None:
    """Bind a port to another host, or to none."""
    answer = wires.nova.network.put(f"/ports/{port}", json={"port": {HOST: host}})
    assert answer.ok, answer.text


def unattested(program: Program, server: str) -> bool:
    """Whether a sweep in heal mode refuses to give the server resources because of its ports."""
    done = program.run("sweep", "heal_allocations", "-f", "json")
    [line] = json.loads(done.stdout)
    found = (done.returncode, line["problem"], line["key"], line["action"])
    assert found == (2, "allocation-missing", f"instance:{server}", "refused"), done.stdout + done.stderr
    return "Neutron does not bind all of its ports" in done.stdout
