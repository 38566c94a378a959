"""Which notifications of Nova lead to an amphora, and which parts of them are used."""

from __future__ import annotations

import uuid

import orjson
import pytest

from consumer.bus import envelope, formats
from handlers.base import Event, Key
from handlers.octavia.failover import keys
from handlers.octavia.failover.failed_amphora import FailedAmphora

AMPHORA, SERVER = str(uuid.UUID(int=0xA)), str(uuid.UUID(int=0xB))
NAME = f"amphora-{AMPHORA}"


def event(type: str = "instance.delete.end", **payload: object) -> Event:
    return Event(type, {"uuid": SERVER, **payload})


def test_an_amphora_is_named_by_its_server() -> None:
    assert keys.amphora(event(display_name=NAME)) == Key("amphora", AMPHORA)
    assert keys.amphora(event(display_name=f"amphora-{AMPHORA.upper()}")) == Key("amphora", AMPHORA)


def test_a_random_name_leads_to_the_server() -> None:
    assert keys.amphora(event(display_name="aX81QQ0ZK2")) == Key("server", SERVER)


@pytest.mark.parametrize(
    "name", ["vm1", "amphora-x", "a", "ab12", "Amphora", f"preserved-amphora-{AMPHORA}", "octavia-spare-1", "", None, 7]
)
def test_other_servers_give_no_key(name: object) -> None:
    assert keys.amphora(event(display_name=name)) is None
    assert keys.amphora(event()) is None


@pytest.mark.parametrize("uuid", [None, "", "../servers", 7])
def test_a_malformed_uuid_is_refused(uuid: object) -> None:
    with pytest.raises((ValueError, AttributeError, TypeError)):
        keys.amphora(Event("instance.delete.end", {"uuid": uuid, "display_name": "aX81QQ0ZK2"}))


@pytest.mark.parametrize(
    ("update", "lost", "leaving"),
    [
        ({"old_state": "active", "state": "error", "new_task_state": None}, True, False),
        ({"old_state": "active", "state": "active", "new_task_state": "deleting"}, False, True),
        ({"old_state": "active", "state": "active", "new_task_state": "powering-off"}, False, True),
        ({"old_state": "active", "state": "error", "new_task_state": "deleting"}, True, False),
        ({"old_state": "active", "state": "stopped", "new_task_state": None}, True, False),
        ({"old_state": "building", "state": "active", "new_task_state": None}, False, False),
        ({"old_state": "active", "state": "active", "new_task_state": "image_snapshot"}, False, False),
        (None, False, False),
        ("error", False, False),
    ],
)
def test_only_updates_about_a_loss_give_a_key(update: object, lost: bool, leaving: bool) -> None:
    update_event = event("instance.update", display_name=NAME, state_update=update)
    assert keys.lost_amphora(update_event) == (Key("amphora", AMPHORA) if lost else None)
    assert keys.leaving_amphora(update_event) == (Key("amphora", AMPHORA) if leaving else None)
    other = event("instance.update", display_name="vm1", state_update=update)
    assert keys.lost_amphora(other) is keys.leaving_amphora(other) is None


def _decoded(name: str, payload: dict[str, object]) -> Event:
    message = {
        "event_type": name,
        "payload": payload,
        "message_id": "1",
        "publisher_id": "compute.c1",
        "priority": "INFO",
    }
    body = orjson.dumps({"oslo.version": "2.0", "oslo.message": orjson.dumps(message).decode()})
    return envelope.decode(body, "nova")


@pytest.mark.parametrize(
    ("name", "payload"),
    [
        ("compute.instance.delete.end", {"instance_id": SERVER, "display_name": NAME, "state": "deleted"}),
        ("compute.instance.delete.start", {"instance_id": SERVER, "display_name": NAME, "state": "active"}),
        ("compute.instance.power_off.end", {"instance_id": SERVER, "display_name": NAME, "state": "stopped"}),
        (
            "compute.instance.update",
            {
                "instance_id": SERVER,
                "display_name": NAME,
                "old_state": "active",
                "state": "error",
                "old_task_state": None,
                "new_task_state": None,
            },
        ),
        (
            "instance.power_off.end",
            {
                "nova_object.name": "InstanceActionPayload",
                "nova_object.version": "1.8",
                "nova_object.data": {"uuid": SERVER, "display_name": NAME},
            },
        ),
        (
            "instance.update",
            {
                "nova_object.name": "InstanceUpdatePayload",
                "nova_object.version": "2.1",
                "nova_object.data": {
                    "uuid": SERVER,
                    "display_name": NAME,
                    "state_update": {
                        "nova_object.name": "InstanceStateUpdatePayload",
                        "nova_object.version": "1.0",
                        "nova_object.data": {"state": "active", "new_task_state": "deleting"},
                    },
                },
            },
        ),
    ],
)
def test_both_formats_of_nova_lead_to_the_amphora(name: str, payload: dict[str, object]) -> None:
    decoded = _decoded(name, payload)
    assert name in formats.raw_names(frozenset(trigger.event for trigger in FailedAmphora.triggers))
    found = [trigger.key(decoded) for trigger in FailedAmphora.triggers if trigger.event == decoded.type]
    assert [key for key in found if key is not None] == [Key("amphora", AMPHORA)], "one trigger takes it"


def test_the_handler_only_reports_by_default() -> None:
    assert FailedAmphora.default_mode == "audit", "a failover deletes a server"
    assert FailedAmphora.default_interval <= 10
    triggers = {(trigger.event, trigger.key) for trigger in FailedAmphora.triggers}
    assert len(triggers) == len(FailedAmphora.triggers)
