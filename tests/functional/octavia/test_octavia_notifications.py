"""Octavia's notifications lead to heals, from the bytes on the bus to the state of the cloud."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import sqlalchemy as sa

from consumer.bus.envelope import Sieve
from consumer.bus.source import Source
from consumer.bus.topology import publish
from consumer.conf.bus import BusSettings
from consumer.conf.tasks import TaskSettings
from consumer.conf.window import Window
from consumer.engine.inbox import Inbox
from consumer.engine.router import Router, Unroutable
from consumer.engine.task import Task
from consumer.journal import history
from consumer.journal.database import Database
from consumer.journal.work import Hint
from handlers.base import Broker, Finding, Handler, InFlight, Key, Mode
from handlers.octavia import notifications, queries, removal, tables
from handlers.octavia.cloud_objects import PRESERVED
from handlers.octavia.housekeeping import DeleteFailed
from handlers.octavia.leftovers import rules
from handlers.octavia.leftovers.deactivated_amphorae import DeactivatedAmphorae
from handlers.octavia.stuck.stuck_load_balancers import StuckLoadBalancers
from tests.functional.bus.test_bus_memory import declare, running
from tests.functional.engine.conftest import journal, world
from tests.functional.engine.machine import Machine
from tests.functional.octavia.mending import grow_older
from tests.functional.octavia.work_queue import Queue
from tests.functional.octavia.world import House, balancer_key
from tests.waiting import eventually

__all__ = ["journal", "world"]

GRACE = 20_000.0

CREATED = next(
    json.loads(line)["body"]
    for line in (Path(__file__).parents[2] / "data" / "notifications.jsonl").read_text().splitlines()
    if notifications.CREATED in line
)


def body(event: str, balancer: str) -> bytes:
    """Return the captured notification, about another event of another load balancer."""
    envelope = json.loads(CREATED)
    message = json.loads(envelope["oslo.message"])
    message["event_type"] = event
    message["payload"]["loadbalancer_id"] = balancer
    return json.dumps({**envelope, "oslo.message": json.dumps(message)}).encode()


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for nothing: an object that is not gone at once stays."""
    monkeypatch.setattr(removal, "OCTAVIA_DEADLINE", 0.0)
    monkeypatch.setattr(removal, "SERVER_DEADLINE", 0.0)


@pytest.fixture
def leftovers(house: House) -> DeactivatedAmphorae:
    return DeactivatedAmphorae(house.driver, Queue(), GRACE)


@pytest.fixture
def stuck(house: House) -> StuckLoadBalancers:
    return StuckLoadBalancers(house.driver, Queue(), GRACE)


def hints(handlers: Iterable[Handler], notification: bytes) -> list[Hint]:
    """Return the hints of a message from Octavia's broker."""
    router = Router(handlers)
    event = Sieve(router.wanted).event(notification, "octavia")
    return [] if event is None else router.route(event)


def clinging(house: House, monkeypatch: pytest.MonkeyPatch, topology: str = "ACTIVE_STANDBY") -> str:
    """Delete a load balancer whose objects Octavia fails to delete, in a cloud with another one; return its id."""
    house.octavia.add_load_balancer()
    balancer = house.octavia.add_load_balancer(topology, anti_affinity=True)
    with monkeypatch.context() as patch:
        for call in ("delete_server", "remove_port", "delete_security_group", "delete_server_group"):
            patch.setattr(house.cloud, call, lambda _identity: None)
        house.octavia.delete_load_balancer(balancer)
    vip = vip_of(house, balancer)
    house.cloud._ports[vip] = replace(house.cloud._ports[vip], device_owner="Octavia")
    grow_older(house, rules.SETTLED)
    return balancer


def vip_of(house: House, balancer: str) -> str:
    return house.database.run(partial(queries.vip_port, load_balancer=balancer)) or ""


