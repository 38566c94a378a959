from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
import sqlalchemy as sa

from handlers.base import Conflict, Finding, Healed, InFlight, Key, Refused, Resources, Unavailable
from handlers.nova import tables
from handlers.nova.mappings import queries, suspects
from handlers.nova.mappings.heal_instance_mappings import HealInstanceMappings
from handlers.nova.simulation import NovaSimulation
from tests.functional.nova.world import (
    add_archived,
    archive,
    dump,
    execute,
    instance_key,
    long_ago,
    purge,
    refused,
    restore,
    swept,
)

pytestmark = pytest.mark.hosts(a="cell1", b="cell2")

IM = tables.instance_mappings
LONG = {"hours": 3}


@pytest.fixture
def healer(resources: Resources) -> HealInstanceMappings:
    return HealInstanceMappings.from_resources(resources)


@pytest.fixture
def server(cloud: NovaSimulation) -> str:
    """An instance of cell1, three hours old, with nothing wrong."""
    with cloud.ago(**LONG):
        return cloud.boot("a")


key = instance_key


def mapping(cloud: NovaSimulation, instance: str) -> tuple[int | None, bool | None] | None:
    with cloud.api.connect() as connection:
        row = connection.execute(sa.select(IM).where(IM.c.instance_uuid == instance)).first()
    return None if row is None else (row.cell_id, row.queued_for_delete)


def set_mapping(cloud: NovaSimulation, instance: str, **values: Any) -> None:
    with cloud.api.begin() as connection:
        connection.execute(sa.update(IM).where(IM.c.instance_uuid == instance).values(values))


def request_again(cloud: NovaSimulation, instance: str, **age: float) -> None:
    text = '{"a": "it\'s \\"100%\\""}\n'
    row = {"instance_uuid": instance, "project_id": "p", "instance": text, "created_at": long_ago(**age)}
    with cloud.api.begin() as connection:
        connection.execute(sa.insert(tables.build_requests).values(row))


def in_cell(cloud: NovaSimulation, cell: str, instance: str, **values: Any) -> None:
    row = {"uuid": instance, "project_id": "p", "host": "b", "vm_state": "active", "created_at": long_ago()}
    with cloud.cells[cell].begin() as connection:
        connection.execute(sa.insert(tables.instances).values({**row, **values}))


def everything(cloud: NovaSimulation) -> dict[str, list[dict[str, Any]]]:
    """nova_api's rows about instances, without the times of changes."""
    found = {}
    with cloud.api.connect() as connection:
        for table in (IM, tables.build_requests, tables.request_specs, tables.instance_group_member):
            rows = connection.execute(sa.select(table).order_by(table.c.id)).mappings()
            found[table.name] = [{**row, "updated_at": None} for row in rows]
    return found


def undo(cloud: NovaSimulation, healed: Healed) -> None:
    execute(cloud, healed.undo)


def deleted(cloud: NovaSimulation, host: str = "a") -> str:
    """An instance that was deleted and archived hours ago, while nova_api kept its rows."""
    with cloud.ago(**LONG):
        instance = cloud.boot(host)
        cloud.delete(instance)
    with cloud.api.begin() as connection:
        connection.execute(sa.insert(tables.instance_group_member).values(instance_uuid=instance, group_id=1))
    archive(cloud, instance, "cell1" if host == "a" else "cell2")
    return instance


def heal(healer: HealInstanceMappings, instance: str) -> tuple[Finding, Healed]:
    """Heal what a sweep has found, once; then it is right."""
    assert instance in listed(healer)
    [finding] = healer.inspect(key(instance))
    healed = healer.heal(finding)
    assert healed.undo == finding.undo, "the undo is known before the heal"
    assert list(healer.inspect(key(instance))) == []
    assert key(instance) not in set(healer.sweep())
    return finding, healed


# drift


