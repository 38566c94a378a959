"""Services whose clocks are wrong: proofs wait longer, and beyond a limit nothing is healed."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from handlers.base import Mode, Refused, Resources, Verdict
from handlers.nova import clocks, queries, tables
from handlers.nova.checks import nova_checks
from handlers.nova.database import NovaDatabases
from handlers.nova.hosts import queries as host_queries
from handlers.nova.mappings import queries as mapping_queries
from handlers.nova.simulation import NovaSimulation


@pytest.fixture
def databases(cloud: NovaSimulation, resources: Resources, monkeypatch: pytest.MonkeyPatch) -> NovaDatabases:
    monkeypatch.setattr(clocks, "APART", (0.0, 12.0))
    for host, cell in (("a", "cell1"), ("c", "cell2")):
        cloud.add_compute(host, cell)
        cloud.map_host(host)
    return resources.get(NovaDatabases.from_resources)


def report(cloud: NovaSimulation, databases: NovaDatabases, host: str, behind: float) -> None:
    """Let a service report between two readings, with a clock that is so many seconds behind."""
    databases.run_in_all(databases.host_cells(), queries.compute_services)
    with cloud.ago(seconds=behind):
        cloud.heartbeat(host)
    databases.run_in_all(databases.host_cells(), queries.compute_services)


def age(databases: NovaDatabases, instance: str) -> float:
    found = databases.run_in_all(databases.host_cells(), lambda connection: queries.instance(connection, instance))
    [row] = [row for row in found.values() if row is not None]
    return row.age


@pytest.mark.parametrize("behind", [20.0, -20.0])
def test_ages_shrink_by_the_difference_of_the_clocks(
    cloud: NovaSimulation, databases: NovaDatabases, behind: float
) -> None:
    with cloud.ago(seconds=65):
        moved = cloud.boot("a")
    assert 60 < age(databases, moved) < 75
    report(cloud, databases, "a", behind)
    assert 40 < age(databases, moved) < 60
    other = cloud.request()
    assert databases.api.run(lambda connection: queries.scheduling(connection, other))[0]
    assert 15 < databases.api.clock_margin < 21


def test_proofs_about_mappings_measure_the_clocks_themselves(cloud: NovaSimulation, databases: NovaDatabases) -> None:
    """No other handler need run."""
    with cloud.ago(seconds=65):
        server = cloud.boot("a")
    mapping_queries.read(databases, [server])
    with cloud.ago(seconds=50):
        cloud.heartbeat("a")
    mapping_queries.read(databases, [server])
    facts = mapping_queries.read(databases, [server])[server]
    assert facts.mapping is not None
    assert facts.copies[0].age < 55
    assert facts.mapping.age < 55


def test_the_age_of_a_host_mapping_shrinks_like_that_of_the_deletion(
    cloud: NovaSimulation, databases: NovaDatabases
) -> None:
    with cloud.ago(seconds=65):
        cloud.add_compute("b", "cell1")
        cloud.map_host("b")
    report(cloud, databases, "a", 50.0)
    assert databases.api.run(lambda connection: host_queries.mapping_age(connection, "b")) < 55


def test_a_search_by_age_leaves_out_rows_within_the_difference(cloud: NovaSimulation, databases: NovaDatabases) -> None:
    with cloud.ago(minutes=10):
        server = cloud.boot("a")
    with cloud.api.begin() as connection:
        connection.execute(sa.delete(tables.instance_mappings))

    def lone() -> list[str]:
        return databases.api.run(
            lambda connection: mapping_queries.without_mapping(connection, tables.request_specs, older_than=590)
        )[1]

    assert lone() == [server]
    databases.api.clock_margin = 30.0
    assert not lone()


def test_a_dead_service_is_no_wrong_clock(cloud: NovaSimulation, databases: NovaDatabases) -> None:
    with cloud.ago(hours=2):
        cloud.heartbeat("a")
    for _ in range(2):
        databases.run_in_all(databases.host_cells(), queries.compute_services)
    databases.require_known_schema()
    assert age(databases, cloud.boot("a")) < 10
    assert not list(databases.warnings())


def test_beyond_half_a_minute_no_heal_starts(cloud: NovaSimulation, databases: NovaDatabases) -> None:
    report(cloud, databases, "c", 20.0)
    databases.require_known_schema()
    report(cloud, databases, "c", 45.0)
    with pytest.raises(Refused, match="cell:cell2: the clock of a Nova service differs"):
        databases.require_known_schema()
    [cell1, _] = databases.host_cells()
    databases.require_known_schema([cell1])
    assert any("chrony" in sentence for sentence in databases.warnings())


def test_a_difference_is_forgotten_after_some_minutes(
    cloud: NovaSimulation, databases: NovaDatabases, monkeypatch: pytest.MonkeyPatch
) -> None:
    report(cloud, databases, "a", 45.0)
    monkeypatch.setattr(clocks, "REMEMBERED", -1.0)
    databases.require_known_schema()
    with cloud.ago(seconds=65):
        assert age(databases, cloud.boot("a")) > 60


def test_check_states_the_difference(
    cloud: NovaSimulation, databases: NovaDatabases, resources: Resources, monkeypatch: pytest.MonkeyPatch
) -> None:
    def reports_meanwhile(seconds: float) -> None:
        with cloud.ago(seconds=10):
            cloud.heartbeat("a")

    monkeypatch.setattr("handlers.nova.clocks.time.sleep", reports_meanwhile)
    modes: dict[type, Mode] = {}
    found = {one.subject: one for one in nova_checks(resources, modes)}
    assert found["cell:cell1: clocks"].verdict is Verdict.WARNING
    assert "not compared" in found["cell:cell2: clocks"].text


def test_a_check_compares_the_clocks_of_every_cell(
    cloud: NovaSimulation, databases: NovaDatabases, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not only that of the first cell with a live service."""
    for host in ("a", "c"):
        cloud.heartbeat(host)
    fresh = clocks.Clocks()
    cells = [databases.database(cell) for cell in databases.host_cells()]

    def services_report(_seconds: float) -> None:
        for host in ("a", "c"):
            cloud.heartbeat(host)

    monkeypatch.setattr("handlers.nova.clocks.time.sleep", services_report)
    fresh.measure(cells)
    assert len(cells) == 2
    assert None not in {fresh.difference(database) for database in cells}
