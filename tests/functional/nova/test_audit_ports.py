from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa

from handlers.access.neutron import Network
from handlers.base import Conflict, Event, Finding, InFlight, Key, Refused, Resources, Unavailable
from handlers.nova import tables
from handlers.nova.ports.audit_ports import AuditPorts
from handlers.nova.simulation import NovaSimulation
from handlers.nova.simulation.neutron import Neutron
from tests.functional.nova.world import heal_only, instance_key, map_alive, only_refused

pytestmark = pytest.mark.hosts(a="cell1", c="cell2")

HOUR = {"hours": 1}


@pytest.fixture
def ports(resources: Resources, neutron: Neutron) -> AuditPorts:
    for group, options in AuditPorts.options().items():
        resources.conf.register_opts(options, group)
    return AuditPorts.from_resources(resources)


@pytest.fixture
def deleting(resources: Resources, ports: AuditPorts) -> AuditPorts:
    """The same, with what the operator has to opt in to."""
    resources.conf.set_override("audit_ports_delete", True, "audit")
    return AuditPorts.from_resources(resources)


@pytest.fixture
def gone(cloud: NovaSimulation) -> str:
    """An instance that ran, and was deleted an hour ago; its cache was emptied."""
    with cloud.ago(**HOUR):
        made = cloud.boot("a")
        cloud.delete(made)
    return made


def occupy(neutron: Neutron, instance: str, **values: Any) -> str:
    bound = {"device_id": instance, "device_owner": "compute:nova", "binding_host_id": "a", "dns_name": "web"}
    return neutron.add(**{**bound, **values})


def remember(cloud: NovaSimulation, instance: str, *vifs: dict[str, Any], text: str | None = None) -> None:
    """Let the network cache say this, whatever Nova did."""
    caches = tables.instance_info_caches
    said = json.dumps(list(vifs)) if text is None else text
    for engine in cloud.cells.values():
        with engine.begin() as connection:
            connection.execute(sa.update(caches).where(caches.c.instance_uuid == instance).values(network_info=said))


def archive(cloud: NovaSimulation, instance: str) -> None:
    with cloud.cells["cell1"].begin() as connection:
        for table, column in ((tables.instance_info_caches, "instance_uuid"), (tables.instances, "uuid")):
            shadow = tables.cell.tables[f"shadow_{table.name}"]
            mine = table.c[column] == instance
            connection.execute(sa.insert(shadow).from_select([c.name for c in table.c], sa.select(table).where(mine)))
            connection.execute(sa.delete(table).where(mine))
    with cloud.api.begin() as connection:
        connection.execute(sa.delete(tables.instance_mappings))


def swept(ports: AuditPorts) -> list[str]:
    return [found.id for found in ports.sweep()]


def refused_untouched(ports: AuditPorts, neutron: Neutron, instance: str) -> Finding:
    before = json.dumps(neutron.ports)
    finding = only_refused(ports, instance_key(instance))
    assert json.dumps(neutron.ports) == before
    return finding


# what is freed


def test_what_the_user_made_is_unbound(cloud: NovaSimulation, neutron: Neutron, ports: AuditPorts, gone: str) -> None:
    profile = {"pci_slot": "0000:81:00.1", "allocation": {"g": "p"}, "vf_num": 1, "capabilities": ["switchdev"]}
    port = occupy(neutron, gone, binding_profile=profile, name="mine")
    remember(cloud, gone, {"id": "another"}, {"id": port, "preserve_on_delete": True})
    assert swept(ports) == [gone]
    assert heal_only(ports, instance_key(gone)).problem == "port-of-deleted-instance"
    now = neutron.ports[port]
    assert (now["device_id"], now["device_owner"], now["binding:host_id"], now["dns_name"]) == ("", "", "", "")
    assert now["binding:profile"] == {"capabilities": ["switchdev"]}
    assert now["name"] == "mine"
    assert swept(ports) == []