def test_a_mapping_that_names_no_cell(cloud: NovaSimulation, healer: HealInstanceMappings, server: str) -> None:
    set_mapping(cloud, server, cell_id=None)
    request_again(cloud, server)
    before = everything(cloud)
    finding, healed = heal(healer, server)
    assert finding.problem == "mapping-without-cell"
    assert mapping(cloud, server) == (2, False)
    assert cloud.build_requests() == set()
    undo(cloud, healed)
    assert everything(cloud) == before


def test_a_deleted_instance_gets_cell_and_mark_at_once(
    cloud: NovaSimulation, healer: HealInstanceMappings, server: str
) -> None:
    with cloud.ago(hours=2):
        cloud.delete(server)
    set_mapping(cloud, server, cell_id=None, queued_for_delete=None)
    before = everything(cloud)
    _, healed = heal(healer, server)
    assert mapping(cloud, server) == (2, True)
    undo(cloud, healed)
    assert everything(cloud) == before


def test_an_undo_spares_a_mapping_that_nova_changed_since(
    cloud: NovaSimulation, healer: HealInstanceMappings, server: str
) -> None:
    """A cross-cell resize moved the instance after the heal."""
    set_mapping(cloud, server, cell_id=None)
    [finding] = healer.inspect(key(server))
    healer.heal(finding)
    set_mapping(cloud, server, cell_id=3)
    execute(cloud, finding.undo)
    assert mapping(cloud, server) == (3, False)


def test_an_instance_that_was_buried_in_cell0(cloud: NovaSimulation, healer: HealInstanceMappings) -> None:
    with cloud.ago(**LONG):
        instance = cloud.request()
    in_cell(cloud, "cell0", instance, host=None, vm_state="error")
    heal(healer, instance)
    assert mapping(cloud, instance) == (1, False)
    assert cloud.build_requests() == set()


def test_a_stale_build_request(cloud: NovaSimulation, healer: HealInstanceMappings, server: str) -> None:
    request_again(cloud, server)
    before = everything(cloud)
    finding, healed = heal(healer, server)
    assert finding.problem == "build-request-stale"
    assert cloud.build_requests() == set()
    undo(cloud, healed)
    assert everything(cloud) == before


def test_a_mapping_without_cell_of_a_deleted_instance(
    cloud: NovaSimulation, healer: HealInstanceMappings, server: str
) -> None:
    gone = deleted(cloud)
    set_mapping(cloud, gone, cell_id=None)
    before = everything(cloud)
    finding, healed = heal(healer, gone)
    assert finding.problem == "mapping-orphaned"
    assert {row["instance_uuid"] for rows in everything(cloud).values() for row in rows} == {server}
    undo(cloud, healed)
    assert everything(cloud) == before


def test_rows_that_archiving_left_behind(cloud: NovaSimulation, healer: HealInstanceMappings, server: str) -> None:
    gone = deleted(cloud)
    before = everything(cloud)
    finding, healed = heal(healer, gone)
    assert finding.problem == "mapping-left-behind"
    assert {row["instance_uuid"] for rows in everything(cloud).values() for row in rows} == {server}
    undo(cloud, healed)
    assert everything(cloud) == before


def test_marks_of_deletion(cloud: NovaSimulation, healer: HealInstanceMappings) -> None:
    with cloud.ago(**LONG):
        alive, dead, soft, other, unknown = (cloud.boot("a") for _ in range(5))
        cloud.delete(dead)
        cloud.set_instance(soft, vm_state="soft-delete")
    set_mapping(cloud, alive, queued_for_delete=True)
    set_mapping(cloud, dead, queued_for_delete=False)
    set_mapping(cloud, unknown, queued_for_delete=None)
    before = everything(cloud)
    undos = []
    assert {found.id for found in healer.sweep()} == {alive, dead, soft}
    for instance in (alive, dead, soft):
        finding, healed = heal(healer, instance)
        assert finding.problem == "mark-of-deletion-wrong"
        undos.append(healed)
    marks = {instance: mapping(cloud, instance) for instance in (alive, dead, soft, other, unknown)}
    expected = {alive: False, dead: True, soft: True, other: False, unknown: None}
    assert marks == {instance: (2, mark) for instance, mark in expected.items()}
    for healed in undos:
        undo(cloud, healed)
    assert everything(cloud) == before


