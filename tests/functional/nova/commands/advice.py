"""Findings that advise commands, and the state after an operator has followed the advice."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from handlers.base import Handler, Key
from handlers.nova import tables
from handlers.nova.allocations.audit_allocations import AuditAllocations
from handlers.nova.allocations.heal_allocations import HealAllocations
from handlers.nova.archive.archive_deleted_rows import ArchiveDeletedRows
from handlers.nova.devices.release_devices import ReleaseDevices
from handlers.nova.hosts.audit_providers import AuditProviders
from handlers.nova.hosts.audit_services import AuditServices
from handlers.nova.hosts.discover_hosts import DiscoverHosts
from handlers.nova.hosts.sync_aggregates import SyncAggregates
from handlers.nova.instances.audit_stuck_instances import AuditStuckInstances
from handlers.nova.mappings.heal_instance_mappings import HealInstanceMappings
from handlers.nova.mappings.map_instances import MapInstances
from handlers.nova.ports.audit_ports import AuditPorts
from tests.functional.nova.proofs.changes import (
    BUILD_REQUEST,
    LONG,
    MAPPED_TO_NO_CELL,
    MARKED,
    UNMAPPED,
    alter,
    delete_marked,
    drop,
    hold_on,
    purged,
    release,
    set_up,
)
from tests.functional.nova.proofs.stage import Stage
from tests.functional.nova.world import long_ago, make_provider

#: stand for the SQL statements of a finding: those that write, and one that reads in the cell
SQL, SELECT = "SQL", "SELECT"
_SET = "openstack resource provider allocation set"
_FREE = "openstack resource provider allocation delete"
_STOCK = "openstack resource provider inventory set"
_JOIN = "openstack resource provider aggregate set"
_LIST_CELLS = "nova-manage cell_v2 list_cells"
_DELETE_HOST = "nova-manage cell_v2 delete_host"
_DELETE_SERVER = "openstack server delete"
_EGRESS = "NET_BW_EGR_KILOBIT_PER_SEC"
_STRANGER = "5e000000-0000-4000-8000-000000000002"

#: the words that an operator puts in place of others
Words = Mapping[str, str]


@dataclass(frozen=True)
class Advice:
    """A finding, the act of the operator, and the state afterwards.

    :param source: the file below ``handlers/nova`` that names the commands
    :param runs: the commands that the operator runs, in the order of the text
    :param right: the state afterwards, from the stage, the key and the output of each command
    :param words: what the operator writes in place of words of the text
    :param first: what happens in the cloud after the first command
    :param ends: whether the finding is gone afterwards
    """

    source: str
    handler: type[Handler]
    problem: str
    build: Callable[[Stage], Key]
    runs: tuple[str, ...]
    right: Callable[[Stage, Key, Sequence[str]], bool]
    words: Callable[[Stage, Key], Words] = lambda stage, key: {}
    first: Callable[[Stage, Key], object] = lambda stage, key: None
    ends: bool = True
    database: str = "nova_api"
    options: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    state: str = ""

    def __str__(self) -> str:
        return "-".join(part for part in (self.handler.name, self.problem, self.state or self.runs[0]) if part)


def _boot(stage: Stage, host: str = "a") -> str:
    set_up(stage)
    with stage.cloud.ago(**LONG):
        return stage.cloud.boot(host)


def _insert(stage: Stage, database: str, table: sa.Table, **values: Any) -> None:
    stage.execute(database, sa.insert(table).values({"created_at": long_ago(), **values}))


def _rows(stage: Stage, database: str, table: sa.Table, column: str, value: str) -> list[Any]:
    engine = stage.cloud.api if database == "nova_api" else stage.cloud.cells[database]
    return list(stage.cloud._store.rows(engine, table, table.c[column] == value))


def _provider_named(stage: Stage, name: str) -> str:
    listed = stage.cloud.placement.request("GET", f"/resource_providers?name={name}").body["resource_providers"]
    return str(listed[0]["uuid"]) if listed else ""


def _exists(stage: Stage, provider: str) -> bool:
    return stage.cloud.placement.request("GET", f"/resource_providers/{provider}").status == 200


def _copy_node(stage: Stage, host: str, cell: str, copy: str = "") -> None:
    """Add a compute node with the uuid of a host's node to another cell, perhaps of another host."""
    node = stage.cloud.node(host)
    row = {"uuid": node.uuid, "host": copy or host, "hypervisor_hostname": node.name}
    _insert(stage, cell, tables.compute_nodes, **row)