def named(house: House, balancer: str) -> list[str]:
    """Return the names of all objects in the cloud that belong to a load balancer."""
    cloud = house.cloud
    things = [group.name for group in (*cloud.server_groups(), *cloud.security_groups())]
    things += [server.name for server in cloud.servers()]
    things += [port.name for port in cloud.ports()]
    owners = {balancer, *(row.id for row in house.rows(balancer))}
    return sorted(name for name in things if any(owner in name for owner in owners))


def drive(handler: Handler, balancer: str) -> list[str]:
    """Inspect and heal a load balancer, as the machine does; return the actions."""
    actions: list[str] = []
    while findings := [found for found in handler.inspect(balancer_key(balancer)) if found.healable]:
        actions.append(handler.heal(findings[0]).action)
    return actions


def only(findings: Iterable[Finding]) -> Finding:
    (found,) = findings
    return found


@pytest.mark.parametrize(
    ("event", "handler"),
    [
        (notifications.CREATED, "stuck_load_balancers"),
        (notifications.UPDATED, "stuck_load_balancers"),
        (notifications.DELETED, "deactivated_amphorae"),
    ],
)
def test_each_notification_hints_at_one_handler(
    leftovers: DeactivatedAmphorae, stuck: StuckLoadBalancers, event: str, handler: str
) -> None:
    balancer = str(uuid.uuid4())
    (hint,) = hints([leftovers, stuck], body(event, balancer))
    assert (hint.handler, hint.key) == (handler, balancer_key(balancer))


@pytest.mark.parametrize("balancer", ["", "'; DROP TABLE amphora", "../../etc"])
def test_a_notification_without_a_load_balancer_is_a_dead_letter(leftovers: DeactivatedAmphorae, balancer: str) -> None:
    with pytest.raises(Unroutable):
        hints([leftovers], body(notifications.DELETED, balancer))


def test_all_that_a_deleted_load_balancer_left_is_removed_in_minutes_instead_of_hours(
    house: House, leftovers: DeactivatedAmphorae, monkeypatch: pytest.MonkeyPatch
) -> None:
    balancer = clinging(house, monkeypatch)
    others = {server.id for server in house.cloud.servers() if server.name not in named(house, balancer)}
    assert len(named(house, balancer)) == 2 + 2 * 2 + 3, "servers, ports of both amphorae, VIP port and two groups"
    swept = {found.kind for found in leftovers.sweep()}
    assert not swept & {"server", "port"}, "the sweep waits for deactivated_amphorae_after"
    actions = drive(leftovers, balancer)
    assert named(house, balancer) == []
    assert {server.id for server in house.cloud.servers()} == others
    assert len(actions) == 2, "the ports once the servers are gone"