# no drift


def test_every_step_of_a_boot(cloud: NovaSimulation, healer: HealInstanceMappings) -> None:
    instance = cloud.request()
    steps: list[Callable[[], object]] = [
        lambda: cloud.claim(instance, "a"),
        lambda: cloud.create_instance(instance, "cell1"),
        lambda: set_mapping(cloud, instance, cell_id=2),
        lambda: cloud.map_instance(instance, "cell1"),
        lambda: cloud.spawn(instance, "a"),
        lambda: cloud.delete(instance),
    ]
    for step in [lambda: None, *steps]:
        step()
        with contextlib.suppress(InFlight):
            assert list(healer.inspect(key(instance))) == []
        assert set(healer.sweep()) <= {key(instance)}


def test_a_deletion_under_way(cloud: NovaSimulation, healer: HealInstanceMappings, server: str) -> None:
    set_mapping(cloud, server, queued_for_delete=True)
    cloud.set_instance(server, task_state="deleting")
    with pytest.raises(InFlight):
        healer.inspect(key(server))
    assert list(healer.sweep()) == []


def test_bookmarks_and_strangers(cloud: NovaSimulation, healer: HealInstanceMappings) -> None:
    nobody = str(uuid.uuid4())
    old = long_ago(days=9)
    fake = "00000000-0000-0000-0000-000000000000"
    bookmarks = {nobody.replace("-", " "): "INSTANCE_MIGRATION_MARKER", fake: fake}
    with cloud.api.begin() as connection:
        for identity, project in bookmarks.items():
            connection.execute(sa.insert(IM).values(instance_uuid=identity, project_id=project, created_at=old))
    assert list(healer.sweep()) == []
    for identity in (*bookmarks, nobody):
        assert list(healer.inspect(key(identity))) == []


def listed(healer: HealInstanceMappings) -> set[str]:
    """The instances that a sweep lists, one by one or in a range."""
    found: set[str] = set()
    for where in healer.sweep():
        if where.kind == "mappings":
            for finding in healer.inspect(where):
                evidence = finding.evidence
                found |= set(evidence.get("instances") or evidence.get("mappings") or [evidence.get("instance")])
        else:
            found.add(where.id)
    return found


def reported(healer: HealInstanceMappings, instance: str) -> str:
    assert instance in listed(healer)
    [finding] = healer.inspect(key(instance))
    return refused(healer, finding).problem


def test_drift_that_is_only_reported(cloud: NovaSimulation, healer: HealInstanceMappings, server: str) -> None:
    with cloud.ago(**LONG):
        moved, lost, stuck, twice = cloud.boot("a"), cloud.boot("a"), cloud.request(), cloud.boot("a")
    purge(cloud, moved)
    in_cell(cloud, "cell2", moved)
    purge(cloud, lost)
    set_mapping(cloud, twice, queued_for_delete=True)
    in_cell(cloud, "cell2", twice)
    for instance in (moved, lost, twice):
        set_mapping(cloud, instance, updated_at=None)
    before = everything(cloud)
    assert reported(healer, moved) == "mapped-elsewhere"
    assert reported(healer, lost) == "nowhere-but-holding"
    assert reported(healer, stuck) == "build-stuck"
    assert reported(healer, twice) == "instance-in-several-cells"
    assert everything(cloud) == before


def test_hidden_copies_do_not_count(cloud: NovaSimulation, healer: HealInstanceMappings, server: str) -> None:
    in_cell(cloud, "cell2", server, hidden=True)
    assert list(healer.inspect(key(server))) == []
    set_mapping(cloud, server, cell_id=None)
    assert list(healer.inspect(key(server))) == []
    cloud.set_instance(server, deleted=0)
    with cloud.cells["cell2"].begin() as connection:
        connection.execute(sa.update(tables.instances).values(deleted=1))
    heal(healer, server)
    assert mapping(cloud, server) == (2, False)


# absence is no proof


