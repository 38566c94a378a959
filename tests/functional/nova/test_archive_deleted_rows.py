"""Archiving in a simulated cloud with the real Placement; what needs foreign keys is tested on real servers."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa

from handlers.base import Conflict, Finding, Key, Refused, Unavailable
from handlers.nova import tables
from handlers.nova.archive.archive_deleted_rows import ArchiveDeletedRows
from handlers.nova.cells import CELL0
from handlers.nova.simulation import NovaSimulation
from tests.functional.nova.opened import opened
from tests.program import Program, only


@pytest.fixture
def archive(cloud: NovaSimulation, tmp_path: Path) -> Iterator[ArchiveDeletedRows]:
    with opened(cloud, tmp_path, [ArchiveDeletedRows], archive_deleted_rows_pause_seconds=0) as resources:
        yield ArchiveDeletedRows.from_resources(resources)


@pytest.fixture(autouse=True)
def hosts(cloud: NovaSimulation) -> None:
    for host, cell in (("compute-1", "cell1"), ("compute-2", "cell1"), ("compute-3", "cell2")):
        cloud.add_compute(host, cell)
        cloud.map_host(host)


def gone(cloud: NovaSimulation, host: str = "compute-1", days: int = 40, leak_allocation: bool = False) -> str:
    """Boot an instance, move it once, delete it so many days ago."""
    instance = cloud.boot(host)
    if host == "compute-1":
        cloud.evacuate(instance, "compute-2")
    with cloud.ago(days=days):
        cloud.delete(instance, leak_allocation=leak_allocation)
    return instance


def cell_key(cloud: NovaSimulation, name: str) -> Key:
    mappings = tables.cell_mappings
    with cloud.api.connect() as connection:
        return Key("cell", str(connection.scalar(sa.select(mappings.c.uuid).where(mappings.c.name == name))))


def ids(cloud: NovaSimulation, table: sa.Table, column: str = "uuid", cell: str = "cell1") -> list[str]:
    engine = cloud.api if table.metadata is tables.api else cloud.cells[cell]
    with engine.connect() as connection:
        return list(connection.scalars(sa.select(table.c[column]).order_by(table.c.id)))


def due(archive: ArchiveDeletedRows, key: Key) -> Finding:
    [finding] = [finding for finding in archive.inspect(key) if finding.healable]
    return finding


def test_archives_what_was_deleted_long_ago_and_nothing_else(
    cloud: NovaSimulation, archive: ArchiveDeletedRows
) -> None:
    old = [gone(cloud), gone(cloud)]
    young, alive, elsewhere = gone(cloud, days=3), cloud.boot("compute-1"), gone(cloud, "compute-3")
    keys = list(archive.sweep())
    assert keys == [cell_key(cloud, "cell1"), cell_key(cloud, "cell2")]
    finding = due(archive, keys[0])
    assert (finding.problem, "in instances" in finding.summary) == ("rows-to-archive", True)
    assert set(finding.evidence) == {"cell", "before"}, "equal at every look of a day"

    healed = archive.heal(finding)

    assert ids(cloud, tables.shadow_instances) == old
    assert ids(cloud, tables.instances) == [young, alive]
    assert ids(cloud, tables.shadow_migrations, "instance_uuid") == old
    assert ids(cloud, tables.migrations, "instance_uuid") == [young]
    assert ids(cloud, tables.instances, cell="cell2") == [elsewhere]
    for table in (tables.instance_mappings, tables.request_specs):
        assert ids(cloud, table, "instance_uuid") == [young, alive, elsewhere]
    assert {"instances": 2, "migrations": 2}.items() <= healed.after["rows"].items()
    assert (healed.after["instances"], healed.after["api_rows_deleted"]) == (2, 4)
    assert "INSERT INTO instances" in finding.undo
    assert healed.undo == finding.undo
    assert list(archive.sweep()) == keys[1:]
    assert not archive.inspect(keys[0])


def test_an_instance_of_cell0(cloud: NovaSimulation, archive: ArchiveDeletedRows) -> None:
    instance = cloud.request()
    cloud.create_instance(instance, "cell0")
    cloud.map_instance(instance, "cell0")
    with cloud.ago(days=40):
        cloud.delete(instance)
    [key] = archive.sweep()
    assert key == Key("cell", CELL0)
    archive.heal(due(archive, key))
    assert ids(cloud, tables.shadow_instances, cell="cell0") == [instance]


def test_an_instance_that_holds_resources_waits_for_audit_allocations(
    cloud: NovaSimulation, archive: ArchiveDeletedRows
) -> None:
    leaked, clean = gone(cloud, leak_allocation=True), gone(cloud)
    key = cell_key(cloud, "cell1")
    healed = archive.heal(due(archive, key))
    assert ids(cloud, tables.shadow_instances) == [clean]
    assert healed.after["holding_resources"] == [leaked]
    with pytest.raises(Refused, match="audit_allocations"):
        archive.heal(due(archive, key))
    [finding] = archive.inspect(Key("instance", leaked))
    assert (finding.problem, finding.healable) == ("rows-to-archive", False)
    assert "audit_allocations" in finding.refusal

    cloud.hold(leaked, {})

    archive.heal(due(archive, key))
    assert ids(cloud, tables.shadow_instances) == [leaked, clean]


def test_a_row_without_a_shadow_table_blocks_one_instance_only(
    cloud: NovaSimulation, archive: ArchiveDeletedRows
) -> None:
    poisoned, others = gone(cloud), [gone(cloud) for _ in range(3)]
    poison(cloud, poisoned)
    key = cell_key(cloud, "cell1")
    archive.heal(due(archive, key))
    assert ids(cloud, tables.shadow_instances) == others
    assert ids(cloud, tables.migrations, "instance_uuid") == [poisoned], "a tree stays whole"
    [finding] = archive.inspect(key)
    assert (finding.problem, finding.evidence["rows"]) == ("row-unarchivable", [poisoned])
    assert "share_mapping" in finding.refusal
    with pytest.raises(Refused):
        archive.heal(finding)


def test_one_instance(cloud: NovaSimulation, archive: ArchiveDeletedRows) -> None:
    one, other, young = gone(cloud), gone(cloud), gone(cloud, days=3)
    archive.heal(due(archive, Key("instance", one)))
    assert ids(cloud, tables.shadow_instances) == [one]
    assert ids(cloud, tables.instances) == [other, young]
    for nothing in (young, one, "no such instance"):
        assert not archive.inspect(Key("instance", nothing))


def test_a_cell_that_does_not_answer_keeps_no_other_waiting(
    cloud: NovaSimulation, archive: ArchiveDeletedRows, cut: Callable[[str], None]
) -> None:
    gone(cloud), gone(cloud, "compute-3")
    cut("cell1")
    sweep = archive.sweep()
    assert next(sweep) == cell_key(cloud, "cell2")
    with pytest.raises(Unavailable):
        next(sweep)
    with pytest.raises(Unavailable):
        archive.inspect(cell_key(cloud, "cell1"))
    archive.heal(due(archive, cell_key(cloud, "cell2")))
    assert not ids(cloud, tables.shadow_instances)


def test_a_finding_that_is_too_young_is_not_believed(cloud: NovaSimulation, archive: ArchiveDeletedRows) -> None:
    key = cell_key(cloud, "cell1")
    with pytest.raises(Conflict):
        archive.heal(Finding(key, "rows-to-archive", "", {"cell": key.id, "before": "2999-01-01"}))
    with pytest.raises(Conflict):
        archive.heal(Finding(key, "rows-to-archive", "", {"cell": "gone", "before": "2020-01-01"}))
    assert not archive.inspect(Key("cell", "no such cell"))
    assert archive.population() == 3


def test_in_an_unknown_schema_nothing_is_archived(cloud: NovaSimulation, archive: ArchiveDeletedRows) -> None:
    one = gone(cloud)
    with cloud.cells["cell1"].begin() as connection:
        connection.execute(sa.update(tables.cell_version).values(version_num="ffffffffffff"))
    with pytest.raises(Refused, match="ffffffffffff"):
        archive.heal(due(archive, Key("instance", one)))
    assert ids(cloud, tables.shadow_instances) == []


def test_it_stops_between_two_transactions_when_the_window_closes(
    cloud: NovaSimulation, archive: ArchiveDeletedRows
) -> None:
    old = [gone(cloud) for _ in range(3)]
    archive._settings = replace(archive._settings, rows=1)
    [key] = archive.sweep()
    finding = due(archive, key)
    with pytest.raises(Conflict, match="stackmend ended the run early"):
        archive.heal_while(finding, lambda: False)
    assert ids(cloud, tables.instances) == old
    answers = iter([True, False])
    healed = archive.heal_while(finding, lambda: next(answers))
    assert ids(cloud, tables.shadow_instances) == old[:1]
    assert (healed.complete, healed.after["instances"], healed.after["stopped"]) == (
        False,
        1,
        "stackmend ended the run early",
    )
    assert archive.heal(finding).complete
    assert ids(cloud, tables.shadow_instances) == old


API_TABLES = (tables.instance_mappings, tables.request_specs)


def api_rows(cloud: NovaSimulation, instance: str) -> list[bool]:
    """Return for each table of nova_api whether it has a row about an instance."""
    return [instance in ids(cloud, table, "instance_uuid") for table in API_TABLES]


def drop_mapping(cloud: NovaSimulation, instance: str) -> None:
    with cloud.api.begin() as connection:
        connection.execute(
            sa.delete(tables.instance_mappings).where(tables.instance_mappings.c.instance_uuid == instance)
        )


def map_to(cloud: NovaSimulation, instance: str, cell_id: int | None) -> None:
    with cloud.api.begin() as connection:
        mapping = sa.update(tables.instance_mappings).where(tables.instance_mappings.c.instance_uuid == instance)
        connection.execute(mapping.values(cell_id=cell_id))


def copy_to(cloud: NovaSimulation, instance: str, cell: str, **values: object) -> None:
    """Copy an instance's row into another cell, alive."""
    row = {**cloud.instance(instance)._mapping, "id": 900, "deleted": 0, "deleted_at": None, **values}
    with cloud.cells[cell].begin() as connection:
        connection.execute(sa.insert(tables.instances).values(row))


