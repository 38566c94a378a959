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

IM = tables.instance_mappings


@pytest.fixture
def mapper(resources: Resources) -> MapInstances:
    return MapInstances.from_resources(resources)


def key(instance: str) -> Key:
    return Key("instance", instance)


def add(cloud: NovaSimulation, cell: str, instance: str = "", **values: Any) -> str:
    """An instance without a mapping, made an hour ago."""
    instance = instance or str(uuid.uuid4())
    made = datetime.now(UTC).replace(tzinfo=None) - timedelta(hours=1)
    row = {"project_id": "p", "user_id": "u", "host": "a", "vm_state": "active", "created_at": made}
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


def heal_all(mapper: MapInstances, found: Key) -> list[str]:
    actions = []
    while findings := [finding for finding in mapper.inspect(found) if finding.healable]:
        actions.append(mapper.heal(findings[0]).action)
    return actions


def test_instances_are_mapped_to_where_they_are(cloud: NovaSimulation, mapper: MapInstances) -> None:
    alive, soft = add(cloud, "cell1"), add(cloud, "cell2", vm_state="soft-delete")
    dead, buried = add(cloud, "cell2", deleted=7), add(cloud, "cell0", host=None, vm_state="error")
    found = list(mapper.sweep())
    assert sorted(found) == sorted(map(key, (alive, soft, dead, buried)))
    for instance in found:
        assert len(heal_all(mapper, instance)) == 1
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
    undo = mapper.heal(finding).undo
    assert mappings(cloud) == {instance: (2, False)}
    with cloud.api.begin() as connection:
        connection.execute(sa.text(undo.split(";")[0]))
    assert mappings(cloud) == {}


def test_what_boots_is_left_alone(cloud: NovaSimulation, mapper: MapInstances) -> None:
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
    with pytest.raises(InFlight, match="being scheduled"):
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
    nobodys = add(cloud, "cell1", project_id=None)
    for instance in (twice, nobodys):
        [finding] = mapper.inspect(key(instance))
        assert not finding.healable
        with pytest.raises(Refused):
            mapper.heal(finding)
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
    swept = []
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


def test_somebody_else_is_faster(cloud: NovaSimulation, mapper: MapInstances, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the question what is missing and the insertion of it."""
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


def test_many_are_mapped_batch_by_batch(
    cloud: NovaSimulation, mapper: MapInstances, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(map_instances, "BATCH", 40)
    monkeypatch.setattr(map_instances, "FEW", 6)
    monkeypatch.setattr(queries, "PAGE", 17)
    missing = [add(cloud, "cell1", deleted=number % 2) for number in range(100)]
    few = [add(cloud, "cell2") for _ in range(5)]
    add(cloud, "cell2", missing[50])
    nobodys = add(cloud, "cell1", project_id=None)
    found = list(mapper.sweep())
    cell = cell_uuid(cloud, "cell1")
    assert found[:3] == [Key("cell", f"{cell}/1-40"), Key("cell", f"{cell}/41-80"), Key("cell", f"{cell}/81-101")]
    assert found[3:] == [key(instance) for instance in (*few, missing[50])]
    assert heal_all(mapper, found[0]) == [f"mapped 40 instances to cell {cell}"]
    problems = [finding.problem for finding in mapper.inspect(Key("cell", cell))]
    assert problems.count("instances-unmapped") == 2
    assert set(problems) == {"instances-unmapped", "unmapped-in-several-cells", "unmapped-without-owner"}
    for finding in mapper.inspect(Key("cell", cell)):
        if finding.healable:
            assert finding.evidence["count"] == len(finding.evidence["uuids"]) <= 40
            mapper.heal(finding)
    expected = {instance: (2, bool(number % 2)) for number, instance in enumerate(missing) if number != 50}
    assert mappings(cloud) == expected
    assert {finding.evidence["instance"] for finding in mapper.inspect(Key("cell", cell))} == {nobodys, missing[50]}


def test_a_batch_leaves_out_what_changed(cloud: NovaSimulation, mapper: MapInstances) -> None:
    missing = [add(cloud, "cell1") for _ in range(3)]
    [finding] = mapper.inspect(Key("cell", cell_uuid(cloud, "cell1")))
    cloud.set_instance(missing[0], deleted=1)
    add(cloud, "cell2", missing[1])
    healed = mapper.heal(finding)
    assert healed.after["mappings"] == 2
    assert mappings(cloud) == {missing[0]: (2, True), missing[2]: (2, False)}
    with pytest.raises(Conflict):
        mapper.heal(finding)


@pytest.mark.parametrize("identity", ["nowhere", "{cell}/x", "{cell}/1", "{cell}/"])
def test_a_key_that_is_no_cell(cloud: NovaSimulation, mapper: MapInstances, identity: str) -> None:
    with pytest.raises(Refused):
        mapper.inspect(Key("cell", identity.format(cell=cell_uuid(cloud, "cell1"))))
