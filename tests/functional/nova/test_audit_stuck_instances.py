from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa

from handlers.base import Conflict, Finding, InFlight, Key, Refused, Resources, Unavailable
from handlers.nova import tables
from handlers.nova.instances.audit_stuck_instances import AuditStuckInstances
from handlers.nova.mappings.heal_instance_mappings import HealInstanceMappings
from handlers.nova.simulation import NovaSimulation
from tests.compute import Compute
from tests.functional.nova.world import heal_only, instance_key, only_refused, refused, swept

pytestmark = pytest.mark.hosts(a="cell1", b="cell1", c="cell2")

LONG = {"hours": 3}


@pytest.fixture(autouse=True)
def up(cloud: NovaSimulation) -> None:
    cloud.heartbeat("a")


@pytest.fixture
def stuck(resources: Resources, compute: Compute) -> AuditStuckInstances:
    for group, options in AuditStuckInstances.options().items():
        resources.conf.register_opts(options, group)
    resources.conf.set_override("compute_endpoint_override", compute.url, "openstack")
    return AuditStuckInstances.from_resources(resources)


def mark(cloud: NovaSimulation, instance: str, queued: bool = True) -> None:
    """Set the mark that nova-api sets for a request to delete."""
    mappings = tables.instance_mappings
    with cloud.api.begin() as connection:
        mine = mappings.c.instance_uuid == instance
        connection.execute(sa.update(mappings).where(mine).values(queued_for_delete=queued))


def deleting(cloud: NovaSimulation, host: str = "a", **values: Any) -> str:
    """Let the message to nova-compute about a deletion be lost, hours ago."""
    with cloud.ago(**LONG):
        instance = cloud.boot(host)
        cloud.set_instance(instance, task_state="deleting", **values)
    mark(cloud, instance)
    return instance


def state(cloud: NovaSimulation, instance: str) -> tuple[bool, str | None, str | None]:
    row = cloud.instance(instance)
    return bool(row.deleted), row.vm_state, row.task_state


def test_a_deletion_that_nothing_carries_on_is_repeated(
    cloud: NovaSimulation, stuck: AuditStuckInstances, compute: Compute
) -> None:
    instance, other = deleting(cloud), cloud.boot("a")
    assert compute.answer("DELETE", f"/v2.1/servers/{instance}", {}, None) == (204, None)
    assert state(cloud, instance)[0] is False, "Nova ignores a second request"
    assert swept(stuck) == {instance_key(instance)}
    assert heal_only(stuck, instance_key(instance)).problem == "deletion-without-end"
    assert state(cloud, instance)[0] is True
    assert state(cloud, other) == (False, "active", None)
    assert swept(stuck) == set()


def test_the_finding_names_write_and_objects(cloud: NovaSimulation, stuck: AuditStuckInstances) -> None:
    instance = deleting(cloud)
    [finding] = stuck.inspect(instance_key(instance))
    assert finding.plan.startswith("cell:cell1: UPDATE instances SET ")
    assert finding.plan.endswith(f";\ncompute: DELETE /servers/{instance}")
    assert finding.undo == "none: a deleted server cannot return"
    assert {"host:a", f"project:{cloud.PROJECT}", "cell:cell1", f"instance:{instance}"} <= finding.concerns
    assert {one.partition(":")[0] for one in finding.concerns} <= stuck.concerned_kinds


def test_a_host_stands_for_its_instances(cloud: NovaSimulation, stuck: AuditStuckInstances) -> None:
    instance = deleting(cloud)
    assert [one.evidence["instance"] for one in stuck.inspect(Key("host", "a"))] == [instance]
    assert not list(stuck.inspect(Key("host", "b")))


# no heals


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"vm_state": "error"},
        {"vm_state": "soft-delete"},
        {"vm_state": "building", "host": "a"},
        {"vm_state": "shelved_offloaded", "host": None},
    ],
)
def test_an_instance_at_rest(cloud: NovaSimulation, stuck: AuditStuckInstances, values: dict[str, Any]) -> None:
    with cloud.ago(**LONG):
        instance = cloud.boot("a")
        cloud.set_instance(instance, **values)
    assert swept(stuck) == set()
    assert not list(stuck.inspect(instance_key(instance)))


