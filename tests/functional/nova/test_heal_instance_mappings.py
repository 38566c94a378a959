from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from handlers.base import Conflict, Finding, Healed, InFlight, Key, Refused, Resources, Unavailable
from handlers.nova import tables
from handlers.nova.mappings import heal_instance_mappings, queries
from handlers.nova.mappings.heal_instance_mappings import HealInstanceMappings
from handlers.nova.simulation import NovaSimulation

IM = tables.instance_mappings
LONG = {"hours": 3}


@pytest.fixture
def healer(resources: Resources) -> HealInstanceMappings:
    return HealInstanceMappings.from_resources(resources)


@pytest.fixture(autouse=True)
def hosts(cloud: NovaSimulation) -> None:
    with cloud.ago(days=1):
        for host, cell in (("a", "cell1"), ("b", "cell2")):
            cloud.add_compute(host, cell)
            cloud.map_host(host)


@pytest.fixture
def server(cloud: NovaSimulation) -> str:
    """An instance of cell1, three hours old, with nothing wrong."""
    with cloud.ago(**LONG):
        return cloud.boot("a")


def key(instance: str) -> Key:
    return Key("instance", instance)


def mapping(cloud: NovaSimulation, instance: str) -> tuple[int | None, bool | None] | None:
    with cloud.api.connect() as connection:
        row = connection.execute(sa.select(IM).where(IM.c.instance_uuid == instance)).first()
    return None if row is None else (row.cell_id, row.queued_for_delete)


def set_mapping(cloud: NovaSimulation, instance: str, **values: Any) -> None:
    with cloud.api.begin() as connection:
        connection.execute(sa.update(IM).where(IM.c.instance_uuid == instance).values(values))


def request_again(cloud: NovaSimulation, instance: str, **age: float) -> None:
    made = datetime.now(UTC).replace(tzinfo=None) - timedelta(**age or LONG)
    row = {"instance_uuid": instance, "project_id": "p", "instance": '{"a": "it\'s \\"100%\\""}', "created_at": made}
    with cloud.api.begin() as connection:
        connection.execute(sa.insert(tables.build_requests).values(row))


def erase(cloud: NovaSimulation, instance: str) -> None:
    """Its rows vanish from its cell, as when they were archived and purged."""
    for engine in cloud.cells.values():
        with engine.begin() as connection:
            for table in (tables.instance_extra, tables.instance_info_caches):
                connection.execute(sa.delete(table).where(table.c.instance_uuid == instance))
            connection.execute(sa.delete(tables.instances).where(tables.instances.c.uuid == instance))


def in_cell(cloud: NovaSimulation, cell: str, instance: str, **values: Any) -> None:
    made = datetime.now(UTC).replace(tzinfo=None) - timedelta(**LONG)
    row = {"uuid": instance, "project_id": "p", "host": "b", "vm_state": "active", "created_at": made}
    with cloud.cells[cell].begin() as connection:
        connection.execute(sa.insert(tables.instances).values({**row, **values}))


def everything(cloud: NovaSimulation) -> dict[str, list[dict[str, Any]]]:
    """What nova_api says of instances, but for when it changed."""
    found = {}
    with cloud.api.connect() as connection:
        for table in (IM, tables.build_requests, tables.request_specs, tables.instance_group_member):
            rows = connection.execute(sa.select(table).order_by(table.c.id)).mappings()
            found[table.name] = [{**row, "updated_at": None} for row in rows]
    return found


def undo(cloud: NovaSimulation, healed: Healed) -> None:
    with cloud.api.begin() as connection:
        for line in healed.undo.splitlines():
            if not line.startswith("--"):
                connection.exec_driver_sql(line)


def heal(healer: HealInstanceMappings, instance: str) -> tuple[Finding, Healed]:
    """Heal what a sweep has found, once; then it is right."""
    assert instance in listed(healer)
    [finding] = healer.inspect(key(instance))
    healed = healer.heal(finding)
    assert list(healer.inspect(key(instance))) == []
    assert key(instance) not in set(healer.sweep())
    return finding, healed


# what it exists for


def test_an_instance_whose_mapping_names_no_cell(
    cloud: NovaSimulation, healer: HealInstanceMappings, server: str
) -> None:
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


def test_one_that_was_buried_in_cell0(cloud: NovaSimulation, healer: HealInstanceMappings) -> None:
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


def test_an_orphan_without_cell(cloud: NovaSimulation, healer: HealInstanceMappings, server: str) -> None:
    with cloud.ago(**LONG):
        lost = cloud.request()
    with cloud.api.begin() as connection:
        connection.execute(sa.delete(tables.build_requests))
        for instance in (lost, server):
            connection.execute(sa.insert(tables.instance_group_member).values(instance_uuid=instance, group_id=1))
    before = everything(cloud)
    finding, healed = heal(healer, lost)
    assert finding.problem == "mapping-orphaned"
    after = everything(cloud)
    assert {row["instance_uuid"] for rows in after.values() for row in rows} == {server}
    undo(cloud, healed)
    assert everything(cloud) == before


