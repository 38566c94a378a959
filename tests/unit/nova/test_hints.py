from __future__ import annotations

import pytest

from handlers.base import Event, Key
from handlers.nova import keys
from handlers.nova.allocations.audit_allocations import AuditAllocations
from handlers.nova.hosts.discover_hosts import DiscoverHosts
from handlers.nova.hosts.sync_aggregates import SyncAggregates

UUID = "5d7e3c0a-1f2b-4c8d-9e6a-0b1c2d3e4f5a"


def event(**payload: object) -> Event:
    return Event("some.event", payload)


def test_only_nova_compute_is_a_host() -> None:
    assert keys.compute_host(event(binary="nova-compute", host="a")) == Key("host", "a")
    assert keys.compute_host(event(binary="nova-conductor", host="a")) is None


def test_the_host_of_a_failed_build() -> None:
    text = "Host 'compute-9' is not mapped to any cell"
    assert keys.failed_host(event(host="a")) == Key("host", "a")
    assert keys.failed_host(event(host=None, reason={"exception_message": text})) == Key("host", "compute-9")
    assert keys.failed_host(event(reason=text)) == Key("host", "compute-9")
    assert keys.failed_host(event(reason={"exception_message": "No valid host was found."})) is None
    assert keys.failed_host(event()) is None


def test_consumers() -> None:
    assert keys.consumer(event(uuid=UUID)) == Key("consumer", UUID)
    assert keys.consumer(event(instance_uuid=UUID.upper())) == Key("consumer", UUID)


def test_aggregates_by_uuid_or_by_host() -> None:
    assert keys.aggregate(event(uuid=UUID, id=1)) == Key("aggregate", UUID)
    assert keys.aggregate(event(id="1", host_name="a")) == Key("host", "a")
    assert keys.aggregate(event(id="1")) is None


@pytest.mark.parametrize("value", [None, "", 7, "../allocations", f"{UUID}/x", {"a": 1}])
def test_what_is_no_uuid_is_refused(value: object) -> None:
    with pytest.raises((ValueError, KeyError)):
        keys.consumer(event(uuid=value))


@pytest.mark.parametrize("value", [None, "", 7, "x" * 300])
def test_what_is_no_host_is_refused(value: object) -> None:
    with pytest.raises(ValueError):
        keys.compute_host(event(binary="nova-compute", host=value))


def test_handlers_declare_their_attributes() -> None:
    for handler in (DiscoverHosts, SyncAggregates, AuditAllocations):
        assert handler.group == "audit"
        assert handler.title
        assert handler.cost
        assert handler.default_interval >= 600
        assert len({trigger.event for trigger in handler.triggers}) == len(handler.triggers)
    assert AuditAllocations.default_mode == "audit", "it takes somebody's record away"
