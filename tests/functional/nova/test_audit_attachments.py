from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from keystoneauth1.identity.v3 import Password
from keystoneauth1.session import Session

from consumer.journal import history
from handlers.access.cinder import ABSENT, Storage
from handlers.access.cloud import Cloud
from handlers.base import Conflict, Event, Finding, InFlight, Key, Refused, Resources, Unavailable
from handlers.nova import tables
from handlers.nova.attachments.audit_attachments import AuditAttachments
from handlers.nova.database import NovaDatabases
from handlers.nova.simulation import NovaSimulation
from handlers.nova.simulation.cinder import Cinder
from tests.functional.nova.world import archive, heal_all, heal_only, instance_key, only_refused, purge, swept
from tests.keystone import Keystone
from tests.sweeping import journal
from tests.sweeping import swept as healed_by_sweep

LONG = {"hours": 3}
pytestmark = pytest.mark.hosts(a="cell1", b="cell1", c="cell2")


@pytest.fixture(autouse=True)
def beating(cloud: NovaSimulation) -> None:
    cloud.heartbeat("a")


@pytest.fixture
def attachments(resources: Resources, cinder: Cinder) -> AuditAttachments:
    for group, options in AuditAttachments.options().items():
        resources.conf.register_opts(options, group)
    return AuditAttachments.from_resources(resources)


def leaked(cloud: NovaSimulation, **ago: float) -> tuple[str, str]:
    """Delete an instance while Cinder does not answer; return it and its attachment."""
    with cloud.ago(**(ago or LONG)):
        instance = cloud.boot("a")
        attachment = cloud.attach_volume(instance)
        cloud.delete(instance, leak_attachments=True)
    return instance, attachment


def volume(cloud: NovaSimulation, attachment: str) -> str:
    return str(cloud.cinder.attachments[attachment]["volume_id"])


def untouched(cloud: NovaSimulation, handler: AuditAttachments, instance: str) -> None:
    """Check that neither a sweep nor an inspection finds anything."""
    before = dict(cloud.cinder.attachments)
    assert swept(handler) == set()
    assert not list(handler.inspect(instance_key(instance)))
    assert cloud.cinder.attachments == before


# heals


def test_the_attachment_of_a_deleted_instance_is_deleted(cloud: NovaSimulation, attachments: AuditAttachments) -> None:
    instance, attachment = leaked(cloud)
    freed = volume(cloud, attachment)
    assert cloud.cinder.volumes[freed]["status"] == "in-use"
    assert swept(attachments) == {instance_key(instance)}
    assert heal_only(attachments, instance_key(instance)).problem == "attachment-of-deleted-instance"
    assert cloud.cinder.volumes[freed]["status"] == "available"
    assert swept(attachments) == set()


def test_a_reserved_volume_of_an_instance_whose_host_is_gone(
    cloud: NovaSimulation, attachments: AuditAttachments
) -> None:
    instance, attachment = leaked(cloud)
    cloud.cinder.disconnect(attachment)
    cloud.delete_service("a")
    freed = volume(cloud, attachment)
    heal_only(attachments, instance_key(instance))
    assert cloud.cinder.volumes[freed]["status"] == "available"


def test_a_volume_of_an_instance_that_found_no_host(cloud: NovaSimulation, attachments: AuditAttachments) -> None:
    with cloud.ago(**LONG):
        instance = cloud.request()
        cloud.create_instance(instance, "cell0")
        cloud.map_instance(instance, "cell0")
        cloud.cinder.reserve(cloud.cinder.create_volume(), instance)
        cloud.delete(instance, leak_attachments=True)
    assert swept(attachments) == {instance_key(instance)}
    heal_only(attachments, instance_key(instance))
    assert not cloud.cinder.attachments


def test_all_attachments_of_an_instance_one_by_one(cloud: NovaSimulation, attachments: AuditAttachments) -> None:
    with cloud.ago(**LONG):
        instance = cloud.boot("a")
        for _ in range(5):
            cloud.attach_volume(instance)
        cloud.delete(instance, leak_attachments=True)
    assert len(list(attachments.inspect(instance_key(instance)))) == 5
    for finding in attachments.inspect(instance_key(instance)):
        attachments.heal(finding)
    assert not cloud.cinder.attachments