def test_what_archiving_left_behind(cloud: NovaSimulation, healer: HealInstanceMappings, server: str) -> None:
    cloud.delete(server)
    erase(cloud, server)
    set_mapping(cloud, server, updated_at=datetime.now(UTC).replace(tzinfo=None) - timedelta(hours=2))
    before = everything(cloud)
    finding, healed = heal(healer, server)
    assert finding.problem == "mapping-left-behind"
    assert not any(everything(cloud).values())
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


# what it leaves alone


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
    old = datetime.now(UTC).replace(tzinfo=None) - timedelta(days=9)
    fake = "00000000-0000-0000-0000-000000000000"
    bookmarks = {nobody.replace("-", " "): "INSTANCE_MIGRATION_MARKER", fake: fake}
    with cloud.api.begin() as connection:
        for identity, project in bookmarks.items():
            connection.execute(sa.insert(IM).values(instance_uuid=identity, project_id=project, created_at=old))
    assert list(healer.sweep()) == []
    for identity in (*bookmarks, nobody):
        assert list(healer.inspect(key(identity))) == []


def listed(healer: HealInstanceMappings) -> set[str]:
    """The instances that a sweep lists, one by one or in a part."""
    found: set[str] = set()
    for where in healer.sweep():
        if where.kind == "mappings":
            found |= {finding.evidence["instance"] for finding in healer.inspect(where)}
        else:
            found.add(where.id)
    return found


def reported(healer: HealInstanceMappings, instance: str) -> str:
    assert instance in listed(healer)
    [finding] = healer.inspect(key(instance))
    assert finding.refusal
    assert not finding.healable
    with pytest.raises(Refused):
        healer.heal(finding)
    return finding.problem


def test_what_is_only_reported(cloud: NovaSimulation, healer: HealInstanceMappings, server: str) -> None:
    with cloud.ago(**LONG):
        moved, lost, stuck, twice = cloud.boot("a"), cloud.boot("a"), cloud.request(), cloud.boot("a")
    erase(cloud, moved)
    in_cell(cloud, "cell2", moved)
    erase(cloud, lost)
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


# what may go wrong


def test_a_cell_that_does_not_answer(
    cloud: NovaSimulation, healer: HealInstanceMappings, server: str, cut: Callable[[str], None]
) -> None:
    with cloud.ago(**LONG):
        lost, other = cloud.request(), cloud.boot("b")
    with cloud.api.begin() as connection:
        connection.execute(sa.delete(tables.build_requests))
    set_mapping(cloud, server, queued_for_delete=True)
    [orphan] = healer.inspect(key(lost))
    before = everything(cloud)
    cut("cell2")
    swept = []
    with pytest.raises(Unavailable) as caught:
        swept.extend(healer.sweep())
    assert caught.value.dependency == "cell:cell2"
    for instance in (lost, server, other):
        with pytest.raises(Unavailable):
            healer.inspect(key(instance))
    with pytest.raises(Unavailable):
        healer.heal(orphan)
    assert everything(cloud) == before