def test_a_cell_whose_url_leads_to_an_empty_schema(cloud: NovaSimulation, healer: HealInstanceMappings) -> None:
    """Shelved servers hold nothing in Placement, and keep mapping, request specification and group membership."""
    with cloud.ago(**LONG):
        shelved = [cloud.boot("a") for _ in range(3)]
        for instance in shelved:
            cloud.shelve_offload(instance)
    before = everything(cloud)
    backup = dump(cloud, "cell1")
    restore(cloud, "cell1", {name: [] for name in backup})
    for instance in shelved:
        assert reported(healer, instance) == "mapping-left-behind"
    assert everything(cloud) == before
    restore(cloud, "cell1", backup)
    assert not swept(healer)


def test_a_marked_and_archived_instance_of_a_cell_without_live_instances(
    cloud: NovaSimulation, healer: HealInstanceMappings
) -> None:
    gone = deleted(cloud)
    before = everything(cloud)
    assert reported(healer, gone) == "mapping-left-behind"
    assert everything(cloud) == before


@pytest.mark.parametrize("queued", [True, False])
def test_purged_rows_prove_nothing(
    cloud: NovaSimulation, healer: HealInstanceMappings, server: str, queued: bool
) -> None:
    with cloud.ago(**LONG):
        gone = cloud.boot("a")
        cloud.delete(gone)
    purge(cloud, gone)
    set_mapping(cloud, gone, queued_for_delete=queued)
    set_mapping(cloud, gone, updated_at=None)
    assert reported(healer, gone) == "mapping-left-behind"


def test_an_archived_row_alone_proves_nothing(cloud: NovaSimulation, healer: HealInstanceMappings, server: str) -> None:
    gone = deleted(cloud)
    set_mapping(cloud, gone, queued_for_delete=False)
    assert reported(healer, gone) == "mapping-left-behind"


def test_an_archived_row_of_another_cell_proves_nothing(
    cloud: NovaSimulation, healer: HealInstanceMappings, server: str
) -> None:
    gone = deleted(cloud)
    with cloud.ago(**LONG):
        cloud.boot("b")
    set_mapping(cloud, gone, cell_id=3)
    assert reported(healer, gone) == "mapping-left-behind"


def test_a_cell_restored_from_before_deletions(cloud: NovaSimulation, healer: HealInstanceMappings) -> None:
    """nova_api and Placement agree that the instances are gone: the marks stay, and nothing brings them back."""
    with cloud.ago(**LONG):
        servers = [cloud.boot("a") for _ in range(4)]
    backup = dump(cloud, "cell1")
    with cloud.ago(hours=2):
        for instance in servers:
            cloud.delete(instance)
    restore(cloud, "cell1", backup)
    before = everything(cloud)
    for instance in servers:
        assert reported(healer, instance) == "marked-without-allocation"
    assert everything(cloud) == before


def test_the_advice_of_a_report_deletes_the_rows(
    cloud: NovaSimulation, healer: HealInstanceMappings, server: str
) -> None:
    with cloud.ago(**LONG):
        gone = cloud.boot("a")
        cloud.delete(gone)
    purge(cloud, gone)
    set_mapping(cloud, gone, updated_at=None)
    [finding] = healer.inspect(key(gone))
    assert "restored, emptied or exchanged" in finding.refusal
    execute(cloud, finding.refusal[finding.refusal.index("DELETE FROM") :].replace("; ", ";\n"))
    assert {row["instance_uuid"] for rows in everything(cloud).values() for row in rows} == {server}
    assert not swept(healer)


def test_many_reports_of_a_range_are_one_finding(
    cloud: NovaSimulation, healer: HealInstanceMappings, server: str
) -> None:
    lost = astray(cloud, 11, archived=False)
    [where] = healer.sweep()
    [finding] = healer.inspect(where)
    assert (refused(healer, finding).problem, finding.weight) == ("mapping-left-behind", 11)
    assert "DELETE" not in finding.refusal, "whether a guest still runs is not known"
    cloud.placement.stop()
    assert list(healer.inspect(where)) == [finding], "Placement is asked only where a mapping may be deleted"
    cloud.placement.start()
    assert set(finding.evidence["instances"]) == set(lost)


