"""Hosts: mappings to cells, aggregates, rows and providers of deleted services."""

from __future__ import annotations

import uuid

import sqlalchemy as sa

from handlers.base import Key
from handlers.nova import tables
from handlers.nova.hosts.audit_services import AuditServices
from handlers.nova.hosts.discover_hosts import DiscoverHosts
from handlers.nova.hosts.sync_aggregates import SyncAggregates
from tests.functional.nova.proofs.changes import LONG, add, alter, drop, mark_deleted, row_in, set_up
from tests.functional.nova.proofs.drift import Act, Change, Drift, Moment
from tests.functional.nova.proofs.stage import Stage
from tests.functional.nova.world import long_ago, make_provider

_AGGREGATE = "aa000000-0000-4000-8000-000000000001"


def _service_in(cell: str) -> Act:
    values = {"uuid": str(uuid.uuid4()), "binary": "nova-compute", "topic": "compute", "report_count": 1}
    return add(cell, tables.services, "host", **values)


def _node_in(cell: str) -> Act:
    def act(stage: Stage, host: str) -> None:
        add(cell, tables.compute_nodes, "host", uuid=str(uuid.uuid4()), hypervisor_hostname=host)(stage, host)

    return act


def _without_live_rows(stage: Stage, host: str) -> None:
    for table in (tables.services, tables.compute_nodes):
        mark_deleted(stage, table, "host", host)


def _without_node(stage: Stage, host: str) -> None:
    mark_deleted(stage, tables.compute_nodes, "host", host)


def _provider(stage: Stage, host: str) -> str:
    """Return the uuid of the host's provider, after its compute node has gone too."""
    return _providers(stage)[host]


def _providers(stage: Stage) -> dict[str, str]:
    listed = stage.cloud.placement.request("GET", "/resource_providers").body["resource_providers"]
    return {row["name"]: row["uuid"] for row in listed}


# discover_hosts


def _new_host(stage: Stage) -> tuple[Key, list[str]]:
    set_up(stage)
    with stage.cloud.ago(**LONG):
        stage.cloud.add_compute("new", "cell1")
    return Key("host", "new"), ["new"]


UNMAPPED = Drift(
    DiscoverHosts,
    "host-unmapped",
    _new_host,
    lambda stage, host: stage.cloud.host_mappings().get(host) == "cell1",
    frozenset({"nova_api.host_mappings", "cell1.compute_nodes"}),
    proof={
        "a live nova-compute service or compute node of the host in exactly one cell": {
            "both rows are marked as deleted": _without_live_rows,
            "both rows are gone": lambda stage, host: [
                drop(table, "host")(stage, host) for table in (tables.services, tables.compute_nodes)
            ],
        },
    },
    contradiction={
        "a mapping of the host": {
            "to the same cell": add("nova_api", tables.host_mappings, "host", cell_id=2),
            "to another cell": add("nova_api", tables.host_mappings, "host", cell_id=3),
        },
        "a service or a compute node of it in another cell": {
            "a service": _service_in("cell2"),
            "a compute node": _node_in("cell2"),
        },
    },
)


# sync_aggregates


def _aggregate(stage: Stage) -> None:
    set_up(stage)
    values = {"uuid": _AGGREGATE, "name": "fast", "created_at": long_ago()}
    stage.execute("nova_api", sa.insert(tables.aggregates).values(values))


def _lacks_membership(stage: Stage) -> tuple[Key, list[str]]:
    _aggregate(stage)
    stage.cloud.add_host_to_aggregate(_AGGREGATE, "c", placement_ok=False)
    return Key("aggregate", _AGGREGATE), ["c"]


def _kept_membership(stage: Stage) -> tuple[Key, list[str]]:
    _aggregate(stage)
    stage.cloud.add_host_to_aggregate(_AGGREGATE, "b")
    stage.cloud.set_membership(_AGGREGATE, "c", member=True)
    return Key("aggregate", _AGGREGATE), ["c"]


def _member(stage: Stage, host: str) -> bool:
    return _AGGREGATE in stage.cloud.provider_aggregates(_provider(stage, host))


def _same_uuid_in(cell: str) -> Act:
    """Add a compute node with the uuid of the host's provider on another host."""

    def act(stage: Stage, host: str) -> None:
        values = {"hypervisor_hostname": "x", "host": "x"}
        add(cell, tables.compute_nodes, "uuid", **values)(stage, _provider(stage, host))

    return act


def _joins_another(stage: Stage, host: str) -> None:
    stage.cloud._report.set_member(_provider(stage, host), str(uuid.uuid4()), True)


def _forbid_removal(stage: Stage, host: str) -> None:
    stage.options["audit"] = {"sync_aggregates_remove": False}


_OF_IRONIC = alter(tables.compute_nodes, "host", hypervisor_type="ironic")
_IN_NOVA = add("nova_api", tables.aggregate_hosts, "host", aggregate_id=1)

MEMBERSHIP_MISSING = Drift(
    SyncAggregates,
    "membership-missing",
    _lacks_membership,
    _member,
    frozenset({"placement.resource_provider_aggregates", "placement.placement_aggregates"}),
    proof={
        "the host's row in ``aggregate_hosts``": {"the row is gone": drop(tables.aggregate_hosts, "host")},
        "a live compute node of the host with the provider's uuid": {
            "the node is marked as deleted": _without_node,
            "the node has another uuid": alter(tables.compute_nodes, "host", uuid=str(uuid.uuid4())),
            "the node is of another host": alter(tables.compute_nodes, "host", host="x"),
        },
    },
    contradiction={
        "a compute node with that uuid on another host": {
            "in another cell": _same_uuid_in("cell1"),
        },
        "other aggregates of the provider than those found": {
            "it joins another one": Change(_joins_another, (Moment.BETWEEN,)),
        },
        "a node of Ironic": {"its hypervisor is Ironic": _OF_IRONIC},
    },
)