def test_what_nova_could_not_unbind_is_unbound(neutron: Neutron, ports: AuditPorts, gone: str) -> None:
    port = occupy(neutron, gone)
    [finding] = ports.inspect(instance_key(gone))
    healed = ports.heal(finding)
    assert healed.undo == finding.undo, "it is known before the heal"
    assert neutron.ports[port]["device_id"] == ""
    for word in ("port set", gone, "compute:nova", "--host a", "--dns-name web", port):
        assert word in healed.undo
    assert healed.before["device_id"] == gone
    assert healed.after["device_id"] == ""


def test_a_name_that_is_recorded_elsewhere_stays(neutron: Neutron, ports: AuditPorts, gone: str) -> None:
    neutron.network["dns_domain"] = "example.org."
    port = occupy(neutron, gone)
    heal_only(ports, instance_key(gone))
    assert neutron.ports[port]["dns_name"] == "web"
    assert neutron.ports[port]["device_id"] == ""


def test_a_profile_without_anything_of_the_host_is_not_written(neutron: Neutron, ports: AuditPorts, gone: str) -> None:
    occupy(neutron, gone, binding_profile={"capabilities": ["switchdev"]})
    [finding] = ports.inspect(instance_key(gone))
    assert "binding:profile" not in ports.heal(finding).before, "it would take the role service"


def test_an_archived_instance(cloud: NovaSimulation, neutron: Neutron, ports: AuditPorts, gone: str) -> None:
    port = occupy(neutron, gone)
    archive(cloud, gone)
    assert swept(ports) == [gone]
    heal_only(ports, instance_key(gone))
    assert neutron.ports[port]["device_id"] == ""


def test_all_ports_of_an_instance_one_by_one(neutron: Neutron, ports: AuditPorts, gone: str) -> None:
    mine = [occupy(neutron, gone) for _ in range(5)]
    findings = list(ports.inspect(instance_key(gone)))
    assert {finding.evidence["port"] for finding in findings} == set(mine)
    for finding in findings:
        ports.heal(finding)
    assert all(neutron.ports[port]["device_id"] == "" for port in mine)


def test_a_port_that_nova_made_is_deleted_when_the_option_is_set(
    cloud: NovaSimulation, neutron: Neutron, ports: AuditPorts, gone: str, resources: Resources
) -> None:
    port, other = occupy(neutron, gone, fixed_ips=[{"subnet_id": "s", "ip_address": "10.0.0.9"}]), neutron.add()
    remember(cloud, gone, {"id": port, "preserve_on_delete": False})
    assert "audit_ports_delete" in refused_untouched(ports, neutron, gone).refusal
    resources.conf.set_override("audit_ports_delete", True, "audit")
    deleting = AuditPorts.from_resources(resources)
    [finding] = deleting.inspect(instance_key(gone))
    assert "ip-address=10.0.0.9" in deleting.heal(finding).undo
    assert set(neutron.ports) == {other}


def test_the_option_deletes_nothing_else(
    cloud: NovaSimulation, neutron: Neutron, deleting: AuditPorts, gone: str
) -> None:
    port = occupy(neutron, gone)
    remember(cloud, gone, {"id": port, "preserve_on_delete": True})
    heal_only(deleting, instance_key(gone))
    assert port in neutron.ports


# what nothing tells


@pytest.mark.parametrize("text", ["", "{", "7", "null", '[["x"]]', '[{"id": "another", "preserve_on_delete": true}]'])
def test_a_cache_without_the_port_proves_nothing(
    cloud: NovaSimulation, neutron: Neutron, deleting: AuditPorts, gone: str, text: str
) -> None:
    occupy(neutron, gone)
    remember(cloud, gone, text=text)
    assert "no record shows" in refused_untouched(deleting, neutron, gone).refusal


def test_a_cache_of_which_nova_did_not_know_yet_what_to_keep(
    cloud: NovaSimulation, neutron: Neutron, deleting: AuditPorts, gone: str
) -> None:
    port = occupy(neutron, gone)
    remember(cloud, gone, {"id": port})
    assert "no record shows" in refused_untouched(deleting, neutron, gone).refusal