def test_a_sweep_of_what_answers(
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
    cloud.delete(server)
    erase(cloud, server)
    set_mapping(cloud, server, updated_at=None)
    cloud.placement.stop()
    with pytest.raises(Unavailable) as caught:
        healer.inspect(key(server))
    assert caught.value.dependency == "placement"
    cloud.placement.start()
    heal(healer, server)


def test_a_cell_that_nobody_knows(cloud: NovaSimulation, healer: HealInstanceMappings, server: str) -> None:
    set_mapping(cloud, server, cell_id=99)
    with pytest.raises(Unavailable, match="99"):
        healer.inspect(key(server))


CHANGES: dict[str, Callable[[NovaSimulation, str], object]] = {
    "mapped by somebody": lambda cloud, instance: set_mapping(cloud, instance, cell_id=3),
    "marked by somebody": lambda cloud, instance: set_mapping(cloud, instance, queued_for_delete=True),
    "requested again": request_again,
    "appeared in a cell": lambda cloud, instance: in_cell(cloud, "cell2", instance),
    "claimed": lambda cloud, instance: cloud.hold(instance, {cloud.node("a").uuid: {"VCPU": 1}}),
}


@pytest.mark.parametrize("change", CHANGES)
def test_the_world_changes_before_an_orphan_is_forgotten(
    cloud: NovaSimulation, healer: HealInstanceMappings, change: str
) -> None:
    with cloud.ago(**LONG):
        lost = cloud.request()
    with cloud.api.begin() as connection:
        connection.execute(sa.delete(tables.build_requests))
    [finding] = healer.inspect(key(lost))
    CHANGES[change](cloud, lost)
    before = everything(cloud)
    with pytest.raises(Conflict):
        healer.heal(finding)
    assert everything(cloud) == before


@pytest.mark.parametrize("change", ["mapped by somebody", "marked by somebody", "requested again"])
def test_the_world_changes_between_proof_and_deletion(
    cloud: NovaSimulation, healer: HealInstanceMappings, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    with cloud.ago(**LONG):
        lost = cloud.request()
    with cloud.api.begin() as connection:
        connection.execute(sa.delete(tables.build_requests))
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
    assert [row["instance_uuid"] for row in found["instance_mappings"]] == [lost]
    assert [row["instance_uuid"] for row in found["request_specs"]] == [lost]


@pytest.mark.parametrize("change", ["mapped by somebody", "marked by somebody", "no request any more"])
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


def astray(cloud: NovaSimulation, number: int, **age: float) -> list[str]:
    """Mappings of instances that are in no cell, with what else nova_api has of such an instance."""
    made = datetime.now(UTC).replace(tzinfo=None) - timedelta(**age or LONG)
    lost = [str(uuid.uuid4()) for _ in range(number)]
    with cloud.api.begin() as connection:
        for one in lost:
            row = {"instance_uuid": one, "cell_id": 2, "project_id": "p", "queued_for_delete": False}
            connection.execute(sa.insert(IM).values({**row, "created_at": made}))
            connection.execute(sa.insert(tables.request_specs).values(instance_uuid=one, spec="{}"))
    return lost


def left(cloud: NovaSimulation, lost: list[str]) -> list[str]:
    """Those of which nova_api still has something."""
    with cloud.api.connect() as connection:
        specs = set(connection.scalars(sa.select(tables.request_specs.c.instance_uuid)))
    return [one for one in lost if mapping(cloud, one) is not None or one in specs]


@pytest.fixture
def ordinary(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many of the few mappings of these tests lead nowhere, it is ordinary drift."""
    monkeypatch.setattr(heal_instance_mappings, "ORDINARY", 1.0)


def test_those_that_lead_nowhere_are_forgotten_together(
    cloud: NovaSimulation, healer: HealInstanceMappings, server: str, ordinary: None
) -> None:
    lost = astray(cloud, 4)
    [where] = healer.sweep()
    assert where.kind == "mappings"
    [finding] = healer.inspect(where)
    assert (finding.problem, set(finding.evidence["mappings"])) == ("mappings-left-behind", set(lost))
    assert [finding] == list(healer.inspect(where)), "it is confirmed as one"
    healed = healer.heal(finding)
    assert healed.complete
    assert not left(cloud, lost)
    assert mapping(cloud, server) is not None
    assert not list(healer.sweep())
    assert not list(healer.inspect(where))
    with cloud.api.begin() as connection:
        for line in healed.undo.splitlines():
            if not line.startswith("--"):
                connection.exec_driver_sql(line)
    assert left(cloud, lost) == lost


def test_who_came_back_or_holds_something_stays(
    cloud: NovaSimulation, healer: HealInstanceMappings, server: str, ordinary: None
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
    problems = {found.problem: found for found in healer.inspect(where)}
    assert not any(found.healable for found in problems.values())
    assert "nowhere-but-holding" in problems
    with pytest.raises(Conflict):
        healer.heal(finding)
    assert left(cloud, lost) == lost[:2]


def test_what_is_found_to_be_something_else_is_a_finding_of_its_own(
    cloud: NovaSimulation, healer: HealInstanceMappings, server: str, ordinary: None
) -> None:
    """Between the sweep and the look, one of the lost turns up in its cell, wrongly marked."""
    lost = astray(cloud, 3)
    [where] = healer.sweep()
    cells = healer._copies
    healer._copies = lambda cell, instances: {}  # type: ignore[method-assign]
    set_mapping(cloud, server, queued_for_delete=True, updated_at=None)
    with cloud.api.connect() as connection:
        ids = list(connection.scalars(sa.select(IM.c.id).order_by(IM.c.id)))
    part = Key("mappings", f"{ids[0]}-{ids[-1]}")
    findings = {finding.problem: finding for finding in healer.inspect(part)}
    healer._copies = cells  # type: ignore[method-assign]
    [single] = [finding for problem, finding in findings.items() if problem != "mappings-left-behind"]
    assert server in single.summary
    healer.heal(single)
    assert mapping(cloud, server) == (2, False)
    assert left(cloud, lost) == lost
    healer.heal(findings["mappings-left-behind"])
    assert not left(cloud, lost)
    assert not list(healer.inspect(where))


def test_parts_are_no_larger_than_a_batch(
    cloud: NovaSimulation, healer: HealInstanceMappings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heal_instance_mappings, "BATCH", 2)
    monkeypatch.setattr(heal_instance_mappings, "ORDINARY", 1.0)
    lost = astray(cloud, 5)
    keys = list(healer.sweep())
    assert sorted(where.kind for where in keys) == ["instance", "mappings", "mappings"]
    for where in keys:
        [finding] = healer.inspect(where)
        healer.heal(finding)
    assert not left(cloud, lost)


def test_more_than_ordinary_is_counted_one_by_one(
    cloud: NovaSimulation, healer: HealInstanceMappings, server: str
) -> None:
    """A cell whose database is another one's looks like this, in a small cloud as well: the breaker has to see how many."""
    lost = astray(cloud, 2)
    assert set(healer.sweep()) == {key(one) for one in lost}


def test_a_part_that_cannot_be_read_is_refused(healer: HealInstanceMappings) -> None:
    with pytest.raises(Refused, match="mappings:<first>-<last>"):
        healer.inspect(Key("mappings", "all"))
