from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from handlers.base import Conflict, InFlight, Key, Refused, Resources, Unavailable
from handlers.nova import tables
from handlers.nova.mappings import map_instances, queries
from handlers.nova.mappings.map_instances import MapInstances
from handlers.nova.simulation import NovaSimulation
from handlers.testing import heal_all
from tests.functional.nova.world import execute, instance_key, long_ago, refused, swept

IM = tables.instance_mappings


@pytest.fixture
def mapper(resources: Resources) -> MapInstances:
    return MapInstances.from_resources(resources)


key = instance_key


def add(cloud: NovaSimulation, cell: str, instance: str = "", *, specified: bool = True, **values: Any) -> str:
    """An instance without a mapping, made an hour ago.

    :param specified: whether it has a request specification
    """
    instance = instance or str(uuid.uuid4())
    row = {"project_id": "p", "user_id": "u", "host": "a", "vm_state": "active", "created_at": long_ago(hours=1)}
    with cloud.api.begin() as connection:
        specs = tables.request_specs
        there = connection.execute(sa.select(specs.c.id).where(specs.c.instance_uuid == instance)).first()
        if specified and there is None:
            connection.execute(sa.insert(specs).values(instance_uuid=instance, spec="{}"))
    with cloud.cells[cell].begin() as connection:
        connection.execute(sa.insert(tables.instances).values({**row, **values, "uuid": instance}))
    return instance


def mappings(cloud: NovaSimulation) -> dict[str, tuple[int | None, bool | None]]:
    with cloud.api.connect() as connection:
        rows = connection.execute(sa.select(IM).order_by(IM.c.id)).all()
    return {row.instance_uuid: (row.cell_id, row.queued_for_delete) for row in rows}


def cell_uuid(cloud: NovaSimulation, name: str) -> str:
    c = tables.cell_mappings.c
    with cloud.api.connect() as connection:
        return str(connection.scalar(sa.select(c.uuid).where(c.name == name)))


def test_instances_are_mapped_to_where_they_are(cloud: NovaSimulation, mapper: MapInstances) -> None:
    alive, soft = add(cloud, "cell1"), add(cloud, "cell2", vm_state="soft-delete")
    dead, buried = add(cloud, "cell2", deleted=7), add(cloud, "cell0", host=None, vm_state="error")
    found = list(mapper.sweep())
    assert sorted(found) == sorted(map(key, (alive, soft, dead, buried)))
    for instance in found:
        assert len(heal_all(mapper, [instance])) == 1
    assert mappings(cloud) == {buried: (1, False), alive: (2, False), soft: (3, True), dead: (3, True)}
    assert list(mapper.sweep()) == []
    with cloud.api.connect() as connection:
        row = connection.execute(sa.select(IM).where(IM.c.instance_uuid == alive)).one()
    assert (row.project_id, row.user_id) == ("p", "u")
    assert abs(row.created_at - datetime.now(UTC).replace(tzinfo=None)) < timedelta(seconds=30)
    assert mapper.population() == 4


def test_a_mapping_is_undone(cloud: NovaSimulation, mapper: MapInstances) -> None:
    instance = add(cloud, "cell1")
    [finding] = mapper.inspect(key(instance))
    healed = mapper.heal(finding)
    assert mappings(cloud) == {instance: (2, False)}
    assert finding.undo == healed.undo, "the undo is known before the heal"
    execute(cloud, healed.undo)
    assert mappings(cloud) == {}


def test_a_cell_restored_from_before_deletions_and_archiving(cloud: NovaSimulation, mapper: MapInstances) -> None:
    """Mapping, request specification and allocation went with the deletion; one row does not bring the instance back."""
    ghost = add(cloud, "cell1", specified=False)
    assert key(ghost) in swept(mapper)
    [finding] = mapper.inspect(key(ghost))
    assert refused(mapper, finding).problem == "unmapped-without-record"
    assert mappings(cloud) == {}
    [batch] = mapper.inspect(Key("cell", cell_uuid(cloud, "cell1")))
    assert not batch.healable


def test_an_allocation_is_the_second_record_where_nova_api_was_restored(
    cloud: NovaSimulation, mapper: MapInstances
) -> None:
    [node] = cloud.add_compute("a", "cell1")
    instance = add(cloud, "cell1", specified=False)
    cloud.hold(instance, {node.uuid: {"VCPU": 1}})
    [finding] = mapper.inspect(key(instance))
    mapper.heal(finding)
    assert mappings(cloud) == {instance: (2, False)}


def test_the_advice_about_an_instance_without_records_maps_it(cloud: NovaSimulation, mapper: MapInstances) -> None:
    instance = add(cloud, "cell1", specified=False, project_id="it's")
    [finding] = mapper.inspect(key(instance))
    execute(cloud, finding.refusal[finding.refusal.index("INSERT") :])
    assert mappings(cloud) == {instance: (2, False)}
    assert not swept(mapper)