def _map_cell_again(stage: Stage) -> None:
    """Add a second mapping of cell1."""
    [row] = _rows(stage, "nova_api", tables.cell_mappings, "name", "cell1")
    values = {**row._mapping, "id": 9, "uuid": str(uuid.uuid4()), "name": "again"}
    stage.execute("nova_api", sa.insert(tables.cell_mappings).values(values))


def _equal_urls(stage: Stage, key: Key, outputs: Sequence[str]) -> bool:
    urls = json.loads(outputs[0])
    return len(urls) == len(set(urls)) + 1


def _different_urls(stage: Stage, key: Key, outputs: Sequence[str]) -> bool:
    urls = json.loads(outputs[0])
    return len(urls) == len(set(urls)) > 1


# allocations


def _holds_nothing(stage: Stage, key: Key, outputs: Sequence[str]) -> bool:
    return not stage.cloud.allocation(key.id)


def _holds_its_flavor(stage: Stage, key: Key, outputs: Sequence[str]) -> bool:
    return stage.cloud.allocation(key.id) == {stage.cloud.node("a").uuid: stage.cloud.flavor(key.id).resources()}


def _unknown_consumer(stage: Stage) -> Key:
    set_up(stage)
    hold_on("a")(stage, _STRANGER)
    return Key("consumer", _STRANGER)


def _offloaded(stage: Stage) -> Key:
    server = _boot(stage)
    with stage.cloud.ago(**LONG):
        stage.cloud.shelve_offload(server, leak_allocation=True)
    return Key("consumer", server)


def _wrong_amounts(stage: Stage) -> Key:
    server = _boot(stage)
    hold_on("a", VCPU=2, MEMORY_MB=512, DISK_GB=1)(stage, server)
    return Key("instance", server)


def _gone_ports(stage: Stage) -> Key:
    server = _boot(stage)
    card = make_provider(stage.cloud, "card", {_EGRESS: 1000}, stage.cloud.node("a").uuid)
    stage.cloud.hold(server, {**stage.cloud.allocation(server), card: {_EGRESS: 5}})
    return Key("instance", server)


ALLOCATIONS = (
    Advice(
        "allocations/excess_rules.py",
        AuditAllocations,
        "unknown-consumer",
        _unknown_consumer,
        (_FREE,),
        _holds_nothing,
    ),
    Advice("allocations/excess_rules.py", AuditAllocations, "instance-offloaded", _offloaded, (_FREE,), _holds_nothing),
    Advice(
        "placement.py",
        HealAllocations,
        "wrong-amounts",
        _wrong_amounts,
        (_SET,),
        _holds_its_flavor,
        words=lambda stage, key: {"VCPU=2": "VCPU=1"},
    ),
    Advice(
        "allocations/missing_rules.py",
        HealAllocations,
        "resources-of-gone-ports",
        _gone_ports,
        ("openstack port list", _SET),
        lambda stage, key, outputs: len(json.loads(outputs[0])) == 1 and _holds_its_flavor(stage, key, outputs),
        words=lambda stage, key: {f"--allocation rp={_provider_named(stage, 'card')},{_EGRESS}=5 ": ""},
    ),
)

# hosts


def _copied_node(stage: Stage) -> Key:
    set_up(stage)
    aggregate = stage.cloud.create_aggregate("fast")
    stage.cloud.add_host_to_aggregate(aggregate, "a", placement_ok=False)
    _copy_node(stage, "a", "cell2", "other")
    return Key("aggregate", aggregate)


