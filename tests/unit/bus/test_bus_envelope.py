"""Bytes to events, with notifications captured from a real control plane and with whatever hypothesis can think of."""

import json
from collections import defaultdict
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from consumer.bus.envelope import MAX_BODY, Sieve, Undecodable, decode
from handlers.base import Event

CAPTURED: list[bytes] = [
    json.loads(line)["body"].encode()
    for line in (Path(__file__).parents[2] / "data" / "notifications.jsonl").read_text().splitlines()
]
WANTED = frozenset(
    {"instance.delete.end", "aggregate.add_host.end", "service.create", "octavia.loadbalancer.create.end"}
)
SIEVE = Sieve(WANTED)


def inner(body: bytes) -> dict[str, Any]:
    notification: dict[str, Any] = json.loads(json.loads(body)["oslo.message"])
    return notification


def wrapped(notification: object, version: object = "2.0") -> bytes:
    return json.dumps({"oslo.version": version, "oslo.message": json.dumps(notification)}).encode()


def captured(event_type: str) -> bytes:
    return next(body for body in CAPTURED if inner(body)["event_type"] == event_type)


DELETE = captured("instance.delete.end")
UPDATE = captured("instance.update")
GOOD = inner(DELETE)


def test_a_captured_notification_is_read_completely() -> None:
    event = decode(DELETE, "cell:cell1")
    assert event.type == "instance.delete.end"
    assert event.payload["uuid"] == "69617650-e660-4191-901e-83cedba6e7c5"
    assert event.payload["flavor"]["name"] == "m1.small"
    assert event.id == GOOD["message_id"]
    assert event.publisher == "nova-compute:compute-2"
    assert event.sent_at == datetime.fromisoformat(GOOD["timestamp"]).replace(tzinfo=UTC)
    assert event.broker == "cell:cell1"


def test_both_formats_of_one_fact_give_the_same_event() -> None:
    facts: dict[tuple[str, Any], set[bool]] = defaultdict(set)
    for body in CAPTURED:
        event = decode(body, "nova")
        if event.type.startswith("instance."):
            facts[event.type, event.payload["uuid"]].add(inner(body)["event_type"].startswith("compute."))
    both = {fact for fact, formats in facts.items() if formats == {True, False}}
    assert len(both) >= 12
    assert ("instance.resize_finish.end", "69617650-e660-4191-901e-83cedba6e7c5") in both
    assert ("instance.live_migration_pre.end", "69617650-e660-4191-901e-83cedba6e7c5") in both


@pytest.mark.parametrize("member", ["uuid", "host", "node", "tenant_id", "user_id", "state", "task_state", "host_name"])
def test_both_formats_agree_on_what_a_handler_may_look_at(member: str) -> None:
    pair = [decode(captured(name), "nova") for name in ("instance.delete.start", "compute.instance.delete.start")]
    assert pair[0].payload[member] == pair[1].payload[member]


@pytest.mark.parametrize("body", CAPTURED)
def test_the_sieve_agrees_with_the_full_parse(body: bytes) -> None:
    event = decode(body, "nova")
    assert SIEVE.event(body, "nova") == (event if event.type in WANTED else None)


@pytest.mark.parametrize("body", CAPTURED)
def test_a_captured_notification_cut_anywhere_is_never_mistaken_for_a_whole_one(body: bytes) -> None:
    for end in range(0, len(body), 7):
        with pytest.raises(Undecodable):
            SIEVE.event(body[:end], "nova")
    with pytest.raises(Undecodable):
        SIEVE.event(body[:-1], "nova")


def test_the_driver_without_an_envelope_is_understood() -> None:
    body = json.dumps(GOOD).encode()
    assert SIEVE.event(body, "nova") == decode(DELETE, "nova")
    assert SIEVE.event(json.dumps(inner(UPDATE)).encode(), "nova") is None


def test_the_order_of_members_and_their_spelling_do_not_matter() -> None:
    turned = json.dumps(dict(reversed(GOOD.items())))
    envelope = json.dumps({"oslo.message": turned, "oslo.version": "2.0"}, indent=1).encode()
    escaped = wrapped(GOOD).replace(b"instance.delete.end", rb"instance\\u002edelete.end")
    assert escaped != wrapped(GOOD)
    assert SIEVE.event(envelope, "nova") == SIEVE.event(escaped, "nova") == decode(DELETE, "nova")


def test_a_wanted_name_in_a_payload_or_a_publisher_is_no_event() -> None:
    assert SIEVE.event(wrapped(GOOD | {"event_type": "x", "payload": GOOD}), "nova") is None
    sly = '"event_type": "instance.delete.end"'
    assert SIEVE.event(wrapped(GOOD | {"event_type": "x", "publisher_id": sly}), "nova") is None


def test_an_unwanted_name_elsewhere_does_not_hide_an_event() -> None:
    sly = GOOD | {"publisher_id": 'x\\", "event_type": "instance.update", "priority": "INFO"'}
    event = SIEVE.event(wrapped(sly), "nova")
    assert event is not None
    assert event.type == "instance.delete.end"


def test_an_unwanted_notification_may_have_any_payload() -> None:
    assert SIEVE.event(wrapped(GOOD | {"event_type": "x.y", "payload": ["a list"]}), "nova") is None