def test_an_instance_that_never_ran_had_an_empty_cache_all_along(
    cloud: NovaSimulation, neutron: Neutron, deleting: AuditPorts, gone: str
) -> None:
    cloud.set_instance(gone, launched_at=None)
    with cloud.ago(**HOUR):
        cloud.set_instance(gone)
    occupy(neutron, gone)
    assert "no record shows" in refused_untouched(deleting, neutron, gone).refusal


def test_a_device_of_cyborgs(neutron: Neutron, ports: AuditPorts, gone: str) -> None:
    occupy(neutron, gone, binding_profile={"arq_uuid": "x"})
    assert "Cyborg" in refused_untouched(ports, neutron, gone).refusal


def test_an_instance_that_no_cell_knows(neutron: Neutron, deleting: AuditPorts) -> None:
    stranger = str(uuid.uuid4())
    occupy(neutron, stranger)
    assert swept(deleting) == [stranger]
    assert refused_untouched(deleting, neutron, stranger).problem == "port-of-unknown-instance"


def test_only_a_hidden_copy_was_deleted(
    cloud: NovaSimulation, neutron: Neutron, deleting: AuditPorts, gone: str
) -> None:
    with cloud.ago(**HOUR):
        cloud.set_instance(gone, hidden=True)
    occupy(neutron, gone)
    assert swept(deleting) == [gone]
    assert refused_untouched(deleting, neutron, gone).problem == "port-of-unknown-instance"


def test_an_unknown_instance_costs_one_scan_for_a_while(
    cloud: NovaSimulation, neutron: Neutron, ports: AuditPorts, monkeypatch: pytest.MonkeyPatch
) -> None:
    strangers = [str(uuid.uuid4()) for _ in range(5)]
    for stranger in strangers:
        occupy(neutron, stranger)
    asked: list[str] = []

    def listen(conn: object, cursor: object, statement: str, *rest: object) -> None:
        asked.append(statement)

    sa.event.listen(sa.Engine, "before_cursor_execute", listen)
    try:
        for _ in range(2):
            assert set(swept(ports)) == set(strangers)
            for stranger in strangers:
                assert [finding.problem for finding in ports.inspect(instance_key(stranger))] == [
                    "port-of-unknown-instance"
                ]
        scans = [statement for statement in asked if "FROM shadow_instances" in statement]
        assert len(scans) == len(cloud.cells)
        monkeypatch.setattr("handlers.nova.archived_consumers.UNKNOWN_FOR", -1.0)
        swept(ports)
        assert len([statement for statement in asked if "FROM shadow_instances" in statement]) == 2 * len(scans)
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", listen)


def test_a_deleted_instance_with_a_row_costs_no_scan(neutron: Neutron, ports: AuditPorts, gone: str) -> None:
    occupy(neutron, gone)
    asked: list[str] = []

    def listen(conn: object, cursor: object, statement: str, *rest: object) -> None:
        asked.append(statement)

    sa.event.listen(sa.Engine, "before_cursor_execute", listen)
    try:
        assert swept(ports) == [gone]
        heal_only(ports, instance_key(gone))
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", listen)
    assert not any("FROM shadow_" in statement for statement in asked)


# no heals


@pytest.mark.parametrize(
    "state",
    [
        {},
        {"vm_state": "soft-delete"},
        {"vm_state": "error"},
        {"vm_state": "deleted", "task_state": "deleting"},
        {"vm_state": "shelved_offloaded", "host": None, "node": None},
        {"vm_state": "building", "host": None},
        {"task_state": "migrating"},
    ],
)
def test_a_live_instance(cloud: NovaSimulation, neutron: Neutron, deleting: AuditPorts, state: dict[str, Any]) -> None:
    with cloud.ago(**HOUR):
        lives = cloud.boot("a")
        cloud.set_instance(lives, **state)
    occupy(neutron, lives)
    assert swept(deleting) == []
    assert not list(deleting.inspect(instance_key(lives)))


def test_an_instance_that_is_just_asked_for(cloud: NovaSimulation, neutron: Neutron, deleting: AuditPorts) -> None:
    asked = cloud.request()
    occupy(neutron, asked)
    assert swept(deleting) == []
    assert not list(deleting.inspect(instance_key(asked)))