def _several_nodes(stage: Stage) -> Key:
    set_up(stage)
    with stage.cloud.ago(days=1):
        first, _ = stage.cloud.add_compute("ironic", "cell1", nodes=2)
        stage.cloud.map_host("ironic")
    aggregate = stage.cloud.create_aggregate("fast")
    stage.cloud.add_host_to_aggregate(aggregate, "a")
    stage.cloud._report.set_member(first.uuid, aggregate, member=True)
    return Key("aggregate", aggregate)


def _kept_member(stage: Stage) -> Key:
    set_up(stage)
    cloud = stage.cloud
    fast, other = cloud.create_aggregate("fast"), cloud.create_aggregate("other")
    cloud.add_host_to_aggregate(fast, "b")
    cloud.add_host_to_aggregate(other, "a")
    cloud.set_membership(fast, "a", member=True)
    return Key("aggregate", fast)


def _unknown_aggregate(stage: Stage) -> Key:
    key = _kept_member(stage)
    for table, column in ((tables.aggregate_hosts, "aggregate_id"), (tables.aggregates, "id")):
        stage.execute("nova_api", sa.delete(table).where(table.c[column] == 1))
    return key


def _only_other(stage: Stage, key: Key, outputs: Sequence[str]) -> bool:
    """Whether host a is in the aggregate ``other`` only, and Nova's rows are as before."""
    [other] = _rows(stage, "nova_api", tables.aggregates, "name", "other")
    return stage.cloud.provider_aggregates(stage.cloud.node("a").uuid) == {other.uuid}


def _member_without_node(stage: Stage) -> Key:
    set_up(stage)
    aggregate = stage.cloud.create_aggregate("fast")
    stage.cloud.add_host_to_aggregate(aggregate, "a")
    _insert(stage, "nova_api", tables.aggregate_hosts, aggregate_id=1, host="gone")
    return Key("aggregate", aggregate)


def _reborn(stage: Stage, host: str = "a", name: str = "a") -> Key:
    """Make a compute node whose name another provider has."""
    with stage.cloud.ago(**LONG):
        stage.cloud.register_host(host, "cell1")
    row = {"uuid": str(uuid.uuid4()), "host": host, "hypervisor_hostname": name}
    _insert(stage, "cell1", tables.compute_nodes, **row)
    return Key("host", host)


def _replaced(stage: Stage) -> Key:
    set_up(stage)
    with stage.cloud.ago(**LONG):
        stage.cloud.delete_service("a", leak_providers=True)
    return _reborn(stage)


def _replaced_in_use(stage: Stage) -> Key:
    server = _boot(stage)
    with stage.cloud.ago(**LONG):
        stage.cloud.delete_service("a", leak_providers=True)
    key = _reborn(stage)
    assert stage.cloud.instance(server).host == "a"
    return key


def _server(stage: Stage, host: str = "a") -> str:
    return next(str(row.uuid) for row in stage.cloud.live_instances() if row.host == host)


def _report_provider(stage: Stage, key: Key) -> None:
    """Let nova-compute make its provider."""
    node = stage.cloud.node(key.id)
    stage.cloud._report.create_provider(node.uuid, node.name, stage.cloud.CAPACITY)


def _counted_here(stage: Stage, key: Key, outputs: Sequence[str]) -> bool:
    server = _server(stage)
    held = stage.cloud.allocation(server)
    return held == {stage.cloud.node("a").uuid: stage.cloud.flavor(server).resources()} and server in outputs[1]


def _renamed_host(stage: Stage) -> Key:
    """Let host a report as a.example.org, under its hypervisor name of before."""
    _boot(stage)
    return _reborn(stage, "a.example.org", "a")


def _service(stage: Stage, host: str) -> str:
    return str(_rows(stage, "cell1", tables.services, "host", host)[0].uuid)


def _named_as_before(stage: Stage, key: Key, outputs: Sequence[str]) -> bool:
    """Whether only the service of the new name is gone; the provider and its allocations stay."""
    server, node = _server(stage), stage.cloud.node("a")
    kept = stage.cloud.allocation(server) == {node.uuid: stage.cloud.flavor(server).resources()}
    alive = [row.host for row in _rows(stage, "cell1", tables.services, "deleted", "0")]
    return kept and key.id not in alive and "a" in alive and _provider_named(stage, "a") == node.uuid