@pytest.mark.parametrize("task", ["deleting", "spawning", "image_uploading", "resize_migrating", "migrating"])
def test_a_task_that_may_still_run_is_inspected_later(
    cloud: NovaSimulation, stuck: AuditStuckInstances, task: str
) -> None:
    with cloud.ago(hours=1):
        instance = cloud.boot("a")
        cloud.set_instance(instance, task_state=task)
    mark(cloud, instance)
    assert swept(stuck) == set()
    with pytest.raises(InFlight):
        list(stuck.inspect(instance_key(instance)))


def test_a_build_on_a_slow_host(cloud: NovaSimulation, stuck: AuditStuckInstances) -> None:
    with cloud.ago(hours=1):
        instance = cloud.request()
        cloud.claim(instance, "a")
        cloud.create_instance(instance, "cell1")
        cloud.map_instance(instance, "cell1")
    with pytest.raises(InFlight):
        list(stuck.inspect(instance_key(instance)))


def test_a_request_that_is_not_in_a_cell_yet(cloud: NovaSimulation, stuck: AuditStuckInstances) -> None:
    with cloud.ago(**LONG):
        instance = cloud.request()
    assert not list(stuck.inspect(instance_key(instance)))


def test_a_task_on_a_host_that_is_down(cloud: NovaSimulation, stuck: AuditStuckInstances) -> None:
    with cloud.ago(**LONG):
        instance = cloud.boot("b")
        cloud.set_instance(instance, task_state="rebooting")
    assert not list(stuck.inspect(instance_key(instance)))


def test_a_copy_in_another_cell(cloud: NovaSimulation, stuck: AuditStuckInstances) -> None:
    instance = deleting(cloud)
    row = {**cloud.instance(instance)._mapping, "hidden": True}
    with cloud.cells["cell2"].begin() as connection:
        connection.execute(sa.insert(tables.instances).values(row))
    assert not list(stuck.inspect(instance_key(instance)))


# what is reported


def only(stuck: AuditStuckInstances, instance: str) -> Finding:
    [finding] = stuck.inspect(instance_key(instance))
    return refused(stuck, finding)


def test_a_deletion_on_a_host_that_is_down(cloud: NovaSimulation, stuck: AuditStuckInstances) -> None:
    instance = deleting(cloud, "b")
    assert "start nova-compute on b" in only(stuck, instance).refusal
    assert state(cloud, instance)[0] is False


def test_a_host_that_is_forced_down(cloud: NovaSimulation, stuck: AuditStuckInstances) -> None:
    instance = deleting(cloud)
    cloud.force_down("a")
    assert "start nova-compute on a" in only(stuck, instance).refusal


def test_a_deletion_that_no_mapping_proves(cloud: NovaSimulation, stuck: AuditStuckInstances) -> None:
    instance = deleting(cloud)
    mark(cloud, instance, queued=False)
    assert "Ask the owner" in only(stuck, instance).refusal


def test_a_build_without_host(cloud: NovaSimulation, stuck: AuditStuckInstances) -> None:
    with cloud.ago(**LONG):
        instance = cloud.request()
        cloud.create_instance(instance, "cell1")
        cloud.map_instance(instance, "cell1")
    assert swept(stuck) == {instance_key(instance)}
    assert only(stuck, instance).problem == "build-without-host"


def test_a_task_has_the_next_step(cloud: NovaSimulation, stuck: AuditStuckInstances) -> None:
    with cloud.ago(**LONG):
        instance = cloud.boot("a")
        cloud.set_instance(instance, task_state="powering-off")
    assert swept(stuck) == {instance_key(instance)}
    assert "restart nova-compute on a" in only(stuck, instance).refusal
    with cloud.ago(**LONG):
        cloud.set_instance(instance, task_state="shelving_offloading")
    assert "in the database of cell:cell1:\nUPDATE instances SET " in only(stuck, instance).refusal
    assert state(cloud, instance) == (False, "active", "shelving_offloading")


# what changes in between