BAD = {
    "empty": b"",
    "no JSON": b"hello",
    "not UTF-8": DELETE.replace(b"compute-2", b"\xff\xfe"),
    "binary": bytes(range(256)),
    "a list": b"[]",
    "a number": b"17",
    "an empty object": b"{}",
    "huge nesting": b"[" * 200_000,
    "huge nesting, closed": b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
    "huge": b'{"event_type": "instance.delete.end", "payload": {"x": "' + b"x" * MAX_BODY + b'"}}',
    "version 1": wrapped(GOOD, "1.0"),
    "version 3": wrapped(GOOD, "3.0"),
    "version 20": wrapped(GOOD, "20.0"),
    "version 3 of an unwanted type": wrapped(inner(UPDATE), "3.0"),
    "version is a number": wrapped(GOOD, 2.0),
    "no version": json.dumps({"oslo.message": json.dumps(GOOD)}).encode(),
    "no message": b'{"oslo.version": "2.0"}',
    "message is an object": json.dumps({"oslo.version": "2.0", "oslo.message": GOOD}).encode(),
    "message is a list": wrapped([GOOD]),
    "no event type": wrapped({key: value for key, value in GOOD.items() if key != "event_type"}),
    "event type is a number": wrapped(GOOD | {"event_type": 5}),
    "event type is null": wrapped(GOOD | {"event_type": None}),
    "event type is a list": wrapped(GOOD | {"event_type": ["instance.delete.end"]}),
    "event type is empty": wrapped(GOOD | {"event_type": ""}),
    "event type is a novel": wrapped(GOOD | {"event_type": "x" * 300}),
    "event type is wrong, one in the payload is right": wrapped({"payload": GOOD} | {"event_type": 5}),
    "payload is a list": wrapped(GOOD | {"payload": [1]}),
    "payload is a text": wrapped(GOOD | {"payload": "text"}),
    "payload is null": wrapped(GOOD | {"payload": None}),
    "no payload": wrapped({key: value for key, value in GOOD.items() if key != "payload"}),
    "payload of another major version": wrapped(GOOD | {"payload": GOOD["payload"] | {"nova_object.version": "2.0"}}),
    "payload object holds a list": wrapped(GOOD | {"payload": GOOD["payload"] | {"nova_object.data": []}}),
    "trailing garbage": DELETE + b"}",
    "two in one": DELETE + DELETE,
}


@pytest.mark.parametrize("body", BAD.values(), ids=BAD.keys())
def test_a_bad_message_is_undecodable_with_a_reason(body: bytes) -> None:
    with pytest.raises(Undecodable) as caught:
        SIEVE.event(body, "nova")
    assert 10 < len(str(caught.value)) < 500


@pytest.mark.parametrize("time", [None, 5, "", "yesterday", "2026-13-01 00:00:00", "9999-12-31T23:59:59-23:59", ["x"]])
def test_a_bad_time_costs_nothing_but_the_time(time: object) -> None:
    event = decode(wrapped(GOOD | {"timestamp": time}), "nova")
    assert event.sent_at is None
    assert event.payload == decode(DELETE, "nova").payload


def test_a_time_with_a_zone_becomes_utc() -> None:
    event = decode(wrapped(GOOD | {"timestamp": "2026-11-22T12:00:00+02:00"}), "nova")
    assert event.sent_at == datetime(2026, 11, 22, 10, tzinfo=UTC)


def test_tracing_members_of_a_wrong_type_are_dropped() -> None:
    event = decode(wrapped(GOOD | {"message_id": 5, "publisher_id": None}), "nova")
    assert (event.id, event.publisher) == ("", "")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(max_size=20), children, max_size=4),
    max_leaves=20,
)
MEMBERS = ["event_type", "payload", "timestamp", "message_id", "publisher_id", "oslo.version", "oslo.message"]
OBJECT = ["nova_object.name", "nova_object.version", "nova_object.data", "uuid"]


def outcome(body: bytes) -> Event | None:
    with suppress(Undecodable):
        decode(body, "nova")
    try:
        return SIEVE.event(body, "nova")
    except Undecodable:
        return None


@given(st.binary())
@example(b'{"oslo.version": "2.0", "oslo.message": "\\ud800"}')
def test_any_bytes_are_an_event_or_undecodable(body: bytes) -> None:
    outcome(body)


@given(JSON)
def test_any_json_is_an_event_or_undecodable(value: Any) -> None:
    outcome(json.dumps(value).encode("utf-8", "surrogatepass"))
    outcome(wrapped(value))


@given(st.dictionaries(st.sampled_from(MEMBERS), JSON), st.dictionaries(st.sampled_from(OBJECT), JSON))
def test_any_value_in_any_member_is_an_event_or_undecodable(members: dict[str, Any], parts: dict[str, Any]) -> None:
    outcome(wrapped(GOOD | {"payload": GOOD["payload"] | parts} | members))
    outcome(json.dumps(GOOD | members).encode("utf-8", "surrogatepass"))


@given(st.sampled_from(CAPTURED), st.integers(min_value=0), st.binary(max_size=8))
def test_a_damaged_notification_is_an_event_or_undecodable(body: bytes, place: int, damage: bytes) -> None:
    place %= len(body)
    event = outcome(body[:place] + damage + body[place + len(damage) :])
    assert event is None or event.type in WANTED