def _named_child(stage: Stage) -> Key:
    set_up(stage)
    make_provider(stage.cloud, "e", {"VGPU": 1}, stage.cloud.node("b").uuid)
    return _reborn(stage, "e", "e")


def _moved_machine(stage: Stage) -> Key:
    """Let host a run in cell2, with its old service and compute node left in cell1."""
    set_up(stage)
    with stage.cloud.ago(**LONG):
        stage.cloud.register_host("a", "cell2")
    _copy_node(stage, "a", "cell2")
    return Key("host", "a")


def _old_service(stage: Stage, key: Key) -> Words:
    [old] = _rows(stage, "cell1", tables.services, "host", "a")
    return {" ID,": f" {old.uuid},"}


def _only_in_cell2(stage: Stage, key: Key, outputs: Sequence[str]) -> bool:
    def live(cell: str) -> list[int]:
        return [row.deleted for row in _rows(stage, cell, tables.services, "host", "a")]

    return len(json.loads(outputs[0])) == 2 and live("cell2") == [0] and live("cell1") != [0]


def _two_mappings(stage: Stage) -> Key:
    set_up(stage)
    _map_cell_again(stage)
    return Key("host", "a")


def _mapped_elsewhere(stage: Stage) -> Key:
    set_up(stage)
    alter(tables.host_mappings, "host", cell_id=3)(stage, "a")
    return Key("host", "a")


def _left_in_use(stage: Stage) -> Key:
    server = _boot(stage)
    old = stage.cloud.node("a").uuid
    with stage.cloud.ago(**LONG):
        stage.cloud.delete_service("a", leak_providers=True)
    delete_marked(stage, server)
    return Key("provider", old)


def _left_with_child(stage: Stage) -> Key:
    set_up(stage)
    old = stage.cloud.node("a").uuid
    make_provider(stage.cloud, "card", {"VGPU": 1}, old)
    with stage.cloud.ago(**LONG):
        stage.cloud.delete_service("a", leak_providers=True)
    return Key("provider", old)


def _purged_host(stage: Stage) -> str:
    set_up(stage)
    old = stage.cloud.node("a").uuid
    for table in (tables.services, tables.compute_nodes):
        drop(table, "host")(stage, "a")
    return old


