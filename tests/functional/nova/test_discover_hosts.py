from __future__ import annotations

import threading
import uuid
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa

from handlers.base import Conflict, Key, Refused, Unavailable
from handlers.nova import tables
from handlers.nova.hosts.discover_hosts import DiscoverHosts
from handlers.nova.names import HostNames
from handlers.nova.simulation import NovaSimulation
from tests.functional.nova.world import refused, swept

HOST = Key("host", "compute-1")


def marks(cloud: NovaSimulation, cell: str) -> list[int]:
    with cloud.cells[cell].begin() as connection:
        return list(connection.scalars(sa.select(tables.compute_nodes.c.mapped)))


def mapping_rows(cloud: NovaSimulation) -> list[sa.Row[Any]]:
    with cloud.api.begin() as connection:
        return list(connection.execute(sa.select(tables.host_mappings)))


def test_maps_a_host_by_its_service_before_its_node_exists(cloud: NovaSimulation, discover: DiscoverHosts) -> None:
    cloud.register_host("compute-1", "cell2")
    [finding] = discover.inspect(HOST)
    assert (finding.problem, finding.healable) == ("host-unmapped", True)

    healed = discover.heal(finding)

    assert cloud.host_mappings() == {"compute-1": "cell2"}
    [row] = mapping_rows(cloud)
    assert row.created_at is not None
    assert finding.undo == healed.undo, "the undo is known before the heal"
    assert "delete_host" in healed.undo
    assert not discover.inspect(HOST)


def test_a_missing_mark_alone_is_no_drift(cloud: NovaSimulation, discover: DiscoverHosts) -> None:
    cloud.register_host("compute-1", "cell1")
    [finding] = discover.inspect(HOST)
    discover.heal(finding)
    cloud.report_node("compute-1")
    assert marks(cloud, "cell1") == [0]
    assert not discover.inspect(HOST)
    assert not swept(discover)


def test_a_host_with_several_nodes_is_one_host(cloud: NovaSimulation, discover: DiscoverHosts) -> None:
    cloud.add_compute("compute-1", "cell1", nodes=3)
    assert list(discover.sweep()) == [HOST]
    [finding] = discover.inspect(HOST)
    discover.heal(finding)
    assert cloud.host_mappings() == {"compute-1": "cell1"}
    assert marks(cloud, "cell1") == [1, 1, 1]


def test_a_disabled_service_is_mapped(cloud: NovaSimulation, discover: DiscoverHosts) -> None:
    cloud.register_host("compute-1", "cell1")
    with cloud.cells["cell1"].begin() as connection:
        connection.execute(sa.update(tables.services).values(disabled=True))
    assert [finding.problem for finding in discover.inspect(HOST)] == ["host-unmapped"]


def test_deleted_rows_do_not_count(cloud: NovaSimulation, discover: DiscoverHosts) -> None:
    cloud.add_compute("compute-1", "cell1")
    with cloud.cells["cell1"].begin() as connection:
        for table in (tables.services, tables.compute_nodes):
            connection.execute(sa.update(table).values(deleted=table.c.id))
    assert not discover.inspect(HOST)
    assert not list(discover.sweep())


def test_another_service_of_the_host_does_not_count(cloud: NovaSimulation, discover: DiscoverHosts) -> None:
    cloud.register_host("compute-1", "cell1")
    with cloud.cells["cell1"].begin() as connection:
        connection.execute(sa.update(tables.services).values(binary="nova-conductor"))
    assert not discover.inspect(HOST)
    assert not list(discover.sweep())


def test_a_host_in_two_cells_is_reported(cloud: NovaSimulation, discover: DiscoverHosts) -> None:
    cloud.register_host("compute-1", "cell1")
    cloud.register_host("compute-1", "cell2")
    assert swept(discover) == {HOST}
    [finding] = discover.inspect(HOST)
    assert refused(discover, finding).problem == "host-in-several-cells"
    assert "either the machine moved" in finding.refusal
    assert "two machines have one name" in finding.refusal
    assert cloud.host_mappings() == {}


def test_two_mappings_of_one_cell_do_not_cost_the_service(cloud: NovaSimulation, discover: DiscoverHosts) -> None:
    cloud.add_compute("compute-1", "cell1")
    c = tables.cell_mappings.c
    with cloud.api.begin() as connection:
        row = connection.execute(sa.select(c.database_connection, c.transport_url).where(c.name == "cell1")).one()
        values = {"id": 9, "uuid": str(uuid.uuid4()), "name": "again", **row._mapping}
        connection.execute(sa.insert(tables.cell_mappings).values(values))
    assert swept(discover) == {HOST}
    [finding] = discover.inspect(HOST)
    assert refused(discover, finding).problem == "host-in-several-cells"
    assert "two mappings of cells lead to one database" in finding.refusal
    assert "Do not delete the service" in finding.refusal