def test_without_a_mapping_no_row_of_nova_api_is_deleted(cloud: NovaSimulation, archive: ArchiveDeletedRows) -> None:
    one = gone(cloud)
    drop_mapping(cloud, one)
    archive.heal(due(archive, cell_key(cloud, "cell1")))
    assert ids(cloud, tables.shadow_instances) == [one]
    assert api_rows(cloud, one) == [False, True]


@pytest.mark.parametrize("cell_id", [None, 3])
def test_a_mapping_to_another_cell_or_none_keeps_all_rows_of_nova_api(
    cloud: NovaSimulation, archive: ArchiveDeletedRows, cell_id: int | None
) -> None:
    one = gone(cloud)
    map_to(cloud, one, cell_id)
    archive.heal(due(archive, Key("instance", one)))
    assert ids(cloud, tables.shadow_instances) == [one]
    assert api_rows(cloud, one) == [True, True]


@pytest.mark.parametrize("by", ["cell", "instance"])
def test_an_instance_that_lives_in_another_cell_keeps_its_rows_of_nova_api(
    cloud: NovaSimulation, archive: ArchiveDeletedRows, by: str
) -> None:
    """An operator moved it to cell2 by hand, and its mapping still names cell1."""
    moved, other = gone(cloud), gone(cloud)
    copy_to(cloud, moved, "cell2")
    for key in [cell_key(cloud, "cell1")] if by == "cell" else [Key("instance", moved), Key("instance", other)]:
        archive.heal(due(archive, key))
    assert ids(cloud, tables.shadow_instances) == [moved, other]
    assert api_rows(cloud, moved) == [True, True]
    assert api_rows(cloud, other) == [False, False]