HOSTS = (
    Advice(
        "hosts/aggregate_rules.py",
        SyncAggregates,
        "membership-missing",
        _copied_node,
        (_LIST_CELLS,),
        _different_urls,
        ends=False,
    ),
    Advice(
        "hosts/aggregate_rules.py",
        SyncAggregates,
        "membership-stale",
        _several_nodes,
        ("openstack aggregate show",),
        lambda stage, key, outputs: json.loads(outputs[0]) == ["a"],
        words=lambda stage, key: {"NAME": "fast"},
        ends=False,
    ),
    Advice("hosts/sync_aggregates.py", SyncAggregates, "membership-stale", _kept_member, (_JOIN,), _only_other),
    Advice(
        "hosts/sync_aggregates.py",
        SyncAggregates,
        "members-of-unknown-aggregate",
        _unknown_aggregate,
        (_JOIN, _JOIN),
        _only_other,
    ),
    Advice(
        "hosts/sync_aggregates.py",
        SyncAggregates,
        "member-without-node",
        _member_without_node,
        ("openstack aggregate remove host",),
        lambda stage, key, outputs: stage.cloud.aggregate_hosts(key.id) == {"a"},
        words=lambda stage, key: {"AGGREGATE": "fast"},
    ),
    Advice(
        "hosts/audit_providers.py",
        AuditProviders,
        "provider-uuid-wrong",
        _replaced,
        ("openstack resource provider delete",),
        lambda stage, key, outputs: not _provider_named(stage, "a"),
    ),
    Advice(
        "hosts/audit_providers.py",
        AuditProviders,
        "provider-uuid-wrong",
        _replaced_in_use,
        (
            "openstack resource provider set",
            "openstack resource provider show",
            "nova-manage placement heal_allocations",
        ),
        _counted_here,
        words=lambda stage, key: {"UUID": _server(stage)},
        first=_report_provider,
        state="in-use",
    ),
    Advice(
        "hosts/audit_providers.py",
        AuditProviders,
        "provider-uuid-wrong",
        _named_child,
        ("openstack resource provider set",),
        lambda stage, key, outputs: bool(_provider_named(stage, "card")) and not _provider_named(stage, "e"),
        words=lambda stage, key: {"NAME": "card"},
        state="child",
    ),
    Advice(
        "hosts/audit_providers.py",
        AuditProviders,
        "provider-uuid-wrong",
        _renamed_host,
        ("openstack compute service list", "openstack compute service delete"),
        _named_as_before,
        words=lambda stage, key: {" ID.": f" {_service(stage, key.id)}."},
        state="renamed",
    ),
    Advice(
        "hosts/discovery_rules.py",
        DiscoverHosts,
        "host-in-several-cells",
        _moved_machine,
        ("openstack compute service list", "openstack compute service delete"),
        _only_in_cell2,
        words=_old_service,
    ),
    Advice(
        "hosts/discovery_rules.py",
        DiscoverHosts,
        "host-in-several-cells",
        _two_mappings,
        (_LIST_CELLS,),
        _equal_urls,
        ends=False,
    ),
    Advice(
        "hosts/discovery_rules.py",
        DiscoverHosts,
        "host-mapped-elsewhere",
        _mapped_elsewhere,
        (_DELETE_HOST,),
        lambda stage, key, outputs: "a" not in stage.cloud.host_mappings(),
    ),
    Advice(
        "hosts/leftover_rules.py",
        AuditServices,
        "provider-left",
        _left_in_use,
        ("openstack resource provider show",),
        lambda stage, key, outputs: len(json.loads(outputs[0])["allocations"]) == 1,
        ends=False,
    ),
    Advice(
        "hosts/leftover_rules.py",
        AuditServices,
        "provider-left",
        _left_with_child,
        ("openstack resource provider delete",),
        lambda stage, key, outputs: _exists(stage, key.id) and not _provider_named(stage, "card"),
        words=lambda stage, key: {"UUID": _provider_named(stage, "card")},
        ends=False,
    ),
    Advice(
        "hosts/leftover_rules.py",
        AuditServices,
        "provider-unexplained",
        lambda stage: Key("provider", _purged_host(stage)),
        ("openstack resource provider delete",),
        lambda stage, key, outputs: not _exists(stage, key.id),
    ),
    Advice(
        "hosts/leftover_rules.py",
        AuditServices,
        "mapping-unexplained",
        lambda stage: Key("host", "a" if _purged_host(stage) else ""),
        (_DELETE_HOST,),
        lambda stage, key, outputs: "a" not in stage.cloud.host_mappings(),
    ),
)

# mappings


def _requested(stage: Stage) -> str:
    set_up(stage)
    with stage.cloud.ago(**LONG):
        return stage.cloud.request()


def _build_stuck(stage: Stage) -> Key:
    server = _requested(stage)
    hold_on("a")(stage, server)
    return Key("instance", server)


def _request_without_instance(stage: Stage) -> Key:
    server = _requested(stage)
    alter(tables.instance_mappings, "instance_uuid", cell_id=2)(stage, server)
    return Key("instance", server)


def _lost(stage: Stage, *changes: Callable[[Stage, str], object]) -> Key:
    """Make an instance whose row is gone."""
    server = _boot(stage)
    for change in (purged, *changes):
        change(stage, server)
    return Key("instance", server)


def _dead_cell(stage: Stage) -> Key:
    """Make an archived instance in a cell without a live one."""
    server = _boot(stage, "c")
    with stage.cloud.ago(**LONG):
        stage.cloud.delete(server)
    _insert(stage, "cell2", tables.shadow_instances, id=77, uuid=server, deleted=1, hidden=False)
    purged(stage, server)
    for row in stage.cloud.live_instances():
        if row.host == "c":
            purged(stage, row.uuid)
    return Key("instance", server)