def test_a_running_instance_is_not_mapped_while_placement_is_silent(
    cloud: NovaSimulation, mapper: MapInstances
) -> None:
    instance = add(cloud, "cell1", specified=False)
    cloud.placement.stop()
    with pytest.raises(Unavailable, match="placement"):
        mapper.inspect(key(instance))


def test_a_boot_is_left_alone(cloud: NovaSimulation, mapper: MapInstances) -> None:
    cloud.add_compute("a", "cell1")
    server = cloud.boot("a")
    young = add(cloud, "cell1", created_at=datetime.now(UTC).replace(tzinfo=None))
    assert list(mapper.inspect(key(server))) == []
    with pytest.raises(InFlight) as caught:
        mapper.inspect(key(young))
    assert 50 < caught.value.after <= 60
    requested = cloud.request()
    with cloud.api.begin() as connection:
        connection.execute(sa.delete(IM).where(IM.c.instance_uuid == requested))
    add(cloud, "cell1", requested)
    with pytest.raises(InFlight, match="schedules the instance"):
        mapper.inspect(key(requested))


def test_existing_rows_and_bookmarks_are_left_alone(cloud: NovaSimulation, mapper: MapInstances) -> None:
    instance, fake = add(cloud, "cell1"), add(cloud, "cell1", "00000000-0000-0000-0000-000000000000")
    hidden = add(cloud, "cell2", hidden=True)
    bookmark = instance.replace("-", " ")
    with cloud.api.begin() as connection:
        for identity, project in ((instance, "p"), (bookmark, "INSTANCE_MIGRATION_MARKER")):
            connection.execute(sa.insert(IM).values(instance_uuid=identity, project_id=project))
    assert list(mapper.sweep()) == []
    for identity in (instance, fake, hidden, bookmark, str(uuid.uuid4())):
        try:
            assert list(mapper.inspect(key(identity))) == []
        except InFlight:
            assert identity == hidden
    assert mappings(cloud) == {instance: (None, False), bookmark: (None, False)}


def test_no_cell_is_guessed(cloud: NovaSimulation, mapper: MapInstances) -> None:
    twice = add(cloud, "cell1")
    add(cloud, "cell2", twice, deleted=1)
    ownerless = add(cloud, "cell1", project_id=None)
    assert {key(twice), key(ownerless)} <= swept(mapper)
    problems = [refused(mapper, *mapper.inspect(key(instance))).problem for instance in (twice, ownerless)]
    assert problems == ["unmapped-in-several-cells", "unmapped-without-owner"]
    assert mappings(cloud) == {}


def test_a_cell_that_does_not_answer(cloud: NovaSimulation, mapper: MapInstances, cut: Callable[[str], None]) -> None:
    instance = add(cloud, "cell1")
    [finding] = mapper.inspect(key(instance))
    cut("cell2")
    with pytest.raises(Unavailable) as caught:
        mapper.inspect(key(instance))
    assert caught.value.dependency == "cell:cell2"
    with pytest.raises(Unavailable):
        mapper.heal(finding)
    swept: list[Key] = []
    with pytest.raises(Unavailable):
        swept.extend(mapper.sweep())
    assert mappings(cloud) == {}


def test_the_world_changes_before_the_heal(cloud: NovaSimulation, mapper: MapInstances) -> None:
    mapped, deleted, moved = add(cloud, "cell1"), add(cloud, "cell1"), add(cloud, "cell1")
    findings = {instance: next(iter(mapper.inspect(key(instance)))) for instance in (mapped, deleted, moved)}
    with cloud.api.begin() as connection:
        connection.execute(sa.insert(IM).values(instance_uuid=mapped, project_id="p", cell_id=3))
    cloud.set_instance(deleted, deleted=1)
    add(cloud, "cell2", moved)
    for finding in findings.values():
        with pytest.raises(Conflict):
            mapper.heal(finding)
    assert mappings(cloud) == {mapped: (3, False)}


