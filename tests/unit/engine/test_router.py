"""Routing: wanted types, keys, and payloads that lie."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from consumer.engine.router import Router, Unroutable
from consumer.journal.work import Priority
from handlers.base import Event, Key
from handlers.nova.allocations.heal_allocations import HealAllocations
from handlers.nova.mappings.map_instances import MapInstances
from tests.doubles import CarefulMender, Mender

ROUTER = Router([Mender, CarefulMender])


def event(event_type: str, payload: dict[str, Any]) -> Event:
    return Event(event_type, payload, id="m-1", sent_at=datetime(2026, 1, 1, tzinfo=UTC))


def test_wanted_types() -> None:
    assert ROUTER.wanted == {"thing.broken", "thing.slow"}


def test_each_handler_that_wants_an_event_gets_its_key() -> None:
    first, second = ROUTER.route(event("thing.broken", {"name": "a"}))
    assert (first.handler, second.handler) == ("mender", "careful_mender")
    assert first.key == second.key == Key("thing", "a")
    assert first.priority is Priority.EVENT
    assert (first.source, first.source_id, first.sent_at) == ("thing.broken", "m-1", 1767225600.0)


def test_delay_of_the_trigger_is_kept() -> None:
    (hint,) = ROUTER.route(event("thing.slow", {"name": "a"}))
    assert hint.after == 0.5


@pytest.mark.parametrize(("event_type", "payload"), [("thing.other", {}), ("thing.broken", {"name": "ignored"})])
def test_unwanted_events_give_nothing(event_type: str, payload: dict[str, Any]) -> None:
    assert ROUTER.route(event(event_type, payload)) == []


@pytest.mark.parametrize(
    "payload", [{}, {"name": None}, {"name": ""}, {"name": "x" * 256}, {"name": ["a"]}, {"name": "a\0"}, {"name": 5}]
)
def test_a_payload_without_a_usable_key_is_unroutable(payload: dict[str, Any]) -> None:
    with pytest.raises(Unroutable, match=r"thing\.broken"):
        ROUTER.route(event("thing.broken", payload))


def test_the_hourly_event_of_an_instance_stands_behind_all_other_events() -> None:
    payload = {"uuid": "3f0c0e37-6b5f-4a08-8e5f-5d1c2a6b7c8d"}
    hints = Router([MapInstances, HealAllocations]).route(event("instance.exists", payload))
    assert {hint.handler: hint.priority for hint in hints} == {
        "map_instances": Priority.PERIODIC,
        "heal_allocations": Priority.PERIODIC,
    }