def _marked(stage: Stage) -> Key:
    server = _boot(stage)
    MARKED(stage, server)
    release(stage, server)
    return Key("instance", server)


def _in_two_cells(stage: Stage) -> Key:
    server = _boot(stage)
    _map_cell_again(stage)
    return Key("instance", server)


def _unmapped_in_two_cells(stage: Stage) -> Key:
    key = _in_two_cells(stage)
    UNMAPPED(stage, key.id)
    return key


def _without_record(stage: Stage) -> Key:
    server = _boot(stage)
    UNMAPPED(stage, server)
    release(stage, server)
    drop(tables.request_specs, "instance_uuid")(stage, server)
    return Key("instance", server)


def _forgotten(stage: Stage, key: Key, outputs: Sequence[str]) -> bool:
    """Whether nova_api has no row of the instance, and still the rows of the others."""
    of_instance = (tables.instance_mappings, tables.request_specs, tables.build_requests)
    left = [_rows(stage, "nova_api", table, "instance_uuid", key.id) for table in of_instance]
    return not any(left) and len(stage.cloud._store.rows(stage.cloud.api, tables.request_specs)) == 2


def _request_without_mapping(stage: Stage) -> Key:
    return _lost(stage, release, UNMAPPED, BUILD_REQUEST)


def _mappings_advice(problem: str, build: Callable[[Stage], Key], *runs: str, **more: Any) -> Advice:
    return Advice("mappings/rules.py", HealInstanceMappings, problem, build, runs, **more)


MAPPINGS = (
    _mappings_advice(
        "build-stuck",
        _build_stuck,
        _DELETE_SERVER,
        right=lambda stage, key, outputs: not stage.cloud.build_requests() and not stage.cloud.allocation(key.id),
    ),
    Advice(
        "mappings/findings.py",
        HealInstanceMappings,
        "request-without-instance",
        _request_without_instance,
        (SQL,),
        _forgotten,
    ),
    _mappings_advice("request-without-mapping", _request_without_mapping, SQL, right=_forgotten),
    _mappings_advice("mapping-orphaned", lambda stage: _lost(stage, release, MAPPED_TO_NO_CELL), SQL, right=_forgotten),
    _mappings_advice("mapping-left-behind", lambda stage: _lost(stage, release), SELECT, SQL, right=_forgotten),
    _mappings_advice(
        "mapping-left-behind",
        _dead_cell,
        _LIST_CELLS,
        SQL,
        right=lambda stage, key, outputs: (
            _different_urls(stage, key, outputs)
            and not _rows(stage, "nova_api", tables.instance_mappings, "instance_uuid", key.id)
        ),
    ),
    _mappings_advice("nowhere-but-holding", _lost, _FREE, right=_holds_nothing),
    _mappings_advice(
        "marked-without-allocation",
        _marked,
        _DELETE_SERVER,
        right=lambda stage, key, outputs: bool(stage.cloud.instance(key.id).deleted),
    ),
    _mappings_advice("instance-in-several-cells", _in_two_cells, _LIST_CELLS, right=_equal_urls, ends=False),
    Advice(
        "mappings/unmapped_rules.py",
        MapInstances,
        "unmapped-in-several-cells",
        _unmapped_in_two_cells,
        (_LIST_CELLS,),
        _equal_urls,
        ends=False,
    ),
    Advice(
        "mappings/map_instances.py",
        MapInstances,
        "unmapped-without-record",
        _without_record,
        (SQL,),
        lambda stage, key, outputs: stage.cloud.instance_mapping(key.id) == "cell1",
    ),
)

# instances


def _build_without_host(stage: Stage) -> Key:
    set_up(stage)
    with stage.cloud.ago(**LONG):
        server = stage.cloud.request()
        stage.cloud.create_instance(server, "cell1")
        stage.cloud.map_instance(server, "cell1")
    return Key("instance", server)


