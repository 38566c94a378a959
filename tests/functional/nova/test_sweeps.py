"""A sweep finds every problem of hosts and mappings that an inspection can prove, without any event."""

from __future__ import annotations

import uuid
from collections.abc import Callable

import pytest
import sqlalchemy as sa

from handlers.base import Handler, Resources
from handlers.nova import tables
from handlers.nova.hosts import aggregate_rules, discovery_rules, leftover_rules
from handlers.nova.hosts.audit_providers import AuditProviders
from handlers.nova.hosts.audit_services import AuditServices
from handlers.nova.hosts.discover_hosts import DiscoverHosts
from handlers.nova.hosts.sync_aggregates import SyncAggregates
from handlers.nova.mappings import map_instances, rules, unmapped_rules
from handlers.nova.mappings.heal_instance_mappings import HealInstanceMappings
from handlers.nova.mappings.map_instances import MapInstances
from handlers.nova.simulation import NovaSimulation
from tests.functional.nova.world import archive, long_ago, purge, swept

Drift = Callable[[NovaSimulation], object]

MAPPINGS, REQUESTS = tables.instance_mappings, tables.build_requests

#: problems that only an event or an operator's key leads to, with the reason
NOT_SWEPT = {
    aggregate_rules.Problem.UNKNOWN_AGGREGATE: "operators make such aggregates in Placement, for shared storage"
}


def server(cloud: NovaSimulation, host: str = "a") -> str:
    with cloud.ago(hours=3):
        return cloud.boot(host)


def requested(cloud: NovaSimulation) -> str:
    with cloud.ago(hours=3):
        return cloud.request()


def deleted(cloud: NovaSimulation) -> str:
    with cloud.ago(hours=3):
        instance = cloud.boot("a")
        cloud.delete(instance)
    return instance


def set_mapping(cloud: NovaSimulation, instance: str, **values: object) -> None:
    with cloud.api.begin() as connection:
        connection.execute(sa.update(MAPPINGS).where(MAPPINGS.c.instance_uuid == instance).values(values))


def unmap(cloud: NovaSimulation, instance: str) -> None:
    with cloud.api.begin() as connection:
        connection.execute(sa.delete(MAPPINGS).where(MAPPINGS.c.instance_uuid == instance))


def in_cell(cloud: NovaSimulation, cell: str, instance: str, **values: object) -> None:
    row = {"uuid": instance, "project_id": "p", "host": "b", "vm_state": "active", "created_at": long_ago(), **values}
    with cloud.cells[cell].begin() as connection:
        connection.execute(sa.insert(tables.instances).values(row))


def request_again(cloud: NovaSimulation, instance: str) -> None:
    row = {"instance_uuid": instance, "project_id": "p", "instance": "{}", "created_at": long_ago()}
    with cloud.api.begin() as connection:
        connection.execute(sa.insert(REQUESTS).values(row))


def lost(cloud: NovaSimulation) -> str:
    instance = deleted(cloud)
    purge(cloud, instance)
    set_mapping(cloud, instance, updated_at=None)
    return instance


def archived(cloud: NovaSimulation) -> str:
    server(cloud)
    instance = deleted(cloud)
    archive(cloud, instance)
    return instance


def without_specification(cloud: NovaSimulation) -> None:
    instance = server(cloud)
    cloud.hold(instance, {})
    unmap(cloud, instance)
    with cloud.api.begin() as connection:
        connection.execute(sa.delete(tables.request_specs))


def without_owner(cloud: NovaSimulation) -> None:
    instance = server(cloud)
    unmap(cloud, instance)
    cloud.set_instance(instance, project_id=None)


def retire(cloud: NovaSimulation, **leak: bool) -> None:
    with cloud.ago(hours=1):
        cloud.delete_service("a", **leak)


def forget_deletions(cloud: NovaSimulation) -> None:
    """Archive and purge the deleted services and compute nodes."""
    with cloud.cells["cell1"].begin() as connection:
        for table in (tables.services, tables.compute_nodes):
            connection.execute(sa.delete(table).where(table.c.deleted != 0))


def retire_and_purge(cloud: NovaSimulation, **leak: bool) -> None:
    retire(cloud, **leak)
    forget_deletions(cloud)


def aggregate(cloud: NovaSimulation, *hosts: str, placement_ok: bool = True) -> str:
    made = cloud.create_aggregate("fast")
    for host in hosts:
        cloud.add_host_to_aggregate(made, host, placement_ok=placement_ok)
    return made


def with_unknown_host(cloud: NovaSimulation) -> None:
    aggregate(cloud)
    with cloud.api.begin() as connection:
        connection.execute(sa.insert(tables.aggregate_hosts).values(host="gone", aggregate_id=1))


def without_provider(cloud: NovaSimulation) -> None:
    aggregate(cloud, "a")
    assert cloud.placement.request("DELETE", f"/resource_providers/{cloud.node('a').uuid}").status == 204


def two_cells(cloud: NovaSimulation) -> None:
    with cloud.ago(days=1):
        cloud.register_host("a", "cell2")


def other_cell(cloud: NovaSimulation) -> None:
    with cloud.api.begin() as connection:
        connection.execute(sa.update(tables.host_mappings).where(tables.host_mappings.c.host == "a").values(cell_id=3))


def new_node(cloud: NovaSimulation) -> None:
    retire(cloud, leak_providers=True)
    with cloud.ago(minutes=30):
        cloud.register_host("a", "cell1")
    row = {"uuid": str(uuid.uuid4()), "host": "a", "hypervisor_hostname": "a", "created_at": long_ago(minutes=30)}
    with cloud.cells["cell1"].begin() as connection:
        connection.execute(sa.insert(tables.compute_nodes).values(row))


