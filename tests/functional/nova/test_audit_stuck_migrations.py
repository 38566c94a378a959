from __future__ import annotations

from collections.abc import Callable

import pytest
import sqlalchemy as sa

from handlers.base import Conflict, Finding, InFlight, Key, Resources, Unavailable
from handlers.nova import tables
from handlers.nova.migrations.audit_stuck_migrations import AuditStuckMigrations
from handlers.nova.simulation import NovaSimulation
from tests.functional.nova.world import heal_all, heal_only, instance_key, record_move, refused, swept

pytestmark = pytest.mark.hosts(a="cell1", b="cell1", d="cell1", c="cell2")

LONG = {"hours": 5}


@pytest.fixture
def stuck(resources: Resources) -> AuditStuckMigrations:
    for group, options in AuditStuckMigrations.options().items():
        resources.conf.register_opts(options, group)
    return AuditStuckMigrations.from_resources(resources)


def begun(cloud: NovaSimulation, live: bool = True) -> tuple[str, str]:
    """Boot an instance on a and begin to move it to b, hours ago."""
    with cloud.ago(**LONG):
        instance = cloud.boot("a")
        return instance, cloud.start_migration(instance, "b", live=live)


def deleted(cloud: NovaSimulation) -> tuple[str, str]:
    instance, migration = begun(cloud)
    with cloud.ago(hours=4):
        cloud.delete(instance)
    return instance, migration


def superseded(cloud: NovaSimulation) -> tuple[str, str]:
    """Let the instance lose its task, and a younger migration succeed."""
    instance, migration = begun(cloud)
    with cloud.ago(hours=4):
        cloud.set_instance(instance, task_state=None)
        cloud.finish_migration(cloud.start_migration(instance, "d", live=True))
    return instance, migration


Made = Callable[[NovaSimulation], tuple[str, str]]


@pytest.mark.parametrize(
    ("made", "problem"), [(deleted, "migration-of-deleted-instance"), (superseded, "migration-superseded")]
)
def test_a_migration_that_is_over_ends_in_error(
    cloud: NovaSimulation, stuck: AuditStuckMigrations, made: Made, problem: str
) -> None:
    instance, migration = made(cloud)
    before = {row.uuid: row.status for row in cloud.migrations(instance)}
    assert swept(stuck) == {instance_key(instance)}
    finding = heal_only(stuck, instance_key(instance))
    assert finding.problem == problem
    assert {row.uuid: row.status for row in cloud.migrations(instance)} == {**before, migration: "error"}
    assert swept(stuck) == set()


def test_the_finding_names_write_undo_and_objects(cloud: NovaSimulation, stuck: AuditStuckMigrations) -> None:
    instance, migration = superseded(cloud)
    [finding] = stuck.inspect(instance_key(instance))
    row = cloud.migration(migration)
    assert finding.plan.startswith("cell:cell1: UPDATE migrations SET ")
    assert f"migrations.id = {row.id}" in finding.plan
    assert "migrations.status = 'running'" in finding.plan
    assert finding.undo.startswith("-- in the database of cell:cell1\nUPDATE migrations SET status='running'")
    objects = {"host:a", "host:b", "host:d", f"project:{cloud.PROJECT}", "cell:cell1", f"instance:{instance}"}
    assert objects <= finding.concerns
    assert {one.partition(":")[0] for one in finding.concerns} <= stuck.concerned_kinds


def test_several_migrations_of_one_instance_end_one_by_one(cloud: NovaSimulation, stuck: AuditStuckMigrations) -> None:
    instance, first = deleted(cloud)
    second = record_move(cloud, instance, "d", "pre-migrating", hours=5)
    assert len(heal_all(stuck, instance_key(instance))) == 2
    assert {cloud.migration(one).status for one in (first, second)} == {"error"}


def test_a_host_stands_for_its_migrations(cloud: NovaSimulation, stuck: AuditStuckMigrations) -> None:
    instance, _ = deleted(cloud)
    assert {one.evidence["instance"] for one in stuck.inspect(Key("host", "b"))} == {instance}
    assert not list(stuck.inspect(Key("host", "c")))
    heal_only(stuck, Key("host", "a"))


# no heals


def resize_waits(cloud: NovaSimulation) -> str:
    instance, migration = begun(cloud, live=False)
    with cloud.ago(hours=4):
        cloud.finish_migration(migration)
    return instance


def live_migration_runs(cloud: NovaSimulation) -> str:
    return begun(cloud)[0]


def evacuation_waits_for_its_host(cloud: NovaSimulation) -> str:
    with cloud.ago(**LONG):
        instance = cloud.boot("a")
        cloud.evacuate(instance, "b")
    return instance


def migration_has_ended(cloud: NovaSimulation) -> str:
    instance, migration = begun(cloud)
    with cloud.ago(hours=4):
        cloud.fail_migration(migration)
    return instance


def row_is_deleted(cloud: NovaSimulation) -> str:
    """Nova deletes the migrations of an instance with it; they block nothing."""
    instance, migration = deleted(cloud)
    cloud.set_migration(migration, deleted=1)
    return instance