def test_few_reports_of_a_range_name_the_instance_that_has_an_allocation(
    cloud: NovaSimulation, healer: HealInstanceMappings, server: str
) -> None:
    lost = astray(cloud, 3, archived=False)
    cloud.hold(lost[0], {cloud.node("a").uuid: {"VCPU": 1}})
    [where] = healer.sweep()
    found = {finding.problem: finding for finding in healer.inspect(where)}
    assert found["nowhere-but-holding"].evidence["instances"] == lost[:1]
    assert "DELETE FROM instance_mappings" in found["mapping-left-behind"].refusal
    assert lost[0] not in found["mapping-left-behind"].refusal


# rows of nova_api without mapping


def unmap(cloud: NovaSimulation, instance: str) -> None:
    with cloud.api.begin() as connection:
        connection.execute(sa.delete(IM).where(IM.c.instance_uuid == instance))


def test_a_build_request_without_mapping(cloud: NovaSimulation, healer: HealInstanceMappings, server: str) -> None:
    with cloud.ago(**LONG):
        lost = cloud.request()
    unmap(cloud, lost)
    assert reported(healer, lost) == "request-without-mapping"
    young = cloud.request()
    unmap(cloud, young)
    with pytest.raises(InFlight):
        healer.inspect(key(young))


def test_specifications_and_members_without_mapping(
    cloud: NovaSimulation, healer: HealInstanceMappings, server: str
) -> None:
    gone = deleted(cloud)
    unmap(cloud, gone)
    where = Key("database", "nova_api")
    assert swept(healer) == {where}
    [finding] = healer.inspect(where)
    assert refused(healer, finding).problem == "rows-without-mapping"
    assert finding.evidence["request_specs"] == {"rows": 1, "first": [gone]}
    assert finding.evidence["instance_group_member"] == {"rows": 1, "first": [gone]}
    with pytest.raises(Refused):
        healer.inspect(Key("database", "cell1"))


@pytest.mark.parametrize("copy_deleted", [0, 1])
def test_a_sweep_finds_a_second_copy_beside_a_right_mapping(
    cloud: NovaSimulation, healer: HealInstanceMappings, server: str, copy_deleted: int
) -> None:
    in_cell(cloud, "cell2", server, deleted=copy_deleted)
    assert swept(healer) == {key(server)}
    findings = list(healer.inspect(key(server)))
    assert [finding.problem for finding in findings] == [] if copy_deleted else ["instance-in-several-cells"]


def test_a_sweep_finds_an_instance_that_lives_beside_its_deleted_copy(
    cloud: NovaSimulation, healer: HealInstanceMappings
) -> None:
    with cloud.ago(**LONG):
        moved = cloud.boot("a")
        cloud.delete(moved)
    in_cell(cloud, "cell2", moved)
    assert reported(healer, moved) == "mapped-elsewhere"


# failures and races


def test_a_cell_that_does_not_answer(
    cloud: NovaSimulation, healer: HealInstanceMappings, server: str, cut: Callable[[str], None]
) -> None:
    with cloud.ago(**LONG):
        other = cloud.boot("b")
    lost = deleted(cloud)
    set_mapping(cloud, server, queued_for_delete=True)
    [orphan] = healer.inspect(key(lost))
    before = everything(cloud)
    cut("cell2")
    swept: list[Key] = []
    with pytest.raises(Unavailable) as caught:
        swept.extend(healer.sweep())
    assert caught.value.dependency == "cell:cell2"
    for instance in (lost, server, other):
        with pytest.raises(Unavailable):
            healer.inspect(key(instance))
    with pytest.raises(Unavailable):
        healer.heal(orphan)
    assert everything(cloud) == before


def test_a_sweep_of_the_cells_that_answer(
    cloud: NovaSimulation, healer: HealInstanceMappings, server: str, cut: Callable[[str], None]
) -> None:
    with cloud.ago(**LONG):
        cloud.boot("b")
    set_mapping(cloud, server, queued_for_delete=True)
    cut("cell2")
    found: list[Key] = []
    with pytest.raises(Unavailable):
        found.extend(healer.sweep())
    assert found == [key(server)]