def test_an_archived_instance(cloud: NovaSimulation, attachments: AuditAttachments) -> None:
    instance, _ = leaked(cloud)
    archive(cloud, instance)
    assert swept(attachments) == {instance_key(instance)}
    heal_only(attachments, instance_key(instance))
    assert not cloud.cinder.attachments


def test_a_volume_as_key(cloud: NovaSimulation, attachments: AuditAttachments) -> None:
    _, attachment = leaked(cloud)
    heal_all(attachments, Key("volume", volume(cloud, attachment)))
    assert not cloud.cinder.attachments


def test_the_finding_names_write_and_objects(cloud: NovaSimulation, attachments: AuditAttachments) -> None:
    instance, attachment = leaked(cloud)
    [finding] = attachments.inspect(instance_key(instance))
    assert finding.plan == f"block-storage: DELETE /attachments/{attachment}"
    freed = volume(cloud, attachment)
    assert finding.undo.startswith("none: ")
    assert f"nova-manage volume_attachment refresh {instance} {freed} connector.json" in finding.undo
    assert '"target_portal": "192.0.2.7:3260"' in finding.undo
    objects = {"host:a", f"project:{cloud.PROJECT}", "cell:cell1", f"instance:{instance}", f"volume:{freed}"}
    assert objects <= finding.concerns
    assert {one.partition(":")[0] for one in finding.concerns} <= attachments.concerned_kinds


def test_no_text_has_the_password_of_the_connection(cloud: NovaSimulation, attachments: AuditAttachments) -> None:
    instance, attachment = leaked(cloud)
    secret = cloud.cinder.attachments[attachment]["connection_info"]["auth_password"]
    [finding] = attachments.inspect(instance_key(instance))
    healed = attachments.heal(finding)
    assert secret not in f"{finding} {healed}"


# no heals


@pytest.mark.parametrize(
    "state",
    [
        {},
        {"vm_state": "soft-delete"},
        {"vm_state": "error"},
        {"vm_state": "deleted", "task_state": "deleting"},
        {"vm_state": "building", "host": None, "node": None},
        {"vm_state": "building", "task_state": "block_device_mapping"},
        {"task_state": "migrating"},
        {"vm_state": "resized"},
    ],
)
def test_a_live_instance(cloud: NovaSimulation, attachments: AuditAttachments, state: dict[str, Any]) -> None:
    with cloud.ago(**LONG):
        instance = cloud.boot("a")
        cloud.attach_volume(instance)
        cloud.set_instance(instance, **state)
    untouched(cloud, attachments, instance)


def test_a_shelved_instance(cloud: NovaSimulation, attachments: AuditAttachments) -> None:
    with cloud.ago(**LONG):
        instance = cloud.boot("a")
        cloud.attach_volume(instance)
        cloud.shelve_offload(instance)
    untouched(cloud, attachments, instance)


def test_an_instance_that_is_just_requested(cloud: NovaSimulation, attachments: AuditAttachments) -> None:
    instance = cloud.request()
    cloud.cinder.reserve(cloud.cinder.create_volume(), instance)
    untouched(cloud, attachments, instance)


def test_the_attachments_of_other_instances_to_the_same_volume(
    cloud: NovaSimulation, attachments: AuditAttachments
) -> None:
    instance, attachment = leaked(cloud)
    shared = volume(cloud, attachment)
    with cloud.ago(**LONG):
        live = cloud.boot("b")
        kept = cloud.attach_volume(live, shared)
    assert swept(attachments) == {instance_key(instance)}
    heal_all(attachments, Key("volume", shared))
    assert set(cloud.cinder.attachments) == {kept}
    assert cloud.cinder.volumes[shared]["status"] == "in-use"


@pytest.mark.parametrize(
    "owner", [None, "", "node-17", "77777777000040008000000000000000", "ABCDEF77-0000-4000-8000-000000000000"]
)
def test_attachments_without_the_uuid_of_an_instance(
    cloud: NovaSimulation, attachments: AuditAttachments, owner: str | None
) -> None:
    reserved = cloud.cinder.reserve(cloud.cinder.create_volume(), owner)
    assert swept(attachments) == set()
    assert not list(attachments.inspect(Key("volume", volume(cloud, reserved))))


