"""How many statements a heal of many objects costs Nova's databases. Run with ``-s`` to see each of them."""

from __future__ import annotations

import math
import uuid
from collections.abc import Sequence

import pytest
import sqlalchemy as sa

from handlers.access import schemas
from handlers.base import Resources
from handlers.nova import clocks, database, nodes, queries, tables
from handlers.nova.allocations import shared_looks
from handlers.nova.allocations.audit_allocations import AuditAllocations
from handlers.nova.hosts.sync_aggregates import SyncAggregates
from handlers.nova.mappings import queries as mapping_queries
from handlers.nova.mappings.heal_instance_mappings import HealInstanceMappings
from handlers.nova.mappings.map_instances import MapInstances
from handlers.nova.simulation import NovaSimulation
from tests.functional.nova.world import add_archived, long_ago
from tests.statements import counted, of_nova, table

ORPHANS = 50
MAPPINGS = 60
CELLS = ("cell0", "cell1", "cell2")


@pytest.fixture(autouse=True)
def no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let counts not depend on the speed of the machine."""
    monkeypatch.setattr(database, "CELLS_TTL", math.inf)
    monkeypatch.setattr(clocks, "APART", (math.inf, math.inf))
    monkeypatch.setattr(shared_looks, "FRESH", math.inf)
    monkeypatch.setattr(nodes, "OWN_FOR", math.inf)
    monkeypatch.setattr(schemas, "TTL", math.inf)
    monkeypatch.setattr(AuditAllocations, "confirm_after", 0.0)


def orphans_of(cloud: NovaSimulation, number: int, hosts: Sequence[str] = "ab") -> set[str]:
    with cloud.ago(hours=1):
        for one, host in enumerate(hosts):
            cloud.add_compute(host, CELLS[1 + one % 2])
        servers = {cloud.boot(hosts[one % len(hosts)]) for one in range(number)}
        for server in servers:
            cloud.delete(server, leak_allocation=True)
    return servers


def test_orphans_are_judged_together_and_healed_one_by_one(cloud: NovaSimulation, resources: Resources) -> None:
    orphans = orphans_of(cloud, ORPHANS)
    audit = AuditAllocations.from_resources(resources)
    with counted() as swept:
        keys = list(audit.sweep())
    assert {key.id for key in keys} == orphans
    with counted() as judged:
        for _look in range(2):
            found = [finding for key in keys for finding in audit.inspect_suspect(key, math.inf)]
    assert len(found) == ORPHANS
    with counted() as healed:
        for finding in found:
            audit.heal(finding)
    assert not any(cloud.allocation(orphan) for orphan in orphans)

    total = swept + judged + healed
    print(f"{of_nova(total) / ORPHANS:.2f} statements per orphan\n{table(total, ORPHANS)}")
    # Two looks: one statement for each database, and one in each cell with hosts for the findings' concerns.
    assert of_nova(judged) <= 2 * (1 + 2 * len(CELLS))
    # Each proof: one statement for each database. Once: the schemas, and whose Placement it is.
    assert of_nova(healed) <= ORPHANS * (1 + len(CELLS)) + 2 * (1 + len(CELLS))
    assert of_nova(total) < 8 * ORPHANS


def test_the_statements_of_a_sweep_of_orphans_do_not_grow_with_them(
    cloud: NovaSimulation, resources: Resources
) -> None:
    audit = AuditAllocations.from_resources(resources)

    def cost() -> tuple[int, int]:
        """Sweep, inspect twice and heal; return the statements per orphan of the heals, and of a chunk of the rest."""
        with counted() as judged:
            keys = list(audit.sweep())
            for _look in range(2):
                found = [finding for key in keys for finding in audit.inspect_suspect(key, math.inf)]
        with counted() as healed:
            for finding in found:
                audit.heal(finding)
        assert len(found) == len(keys)
        assert not any(cloud.allocation(key.id) for key in keys)
        chunks = math.ceil(len(keys) / shared_looks.CHUNK)
        return of_nova(healed) // len(keys), of_nova(judged) // chunks

    orphans_of(cloud, shared_looks.CHUNK)
    few = cost()
    orphans_of(cloud, 5 * shared_looks.CHUNK, "cdefg")
    many = cost()
    assert few[0] >= many[0] == 1 + len(CELLS)
    assert many[1] <= few[1]


def test_a_heal_of_an_aggregate_proves_only_its_members(cloud: NovaSimulation, resources: Resources) -> None:
    sync = SyncAggregates.from_resources(resources)

    def cost(number: int) -> int:
        hosts = {}
        for one in range(number):
            with cloud.ago(days=1):
                cloud.add_compute(f"host-{number}-{one}", ("cell1", "cell2")[one % 2])
            hosts[cloud.create_aggregate(f"{number}-{one}")] = f"host-{number}-{one}"
        for aggregate, host in hosts.items():
            cloud.add_host_to_aggregate(aggregate, host, placement_ok=False)
        keys = list(sync.sweep())
        assert {key.id for key in keys} == hosts.keys()
        found = [finding for key in keys for finding in sync.inspect(key)]
        with counted() as healed:
            for finding in found:
                sync.heal(finding)
        assert not list(sync.sweep())
        return of_nova(healed)

    cost(1)  # reads the schemas, and whose Placement it is
    # nova_api lists the aggregates; each cell with hosts lists the members' compute nodes.
    assert [cost(2), cost(10)] == [2 * 3, 10 * 3]


def test_mappings_of_deleted_instances_are_judged_and_deleted_together(
    cloud: NovaSimulation, resources: Resources
) -> None:
    lost = mappings_of_archived(cloud, MAPPINGS)
    healer = HealInstanceMappings.from_resources(resources)
    with counted() as found:
        [key] = healer.sweep()
        for _look in range(2):
            [finding] = healer.inspect(key)
        healed = healer.heal(finding)
    assert healed.complete
    with cloud.api.connect() as connection:
        assert lost.isdisjoint(connection.scalars(sa.select(tables.instance_mappings.c.instance_uuid)))
    print(f"{of_nova(found) / MAPPINGS:.2f} statements per mapping\n{table(found, MAPPINGS)}")
    # Three statements delete the rows of one, as the plan shows; all the others are for the range.
    assert of_nova(found) <= 3 * MAPPINGS + 70


@pytest.mark.parametrize(("handler", "queries_per_page"), [(MapInstances, 1 + 2), (HealInstanceMappings, 2 * (1 + 2))])
def test_a_page_of_a_sweep_costs_what_the_help_names(
    cloud: NovaSimulation,
    resources: Resources,
    monkeypatch: pytest.MonkeyPatch,
    handler: type[MapInstances | HealInstanceMappings],
    queries_per_page: int,
) -> None:
    """A page has two chunks; each page and each chunk costs one query."""
    monkeypatch.setattr(mapping_queries, "PAGE", 4)
    monkeypatch.setattr(queries, "CHUNK", 2)
    made = handler.from_resources(resources)
    cloud.add_compute("a", "cell1")

    def cost(instances: int) -> int:
        for _ in range(instances):
            cloud.boot("a")
        with counted() as found:
            assert not list(made.sweep())
        return of_nova(found)

    cost(0)  # reads the list of cells
    first = cost(4)
    assert cost(4) - first == queries_per_page


def mappings_of_archived(cloud: NovaSimulation, number: int) -> set[str]:
    with cloud.ago(hours=1):
        cloud.add_compute("a", "cell1")
        cloud.boot("a")
    return leave_mappings(cloud, number)


def leave_mappings(cloud: NovaSimulation, number: int) -> set[str]:
    lost = {str(uuid.uuid4()) for _ in range(number)}
    with cloud.api.begin() as connection:
        for one in sorted(lost):
            row = {"instance_uuid": one, "cell_id": 2, "project_id": "p", "queued_for_delete": True}
            connection.execute(sa.insert(tables.instance_mappings).values({**row, "created_at": long_ago()}))
            connection.execute(sa.insert(tables.request_specs).values(instance_uuid=one, spec="{}"))
    for one in lost:
        add_archived(cloud, "cell1", one)
    return lost


def test_more_mappings_cost_placement_nothing(cloud: NovaSimulation, resources: Resources) -> None:
    healer = HealInstanceMappings.from_resources(resources)
    with cloud.ago(hours=1):
        cloud.add_compute("a", "cell1")
        cloud.boot("a")

    def cost(mappings: int) -> int:
        lost = leave_mappings(cloud, mappings)
        [key] = healer.sweep()
        with counted() as found:
            for _look in range(2):
                [finding] = healer.inspect(key)
            assert healer.heal(finding).complete
        assert set(finding.evidence["mappings"]) == lost
        return found.total() - of_nova(found)

    cost(11)  # Placement and its client learn about each other
    assert cost(60) == cost(20)