def test_a_machine_that_took_its_compute_id_to_another_cell_has_moved(
    cloud: NovaSimulation, discover: DiscoverHosts
) -> None:
    node = cloud.add_compute("compute-1", "cell1")[0]
    cloud.register_host("compute-1", "cell2")
    values = {"uuid": node.uuid, "host": "compute-1", "hypervisor_hostname": "compute-1"}
    with cloud.cells["cell2"].begin() as connection:
        connection.execute(sa.insert(tables.compute_nodes).values(values))
    [finding] = discover.inspect(HOST)
    assert "most likely the machine moved to another cell" in refused(discover, finding).refusal
    assert "lead to one database" not in finding.refusal


def test_a_mapping_in_other_letters_is_right_for_mysql(
    cloud: NovaSimulation, discover: DiscoverHosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    cloud.add_compute("compute-1", "cell1")
    cloud.map_host("compute-1")
    with cloud.api.begin() as connection:
        connection.execute(sa.update(tables.host_mappings).values(host="Compute-1"))
    assert swept(discover) == {HOST}
    monkeypatch.setattr(discover._databases, "host_names", HostNames(exact=False))
    assert not swept(discover)


def test_a_host_mapped_to_another_cell_is_reported(cloud: NovaSimulation, discover: DiscoverHosts) -> None:
    cloud.add_compute("compute-1", "cell1")
    cloud.map_host("compute-1")
    with cloud.api.begin() as connection:
        connection.execute(sa.update(tables.host_mappings).values(cell_id=3))
    assert swept(discover) == {HOST}
    [finding] = discover.inspect(HOST)
    assert refused(discover, finding).problem == "host-mapped-elsewhere"


def test_no_host_is_mapped_while_a_cell_is_silent(
    cloud: NovaSimulation, discover: DiscoverHosts, cut: Callable[[str], None]
) -> None:
    cloud.register_host("compute-1", "cell1")
    [finding] = discover.inspect(HOST)
    cut("cell2")
    with pytest.raises(Unavailable) as caught:
        discover.inspect(HOST)
    assert caught.value.dependency == "cell:cell2"
    with pytest.raises(Unavailable):
        discover.heal(finding)
    assert cloud.host_mappings() == {}


def test_a_sweep_yields_the_hosts_of_the_other_cells_and_then_fails(
    cloud: NovaSimulation, discover: DiscoverHosts, cut: Callable[[str], None]
) -> None:
    cloud.register_host("compute-2", "cell2")
    cut("cell1")
    keys = []
    sweep = discover.sweep()
    keys.append(next(sweep))
    with pytest.raises(Unavailable, match="cell:cell1"):
        next(sweep)
    assert keys == [Key("host", "compute-2")]
    assert discover.population() == 1


def test_losing_the_race_is_a_conflict_and_changes_nothing(
    cloud: NovaSimulation, discover: DiscoverHosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    cloud.add_compute("compute-1", "cell1")
    findings = list(discover.inspect(HOST))
    cloud.map_host("compute-1")
    with pytest.raises(Conflict):
        discover.heal(findings[0])
    monkeypatch.setattr(discover, "inspect", lambda key: findings)  # both proved it before either wrote
    with pytest.raises(Conflict):
        discover.heal(findings[0])
    assert cloud.host_mappings() == {"compute-1": "cell1"}


def test_a_host_that_is_nowhere_is_no_drift(discover: DiscoverHosts) -> None:
    assert not discover.inspect(Key("host", "no-such-host"))


def test_the_row_may_come_a_little_after_its_notification(cloud: NovaSimulation, discover: DiscoverHosts) -> None:
    later = threading.Timer(0.4, cloud.register_host, ("compute-1", "cell1"))
    later.start()
    assert [finding.problem for finding in discover.inspect(HOST)] == ["host-unmapped"]
    later.join()


def test_twenty_new_hosts_among_many(cloud: NovaSimulation, discover: DiscoverHosts) -> None:
    for number in range(10):
        cloud.add_compute(f"old-{number}", "cell1")
        cloud.map_host(f"old-{number}")
    for number in range(20):
        cloud.register_host(f"new-{number}", f"cell{number % 2 + 1}")
    assert discover.population() == 30
    for key in list(discover.sweep()):
        for finding in discover.inspect(key):
            discover.heal(finding)
    assert not list(discover.sweep())
    assert cloud.host_mappings()["new-3"] == "cell2"
    assert len(cloud.host_mappings()) == 30


@pytest.mark.parametrize("database", ["nova_api", "cell2"])
def test_an_unknown_schema_stops_the_heal(cloud: NovaSimulation, discover: DiscoverHosts, database: str) -> None:
    engine = cloud.api if database == "nova_api" else cloud.cells[database]
    with engine.begin() as connection:
        connection.execute(sa.update(tables.cell_version).values(version_num="ffffffffffff"))
    cloud.register_host("compute-1", "cell1")
    [finding] = discover.inspect(HOST)
    with pytest.raises(Refused, match="ffffffffffff"):
        discover.heal(finding)
    assert cloud.host_mappings() == {}
