"""A statement of an undo changes a row only while the row is as the heal left it, however late it runs."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest

from handlers.base import Finding, Key
from handlers.octavia import changes, queries, records
from handlers.octavia.failover.steps import StepName
from handlers.octavia.stuck.stuck_load_balancers import StuckLoadBalancers
from tests.functional.octavia.mending import grow_older
from tests.functional.octavia.operator import Operator
from tests.functional.octavia.test_refused_failover import advance_to, silent_one
from tests.functional.octavia.work_queue import Queue
from tests.functional.octavia.world import House

MakeHouse = Callable[..., House]


def run(house: House, undo: str) -> None:
    statement = undo.rpartition(", or: ")[2]
    house.database.run(lambda connection: connection.exec_driver_sql(statement))


def health(house: House, key: Key) -> records.Health:
    found = house.database.run(partial(queries.health, amphora=key.id))
    assert found is not None
    return found


def leased(house: House) -> tuple[Key, list[str]]:
    """Return an amphora under lease, and the undo that was known before and after the heal."""
    _balancer, key = silent_one(house)
    handler = house.handler()
    finding = advance_to(house, handler, key, StepName.LEASE)
    healed = handler.heal(finding)
    assert health(house, key).silent < -records.SKEW
    return key, [finding.undo, healed.undo]


@pytest.mark.parametrize("number", [0, 1], ids=["the undo of a killed heal", "the undo of a heal"])
def test_a_late_undo_of_a_lease_leaves_a_living_amphora_alone(make_house: MakeHouse, number: int) -> None:
    house = make_house(maximum_preserved_amphora_count=1)
    key, undo = leased(house)
    house.octavia.heartbeat(key.id, silent=2)
    before = health(house, key).last_update
    run(house, undo[number])
    assert health(house, key).last_update == before
    assert house.health_manager_replaces() == []


@pytest.mark.parametrize("number", [0, 1], ids=["the undo of a killed heal", "the undo of a heal"])
def test_the_undo_of_a_lease_ends_it_and_leaves_time_to_beat(make_house: MakeHouse, number: int) -> None:
    house = make_house(maximum_preserved_amphora_count=1)
    key, undo = leased(house)
    run(house, undo[number])
    assert -1 < health(house, key).silent < house.driver.settings.heartbeat_timeout
    assert house.health_manager_replaces() == []


@pytest.mark.parametrize("number", [0, 1], ids=["the undo of a killed heal", "the undo of a heal"])
def test_the_undo_of_a_lease_that_has_expired_keeps_no_health_manager_off(make_house: MakeHouse, number: int) -> None:
    house = make_house(maximum_preserved_amphora_count=1)
    key, undo = leased(house)
    house.octavia.heartbeat(key.id, silent=70)
    run(house, undo[number])
    assert house.health_manager_replaces() == [key.id]


def test_a_heartbeat_of_a_fast_clock_is_not_ended_as_a_lease(make_house: MakeHouse) -> None:
    """Nova shows no metadata of a server in ERROR, so the ends of its leases are unknown."""
    house = make_house(maximum_preserved_amphora_count=1)
    key, _undo = leased(house)
    house.octavia.heartbeat(key.id, silent=-5)
    end = partial(changes.end_lease, amphora=house.amphora(key.id), silent=120.0)
    assert not house.database.run(end)
    assert house.health_manager_replaces() == []
    house.octavia.heartbeat(key.id, silent=-600)
    assert house.database.run(end)
    assert house.health_manager_replaces() == [key.id]


def freed(house: House) -> tuple[str, Finding]:
    """Return a load balancer that was stuck and is freed, and the finding of the heal."""
    balancer = house.octavia.add_load_balancer()
    house.octavia.set_balancer(balancer, "PENDING_UPDATE")
    grow_older(house)
    handler = StuckLoadBalancers(house.driver, Queue(), 3600.0)
    (finding,) = handler.inspect(Key("load-balancer", balancer))
    handler.heal(finding)
    assert house.balancer(balancer).status == "ERROR"
    return balancer, finding


def test_the_undo_of_a_freeing_that_was_not_written_changes_nothing(house: House) -> None:
    balancer = house.octavia.add_load_balancer()
    house.octavia.set_balancer(balancer, "PENDING_UPDATE")
    grow_older(house)
    (finding,) = StuckLoadBalancers(house.driver, Queue(), 3600.0).inspect(Key("load-balancer", balancer))
    house.octavia.set_balancer(balancer, "ERROR")
    Operator(house).follow(finding.undo, finding.problem)
    assert house.balancer(balancer).status == "ERROR"


def test_a_late_undo_of_a_freeing_leaves_an_error_of_octavia_alone(house: House) -> None:
    """A failover has failed meanwhile: no flow works on the load balancer, and PENDING_UPDATE would stay."""
    balancer, finding = freed(house)
    house.octavia.set_balancer(balancer, "ERROR")
    Operator(house).follow(finding.undo, finding.problem)
    assert house.balancer(balancer).status == "ERROR"


def test_without_a_server_that_keeps_the_time_a_freeing_has_no_undo_before_its_end(house: House) -> None:
    balancer = house.octavia.add_load_balancer()
    for row in house.serving(balancer):
        house.cloud.delete_server(row.compute_id or "")
    house.octavia.set_balancer(balancer, "PENDING_UPDATE")
    grow_older(house)
    handler = StuckLoadBalancers(house.driver, Queue(), 3600.0)
    (finding,) = handler.inspect(Key("load-balancer", balancer))
    assert finding.undo.startswith("none until the heal has ended: ")
    run(house, handler.heal(finding).undo)
    assert house.balancer(balancer).status == "PENDING_UPDATE"