def test_placement_is_asked_before_anything_is_forgotten(
    cloud: NovaSimulation, healer: HealInstanceMappings, server: str
) -> None:
    gone = deleted(cloud)
    cloud.placement.stop()
    with pytest.raises(Unavailable) as caught:
        healer.inspect(key(gone))
    assert caught.value.dependency == "placement"
    cloud.placement.start()
    heal(healer, gone)


def test_a_mapping_to_an_unknown_cell(cloud: NovaSimulation, healer: HealInstanceMappings, server: str) -> None:
    set_mapping(cloud, server, cell_id=99)
    with pytest.raises(Unavailable, match="99"):
        healer.inspect(key(server))


def respecify(cloud: NovaSimulation, instance: str) -> None:
    specs = tables.request_specs
    with cloud.api.begin() as connection:
        connection.execute(sa.update(specs).where(specs.c.instance_uuid == instance).values(spec='{"new": 1}'))


CHANGES: dict[str, Callable[[NovaSimulation, str], object]] = {
    "mapped to another cell": lambda cloud, instance: set_mapping(cloud, instance, cell_id=3),
    "unmarked": lambda cloud, instance: set_mapping(cloud, instance, queued_for_delete=False),
    "marked": lambda cloud, instance: set_mapping(cloud, instance, queued_for_delete=True),
    "requested again": request_again,
    "specified again": respecify,
    "appeared in a cell": lambda cloud, instance: in_cell(cloud, "cell2", instance),
    "claimed": lambda cloud, instance: cloud.hold(instance, {cloud.node("a").uuid: {"VCPU": 1}}),
}


@pytest.mark.parametrize("change", sorted(set(CHANGES) - {"marked"}))
def test_the_world_changes_before_a_mapping_is_deleted(
    cloud: NovaSimulation, healer: HealInstanceMappings, server: str, change: str
) -> None:
    lost = deleted(cloud)
    [finding] = healer.inspect(key(lost))
    CHANGES[change](cloud, lost)
    before = everything(cloud)
    with pytest.raises(Conflict):
        healer.heal(finding)
    assert everything(cloud) == before