def _deletion_without_host(stage: Stage) -> Key:
    server = _boot(stage)
    with stage.cloud.ago(**LONG):
        stage.cloud.set_instance(server, task_state="deleting", host=None, node=None)
    return Key("instance", server)


def _is_deleted(stage: Stage, key: Key, outputs: Sequence[str]) -> bool:
    return bool(stage.cloud.instance(key.id).deleted)


INSTANCES = tuple(
    Advice("instances/rules.py", AuditStuckInstances, problem, build, (_DELETE_SERVER,), _is_deleted)
    for problem, build in (
        ("build-without-host", _build_without_host),
        ("deletion-without-end", _deletion_without_host),
    )
)

# devices


def _device(stage: Stage) -> str:
    set_up(stage)
    return stage.cloud.add_device("a", "0000:81:00.0")


def _reserved_device(stage: Stage) -> Key:
    provider = _device(stage)
    stage.cloud.reserve_device(provider, 1)
    return Key("provider", provider)


def _used_device(stage: Stage) -> Key:
    provider = _device(stage)
    stage.cloud.heartbeat("a")
    with stage.cloud.ago(**LONG):
        server = stage.cloud.boot("a")
        stage.cloud.use_device(server, provider)
        stage.cloud.delete(server)
    return Key("instance", server)


def _used_device_of_a_host_that_is_down(stage: Stage) -> Key:
    key = _used_device(stage)
    stage.cloud.force_down("a")
    return key


def _free(stage: Stage, key: Key, outputs: Sequence[str]) -> bool:
    return stage.cloud.reserved(_provider_named(stage, "a_0000:81:00.0")) == 0


DEVICES = tuple(
    Advice("placement.py", ReleaseDevices, problem, build, (_STOCK,), _free, state=state)
    for problem, build, state in (
        ("reservation-unexplained", _reserved_device, "by-hand"),
        ("reservation-left", _used_device, "no-hook"),
        ("reservation-left", _used_device_of_a_host_that_is_down, "down"),
    )
)

# ports and archive


def _port_of(stage: Stage, change: Callable[[Stage, str], object], **values: Any) -> Key:
    """Make a deleted instance and its port."""
    server = _boot(stage)
    with stage.cloud.ago(**LONG):
        stage.cloud.delete(server)
    port = stage.neutron.add(device_id=server, device_owner="compute:nova", binding_host_id="a", **values)
    text = json.dumps([{"id": port, "preserve_on_delete": False}])
    alter(tables.instance_info_caches, "instance_uuid", network_info=text)(stage, server)
    change(stage, server)
    return Key("instance", server)


def _forget_network(stage: Stage, server: str) -> None:
    alter(tables.instance_info_caches, "instance_uuid", network_info=None)(stage, server)


def _no_ports(stage: Stage, key: Key, outputs: Sequence[str]) -> bool:
    return not stage.neutron.of(key.id)


def _unarchivable(stage: Stage, column: str = "uuid", kind: str = "VARCHAR(36)") -> Key:
    """Make a deleted instance, to whose uuid or id a row without a shadow table refers."""
    set_up(stage)
    with stage.cloud.ago(days=41):
        server = stage.cloud.boot("a")
    with stage.cloud.ago(days=40):
        stage.cloud.delete(server)
    definition = f"CREATE TABLE share_mapping (instance {kind} REFERENCES instances({column}))"
    stage.execute("cell1", sa.text(definition))
    for value in ("77777", getattr(stage.cloud.instance(server), column)):
        stage.execute("cell1", sa.text(f"INSERT INTO share_mapping VALUES ('{value}')"))
    return Key("instance", server) if column == "uuid" else _cell1(stage)


def _cell1(stage: Stage) -> Key:
    [row] = _rows(stage, "nova_api", tables.cell_mappings, "name", "cell1")
    return Key("cell", row.uuid)


def _other_share_stays(stage: Stage, key: Key, outputs: Sequence[str]) -> bool:
    with stage.cloud.cells["cell1"].connect() as connection:
        return [str(one) for one in connection.scalars(sa.text("SELECT instance FROM share_mapping"))] == ["77777"]