def test_deleted_in_one_cell_and_alive_in_another(cloud: NovaSimulation, attachments: AuditAttachments) -> None:
    instance, _ = leaked(cloud)
    row = {**cloud.instance(instance)._mapping, "deleted": 0, "deleted_at": None, "hidden": True}
    with cloud.cells["cell2"].begin() as connection:
        connection.execute(sa.insert(tables.instances).values(row))
    untouched(cloud, attachments, instance)


def test_an_instance_that_was_deleted_or_cleaned_up_a_while_ago(
    cloud: NovaSimulation, attachments: AuditAttachments
) -> None:
    instance, _ = leaked(cloud)
    with cloud.ago(seconds=600):
        cloud.set_instance(instance, cleaned=1)
    with pytest.raises(InFlight) as error:
        list(attachments.inspect(instance_key(instance)))
    assert 2000 < error.value.after <= 3001


# what nothing proves


def test_an_instance_that_no_cell_knows(cloud: NovaSimulation, attachments: AuditAttachments) -> None:
    instance, attachment = leaked(cloud)
    purge(cloud, instance)
    assert swept(attachments) == {instance_key(instance)}
    assert only_refused(attachments, instance_key(instance)).problem == "attachment-of-unknown-instance"
    assert attachment in cloud.cinder.attachments


def test_a_server_that_is_being_requested_has_no_record_yet(
    cloud: NovaSimulation, attachments: AuditAttachments
) -> None:
    """Nova reserves the volumes of new servers before it writes any row (nova.compute.api.API._provision_instances)."""
    instance = str(uuid.uuid4())
    reserved = cloud.cinder.create_volume()
    cloud.cinder.reserve(reserved, instance)
    changed = datetime.now(UTC).replace(tzinfo=None)
    cloud.cinder.volumes[reserved]["updated_at"] = (changed - timedelta(seconds=400)).isoformat()
    with pytest.raises(InFlight) as error:
        list(attachments.inspect(instance_key(instance)))
    assert 100 < error.value.after <= 200
    cloud.cinder.volumes[reserved]["updated_at"] = (changed - timedelta(seconds=700)).isoformat()
    assert only_refused(attachments, instance_key(instance)).problem == "attachment-of-unknown-instance"


def test_a_cinder_that_was_restored(cloud: NovaSimulation, attachments: AuditAttachments) -> None:
    """It has the attachment that Nova deleted, and lacks the one that a live instance has had since."""
    instance, attachment = leaked(cloud)
    with cloud.ago(**LONG):
        later = cloud.attach_volume(cloud.boot("b"), volume(cloud, attachment))
    for state in (cloud.cinder.connect, cloud.cinder.disconnect):
        state(attachment)
        with pytest.MonkeyPatch.context() as patch:
            patch.delitem(cloud.cinder.attachments, later)
            assert "restored" in only_refused(attachments, instance_key(instance)).refusal
    heal_only(attachments, instance_key(instance))
    assert set(cloud.cinder.attachments) == {later}


def unmarked(cloud: NovaSimulation, instance: str) -> None:
    mappings = tables.instance_mappings
    with cloud.api.begin() as connection:
        connection.execute(sa.update(mappings).values(queued_for_delete=False))


def evacuated(cloud: NovaSimulation, instance: str) -> None:
    row = {"instance_uuid": instance, "migration_type": "evacuation", "status": "done", "deleted": 1, "uuid": "e"}
    with cloud.cells["cell1"].begin() as connection:
        connection.execute(sa.insert(tables.migrations).values(row))


@pytest.mark.parametrize(
    ("act", "reason"),
    [
        (unmarked, "not marked"),
        (evacuated, "evacuation did not end"),
        (lambda cloud, instance: cloud.force_down("a"), "nova-compute on a is down"),
        (lambda cloud, instance: cloud.delete_service("a"), "no nova-compute on a any more"),
    ],
)
def test_what_is_missing_is_in_the_report(
    cloud: NovaSimulation, attachments: AuditAttachments, act: Callable[[NovaSimulation, str], object], reason: str
) -> None:
    instance, attachment = leaked(cloud)
    act(cloud, instance)
    assert reason in only_refused(attachments, instance_key(instance)).refusal
    assert attachment in cloud.cinder.attachments