def test_while_another_cell_is_silent_no_row_of_nova_api_is_deleted(
    cloud: NovaSimulation, archive: ArchiveDeletedRows, cut: Callable[[str], None]
) -> None:
    one = gone(cloud)
    cut("cell2")
    archive.heal(due(archive, cell_key(cloud, "cell1")))
    assert ids(cloud, tables.shadow_instances) == [one]
    assert api_rows(cloud, one) == [True, True]


@pytest.mark.parametrize("below", [True, False])
def test_an_allocation_of_a_nested_or_sharing_provider_alone_keeps_an_instance(
    cloud: NovaSimulation, archive: ArchiveDeletedRows, below: bool
) -> None:
    holding, free = gone(cloud), gone(cloud)
    provider = str(uuid.uuid4())
    body = {"uuid": provider, "name": "card"} | (
        {"parent_provider_uuid": cloud.node("compute-2").uuid} if below else {}
    )
    cloud.placement.request("POST", "/resource_providers", body)
    inventories = {"resource_provider_generation": 0, "inventories": {"DISK_GB": {"total": 10}}}
    cloud.placement.request("PUT", f"/resource_providers/{provider}/inventories", inventories)
    cloud.hold(holding, {provider: {"DISK_GB": 1}})
    healed = archive.heal(due(archive, cell_key(cloud, "cell1")))
    assert ids(cloud, tables.shadow_instances) == [free]
    assert healed.after["holding_resources"] == [holding]