def test_a_completely_deleted_load_balancer_needs_no_listing(
    house: House, leftovers: DeactivatedAmphorae, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many load balancers may be deleted at once, and a listing of a large cloud takes seconds."""
    balancer = house.octavia.add_load_balancer()
    house.octavia.delete_load_balancer(balancer)
    house.pass_time(rules.SETTLED)
    for listing in ("servers", "ports", "security_groups"):
        monkeypatch.delattr(type(house.driver), listing)
    assert list(leftovers.inspect(balancer_key(balancer))) == []


@pytest.mark.parametrize("status", ["ACTIVE", "ERROR", "PENDING_DELETE", "PENDING_UPDATE"])
def test_a_load_balancer_that_is_not_deleted_left_nothing(
    house: House, leftovers: DeactivatedAmphorae, monkeypatch: pytest.MonkeyPatch, status: str
) -> None:
    balancer = clinging(house, monkeypatch)
    house.octavia.set_balancer(balancer, status)
    house.pass_time(rules.SETTLED)
    assert list(leftovers.inspect(balancer_key(balancer))) == []


def test_a_forged_notification_about_an_unknown_load_balancer_changes_nothing(leftovers: DeactivatedAmphorae) -> None:
    assert list(leftovers.inspect(balancer_key(str(uuid.uuid4())))) == []


def test_nova_and_neutron_have_half_a_minute_for_the_deletion(
    house: House, leftovers: DeactivatedAmphorae, monkeypatch: pytest.MonkeyPatch
) -> None:
    balancer = clinging(house, monkeypatch)
    house.octavia.set_balancer(balancer, "DELETED")
    with pytest.raises(InFlight) as waits:
        list(leftovers.inspect(balancer_key(balancer)))
    assert 0 < waits.value.after <= rules.SETTLED


def test_a_server_that_nova_deletes_is_waited_for(
    house: House, leftovers: DeactivatedAmphorae, monkeypatch: pytest.MonkeyPatch
) -> None:
    balancer = clinging(house, monkeypatch, "SINGLE")
    server = house.rows(balancer)[0].compute_id or ""
    house.cloud.alter_server(server, task_state="deleting")
    with pytest.raises(InFlight, match="deleting"):
        list(leftovers.inspect(balancer_key(balancer)))
    house.cloud.delete_server(server)
    drive(leftovers, balancer)
    assert named(house, balancer) == []


def test_a_preserved_server_of_a_deleted_load_balancer_stays(
    house: House, leftovers: DeactivatedAmphorae, monkeypatch: pytest.MonkeyPatch
) -> None:
    balancer = clinging(house, monkeypatch, "SINGLE")
    server = house.rows(balancer)[0].compute_id or ""
    house.cloud.alter_server(server, tags=frozenset({PRESERVED}))
    drive(leftovers, balancer)
    assert house.cloud.server(server) is not None


def test_a_port_of_a_living_amphora_is_no_leftover(
    house: House, leftovers: DeactivatedAmphorae, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rows of two load balancers name one port, as after a wrong restoration."""
    living = house.octavia.add_load_balancer()
    vip = vip_of(house, living)
    balancer = clinging(house, monkeypatch, "SINGLE")
    change = sa.update(tables.vip).where(tables.vip.c.load_balancer_id == balancer).values(port_id=vip)
    house.database.run(lambda connection: connection.execute(change))
    house.octavia.set_amphora(house.rows(balancer)[0].id, vrrp_port_id=house.rows(living)[0].vrrp_port_id)
    house.pass_time(rules.SETTLED)
    drive(leftovers, balancer)
    house.assert_whole(living)
    assert house.cloud.port(vip) is not None


def test_the_removal_goes_on_after_one_object_that_clings(
    house: House, leftovers: DeactivatedAmphorae, monkeypatch: pytest.MonkeyPatch
) -> None:
    balancer = clinging(house, monkeypatch, "SINGLE")
    house.cloud.delete_server(house.rows(balancer)[0].compute_id or "")
    found = only(leftovers.inspect(balancer_key(balancer)))
    first = next(iter(found.evidence))

    def refuse(port: object) -> None:
        if port.id == first.removeprefix("port:"):  # type: ignore[attr-defined]
            raise DeleteFailed("it is in use")
        house.cloud.delete_port(port)  # type: ignore[arg-type]

    monkeypatch.setattr(house.driver, "delete_port", refuse)
    healed = leftovers.heal(found)
    assert not healed.complete
    assert len(named(house, balancer)) == 1
    with pytest.raises(DeleteFailed, match="in use"):
        leftovers.heal(only(leftovers.inspect(balancer_key(balancer))))


def test_a_vip_port_of_another_project_is_reported(
    house: House, leftovers: DeactivatedAmphorae, monkeypatch: pytest.MonkeyPatch
) -> None:
    balancer = clinging(house, monkeypatch, "SINGLE")
    vip = vip_of(house, balancer)
    house.cloud._ports[vip] = replace(house.cloud._ports[vip], project_id="owner-project")
    drive(leftovers, balancer)
    (reported,) = leftovers.inspect(balancer_key(balancer))
    assert (reported.key, reported.healable) == (Key("port", vip), False)
    assert house.cloud.port(vip) is not None


def test_after_an_update_a_wrong_number_of_amphorae_is_repaired_without_a_sweep(
    house: House, stuck: StuckLoadBalancers
) -> None:
    balancer = house.octavia.add_load_balancer("ACTIVE_STANDBY")
    house.octavia.set_amphora(house.serving(balancer)[0].id, status="DELETED", load_balancer_id=None)
    house.octavia.set_balancer(balancer, "ACTIVE")
    with pytest.raises(InFlight) as waits:
        list(stuck.inspect(balancer_key(balancer)))
    house.pass_time(waits.value.after)
    drive(stuck, balancer)
    assert [row.status for row in house.serving(balancer)] == ["ALLOCATED"] * 2


def test_after_an_update_the_row_of_a_deleted_amphora_is_detached_at_once(
    house: House, stuck: StuckLoadBalancers
) -> None:
    balancer = house.octavia.add_load_balancer()
    house.driver.failover_load_balancer(balancer)
    assert len(house.rows(balancer)) == 2
    drive(stuck, balancer)
    house.assert_whole(balancer)


def test_a_whole_load_balancer_that_was_just_updated_is_left_alone(house: House, stuck: StuckLoadBalancers) -> None:
    balancer = house.octavia.add_load_balancer("ACTIVE_STANDBY")
    house.octavia.set_balancer(balancer, "ACTIVE")
    assert list(stuck.inspect(balancer_key(balancer))) == []


class OctaviaMachine(Machine):
    """A replica with the handlers of one house."""

    house: House

    def handlers(self) -> list[Handler]:
        return [
            DeactivatedAmphorae(self.house.driver, Queue(), GRACE),
            StuckLoadBalancers(self.house.driver, Queue(), GRACE),
        ]

    def tasks(self) -> dict[str, Task]:
        settings = TaskSettings(Mode.HEAL, 3600, Window(), 0)
        return {handler.name: Task(handler, settings, self.clock) for handler in self.handlers()}


def test_from_the_bus_to_the_cloud(
    house: House, journal: Database, monkeypatch: pytest.MonkeyPatch, make_house: Callable[..., House]
) -> None:
    """The notifications arrive on a broker; no sweep runs."""
    for handler in (DeactivatedAmphorae, StuckLoadBalancers):
        monkeypatch.setattr(handler, "confirm_after", 0.1)
        monkeypatch.setattr(handler, "sweep", lambda _handler: iter(()))
        monkeypatch.setattr(handler, "triggers", tuple(replace(one, after=0.0) for one in handler.triggers))
    deleted = clinging(house, monkeypatch)
    updated = house.octavia.add_load_balancer()
    house.driver.failover_load_balancer(updated)
    machine = OctaviaMachine(journal, None)  # type: ignore[arg-type]
    machine.house = house
    broker = Broker("octavia", "memory://", (f"octavia-{uuid.uuid4().hex}",))
    settings = BusSettings(topics=(f"topic-{uuid.uuid4().hex}",), priorities=("info",), queue_wait=0.1)
    router = Router(machine.handlers())
    declare(broker, settings)
    dispatcher = machine.start()
    inbox = Inbox(journal, router, dispatcher.wake, 1000)
    try:
        with running(Source(broker, settings, router.wanted, inbox.store, lambda *_: None)):
            for event, balancer in ((notifications.DELETED, deleted), (notifications.UPDATED, updated)):
                publish(broker, broker.exchanges[0], settings.queues[0], body(event, balancer), settings)
            eventually(lambda: named(house, deleted) == [] and len(house.rows(updated)) == 1)
            eventually(machine.idle)
    finally:
        machine.stop()
    house.assert_whole(updated)
    lines = history.listing(journal, limit=100)
    assert {(line.hint, line.problem) for line in lines} == {
        (notifications.DELETED, "load-balancer-leftovers"),
        (notifications.UPDATED, "deleted-amphora"),
    }