def test_a_host_that_did_not_clean_up(cloud: NovaSimulation, attachments: AuditAttachments) -> None:
    """Nova-api deletes the instance alone while the host is down, and the host has returned since."""
    instance, attachment = leaked(cloud)
    with cloud.ago(**LONG):
        cloud.set_instance(instance, cleaned=0)
    assert "has not cleaned up" in only_refused(attachments, instance_key(instance)).refusal
    assert attachment in cloud.cinder.attachments


# mappings to volumes that are gone


def dangling(cloud: NovaSimulation, **values: Any) -> tuple[str, str]:
    """Delete the volume of a live instance by force; return the instance and the volume. Another volume stays."""
    with cloud.ago(**LONG):
        instance = cloud.boot("a")
        attachment = cloud.attach_volume(instance)
        cloud.set_instance(instance, **values)
        cloud.attach_volume(cloud.boot("c"))
    gone = volume(cloud, attachment)
    cloud.cinder.delete_volume(gone)
    return instance, gone


def mappings(cloud: NovaSimulation, instance: str) -> list[int]:
    """Return the values of ``deleted`` of an instance's mappings."""
    table = tables.block_device_mapping
    with cloud.cells["cell1"].connect() as connection:
        return list(connection.scalars(sa.select(table.c.deleted).where(table.c.instance_uuid == instance)))


def test_a_mapping_to_a_missing_volume_is_reported_with_the_statement(
    cloud: NovaSimulation, attachments: AuditAttachments
) -> None:
    instance, gone = dangling(cloud)
    assert swept(attachments) == {instance_key(instance)}
    finding = only_refused(attachments, instance_key(instance))
    assert (finding.problem, finding.evidence["volume"]) == ("mapping-of-missing-volume", gone)
    assert mappings(cloud, instance) == [0]
    statement = finding.refusal.partition("cell:cell1:\n")[2]
    for _ in range(2):
        with cloud.cells["cell1"].begin() as connection:
            connection.exec_driver_sql(statement)
    [deleted] = mappings(cloud, instance)
    assert deleted == finding.evidence["mapping"]
    assert swept(attachments) == set()


def test_the_event_of_a_deleted_volume(cloud: NovaSimulation, attachments: AuditAttachments) -> None:
    _, gone = dangling(cloud)
    assert only_refused(attachments, Key("volume", gone)).problem == "mapping-of-missing-volume"


def test_the_root_disk_is_reported_without_a_statement(cloud: NovaSimulation, attachments: AuditAttachments) -> None:
    instance, _ = dangling(cloud)
    with cloud.cells["cell1"].begin() as connection:
        connection.execute(sa.update(tables.block_device_mapping).values(boot_index=0))
    refusal = only_refused(attachments, instance_key(instance)).refusal
    assert "boots from this volume" in refusal
    assert "UPDATE" not in refusal


@pytest.mark.parametrize("state", [{"task_state": "rebooting"}, {"vm_state": "building"}])
def test_an_instance_with_a_task_waits(
    cloud: NovaSimulation, attachments: AuditAttachments, state: dict[str, Any]
) -> None:
    instance, _ = dangling(cloud, **state)
    with pytest.raises(InFlight):
        list(attachments.inspect(instance_key(instance)))


def test_volumes_that_exist(cloud: NovaSimulation, attachments: AuditAttachments) -> None:
    with cloud.ago(**LONG):
        instance = cloud.boot("a")
        for _ in range(3):
            cloud.attach_volume(instance)
    untouched(cloud, attachments, instance)


def test_a_cinder_without_volumes_is_another_cinder(cloud: NovaSimulation, attachments: AuditAttachments) -> None:
    dangling(cloud)
    cloud.cinder.attachments.clear()
    cloud.cinder.volumes.clear()
    with pytest.raises(Unavailable, match="has none of the volumes"):
        swept(attachments)