def test_nothing_moves_when_placement_knows_none_of_novas_nodes(
    cloud: NovaSimulation, archive: ArchiveDeletedRows
) -> None:
    """The endpoint is that of another region."""
    gone(cloud)
    for node in cloud.nodes():
        cloud.placement.request("DELETE", f"/resource_providers/{node.uuid}")
    with pytest.raises(Refused, match="region_name"):
        archive.heal(due(archive, cell_key(cloud, "cell1")))
    assert not ids(cloud, tables.shadow_instances)


def poison(cloud: NovaSimulation, instance: str) -> None:
    with cloud.cells["cell1"].begin() as connection:
        connection.execute(sa.text("CREATE TABLE share_mapping (instance_uuid VARCHAR(36) REFERENCES instances(uuid))"))
        connection.execute(sa.text(f"INSERT INTO share_mapping VALUES ('{instance}')"))


@pytest.mark.parametrize(
    ("problem", "drift"),
    [
        ("rows-to-archive", gone),
        ("row-unarchivable", lambda cloud: poison(cloud, gone(cloud))),
        ("rows-to-archive", lambda cloud: gone(cloud, leak_allocation=True)),
    ],
)
def test_a_sweep_finds_the_cell_of_every_problem(
    cloud: NovaSimulation, archive: ArchiveDeletedRows, problem: str, drift: Callable[[NovaSimulation], None]
) -> None:
    drift(cloud)
    [instance] = ids(cloud, tables.instances)
    assert [finding.problem for finding in archive.inspect(Key("instance", instance))] == [problem]
    assert list(archive.sweep()) == [cell_key(cloud, "cell1")]
    assert archive.inspect(cell_key(cloud, "cell1"))


def test_an_inspection_reads_no_children_while_instances_are_due(
    cloud: NovaSimulation, archive: ArchiveDeletedRows
) -> None:
    """A search in instance_system_metadata takes minutes in a cell with millions of deleted rows."""
    gone(cloud)
    asked: list[str] = []

    def listen(conn: object, cursor: object, statement: str, *rest: object) -> None:
        asked.append(statement)

    sa.event.listen(sa.Engine, "before_cursor_execute", listen)
    try:
        assert due(archive, cell_key(cloud, "cell1"))
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", listen)
    assert not any("count(" in statement.lower() for statement in asked)
    assert not any("instance_system_metadata" in statement and "EXISTS" in statement for statement in asked)


def test_the_undo_of_one_instance_restores_its_rows_of_nova_api(
    cloud: NovaSimulation, archive: ArchiveDeletedRows
) -> None:
    one = gone(cloud)
    finding = due(archive, Key("instance", one))
    archive.heal(finding)
    assert api_rows(cloud, one) == [False, False]
    in_cell, in_api = finding.undo.split("-- in nova_api\n")
    for engine, text in ((cloud.cells["cell1"], in_cell), (cloud.api, in_api)):
        with engine.begin() as connection:
            for statement in text.splitlines():
                connection.exec_driver_sql(statement)
    assert (ids(cloud, tables.instances), ids(cloud, tables.shadow_instances)) == ([one], [])
    assert api_rows(cloud, one) == [True, True]