def _ports_advice(state: str, build: Callable[[Stage], Key], *runs: str, **more: Any) -> Advice:
    problem = more.pop("problem", "port-of-deleted-instance")
    return Advice("ports/rules.py", AuditPorts, problem, build, runs, state=state, **more)


PORTS = (
    _ports_advice(
        "show",
        lambda stage: _port_of(stage, purged),
        "openstack port show",
        problem="port-of-unknown-instance",
        right=lambda stage, key, outputs: json.loads(outputs[0])["device_id"] == key.id,
        ends=False,
    ),
    _ports_advice(
        "device",
        lambda stage: _port_of(stage, lambda *_: None, **{"binding:profile": {"arq_uuid": _STRANGER, "x": 1}}),
        "openstack accelerator arq delete",
        "openstack port unset",
        right=lambda stage, key, outputs: (
            [stage.neutron.ports[one]["binding:profile"] for one in stage.neutron.of(key.id)] == [{"x": 1}]
        ),
        ends=False,
    ),
    _ports_advice("unknown", lambda stage: _port_of(stage, _forget_network), "openstack port delete", right=_no_ports),
    _ports_advice(
        "unbind",
        lambda stage: _port_of(stage, _forget_network),
        "openstack port unset",
        right=lambda stage, key, outputs: not stage.neutron.of(key.id) and len(stage.neutron.of("")) == 1,
    ),
    _ports_advice(
        "made-by-nova", lambda stage: _port_of(stage, lambda *_: None), "openstack port delete", right=_no_ports
    ),
)


def _archive_advice(state: str, build: Callable[[Stage], Key]) -> Advice:
    return Advice(
        "archive/archive_deleted_rows.py",
        ArchiveDeletedRows,
        "row-unarchivable",
        build,
        (SQL,),
        _other_share_stays,
        database="cell1",
        options={"audit": {"archive_deleted_rows_after_days": 30}},
        state=state,
    )


def _host_that_never_returns(stage: Stage) -> Key:
    set_up(stage)
    with stage.cloud.ago(days=50):
        server = stage.cloud.boot("a")
        stage.cloud.heartbeat("a")
    with stage.cloud.ago(days=40):
        stage.cloud.delete(server)
    return Key("instance", server)


def _service_of_a(stage: Stage) -> str:
    [service] = _rows(stage, "cell1", tables.services, "host", "a")
    return str(service.uuid)


def _can_be_archived(stage: Stage, key: Key, outputs: Sequence[str]) -> bool:
    with stage.handler(ArchiveDeletedRows) as handler:
        return [finding.healable for finding in handler.inspect(key)] == [True]


ARCHIVE = (
    Advice(
        "archive/cycle.py",
        ArchiveDeletedRows,
        "rows-to-archive",
        _host_that_never_returns,
        ("openstack compute service delete",),
        _can_be_archived,
        words=lambda stage, key: {"ID": _service_of_a(stage)},
        ends=False,
        options={"audit": {"archive_deleted_rows_after_days": 30}},
    ),
    _archive_advice("uuid", _unarchivable),
    _archive_advice("id", lambda stage: _unarchivable(stage, "id", "INTEGER")),
)

ADVICE = (*ALLOCATIONS, *HOSTS, *MAPPINGS, *INSTANCES, *DEVICES, *PORTS, *ARCHIVE)

#: Commands that a finding names as its undo; ``test_undo.py`` runs them.
UNDO = (
    ("allocations/audit_migrations.py", _FREE),
    ("allocations/batches.py", _FREE),
    ("allocations/heal_allocations.py", _FREE),
    ("allocations/port_allocations.py", "openstack port unset"),
    ("attachments/audit_attachments.py", "nova-manage volume_attachment get_connector"),
    ("attachments/audit_attachments.py", "nova-manage volume_attachment refresh"),
    ("hosts/audit_services.py", "openstack resource provider create"),
    ("hosts/discover_hosts.py", _DELETE_HOST),
    ("mappings/map_instances.py", SQL),
    ("ports/audit_ports.py", "openstack port create"),
    ("ports/audit_ports.py", "openstack port set"),
)
