"""A server that the rows of two amphorae name is not deleted or cut off because one of the amphorae failed."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from handlers.base import Conflict, Key
from handlers.octavia.stuck.problems import Permissions
from handlers.octavia.stuck.stuck_load_balancers import StuckLoadBalancers
from tests.functional.octavia.mending import grow_older, world
from tests.functional.octavia.work_queue import Queue
from tests.functional.octavia.world import House, balancer_key, mend

Houses = Callable[..., House]


def two_on_one_server(house: House) -> tuple[str, str]:
    """Let the row of an amphora name the server of another one, which serves; return the amphora and its load balancer."""
    [living] = house.serving(house.octavia.add_load_balancer())
    balancer = house.octavia.add_load_balancer()
    [wrong] = house.serving(balancer)
    house.octavia.set_amphora(wrong.id, status="ERROR", compute_id=living.compute_id)
    house.octavia.heartbeat(living.id, silent=1)
    house.octavia.heartbeat(wrong.id, silent=600)
    return wrong.id, balancer


@pytest.mark.parametrize("kept", [0, 1])
@pytest.mark.parametrize("status", ["ACTIVE", "ERROR"])
def test_an_amphora_in_error_on_the_server_of_another_is_reported(make_house: Houses, kept: int, status: str) -> None:
    house = make_house(failover_threshold=0, maximum_preserved_amphora_count=kept)
    amphora, balancer = two_on_one_server(house)
    house.octavia.set_balancer(balancer, status)
    house.pass_time(600)
    before = world(house)

    assert mend(house, house.handler(), Key("amphora", amphora)) == []

    [finding] = house.handler().inspect(Key("amphora", amphora))
    assert "set the right compute_id" in finding.refusal
    assert world(house) == before


@pytest.mark.parametrize("kept", [0, 1])
def test_a_row_that_begins_to_name_the_server_stops_the_heal(make_house: Houses, kept: int) -> None:
    house = make_house(failover_threshold=0, maximum_preserved_amphora_count=kept)
    balancer = house.octavia.add_load_balancer()
    failed = house.fail(balancer)
    [other] = house.serving(house.octavia.add_load_balancer())
    [finding] = house.handler().inspect(Key("amphora", failed.id))
    house.octavia.set_amphora(other.id, compute_id=failed.compute_id)
    before = world(house)

    with pytest.raises(Conflict):
        house.handler().heal(finding)

    assert world(house) == before


def test_a_load_balancer_in_error_on_the_server_of_another_is_reported(house: House) -> None:
    amphora, balancer = two_on_one_server(house)
    house.octavia.set_amphora(amphora, status="ALLOCATED")
    house.octavia.set_balancer(balancer, "ERROR")
    grow_older(house)
    before = world(house)

    handler = StuckLoadBalancers(house.driver, Queue(), 3600.0, Permissions(failover_errors=True))
    [finding] = handler.inspect(balancer_key(balancer))

    assert "set the right compute_id" in finding.refusal
    assert world(house) == before


def test_an_amphora_with_the_port_of_another_is_reported(house: House) -> None:
    [living] = house.serving(house.octavia.add_load_balancer())
    failed = house.fail(house.octavia.add_load_balancer())
    house.octavia.set_amphora(failed.id, vrrp_port_id=living.vrrp_port_id)
    before = world(house)

    assert mend(house, house.handler(), Key("amphora", failed.id)) == []

    [finding] = house.handler().inspect(Key("amphora", failed.id))
    assert "vrrp_port_id" in finding.refusal
    assert world(house) == before


def test_a_deleted_row_does_not_count(house: House) -> None:
    balancer = house.octavia.add_load_balancer()
    failed = house.fail(balancer)
    gone = house.octavia.add_load_balancer()
    [old] = house.serving(gone)
    house.octavia.set_amphora(old.id, status="DELETED", compute_id=failed.compute_id, load_balancer_id=None)

    mend(house, house.handler(), Key("amphora", failed.id))

    house.assert_whole(balancer)