def test_old_rows_in_many_cells_do_not_trip_the_breaker(cloud: NovaSimulation, tmp_path: Path) -> None:
    old = {gone(cloud), gone(cloud, "compute-3")}
    settings = {**only("archive_deleted_rows"), "archive_deleted_rows_mode": "heal"}
    engine = {"breaker_count": 1, "breaker_percent": 0}
    with Program(tmp_path / "stackmend", {**cloud.options(), "audit": settings, "engine": engine}) as program:
        done = program.run("sweep")
    assert done.returncode == 0, done.stderr
    left = {*ids(cloud, tables.instances), *ids(cloud, tables.instances, cell="cell2")}
    assert not old & left


@pytest.fixture
def outage(cloud: NovaSimulation) -> str:
    """An instance whose host was down when it was deleted, forty days ago."""
    with cloud.ago(days=42):
        cloud.heartbeat("compute-1")
    with cloud.ago(days=41):
        instance = cloud.boot("compute-1")
        cloud.force_down("compute-1")
    with cloud.ago(days=40):
        cloud.delete(instance)
    return instance


def test_an_instance_whose_host_is_down_since_its_deletion_stays(
    cloud: NovaSimulation, archive: ArchiveDeletedRows, outage: str
) -> None:
    """A nova-compute that returns destroys the guest of a deleted instance, if it finds the row."""
    other, key = gone(cloud), cell_key(cloud, "cell1")
    with cloud.cells["cell1"].begin() as connection:
        connection.execute(sa.update(tables.migrations).values(status="completed"))
    healed = archive.heal(due(archive, key))
    assert ids(cloud, tables.shadow_instances) == [other]
    assert healed.after["awaiting_hosts"] == [outage]
    assert api_rows(cloud, outage) == [True, True]
    with pytest.raises(Refused, match="has not reported since the deletion"):
        archive.heal(due(archive, key))
    [finding] = archive.inspect(Key("instance", outage))
    assert not finding.healable
    assert "openstack compute service delete" in finding.refusal

    cloud.heartbeat("compute-1")

    archive.heal(due(archive, key))
    assert set(ids(cloud, tables.shadow_instances)) == {other, outage}


def test_an_instance_whose_former_host_is_down_since_its_evacuation_stays(
    cloud: NovaSimulation, archive: ArchiveDeletedRows
) -> None:
    with cloud.ago(days=42):
        cloud.heartbeat("compute-1")
    evacuated = gone(cloud)
    archive_of = Key("instance", evacuated)
    assert [finding.healable for finding in archive.inspect(archive_of)] == [False]
    with cloud.cells["cell1"].begin() as connection:
        connection.execute(sa.update(tables.migrations).values(status="completed"))
    archive.heal(due(archive, archive_of))
    assert ids(cloud, tables.shadow_instances) == [evacuated]


def test_a_host_that_was_deleted_keeps_no_instance(
    cloud: NovaSimulation, archive: ArchiveDeletedRows, outage: str
) -> None:
    cloud.delete_service("compute-1", leak_providers=True)
    archive.heal(due(archive, cell_key(cloud, "cell1")))
    assert ids(cloud, tables.shadow_instances) == [outage]


def test_reports_that_nova_writes_to_memcache_keep_no_instance(
    cloud: NovaSimulation, archive: ArchiveDeletedRows, outage: str
) -> None:
    """Without times in the database, or with times from before Nova moved them to memcache."""
    with cloud.ago(days=50):
        cloud.heartbeat("compute-2")
    archive.heal(due(archive, cell_key(cloud, "cell1")))
    assert ids(cloud, tables.shadow_instances) == [outage]


@pytest.mark.parametrize("by", ["cell", "instance"])
def test_a_hidden_copy_deletes_no_row_of_nova_api(cloud: NovaSimulation, archive: ArchiveDeletedRows, by: str) -> None:
    """Another cell lost the visible row: heal_instance_mappings reports the hidden copy as no proof of a deletion."""
    copy, other = gone(cloud), gone(cloud)
    cloud.set_instance(copy, hidden=True)
    for key in [cell_key(cloud, "cell1")] if by == "cell" else [Key("instance", copy), Key("instance", other)]:
        archive.heal(due(archive, key))
    assert ids(cloud, tables.shadow_instances) == [copy, other]
    assert (api_rows(cloud, copy), api_rows(cloud, other)) == ([True, True], [False, False])