MEMBERSHIP_STALE = Drift(
    SyncAggregates,
    "membership-stale",
    _kept_membership,
    lambda stage, host: not _member(stage, host),
    frozenset({"placement.resource_provider_aggregates"}),
    options={"audit": {"sync_aggregates_remove": True}},
    proof={
        "your permission, ``[audit] sync_aggregates_remove``": {"without it": Change(_forbid_removal, tuple(Moment))},
        "an aggregate of Nova without the host of the provider's live compute node": {
            "Nova has no such aggregate": lambda stage, host: [
                stage.execute("nova_api", sa.delete(table)) for table in (tables.aggregate_hosts, tables.aggregates)
            ],
            "the node is marked as deleted": _without_node,
        },
    },
    contradiction={
        "the host in the aggregate": {"a row": _IN_NOVA},
        "a second compute node of the host": {
            "a live one": lambda stage, host: stage.cloud.report_node(host, f"{host}-2"),
        },
        "a node of Ironic": {"its hypervisor is Ironic": _OF_IRONIC},
    },
)


# audit_services


def _left_mapping(stage: Stage) -> tuple[Key, list[str]]:
    set_up(stage)
    with stage.cloud.ago(**LONG):
        stage.cloud.delete_service("a", leak_mapping=True)
    return Key("host", "a"), ["a"]


def _left_provider(stage: Stage) -> tuple[Key, list[str]]:
    set_up(stage)
    with stage.cloud.ago(**LONG):
        stage.cloud.delete_service("a", leak_providers=True)
    return Key("provider", _provider(stage, "a")), ["a"]


def _purged(stage: Stage, host: str) -> None:
    for table in (tables.services, tables.compute_nodes):
        drop(table, "host")(stage, host)


def _instance_on(cell: str) -> Act:
    def act(stage: Stage, host: str) -> None:
        row_in(cell, host=host, node=host)(stage, str(uuid.uuid4()))

    return act


def _unfinished_migration(stage: Stage, host: str) -> None:
    [instance] = [row.uuid for row in stage.cloud.live_instances() if row.host == "d"]
    values = {"uuid": str(uuid.uuid4()), "instance_uuid": instance, "status": "running", "deleted": 0}
    values |= {"source_compute": host, "source_node": host, "dest_compute": "d", "dest_node": "d"}
    stage.execute("cell1", sa.insert(tables.migrations).values(values))


def _allocation(stage: Stage, host: str) -> None:
    stage.cloud.hold(str(uuid.uuid4()), {_provider(stage, host): {"VCPU": 1}})


_ON_HOST: dict[str, Act] = {
    "an instance": _instance_on("cell1"),
    "an instance in another cell": _instance_on("cell2"),
    "an unfinished migration": _unfinished_migration,
}

MAPPING_LEFT = Drift(
    AuditServices,
    "mapping-left",
    _left_mapping,
    lambda stage, host: host not in stage.cloud.host_mappings(),
    frozenset({"nova_api.host_mappings"}),
    proof={
        "the mapping": {
            "it is gone": drop(tables.host_mappings, "host"),
            "it names another cell": alter(tables.host_mappings, "host", cell_id=3),
        },
        "a deleted or archived nova-compute service or compute node of the host in that cell": {
            "both rows are purged": _purged,
        },
    },
    contradiction={
        "a live service or compute node of the host in any cell": {
            "a service": _service_in("cell1"),
            "a service in another cell": _service_in("cell2"),
            "a compute node": _node_in("cell1"),
            "a compute node in another cell": _node_in("cell2"),
        },
        "an instance or an unfinished migration on it": _ON_HOST,
        "a mapping or a provider of the name that is younger than the deletion": {
            "a mapping": alter(tables.host_mappings, "host", created_at=long_ago(hours=1)),
            "a provider": lambda stage, host: make_provider(stage.cloud, host, {"VCPU": 4}),
        },
    },
)

PROVIDER_LEFT = Drift(
    AuditServices,
    "provider-left",
    _left_provider,
    lambda stage, host: host not in _providers(stage),
    frozenset({"placement.inventories", "placement.resource_provider_traits"}),
    proof={
        "a deleted or archived compute node with the provider's uuid": {
            "both rows are purged": _purged,
            "the node had another uuid": alter(tables.compute_nodes, "host", uuid=str(uuid.uuid4())),
        },
        "the provider without allocations and children": {
            "an allocation": _allocation,
            "a child": lambda stage, host: make_provider(stage.cloud, "card", {"VGPU": 1}, _provider(stage, host)),
            "it is gone": lambda stage, host: stage.cloud._report.delete_provider(_provider(stage, host)),
        },
    },
    contradiction={
        "a live compute node with its uuid or name": {
            "the uuid": _same_uuid_in("cell2"),
            "the name": add("cell2", tables.compute_nodes, "hypervisor_hostname", uuid=str(uuid.uuid4()), host="x"),
        },
        "a service, an instance or an unfinished migration of its host": {
            "a service": _service_in("cell1"),
            "a service in another cell": _service_in("cell2"),
            **_ON_HOST,
        },
        "a mapping of its host that is younger than the deletion": {
            "a mapping": add("nova_api", tables.host_mappings, "host", cell_id=2, created_at=long_ago(minutes=5)),
        },
        "an allocation": {"of the provider": _allocation},
    },
)

DRIFTS = (UNMAPPED, MEMBERSHIP_MISSING, MEMBERSHIP_STALE, MAPPING_LEFT, PROVIDER_LEFT)