def test_deleted_in_one_cell_and_alive_in_another(
    cloud: NovaSimulation, neutron: Neutron, deleting: AuditPorts, gone: str
) -> None:
    row = {**cloud.instance(gone)._mapping, "deleted": 0, "deleted_at": None, "hidden": True}
    with cloud.cells["cell2"].begin() as connection:
        connection.execute(sa.insert(tables.instances).values(row))
    occupy(neutron, gone)
    assert swept(deleting) == []
    assert not list(deleting.inspect(instance_key(gone)))


@pytest.mark.parametrize("archived", [False, True])
def test_deleted_in_one_cell_and_mapped_to_another_as_alive(
    cloud: NovaSimulation, neutron: Neutron, deleting: AuditPorts, gone: str, archived: bool
) -> None:
    """The instance came to cell2, and cell2 was restored from before that: the guest runs there and uses the port."""
    port = occupy(neutron, gone, binding_host_id="c")
    if archived:
        archive(cloud, gone)
    map_alive(cloud, gone, "cell2")
    assert "mapping" in refused_untouched(deleting, neutron, gone).refusal
    remember(cloud, gone, {"id": port, "preserve_on_delete": False})
    assert "mapping" in refused_untouched(deleting, neutron, gone).refusal


def test_marked_as_deleted_in_another_cell(
    cloud: NovaSimulation, neutron: Neutron, deleting: AuditPorts, gone: str
) -> None:
    port = occupy(neutron, gone)
    map_alive(cloud, gone, "cell2", queued_for_delete=True)
    heal_only(deleting, instance_key(gone))
    assert neutron.ports[port]["device_id"] == ""


def test_a_mapping_that_changes_before_the_heal(
    cloud: NovaSimulation, neutron: Neutron, deleting: AuditPorts, gone: str
) -> None:
    port = occupy(neutron, gone)
    [finding] = deleting.inspect(instance_key(gone))
    map_alive(cloud, gone, "cell2")
    with pytest.raises(Conflict):
        deleting.heal(finding)
    assert neutron.ports[port]["device_id"] == gone


@pytest.mark.parametrize("owner", ["network:dhcp", "trunk:subport", "Octavia", "", "baremetal:none"])
def test_ports_of_other_owners(neutron: Neutron, deleting: AuditPorts, gone: str, owner: str) -> None:
    occupy(neutron, gone, device_owner=owner)
    assert swept(deleting) == []
    assert not list(deleting.inspect(instance_key(gone)))


def test_deleted_a_moment_ago(cloud: NovaSimulation, neutron: Neutron, ports: AuditPorts) -> None:
    with cloud.ago(seconds=20):
        made = cloud.boot("a")
        cloud.delete(made)
    occupy(neutron, made)
    with pytest.raises(InFlight) as error:
        list(ports.inspect(instance_key(made)))
    assert 0 < error.value.after <= 41


# what changes in between


@pytest.mark.parametrize("method", ["PUT", "DELETE"])
def test_a_port_that_another_instance_takes_meanwhile(
    cloud: NovaSimulation, neutron: Neutron, deleting: AuditPorts, gone: str, method: str
) -> None:
    port, heir = occupy(neutron, gone), str(uuid.uuid4())
    remember(cloud, gone, {"id": port, "preserve_on_delete": method == "PUT"})
    [finding] = deleting.inspect(instance_key(gone))
    neutron.before[method] = lambda one: neutron.change(one, device_id=heir)
    with pytest.raises(Conflict):
        deleting.heal(finding)
    assert neutron.ports[port]["device_id"] == heir
    assert neutron.ports[port]["binding:host_id"] == "a"


def test_a_port_that_changed_since_it_was_found(neutron: Neutron, ports: AuditPorts, gone: str) -> None:
    port = occupy(neutron, gone)
    [finding] = ports.inspect(instance_key(gone))
    neutron.change(port, name="looked at")
    with pytest.raises(Conflict):
        ports.heal(finding)
    assert neutron.ports[port]["device_id"] == gone