def test_a_cinder_of_another_region(cloud: NovaSimulation, attachments: AuditAttachments) -> None:
    instance, _ = dangling(cloud)
    cloud.cinder.attachments.clear()
    cloud.cinder.volumes.clear()
    cloud.cinder.create_volume()
    with pytest.raises(Unavailable, match="region_name"):
        swept(attachments)
    with pytest.raises(Refused, match="region_name"):
        list(attachments.inspect(instance_key(instance)))


def test_a_volume_that_only_these_credentials_do_not_see(
    cloud: NovaSimulation, attachments: AuditAttachments, cinder: Cinder
) -> None:
    """Cinder answers 404 for volumes of other projects to all but administrators."""
    instance, _ = dangling(cloud)
    cinder.hidden = {"os-vol-host-attr:host"}
    with pytest.raises(Refused, match="role admin"):
        list(attachments.inspect(instance_key(instance)))


def test_a_volume_in_capital_letters(cloud: NovaSimulation, attachments: AuditAttachments) -> None:
    """Nova stores the letters of the request for a server."""
    with cloud.ago(**LONG):
        instance = cloud.boot("a")
        cloud.attach_volume(instance)
    table = tables.block_device_mapping
    with cloud.cells["cell1"].begin() as connection:
        connection.execute(sa.update(table).values(volume_id=sa.func.upper(table.c.volume_id)))
    untouched(cloud, attachments, instance)


# what changes in between, and what Cinder answers


def found(handler: AuditAttachments, instance: str) -> Finding:
    [finding] = handler.inspect(instance_key(instance))
    return finding


def test_cinder_asks_nova_again_and_a_409_is_explained(
    cloud: NovaSimulation, attachments: AuditAttachments, cinder: Cinder
) -> None:
    instance, attachment = leaked(cloud)
    finding = found(attachments, instance)

    def revive(_attachment: str) -> None:
        cloud.set_instance(instance, deleted=0, deleted_at=None, vm_state="active")
        with cloud.cells["cell1"].begin() as connection:
            connection.execute(sa.update(tables.block_device_mapping).values(deleted=0))

    cinder.before["DELETE"] = revive
    with pytest.raises(Refused, match=r"409.*send_service_user_token"):
        attachments.heal(finding)
    assert attachment in cloud.cinder.attachments


def test_an_attachment_that_changed_since_it_was_found(cloud: NovaSimulation, attachments: AuditAttachments) -> None:
    instance, attachment = leaked(cloud)
    finding = found(attachments, instance)
    cloud.cinder.attachments[attachment]["status"] = "detaching"
    with pytest.raises(Conflict):
        attachments.heal(finding)
    assert attachment in cloud.cinder.attachments


def test_an_attachment_that_is_deleted_meanwhile(
    cloud: NovaSimulation, attachments: AuditAttachments, cinder: Cinder
) -> None:
    instance, _ = leaked(cloud)
    finding = found(attachments, instance)
    cinder.before["DELETE"] = cloud.cinder.delete_attachment
    with pytest.raises(Conflict, match="gone"):
        attachments.heal(finding)


def test_a_request_that_cinder_rejects(cloud: NovaSimulation, attachments: AuditAttachments, cinder: Cinder) -> None:
    instance, attachment = leaked(cloud)
    finding = found(attachments, instance)
    cinder.faults = {"DELETE": 400}
    with pytest.raises(Refused, match="400 as the test wants it"):
        attachments.heal(finding)
    assert attachment in cloud.cinder.attachments


@pytest.mark.parametrize("status", [403, 404, 500, 503])
def test_cinder_does_not_answer(
    cloud: NovaSimulation, attachments: AuditAttachments, cinder: Cinder, status: int
) -> None:
    instance, attachment = leaked(cloud)
    finding = found(attachments, instance)
    cinder.faults = {"DELETE": status} if status == 500 else {"GET": status}
    with pytest.raises(Unavailable) as error:
        attachments.heal(finding)
    assert error.value.dependency == "block-storage"
    cinder.faults = {"GET": status}
    with pytest.raises(Unavailable):
        swept(attachments)
    assert attachment in cloud.cinder.attachments


