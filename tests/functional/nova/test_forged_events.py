"""A publisher that forges notifications about a healthy cloud causes inspections, and no heal."""

from __future__ import annotations

import pytest

from consumer import plugins
from consumer.engine.router import Router, Unroutable
from handlers.base import Event, Handler, InFlight, Key, Resources
from handlers.nova.simulation import NovaSimulation
from handlers.nova.simulation.cinder import Cinder
from handlers.nova.simulation.neutron import Neutron

NOVA = [handler for handler in plugins.handlers() if handler.group == "audit"]
TRIGGERS = sorted({trigger.event for handler in NOVA for trigger in handler.triggers})


def forged(event: str, instance: str, host: str, aggregate: str, volume: str) -> Event:
    """Return an event that claims the worst of living objects."""
    gone = {"state": "deleted", "task_state": None, "power_state": "nostate", "deleted_at": "2026-01-01T00:00:00Z"}
    names = {"uuid": instance, "instance_uuid": instance, "host": host, "host_name": host, "node": host}
    payload: dict[str, object] = {
        **gone,
        **names,
        "hosts": [],
        "binary": "nova-compute",
        "disabled": True,
        "forced_down": True,
        "volume_id": volume,
    }
    if event.startswith("aggregate."):
        payload |= {"uuid": aggregate, "id": 1, "name": "ssd"}
    return Event(event, payload, "forged", f"nova-compute:{host}")


@pytest.fixture
def handlers(resources: Resources, neutron: Neutron, cinder: Cinder) -> list[Handler]:
    for kind in NOVA:
        for group, options in kind.options().items():
            resources.conf.register_opts(options, group)
    return [kind.from_resources(resources) for kind in NOVA]


def inspected(handler: Handler, key: Key) -> list[str]:
    """Return the problems that the handler would heal."""
    try:
        return [finding.problem for finding in handler.inspect(key) if finding.healable]
    except InFlight:
        return []


def test_forged_notifications_about_living_objects_heal_nothing(cloud: NovaSimulation, handlers: list[Handler]) -> None:
    with cloud.ago(hours=3):
        for host in ("compute-1", "compute-2"):
            cloud.add_compute(host, "cell1")
            cloud.map_host(host)
        instance = cloud.boot("compute-1")
        volume = cloud.cinder.attachments[cloud.attach_volume(instance)]["volume_id"]
        aggregate = cloud.create_aggregate("ssd")
        cloud.add_host_to_aggregate(aggregate, "compute-1")
    for host in ("compute-1", "compute-2"):
        cloud.heartbeat(host)
    router, by_name = Router(handlers), {handler.name: handler for handler in handlers}
    hints = []
    for event in TRIGGERS:
        try:
            hints += router.route(forged(event, instance, "compute-1", aggregate, volume))
        except Unroutable:
            continue
    assert {hint.handler for hint in hints} >= {
        "audit_allocations",
        "audit_attachments",
        "heal_allocations",
        "discover_hosts",
        "sync_aggregates",
    }
    for hint in hints:
        assert inspected(by_name[hint.handler], hint.key) == [], hint
    assert cloud.allocation(instance)
    assert cloud.cinder.volumes[volume]["status"] == "in-use"
    with cloud.ago(hours=1):
        cloud.delete(instance, leak_allocation=True)
    assert inspected(by_name["audit_allocations"], Key("consumer", instance)) == ["instance-deleted"]