def test_a_port_that_is_deleted_meanwhile(neutron: Neutron, ports: AuditPorts, gone: str) -> None:
    occupy(neutron, gone)
    [finding] = ports.inspect(instance_key(gone))
    neutron.before["PUT"] = neutron.ports.pop
    with pytest.raises(Conflict):
        ports.heal(finding)


def test_a_port_without_revision_is_not_changed(neutron: Neutron, ports: AuditPorts, gone: str) -> None:
    port = occupy(neutron, gone)
    neutron.hidden = {"revision_number"}
    [finding] = ports.inspect(instance_key(gone))
    with pytest.raises(Refused):
        ports.heal(finding)
    assert neutron.ports[port]["device_id"] == gone


# what does not answer


@pytest.mark.parametrize("status", [403, 404, 500, 503])
def test_neutron_does_not_answer(neutron: Neutron, ports: AuditPorts, gone: str, status: int) -> None:
    port = occupy(neutron, gone)
    [finding] = ports.inspect(instance_key(gone))
    neutron.faults = {"PUT": status} if status == 500 else {"GET": status}
    with pytest.raises(Unavailable) as error:
        ports.heal(finding)
    assert error.value.dependency == "network"
    neutron.faults = {"GET": status}
    with pytest.raises(Unavailable):
        swept(ports)
    assert neutron.ports[port]["device_id"] == gone


def test_another_service_answers(cloud: NovaSimulation, resources: Resources, ports: AuditPorts, gone: str) -> None:
    resources.conf.set_override("network_endpoint_override", cloud.placement.url, "openstack")
    resources.close()
    with pytest.raises(Unavailable, match="network_endpoint_override"):
        list(AuditPorts.from_resources(resources).inspect(instance_key(gone)))


def test_credentials_that_do_not_show_the_binding(neutron: Neutron, ports: AuditPorts, gone: str) -> None:
    occupy(neutron, gone)
    neutron.hidden = {"binding:profile", "binding:host_id"}
    with pytest.raises(Unavailable, match="administrator"):
        list(ports.inspect(instance_key(gone)))


@pytest.mark.parametrize("cell", ["cell0", "cell2"])
def test_a_cell_does_not_answer(
    cloud: NovaSimulation, neutron: Neutron, ports: AuditPorts, gone: str, cut: Callable[[str], None], cell: str
) -> None:
    port, stranger = occupy(neutron, gone), str(uuid.uuid4())
    occupy(neutron, stranger)
    cut(cell)
    found: list[Key] = []
    with pytest.raises(Unavailable):
        found.extend(ports.sweep())
    with pytest.raises(Unavailable):
        list(ports.inspect(instance_key(gone)))
    assert found == [instance_key(gone)], "a stranger may live in the cell that does not answer"
    assert neutron.ports[port]["device_id"] == gone


# sweeps and events


def test_the_ports_of_many_devices(resources: Resources, neutron: Neutron) -> None:
    devices = [str(uuid.uuid4()) for _ in range(120)]
    made = {occupy(neutron, device) for device in devices}
    neutron.add()
    found = [port.id for port in Network.from_resources(resources).ports({"device_id": devices})]
    assert len(found) == len(made)
    assert set(found) == made


def test_a_sweep_of_many(cloud: NovaSimulation, neutron: Neutron, ports: AuditPorts, monkeypatch: Any) -> None:
    monkeypatch.setattr("handlers.nova.queries.CHUNK", 3)
    with cloud.ago(**HOUR):
        servers = [cloud.boot(host) for host in ("a", "c") * 4]
        for server in servers:
            occupy(neutron, server)
            occupy(neutron, server)
        doomed = set(servers[1:6:2] + servers[4:5])
        for server in doomed:
            cloud.delete(server)
    found = swept(ports)
    assert len(found) == len(doomed)
    assert set(found) == doomed


def test_events() -> None:
    instance = str(uuid.uuid4())
    events = {trigger.event: trigger for trigger in AuditPorts.triggers}
    assert set(events) == {"instance.delete.start", "instance.delete.end"}
    for trigger in events.values():
        assert trigger.key(Event(trigger.event, {"uuid": instance})) == instance_key(instance)