def test_another_service_answers(cloud: NovaSimulation, resources: Resources, attachments: AuditAttachments) -> None:
    resources.conf.set_override("block_storage_endpoint_override", cloud.placement.url, "openstack")
    resources.close()
    with pytest.raises(Unavailable, match="block_storage_endpoint_override"):
        list(AuditAttachments.from_resources(resources).inspect(instance_key(str(uuid.uuid4()))))


@pytest.mark.parametrize(("endpoints", "whole"), [([("placement", "one", "http://p")], True), ([], False)])
def test_only_a_whole_catalogue_shows_that_a_cloud_has_no_cinder(
    cloud: NovaSimulation, resources: Resources, endpoints: list[tuple[str, str, str]], whole: bool
) -> None:
    """The catalogue of a token without a project is empty."""
    instance, _ = leaked(cloud)
    with Keystone("token", ["admin"], endpoints) as keystone:
        account = Password(keystone.url, username="mender", password="m", user_domain_id="default", project_id="2")
        storage = Storage(Cloud(Session(account)).service("block-storage"))
        lonely = AuditAttachments(NovaDatabases.from_resources(resources), storage, 3600.0)
        if whole:
            untouched(cloud, lonely, instance)
            assert list(storage.warnings()) == [ABSENT]
            return
        with pytest.raises(Unavailable) as error:
            swept(lonely)
        assert error.value.dependency in lonely.requires
        with pytest.raises(Unavailable):
            list(lonely.inspect(instance_key(instance)))


@pytest.mark.parametrize("cell", ["cell0", "cell2"])
def test_a_cell_does_not_answer(
    cloud: NovaSimulation, attachments: AuditAttachments, cut: Callable[[str], None], cell: str
) -> None:
    instance, attachment = leaked(cloud)
    stranger = cloud.cinder.reserve(cloud.cinder.create_volume(), str(uuid.uuid4()))
    cut(cell)
    keys: list[Key] = []
    with pytest.raises(Unavailable):
        keys.extend(attachments.sweep())
    assert keys == [instance_key(instance)], "a stranger may live in the cell that does not answer"
    with pytest.raises(Unavailable):
        list(attachments.inspect(instance_key(instance)))
    assert set(cloud.cinder.attachments) == {attachment, stranger}


# the journal


def test_a_heal_that_was_killed_before_its_write_is_done_by_the_next_sweep(
    cloud: NovaSimulation,
    attachments: AuditAttachments,
    cinder: Cinder,
    tmp_path: Path,
) -> None:
    instance, attachment = leaked(cloud)

    class Killed(BaseException):
        """The end of the process."""

    with journal(tmp_path) as database:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(type(attachments._storage), "delete_attachment", _die(Killed))
            with pytest.raises(Killed):
                healed_by_sweep(attachments, instance_key(instance), database)
        assert attachment in cloud.cinder.attachments
        [before] = [line for line in history.listing(database) if line.plan]
        assert before.undo.startswith("none: the attachment cannot return")
        assert "healed" in [one.action for one in healed_by_sweep(attachments, instance_key(instance), database)]
        assert not cloud.cinder.attachments
        assert not healed_by_sweep(attachments, instance_key(instance), database)


def _die(error: type[BaseException]) -> Callable[..., None]:
    def die(*_given: object) -> None:
        raise error

    return die


def test_events() -> None:
    thing = str(uuid.uuid4())
    events = {trigger.event: trigger for trigger in AuditAttachments.triggers}
    nova = {"instance.delete.end", "instance.create.error", "instance.volume_attach.error"}
    cinders = {"volume.attach.end", "volume.detach.end", "volume.delete.end"}
    assert set(events) == nova | cinders
    assert {events[event].key(Event(event, {"uuid": thing})) for event in nova} == {instance_key(thing)}
    assert {events[event].key(Event(event, {"volume_id": thing})) for event in cinders} == {Key("volume", thing)}


def test_a_sweep_of_many(cloud: NovaSimulation, attachments: AuditAttachments, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("handlers.nova.queries.CHUNK", 3)
    doomed = {leaked(cloud)[0] for _ in range(4)}
    with cloud.ago(**LONG):
        for host in ("a", "b", "c"):
            cloud.attach_volume(cloud.boot(host))
    found = list(attachments.sweep())
    assert len(found) == len(doomed)
    assert {key.id for key in found} == doomed