def test_another_process_is_faster(
    cloud: NovaSimulation, mapper: MapInstances, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It maps an instance between proof and insertion."""
    first, second = add(cloud, "cell1"), add(cloud, "cell1")
    monkeypatch.setattr(map_instances, "FEW", 0)
    [batch] = mapper.sweep()
    [finding] = mapper.inspect(batch)
    with cloud.api.begin() as connection:
        connection.execute(sa.insert(IM).values(instance_uuid=second, project_id="p", cell_id=2))
    with monkeypatch.context() as patch:
        patch.setattr(queries, "mapped", lambda *_, **__: set())
        patch.setattr(queries, "mappings_of", lambda *_, **__: {})
        with pytest.raises(Conflict):
            mapper.heal(finding)
    assert mappings(cloud) == {second: (2, False)}, "all or nothing"
    assert mapper.heal(finding).action.startswith(f"mapped instance {first}")
    assert mappings(cloud) == {second: (2, False), first: (2, False)}


def test_the_undo_of_a_batch_spares_the_mappings_of_others(cloud: NovaSimulation, mapper: MapInstances) -> None:
    """If stackmend dies, the history has only the finding's undo, which names every instance of the batch."""
    ours, theirs = add(cloud, "cell1"), add(cloud, "cell1")
    [finding] = mapper.inspect(Key("cell", cell_uuid(cloud, "cell1")))
    with cloud.api.begin() as connection:
        row = {"instance_uuid": theirs, "project_id": "p", "cell_id": 2, "created_at": long_ago(seconds=1)}
        connection.execute(sa.insert(IM).values(row))
    mapper.heal(finding)
    assert mappings(cloud) == {theirs: (2, False), ours: (2, False)}
    execute(cloud, finding.undo)
    assert mappings(cloud) == {theirs: (2, False)}


@pytest.mark.parametrize("change", [{"cell_id": 3}, {"queued_for_delete": True}], ids=str)
def test_an_undo_spares_a_mapping_that_nova_changed_since(
    cloud: NovaSimulation, mapper: MapInstances, change: dict[str, Any]
) -> None:
    instance = add(cloud, "cell1")
    [finding] = mapper.inspect(key(instance))
    mapper.heal(finding)
    now = datetime.now(UTC).replace(tzinfo=None) + timedelta(seconds=5)
    with cloud.api.begin() as connection:
        connection.execute(sa.update(IM).where(IM.c.instance_uuid == instance).values(updated_at=now, **change))
    before = mappings(cloud)
    execute(cloud, finding.undo)
    assert mappings(cloud) == before


def test_many_are_mapped_batch_by_batch(
    cloud: NovaSimulation, mapper: MapInstances, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(map_instances, "BATCH", 40)
    monkeypatch.setattr(map_instances, "FEW", 6)
    monkeypatch.setattr(queries, "PAGE", 17)
    missing = [add(cloud, "cell1", deleted=number % 2) for number in range(100)]
    few = [add(cloud, "cell2") for _ in range(5)]
    add(cloud, "cell2", missing[50])
    ownerless = add(cloud, "cell1", project_id=None)
    found = list(mapper.sweep())
    cell = cell_uuid(cloud, "cell1")
    assert [where.weight for where in found[:3]] == [40, 40, 21]
    assert found[:3] == [Key("cell", f"{cell}/1-40"), Key("cell", f"{cell}/41-80"), Key("cell", f"{cell}/81-101")]
    assert found[3:] == [key(instance) for instance in (*few, missing[50])]
    assert [healed.action for healed in heal_all(mapper, found[:1])] == [f"mapped 40 instances to cell {cell}"]
    problems = [finding.problem for finding in mapper.inspect(Key("cell", cell))]
    assert problems.count("instances-unmapped") == 2
    assert set(problems) == {"instances-unmapped", "unmapped-in-several-cells", "unmapped-without-owner"}
    for finding in mapper.inspect(Key("cell", cell)):
        if finding.healable:
            assert finding.weight == finding.evidence["count"] == len(finding.evidence["uuids"]) <= 40
            mapper.heal(finding)
    expected = {instance: (2, bool(number % 2)) for number, instance in enumerate(missing) if number != 50}
    assert mappings(cloud) == expected
    assert {finding.evidence["instance"] for finding in mapper.inspect(Key("cell", cell))} == {ownerless, missing[50]}


def test_a_batch_leaves_out_instances_that_changed(cloud: NovaSimulation, mapper: MapInstances) -> None:
    missing = [add(cloud, "cell1") for _ in range(3)]
    [finding] = mapper.inspect(Key("cell", cell_uuid(cloud, "cell1")))
    cloud.set_instance(missing[0], deleted=1)
    add(cloud, "cell2", missing[1])
    healed = mapper.heal(finding)
    assert healed.after["mappings"] == 2
    assert not healed.complete, "the machine inspects the batch again at once"
    assert mappings(cloud) == {missing[0]: (2, True), missing[2]: (2, False)}
    with pytest.raises(Conflict):
        mapper.heal(finding)


def test_a_cell_with_only_a_young_instance_waits_for_it(cloud: NovaSimulation, mapper: MapInstances) -> None:
    add(cloud, "cell1", created_at=datetime.now(UTC).replace(tzinfo=None))
    whole = Key("cell", cell_uuid(cloud, "cell1"))
    with pytest.raises(InFlight) as caught:
        mapper.inspect(whole)
    assert 50 < caught.value.after <= 60
    old = add(cloud, "cell1")
    [finding] = mapper.inspect(whole)
    assert mapper.heal(finding).complete
    assert set(mappings(cloud)) == {old}


@pytest.mark.parametrize("identity", ["nowhere", "{cell}/x", "{cell}/1", "{cell}/"])
def test_a_key_that_is_no_cell(cloud: NovaSimulation, mapper: MapInstances, identity: str) -> None:
    with pytest.raises(Refused):
        mapper.inspect(Key("cell", identity.format(cell=cell_uuid(cloud, "cell1"))))
