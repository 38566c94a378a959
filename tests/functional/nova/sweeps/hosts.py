"""Drift of compute hosts."""

from __future__ import annotations

import uuid

import sqlalchemy as sa

from handlers.nova import tables
from handlers.nova.hosts import aggregate_rules, audit_providers, discovery_rules, leftover_rules
from handlers.nova.hosts.audit_providers import AuditProviders
from handlers.nova.hosts.audit_services import AuditServices
from handlers.nova.hosts.discover_hosts import DiscoverHosts
from handlers.nova.hosts.sync_aggregates import SyncAggregates
from tests.functional.nova.proofs.stage import Stage
from tests.functional.nova.sweeps.drift import Drift
from tests.functional.nova.world import long_ago

A, D, L, P = aggregate_rules.Problem, discovery_rules.Problem, leftover_rules.Problem, audit_providers.Problem


def retire(stage: Stage, **leak: bool) -> None:
    with stage.cloud.ago(hours=1):
        stage.cloud.delete_service("a", **leak)


def forget_deletions(stage: Stage) -> None:
    """Archive and purge the deleted services and compute nodes."""
    with stage.cloud.cells["cell1"].begin() as connection:
        for table in (tables.services, tables.compute_nodes):
            connection.execute(sa.delete(table).where(table.c.deleted != 0))


def retire_and_purge(stage: Stage, **leak: bool) -> None:
    retire(stage, **leak)
    forget_deletions(stage)


def aggregate(stage: Stage, *hosts: str, placement_ok: bool = True) -> str:
    made = stage.cloud.create_aggregate("fast")
    for host in hosts:
        stage.cloud.add_host_to_aggregate(made, host, placement_ok=placement_ok)
    return made


def with_unknown_host(stage: Stage) -> None:
    aggregate(stage)
    with stage.cloud.api.begin() as connection:
        connection.execute(sa.insert(tables.aggregate_hosts).values(host="gone", aggregate_id=1))


def without_provider(stage: Stage) -> None:
    aggregate(stage, "a")
    assert stage.cloud.placement.request("DELETE", f"/resource_providers/{stage.cloud.node('a').uuid}").status == 204


def two_cells(stage: Stage) -> None:
    with stage.cloud.ago(days=1):
        stage.cloud.register_host("a", "cell2")


def other_cell(stage: Stage) -> None:
    with stage.cloud.api.begin() as connection:
        connection.execute(sa.update(tables.host_mappings).where(tables.host_mappings.c.host == "a").values(cell_id=3))


def new_node(stage: Stage) -> None:
    retire(stage, leak_providers=True)
    with stage.cloud.ago(minutes=30):
        stage.cloud.register_host("a", "cell1")
    row = {"uuid": str(uuid.uuid4()), "host": "a", "hypervisor_hostname": "a", "created_at": long_ago(minutes=30)}
    with stage.cloud.cells["cell1"].begin() as connection:
        connection.execute(sa.insert(tables.compute_nodes).values(row))


DRIFTS = (
    Drift(SyncAggregates, A.MISSING, lambda stage: aggregate(stage, "a", placement_ok=False)),
    Drift(SyncAggregates, A.STALE, lambda stage: stage.cloud.set_membership(aggregate(stage), "a", member=True)),
    Drift(SyncAggregates, A.NO_PROVIDER, without_provider),
    Drift(SyncAggregates, A.NO_NODE, with_unknown_host),
    Drift(
        SyncAggregates,
        A.UNKNOWN_AGGREGATE,
        lambda stage: stage.cloud.set_membership(str(uuid.uuid4()), "a", member=True),
    ),
    Drift(DiscoverHosts, D.UNMAPPED, lambda stage: stage.cloud.register_host("new", "cell1")),
    Drift(DiscoverHosts, D.SEVERAL_CELLS, two_cells),
    Drift(DiscoverHosts, D.ELSEWHERE, other_cell),
    Drift(AuditServices, L.MAPPING_LEFT, lambda stage: retire(stage, leak_mapping=True)),
    Drift(AuditServices, L.MAPPING_UNEXPLAINED, lambda stage: retire_and_purge(stage, leak_mapping=True)),
    Drift(AuditServices, L.PROVIDER_LEFT, lambda stage: retire(stage, leak_providers=True)),
    Drift(AuditServices, L.PROVIDER_UNEXPLAINED, lambda stage: retire_and_purge(stage, leak_providers=True)),
    Drift(AuditProviders, P.WRONG_UUID, new_node),
)