def copy_in_another_cell(cloud: NovaSimulation) -> str:
    """A cross-cell resize copies the row, hidden, to the other cell."""
    instance, _ = superseded(cloud)
    row = {**cloud.instance(instance)._mapping, "hidden": True}
    with cloud.cells["cell2"].begin() as connection:
        connection.execute(sa.insert(tables.instances).values(row))
    return instance


def build_request(cloud: NovaSimulation) -> str:
    instance, _ = deleted(cloud)
    with cloud.api.begin() as connection:
        row = {"instance_uuid": instance, "project_id": "p", "instance": "{}"}
        connection.execute(sa.insert(tables.build_requests).values(row))
    return instance


@pytest.mark.parametrize(
    "made",
    [
        resize_waits,
        live_migration_runs,
        evacuation_waits_for_its_host,
        migration_has_ended,
        row_is_deleted,
        copy_in_another_cell,
        build_request,
    ],
)
def test_a_legal_state_is_left_alone(
    cloud: NovaSimulation, stuck: AuditStuckMigrations, made: Callable[[NovaSimulation], str]
) -> None:
    instance = made(cloud)
    assert not list(stuck.inspect(instance_key(instance)))


def test_a_young_migration_is_inspected_later(cloud: NovaSimulation, stuck: AuditStuckMigrations) -> None:
    """nova-compute at the source writes ``completed`` after the instance has its new host."""
    instance, migration = superseded(cloud)
    cloud.set_migration(migration, status="running")
    with pytest.raises(InFlight) as error:
        list(stuck.inspect(instance_key(instance)))
    assert 7000 < error.value.after <= 7200


def test_nothing_proves_where_the_guest_runs(cloud: NovaSimulation, stuck: AuditStuckMigrations) -> None:
    """nova-compute clears the task of an interrupted live migration when it starts again."""
    instance, migration = begun(cloud)
    with cloud.ago(hours=4):
        cloud.set_instance(instance, task_state=None)
    assert swept(stuck) == {instance_key(instance)}
    [finding] = stuck.inspect(instance_key(instance))
    assert refused(stuck, finding).problem == "migration-without-end"
    assert "in the database of cell:cell1:\nUPDATE migrations SET " in finding.refusal
    assert cloud.migration(migration).status == "running"


@pytest.mark.parametrize("gone", [False, True])
def test_the_row_by_which_the_former_host_destroys_the_old_guest_stays(
    cloud: NovaSimulation, stuck: AuditStuckMigrations, gone: bool
) -> None:
    """nova-compute on b died after it wrote the instance's host, and before it wrote ``done`` (finish_evacuation)."""
    with cloud.ago(**LONG):
        instance = cloud.boot("a")
        evacuation = cloud.evacuate(instance, "b")
        cloud.set_migration(evacuation, status="pre-migrating")
    with cloud.ago(hours=4):
        cloud.finish_migration(cloud.start_migration(instance, "d", live=True))
        if gone:
            cloud.delete(instance)
            cloud.set_migration(evacuation, deleted=0)
    [finding] = stuck.inspect(instance_key(instance))
    assert "when nova-compute on a starts" in refused(stuck, finding).refusal
    assert cloud.migration(evacuation).status == "pre-migrating"


# what changes in between


def prove(stuck: AuditStuckMigrations, finding: Finding, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the second proof give the first finding, as for a change right before the write."""
    monkeypatch.setattr(stuck, "prove_again", lambda one: finding)


@pytest.mark.parametrize("change", [{"status": "failed"}, {"status": "post-migrating"}, {"deleted": 1}])
@pytest.mark.parametrize("late", [False, True])
def test_a_migration_that_nova_writes_meanwhile_stays(
    cloud: NovaSimulation,
    stuck: AuditStuckMigrations,
    monkeypatch: pytest.MonkeyPatch,
    change: dict[str, object],
    late: bool,
) -> None:
    instance, migration = superseded(cloud)
    [finding] = stuck.inspect(instance_key(instance))
    cloud.set_migration(migration, **change)
    if late:
        prove(stuck, finding, monkeypatch)
    with pytest.raises((Conflict, InFlight)):
        stuck.heal(finding)
    assert cloud.migration(migration).status == change.get("status", "running")


def test_a_task_that_begins_meanwhile_stops_the_write(
    cloud: NovaSimulation, stuck: AuditStuckMigrations, monkeypatch: pytest.MonkeyPatch
) -> None:
    instance, migration = superseded(cloud)
    [finding] = stuck.inspect(instance_key(instance))
    prove(stuck, finding, monkeypatch)
    cloud.set_instance(instance, task_state="migrating")
    with pytest.raises(Conflict):
        stuck.heal(finding)
    assert cloud.migration(migration).status == "running"


def test_a_cell_that_does_not_answer_stops_the_proof(
    cloud: NovaSimulation, stuck: AuditStuckMigrations, cut: Callable[[str], None]
) -> None:
    instance, migration = deleted(cloud)
    [finding] = stuck.inspect(instance_key(instance))
    cut("cell2")
    with pytest.raises(Unavailable):
        stuck.heal(finding)
    with pytest.raises(Unavailable):
        list(stuck.inspect(instance_key(instance)))
    assert cloud.migration(migration).status == "running"
