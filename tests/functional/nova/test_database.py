from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa

from handlers.access.database import Database
from handlers.access.service_files import ConfigError
from handlers.base import Resources, Unavailable
from handlers.nova import database, queries, tables
from handlers.nova.brokers import nova_brokers
from handlers.nova.database import NovaDatabases
from handlers.nova.simulation import NovaSimulation


@pytest.fixture
def databases(resources: Resources) -> NovaDatabases:
    return resources.get(NovaDatabases.from_resources)


def set_cell(cloud: NovaSimulation, cell: str, **values: object) -> None:
    mappings = tables.cell_mappings
    with cloud.api.begin() as connection:
        connection.execute(sa.update(mappings).where(mappings.c.name == cell).values(values))


def test_cells_in_novas_order_with_disabled_ones(cloud: NovaSimulation, databases: NovaDatabases) -> None:
    set_cell(cloud, "cell2", disabled=True)
    assert [cell.name for cell in databases.cells()] == ["cell0", "cell1", "cell2"]
    assert [cell.name for cell in databases.host_cells()] == ["cell1", "cell2"]


def test_the_list_of_cells_is_believed_for_a_moment_only(
    cloud: NovaSimulation, databases: NovaDatabases, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "CELLS_TTL", 3600.0)
    databases.cells()
    set_cell(cloud, "cell2", name="renamed")
    assert [cell.name for cell in databases.cells()] == ["cell0", "cell1", "cell2"]
    monkeypatch.setattr(database, "CELLS_TTL", 0.0)
    assert [cell.name for cell in databases.cells()] == ["cell0", "cell1", "renamed"]


def test_a_cell_that_moves_gets_new_connections(
    cloud: NovaSimulation, databases: NovaDatabases, tmp_path: Path
) -> None:
    cloud.add_compute("a", "cell1")
    [cell1, cell2] = databases.host_cells()
    assert databases.database(cell2).run(queries.compute_services_count) == 0
    set_cell(cloud, "cell2", database_connection=cell1.database_url)
    [_, cell2] = databases.host_cells()
    assert databases.database(cell2).run(queries.compute_services_count) == 1


def test_templates_of_cells_are_filled(cloud: NovaSimulation, databases: NovaDatabases) -> None:
    """The base URL of the simulation is cell0's: sqlite:////folder/cell0.db."""
    set_cell(cloud, "cell1", database_connection="{scheme}:////{path}")
    [cell1, _] = databases.host_cells()
    assert databases.database(cell1).url == cloud.options()["nova"]["database_connection"]
    set_cell(cloud, "cell1", database_connection="{scheme}://{username7}@/")
    [cell1, _] = databases.host_cells()
    with pytest.raises(
        Unavailable, match=r"cell:cell1: its URL is a template, and \[nova\] database_connection gives no username7"
    ):
        databases.database(cell1)


def test_all_cells_or_none(databases: NovaDatabases, cut: Callable[[str], None]) -> None:
    assert set(databases.run_in_all(databases.cells(), queries.compute_services_count).values()) == {0}
    cut("cell1")
    with pytest.raises(Unavailable, match="cell:cell1: unable to open database file"):
        databases.run_in_all(databases.cells(), queries.compute_services_count)


def test_no_cells_cannot_be_right(cloud: NovaSimulation, databases: NovaDatabases) -> None:
    with cloud.api.begin() as connection:
        connection.execute(sa.delete(tables.cell_mappings))
    with pytest.raises(Unavailable, match="nova_api: cell_mappings is empty"):
        databases.cells()


def test_the_wrong_database_is_named(cloud: NovaSimulation) -> None:
    wrong = NovaDatabases(cloud.options()["nova"]["database_connection"])
    with pytest.raises(Unavailable, match=r"nova_api: no such table: cell_mappings; is its URL that of another"):
        wrong.cells()


def test_a_column_that_is_missing_is_named(cloud: NovaSimulation, databases: NovaDatabases) -> None:
    with cloud.api.begin() as connection:
        connection.execute(sa.text("ALTER TABLE cell_mappings DROP COLUMN disabled"))
    with pytest.raises(Unavailable, match=r"nova_api: no such column: cell_mappings\.disabled"):
        databases.cells()


@pytest.mark.parametrize(
    "url",
    [
        "nonsense",
        "mysql+nodriver://u:verysecret@h/d",
        "oracle://u:verysecret@h/d",
        "mysql+pymysql://u:verysecret@h:None/d",
        "mysql+pymysql://u:p@verysecret@h/d",
        "mysql+pymysql://u/s:verysecret@h/d",
        "mysql+pymysql://u:verysecret",
    ],
)
def test_a_url_that_cannot_work_is_refused_without_its_secrets(url: str) -> None:
    with pytest.raises(ConfigError, match="nova_api") as caught:
        Database("nova_api", url)
    assert "verysecret" not in str(caught.value)


def test_a_violated_key_comes_through(cloud: NovaSimulation, databases: NovaDatabases) -> None:
    databases.api.run(lambda connection: queries.insert_host_mapping(connection, "a", 2))
    with pytest.raises(sa.exc.IntegrityError):
        databases.api.run(lambda connection: queries.insert_host_mapping(connection, "a", 3))
    assert databases.api.run(queries.mapped_hosts) == {"a": 2}


def test_long_lists_are_sent_in_pieces(cloud: NovaSimulation, databases: NovaDatabases) -> None:
    server = cloud.request()
    many = {f"{number:036}" for number in range(3 * queries.CHUNK)} | {server}
    assert databases.api.run(lambda connection: queries.building(connection, many)) == {server}


def test_brokers_of_the_cells_each_once(cloud: NovaSimulation, resources: Resources) -> None:
    assert list(nova_brokers(resources)) == []
    resources.conf.set_override("transport_url", "rabbit://u:p@api:5672/", "nova")
    set_cell(cloud, "cell1", transport_url="rabbit://u:p@api:5672")
    set_cell(cloud, "cell2", transport_url="{scheme}://{username}:{password}@cell2:{port}/")
    resources.close()
    brokers = list(nova_brokers(resources))
    assert [(broker.name, broker.transport_url) for broker in brokers] == [
        ("nova", "rabbit://u:p@api:5672/"),
        ("cell:cell2", "rabbit://u:p@cell2:5672/"),
    ]
    set_cell(cloud, "cell2", transport_url="rabbit://{hostname9}/")
    with pytest.raises(Unavailable, match="cell:cell2"):
        list(nova_brokers(resources))


@pytest.mark.parametrize("spelling", ["rabbit://u:p@api:5672?ssl=0", "rabbit://u:p@api:5672//?ssl=0"])
def test_two_spellings_of_one_broker_are_one(cloud: NovaSimulation, resources: Resources, spelling: str) -> None:
    resources.conf.set_override("transport_url", "rabbit://u:p@api:5672/?ssl=0", "nova")
    set_cell(cloud, "cell1", transport_url=spelling)
    set_cell(cloud, "cell2", transport_url="rabbit://u:p@api:5672/cell2?ssl=0")
    assert [broker.name for broker in nova_brokers(resources)] == ["nova", "cell:cell2"]


def test_only_the_required_cell_must_answer(databases: NovaDatabases, cut: Callable[[str], None]) -> None:
    databases.cells()
    cut("cell1")
    databases.require("cell:cell2")
    databases.require("cell:gone")
    with pytest.raises(Unavailable, match="cell:cell1"):
        databases.require("cell:cell1")
