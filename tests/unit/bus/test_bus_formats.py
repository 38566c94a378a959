"""Names and payloads: what two formats of one fact have in common after normalising."""

import pytest

from consumer.bus.formats import Undecodable, normalise, normalise_payload, raw_names


@pytest.mark.parametrize(
    ("legacy", "versioned"),
    [
        ("compute.instance.create.end", "instance.create.end"),
        ("compute.instance.delete.end", "instance.delete.end"),
        ("compute.instance.force_delete.end", "instance.delete.end"),
        ("compute.instance.finish_resize.end", "instance.resize_finish.end"),
        ("compute.instance.resize.prep.start", "instance.resize_prep.start"),
        ("compute.instance.resize.confirm.end", "instance.resize_confirm.end"),
        ("compute.instance.resize.revert.end", "instance.resize_revert.end"),
        ("compute.instance.resize.error", "instance.resize.error"),
        ("compute.instance.live_migration._post.end", "instance.live_migration_post.end"),
        ("compute.instance.live_migration.post.dest.end", "instance.live_migration_post_dest.end"),
        ("compute.instance.live_migration._rollback.end", "instance.live_migration_rollback.end"),
        ("compute.instance.live_migration.rollback.dest.end", "instance.live_migration_rollback_dest.end"),
        ("compute.instance.live.migration.abort.end", "instance.live_migration_abort.end"),
        ("compute.instance.live.migration.force.complete.end", "instance.live_migration_force_complete.end"),
        ("compute.instance.volume.detach", "instance.volume_detach.end"),
        ("compute.instance.exists", "instance.exists"),
        ("compute.instance.evacuate", "instance.evacuate"),
        ("aggregate.addhost.end", "aggregate.add_host.end"),
        ("aggregate.removehost.end", "aggregate.remove_host.end"),
        ("aggregate.updateprop.end", "aggregate.update_prop.end"),
        ("compute_task.build_instances", "compute_task.build_instances.error"),
        ("servergroup.addmember", "server_group.add_member"),
    ],
)
def test_a_legacy_name_gets_its_versioned_one_and_is_found_again(legacy: str, versioned: str) -> None:
    assert normalise(legacy) == versioned
    assert normalise(versioned) == versioned
    assert {legacy, versioned} <= raw_names(frozenset({versioned}))


@pytest.mark.parametrize("name", ["octavia.loadbalancer.create.end", "service.create", "port.update.end", ""])
def test_other_names_stay(name: str) -> None:
    assert normalise(name) == name
    assert raw_names(frozenset({name})) == {name}


def test_every_raw_name_leads_back() -> None:
    wanted = frozenset(
        {"instance.delete.end", "instance.resize_finish.end", "aggregate.add_host.end", "service.create"}
    )
    assert {normalise(name) for name in raw_names(wanted)} == wanted


def versioned(name: str, version: str, data: object) -> dict[str, object]:
    return {
        "nova_object.name": name,
        "nova_object.namespace": "nova",
        "nova_object.version": version,
        "nova_object.data": data,
    }


def test_versioned_objects_are_unwrapped_at_every_depth() -> None:
    flavor = versioned("FlavorPayload", "1.4", {"name": "m1.tiny"})
    address = versioned("IpPayload", "1.0", {"address": "10.0.0.1"})
    payload = versioned("InstanceActionPayload", "1.9", {"uuid": "u", "flavor": flavor, "ip_addresses": [address]})
    assert normalise_payload("instance.delete.end", payload) == {
        "uuid": "u",
        "flavor": {"name": "m1.tiny"},
        "ip_addresses": [{"address": "10.0.0.1"}],
    }


@pytest.mark.parametrize(
    ("name", "version"),
    [("InstanceActionPayload", "1.99"), ("InstanceUpdatePayload", "2.1"), ("InstanceExistsPayload", "2.1")],
)
def test_a_newer_minor_version_is_understood(name: str, version: str) -> None:
    assert normalise_payload("instance.x", versioned(name, version, {"uuid": "u"})) == {"uuid": "u"}


@pytest.mark.parametrize(
    ("name", "version"),
    [
        ("InstanceActionPayload", "2.0"),
        ("InstanceUpdatePayload", "3.0"),
        ("SomethingNewPayload", "2.0"),
        ("InstanceActionPayload", ""),
        ("InstanceActionPayload", "one"),
        ("InstanceActionPayload", "²"),
        ("InstanceActionPayload", "1" * 5000),
        ("InstanceActionPayload", 1),
        (None, "1.0"),
    ],
)
def test_an_unknown_major_version_is_refused(name: object, version: object) -> None:
    payload = versioned("", "", {"uuid": "u"}) | {"nova_object.name": name, "nova_object.version": version}
    with pytest.raises(Undecodable):
        normalise_payload("instance.delete.end", payload)


@pytest.mark.parametrize("data", [None, [], "text", 5])
def test_an_object_without_a_dictionary_is_refused(data: object) -> None:
    with pytest.raises(Undecodable):
        normalise_payload("instance.delete.end", versioned("InstanceActionPayload", "1.0", data))


def test_nesting_without_end_is_refused() -> None:
    payload: dict[str, object] = {}
    for _ in range(500):
        payload = {"a": payload}
    with pytest.raises(Undecodable):
        normalise_payload("instance.delete.end", payload)


def test_a_legacy_instance_speaks_versioned() -> None:
    legacy = {"instance_id": "u", "tenant_id": "t", "state": "active", "state_description": "", "deleted_at": ""}
    assert normalise_payload("compute.instance.delete.end", legacy) == {
        "uuid": "u",
        "tenant_id": "t",
        "state": "active",
        "task_state": None,
        "deleted_at": None,
    }


def test_a_legacy_state_change_is_where_the_versioned_one_is() -> None:
    legacy = {"instance_id": "u", "old_state": "building", "state": "active", "new_task_state": None}
    assert normalise_payload("compute.instance.update", legacy)["state_update"] == {
        "old_state": "building",
        "state": "active",
        "old_task_state": None,
        "new_task_state": None,
    }


def test_a_legacy_failed_build_names_its_instance() -> None:
    payload = {"instance_id": "u", "request_spec": {}, "state": "error"}
    assert normalise_payload("compute_task.build_instances", payload)["instance_uuid"] == "u"


def test_payloads_of_others_are_left_alone() -> None:
    payload = {"loadbalancer_id": "l", "instance_id": "kept", "hostname": "kept"}
    assert normalise_payload("octavia.loadbalancer.create.end", payload) == payload