def test_an_instance_that_changes_right_before_the_write_stays(
    cloud: NovaSimulation, stuck: AuditStuckInstances, monkeypatch: pytest.MonkeyPatch
) -> None:
    instance = deleting(cloud)
    [finding] = stuck.inspect(instance_key(instance))
    monkeypatch.setattr(stuck, "prove_again", lambda one: finding)
    cloud.set_instance(instance, task_state="deleting")
    with pytest.raises(Conflict):
        stuck.heal(finding)
    assert state(cloud, instance) == (False, "active", "deleting")


@pytest.mark.parametrize(("status", "error"), [(503, Unavailable), (403, Unavailable), (409, Refused), (404, Conflict)])
def test_a_request_that_nova_does_not_accept_restores_the_row(
    cloud: NovaSimulation, stuck: AuditStuckInstances, compute: Compute, status: int, error: type[Exception]
) -> None:
    instance = deleting(cloud)
    before = cloud.instance(instance)
    [finding] = stuck.inspect(instance_key(instance))
    compute.faults = {"DELETE": status}
    with pytest.raises(error):
        stuck.heal(finding)
    assert cloud.instance(instance) == before


def test_a_lost_answer_does_not_undo_what_nova_did(
    cloud: NovaSimulation, stuck: AuditStuckInstances, compute: Compute
) -> None:
    instance = deleting(cloud)
    [finding] = stuck.inspect(instance_key(instance))
    compute.before["DELETE"] = lambda server: cloud.set_instance(server, vm_state="active", task_state="soft-deleting")
    compute.faults = {"DELETE": 503}
    with pytest.raises(Unavailable):
        stuck.heal(finding)
    assert state(cloud, instance) == (False, "active", "soft-deleting")


class Killed(BaseException):
    """The process ends here."""


@pytest.fixture
def begun(cloud: NovaSimulation, stuck: AuditStuckInstances, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return an instance whose heal ended between its two writes."""
    instance = deleting(cloud)
    [finding] = stuck.inspect(instance_key(instance))

    def die(server: str) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(stuck._compute, "delete_server", die)
        with pytest.raises(Killed):
            stuck.heal(finding)
    return instance


def test_a_heal_that_was_killed_is_completed(cloud: NovaSimulation, stuck: AuditStuckInstances, begun: str) -> None:
    assert swept(stuck) == {instance_key(begun)}
    assert heal_only(stuck, instance_key(begun)).begun
    assert cloud.instance(begun).deleted
    assert swept(stuck) == set()


def test_the_mark_of_a_heal_that_was_killed_stays(cloud: NovaSimulation, resources: Resources, begun: str) -> None:
    """It is the last record of the owner's request."""
    for group, options in HealInstanceMappings.options().items():
        resources.conf.register_opts(options, group)
    mappings = HealInstanceMappings.from_resources(resources)
    with cloud.ago(days=1):
        cloud.set_instance(begun)
    assert swept(mappings) == set()
    with pytest.raises(InFlight, match="being deleted"):
        list(mappings.inspect(instance_key(begun)))


def test_a_heal_that_was_killed_waits_for_its_host(
    cloud: NovaSimulation, stuck: AuditStuckInstances, begun: str
) -> None:
    with cloud.ago(hours=1):
        cloud.heartbeat("a")
    assert "start nova-compute on a" in only_refused(stuck, instance_key(begun)).refusal
    cloud.heartbeat("a")
    heal_only(stuck, instance_key(begun))
    assert cloud.instance(begun).deleted


def test_a_heal_that_was_killed_and_is_refused_is_undone(
    cloud: NovaSimulation, stuck: AuditStuckInstances, compute: Compute, begun: str
) -> None:
    compute.faults = {"DELETE": 409}
    [finding] = stuck.inspect(instance_key(begun))
    with pytest.raises(Refused):
        stuck.heal(finding)
    assert state(cloud, begun) == (False, "active", "deleting")
    assert cloud.instance(begun).terminated_at is None


def test_a_cell_that_does_not_answer_stops_the_proof(
    cloud: NovaSimulation, stuck: AuditStuckInstances, cut: Callable[[str], None]
) -> None:
    instance = deleting(cloud)
    [finding] = stuck.inspect(instance_key(instance))
    cut("cell2")
    with pytest.raises(Unavailable):
        stuck.heal(finding)
    assert state(cloud, instance) == (False, "active", "deleting")