@pytest.mark.parametrize("change", ["mapped to another cell", "unmarked", "requested again", "specified again"])
def test_the_world_changes_between_proof_and_deletion(
    cloud: NovaSimulation, healer: HealInstanceMappings, server: str, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    lost = deleted(cloud)
    [finding] = healer.inspect(key(lost))
    proof = queries.read

    def prove(*arguments: Any) -> Any:
        facts = proof(*arguments)
        CHANGES[change](cloud, lost)
        return facts

    monkeypatch.setattr(queries, "read", prove)
    with pytest.raises(Conflict):
        healer.heal(finding)
    found = everything(cloud)
    assert [row["instance_uuid"] for row in found["instance_mappings"]] == [server, lost]
    assert [row["instance_uuid"] for row in found["request_specs"]] == [server, lost]


@pytest.mark.parametrize("change", ["mapped to another cell", "marked", "no request any more"])
def test_the_world_changes_between_proof_and_update(
    cloud: NovaSimulation, healer: HealInstanceMappings, server: str, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    set_mapping(cloud, server, cell_id=None)
    request_again(cloud, server)
    [finding] = healer.inspect(key(server))
    proof = queries.read
    between: dict[str, Any] = {}

    def prove(*arguments: Any) -> Any:
        facts = proof(*arguments)
        if change in CHANGES:
            CHANGES[change](cloud, server)
        else:
            with cloud.api.begin() as connection:
                connection.execute(sa.delete(tables.build_requests))
        between.update(everything(cloud))
        return facts

    monkeypatch.setattr(queries, "read", prove)
    with pytest.raises(Conflict):
        healer.heal(finding)
    assert everything(cloud) == between


def test_a_sweep_reads_page_by_page(
    cloud: NovaSimulation, healer: HealInstanceMappings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queries, "PAGE", 3)
    with cloud.ago(**LONG):
        servers = [cloud.boot("ab"[number % 2]) for number in range(8)]
    for server in servers[1::2]:
        set_mapping(cloud, server, queued_for_delete=True)
    assert {found.id for found in healer.sweep()} == set(servers[1::2])
    assert healer.population() == 8


# many at once


def astray(cloud: NovaSimulation, number: int, *, archived: bool = True) -> list[str]:
    """Mappings of instances that are in no cell, with their request specifications.

    :param archived: whether they are marked as deleted and archived
    """
    lost = [str(uuid.uuid4()) for _ in range(number)]
    with cloud.api.begin() as connection:
        for one in lost:
            row = {"instance_uuid": one, "cell_id": 2, "project_id": "p", "queued_for_delete": archived}
            connection.execute(sa.insert(IM).values({**row, "created_at": long_ago()}))
            connection.execute(sa.insert(tables.request_specs).values(instance_uuid=one, spec="{}"))
    if archived:
        for one in lost:
            add_archived(cloud, "cell1", one)
    return lost


def left(cloud: NovaSimulation, lost: list[str]) -> list[str]:
    """Those of which nova_api still has something."""
    with cloud.api.connect() as connection:
        specs = set(connection.scalars(sa.select(tables.request_specs.c.instance_uuid)))
    return [one for one in lost if mapping(cloud, one) is not None or one in specs]


def test_the_mappings_of_deleted_instances_go_together(
    cloud: NovaSimulation, healer: HealInstanceMappings, server: str
) -> None:
    lost = astray(cloud, 4)
    [where] = healer.sweep()
    assert (where.kind, where.weight) == ("mappings", 4)
    [finding] = healer.inspect(where)
    assert finding.weight == 4
    assert (finding.problem, set(finding.evidence["mappings"])) == ("mappings-left-behind", set(lost))
    assert [finding] == list(healer.inspect(where)), "it is confirmed as one"
    healed = healer.heal(finding)
    assert healed.complete
    assert not left(cloud, lost)
    assert mapping(cloud, server) is not None
    assert not list(healer.sweep())
    assert not list(healer.inspect(where))
    assert finding.undo == healed.undo
    undo(cloud, healed)
    assert left(cloud, lost) == lost


def test_an_instance_that_came_back_or_has_an_allocation_stays(
    cloud: NovaSimulation, healer: HealInstanceMappings, server: str
) -> None:
    lost = astray(cloud, 4)
    [where] = healer.sweep()
    [finding] = healer.inspect(where)
    request_again(cloud, lost[0])
    cloud.hold(lost[1], {cloud.node("a").uuid: {"VCPU": 1}})
    healed = healer.heal(finding)
    assert left(cloud, lost) == lost[:2]
    assert not healed.complete
    assert lost[0] not in healed.undo
    assert lost[0] in finding.undo
    problems = {found.problem: found for found in healer.inspect(where)}
    assert not any(found.healable for found in problems.values())
    assert "nowhere-but-holding" in problems
    with pytest.raises(Conflict):
        healer.heal(finding)
    assert left(cloud, lost) == lost[:2]


def test_of_many_mappings_those_with_an_allocation_stay(
    cloud: NovaSimulation, healer: HealInstanceMappings, server: str
) -> None:
    """Each inspection and each heal sees what Placement has by then."""
    lost = sorted(astray(cloud, 14))
    [where] = healer.sweep()
    cloud.hold(lost[0], {cloud.node("a").uuid: {"VCPU": 1}})
    found = {one.problem: one for one in healer.inspect(where)}
    assert set(found["mappings-left-behind"].evidence["mappings"]) == set(lost[1:])
    assert found["nowhere-but-holding"].evidence["instances"] == lost[:1]
    cloud.hold(lost[1], {cloud.node("a").uuid: {"VCPU": 1}})
    found = {one.problem: one for one in healer.inspect(where)}
    assert set(found["mappings-left-behind"].evidence["mappings"]) == set(lost[2:])
    cloud.hold(lost[2], {cloud.node("a").uuid: {"VCPU": 1}})
    assert not healer.heal(found["mappings-left-behind"]).complete
    assert left(cloud, lost) == lost[:3]


@pytest.mark.parametrize("change", ["mapped to another cell", "unmarked", "requested again", "specified again"])
def test_one_of_many_changes_between_proof_and_deletion(
    cloud: NovaSimulation, healer: HealInstanceMappings, server: str, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    lost = astray(cloud, 4)
    [where] = healer.sweep()
    [finding] = healer.inspect(where)
    proof = queries.read

    def prove(*arguments: Any) -> Any:
        facts = proof(*arguments)
        CHANGES[change](cloud, lost[1])
        return facts

    monkeypatch.setattr(queries, "read", prove)
    healed = healer.heal(finding)
    assert left(cloud, lost) == [lost[1]]
    assert not healed.complete
    found = everything(cloud)
    assert lost[1] in {row["instance_uuid"] for row in found["instance_mappings"]}
    assert lost[1] in {row["instance_uuid"] for row in found["request_specs"]}
    assert lost[1] not in healed.undo


def test_an_instance_that_its_cell_has_is_no_part_of_a_range(
    cloud: NovaSimulation, healer: HealInstanceMappings, server: str
) -> None:
    lost = astray(cloud, 3)
    set_mapping(cloud, server, queued_for_delete=True, updated_at=None)
    with cloud.api.connect() as connection:
        ids = list(connection.scalars(sa.select(IM.c.id).order_by(IM.c.id)))
    [finding] = healer.inspect(Key("mappings", f"{ids[0]}-{ids[-1]}"))
    assert set(finding.evidence["mappings"]) == set(lost)
    assert key(server) in swept(healer)


def test_ranges_are_no_larger_than_a_batch(
    cloud: NovaSimulation, healer: HealInstanceMappings, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(suspects, "BATCH", 2)
    lost = astray(cloud, 5)
    keys = list(healer.sweep())
    assert sorted(where.kind for where in keys) == ["instance", "mappings", "mappings"]
    for where in keys:
        [finding] = healer.inspect(where)
        healer.heal(finding)
    assert not left(cloud, lost)


def test_the_breaker_sees_every_mapping_of_a_range(
    cloud: NovaSimulation, healer: HealInstanceMappings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cell with the database of another one looks like this."""
    monkeypatch.setattr(suspects, "BATCH", 2)
    astray(cloud, 5)
    keys = list(healer.sweep())
    assert len(keys) < sum(one.weight for one in keys) == 5 == healer.population()


def test_a_range_that_an_operator_types_is_bounded(
    cloud: NovaSimulation, healer: HealInstanceMappings, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(suspects, "BATCH", 2)
    monkeypatch.setattr(queries, "PAGE", 6)
    lost = astray(cloud, 5)
    findings = list(healer.inspect(Key("mappings", "1-999999")))
    assert [finding.weight for finding in findings] == [2, 2, 1]
    for finding in findings:
        healer.heal(finding)
    assert not left(cloud, lost)
    astray(cloud, 7)
    with pytest.raises(Refused, match="choose a smaller range"):
        healer.inspect(Key("mappings", "1-999999"))


def test_a_range_that_cannot_be_read_is_refused(healer: HealInstanceMappings) -> None:
    with pytest.raises(Refused, match="mappings:<first>-<last>"):
        healer.inspect(Key("mappings", "all"))


def test_a_range_waits_for_an_instance_that_just_came_to_another_cell(
    cloud: NovaSimulation, healer: HealInstanceMappings
) -> None:
    [moved] = astray(cloud, 1, archived=False)
    young = {
        "uuid": moved,
        "project_id": "p",
        "vm_state": "active",
        "created_at": datetime.now(UTC).replace(tzinfo=None),
    }
    with cloud.cells["cell2"].begin() as connection:
        connection.execute(sa.insert(tables.instances).values(young))
    with pytest.raises(InFlight, match="just now"):
        healer.inspect(Key("mappings", "1-999999"))