M, U, A, D, L = (
    rules.Problem,
    unmapped_rules.Problem,
    aggregate_rules.Problem,
    discovery_rules.Problem,
    leftover_rules.Problem,
)

DRIFTS: dict[tuple[type[Handler], str], Drift] = {
    (HealInstanceMappings, M.WITHOUT_CELL): lambda cloud: set_mapping(cloud, server(cloud), cell_id=None),
    (HealInstanceMappings, M.STALE_REQUEST): lambda cloud: request_again(cloud, server(cloud)),
    (HealInstanceMappings, M.WRONG_MARK): lambda cloud: set_mapping(cloud, server(cloud), queued_for_delete=True),
    (HealInstanceMappings, M.MARKED_WITHOUT_ALLOCATION): lambda cloud: (
        instance := server(cloud),
        cloud.hold(instance, {}),
        set_mapping(cloud, instance, queued_for_delete=True),
    ),
    (HealInstanceMappings, M.LEFT_BEHIND): archived,
    (HealInstanceMappings, M.ALL_LEFT_BEHIND): lambda cloud: [archived(cloud), archived(cloud)],
    (HealInstanceMappings, M.ORPHANED): lambda cloud: set_mapping(cloud, archived(cloud), cell_id=None),
    (HealInstanceMappings, M.NOWHERE_WITH_ALLOCATION): lambda cloud: cloud.hold(
        lost(cloud), {cloud.node("a").uuid: {"VCPU": 1}}
    ),
    (HealInstanceMappings, M.BUILD_STUCK): requested,
    (HealInstanceMappings, M.REQUEST_WITHOUT_INSTANCE): lambda cloud: request_again(cloud, lost(cloud)),
    (HealInstanceMappings, M.REQUEST_WITHOUT_MAPPING): lambda cloud: unmap(cloud, requested(cloud)),
    (HealInstanceMappings, M.ROWS_WITHOUT_MAPPING): lambda cloud: unmap(cloud, lost(cloud)),
    (HealInstanceMappings, M.ELSEWHERE): lambda cloud: in_cell(cloud, "cell2", deleted(cloud)),
    (HealInstanceMappings, M.SEVERAL_CELLS): lambda cloud: in_cell(cloud, "cell2", server(cloud)),
    (HealInstanceMappings, M.ONLY_HIDDEN): lambda cloud: cloud.set_instance(deleted(cloud), hidden=True),
    (MapInstances, U.UNMAPPED): lambda cloud: unmap(cloud, server(cloud)),
    (MapInstances, U.ALL_UNMAPPED): lambda cloud: [unmap(cloud, server(cloud)) for _ in range(2)],
    (MapInstances, U.SEVERAL_CELLS): lambda cloud: (
        instance := server(cloud),
        in_cell(cloud, "cell2", instance),
        unmap(cloud, instance),
    ),
    (MapInstances, U.WITHOUT_OWNER): without_owner,
    (MapInstances, U.WITHOUT_RECORD): without_specification,
    (SyncAggregates, A.MISSING): lambda cloud: aggregate(cloud, "a", placement_ok=False),
    (SyncAggregates, A.STALE): lambda cloud: cloud.set_membership(aggregate(cloud), "a", member=True),
    (SyncAggregates, A.NO_PROVIDER): without_provider,
    (SyncAggregates, A.NO_NODE): with_unknown_host,
    (DiscoverHosts, D.UNMAPPED): lambda cloud: cloud.register_host("new", "cell1"),
    (DiscoverHosts, D.SEVERAL_CELLS): two_cells,
    (DiscoverHosts, D.ELSEWHERE): other_cell,
    (AuditServices, L.MAPPING_LEFT): lambda cloud: retire(cloud, leak_mapping=True),
    (AuditServices, L.MAPPING_UNEXPLAINED): lambda cloud: retire_and_purge(cloud, leak_mapping=True),
    (AuditServices, L.PROVIDER_LEFT): lambda cloud: retire(cloud, leak_providers=True),
    (AuditServices, L.PROVIDER_UNEXPLAINED): lambda cloud: retire_and_purge(cloud, leak_providers=True),
    (AuditProviders, "provider-uuid-wrong"): new_node,
}


@pytest.fixture(autouse=True)
def hosts(cloud: NovaSimulation) -> None:
    with cloud.ago(days=1):
        for host, cell in (("a", "cell1"), ("b", "cell2")):
            cloud.add_compute(host, cell)
            cloud.map_host(host)


@pytest.fixture(autouse=True)
def ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few instances share a key too."""
    monkeypatch.setattr(map_instances, "FEW", 1)


@pytest.mark.parametrize(("handler", "problem"), DRIFTS, ids=lambda value: getattr(value, "name", value))
def test_a_sweep_finds_the_problem(
    cloud: NovaSimulation, resources: Resources, handler: type[Handler], problem: str
) -> None:
    made = handler.from_resources(resources)
    assert not swept(made)

    DRIFTS[handler, problem](cloud)

    found = {finding.problem for key in swept(made) for finding in made.inspect(key)}
    assert problem in found


def test_every_problem_has_a_drift() -> None:
    problems = {problem for kind in (M, U, A, D, L) for problem in kind} - set(NOT_SWEPT)
    assert {problem for _, problem in DRIFTS} == problems | {"provider-uuid-wrong"}
    for handler in {handler for handler, _ in DRIFTS}:
        assert handler.healable_problems <= {problem for one, problem in DRIFTS if one is handler}
