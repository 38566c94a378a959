"""An amphora beside all amphorae of its topology is never failed over: Octavia would build one more, with the same VIP."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from handlers.base import Finding, Handler, Key
from handlers.octavia.failover.failed_amphora import FailedAmphora
from handlers.octavia.leftovers.deactivated_amphorae import DeactivatedAmphorae
from handlers.octavia.stuck.stuck_load_balancers import StuckLoadBalancers
from tests.functional.octavia.mending import findings, grow_older, mend, world
from tests.functional.octavia.work_queue import Queue
from tests.functional.octavia.world import House

AFTER = 1800.0
#: a dead worker or a failed failover leaves these
STATES = ["PENDING_CREATE", "BOOTING", "PENDING_DELETE", "ERROR"]
MakeHouse = Callable[..., House]


def handlers(house: House) -> list[Handler]:
    return [
        house.handler(),
        DeactivatedAmphorae(house.driver, Queue(), AFTER),
        StuckLoadBalancers(house.driver, Queue(), AFTER),
    ]


def with_surplus(house: House, topology: str, status: str) -> tuple[str, set[str], str]:
    """Return a whole load balancer, its serving amphorae, and one amphora more."""
    balancer = house.octavia.add_load_balancer(topology)
    serving = {row.id for row in house.serving(balancer)}
    surplus = house.octavia._build(balancer, "STANDALONE" if topology == "SINGLE" else "BACKUP", None, 1)
    house.octavia.set_amphora(surplus, status=status)
    grow_older(house)
    for amphora in serving:
        house.octavia.heartbeat(amphora)
    return balancer, serving, surplus


def all_findings(house: House) -> list[Finding]:
    return [finding for handler in handlers(house) for finding in findings(handler)]


@pytest.mark.parametrize("preserved", [0, 1])
@pytest.mark.parametrize("status", STATES)
@pytest.mark.parametrize("topology", ["SINGLE", "ACTIVE_STANDBY"])
def test_a_surplus_amphora_is_only_reported(make_house: MakeHouse, topology: str, status: str, preserved: int) -> None:
    house = make_house(maximum_preserved_amphora_count=preserved)
    balancer, serving, surplus = with_surplus(house, topology, status)
    before = world(house)
    for handler in handlers(house):
        assert mend(handler) == []
    assert world(house) == before
    found = all_findings(house)
    assert found, "a person must know"
    assert all("would interrupt it" in finding.refusal or "one too many" in finding.refusal for finding in found)
    assert {surplus, balancer} >= {finding.key.id for finding in found}
    assert serving == {row.id for row in house.serving(balancer) if row.status == "ALLOCATED"}


@pytest.mark.parametrize("status", STATES)
@pytest.mark.parametrize("topology", ["SINGLE", "ACTIVE_STANDBY"])
def test_a_surplus_amphora_goes_once_another_fails(house: House, topology: str, status: str) -> None:
    balancer, serving, _surplus = with_surplus(house, topology, status)
    failed = house.amphora(sorted(serving)[0])
    house.cloud.alter_server(failed.compute_id or "", status="SHUTOFF")
    house.octavia.heartbeat(failed.id, silent=70)
    for _turn in range(3):
        for handler in handlers(house):
            mend(handler)
        grow_older(house)
        for row in house.serving(balancer):
            house.octavia.heartbeat(row.id)
    assert failed.id not in {row.id for row in house.serving(balancer)}
    assert sum(row.status == "ALLOCATED" for row in house.serving(balancer)) == len(serving)


def test_a_load_balancer_in_error_loses_its_surplus_amphora(house: House) -> None:
    balancer, _serving, _surplus = with_surplus(house, "SINGLE", "ERROR")
    house.octavia.set_balancer(balancer, "ERROR")
    house.pass_time(60)
    mend(house.handler())
    assert house.balancer(balancer).status == "ACTIVE"
    assert [row.status for row in house.serving(balancer)] == ["ALLOCATED"]


def test_a_failed_amphora_of_a_pair_that_lacks_the_other_is_replaced(house: House) -> None:
    balancer = house.octavia.add_load_balancer("ACTIVE_STANDBY")
    gone, failed = house.serving(balancer)
    house.octavia._delete(gone)
    house.octavia.set_amphora(gone.id, load_balancer_id=None)
    house.octavia.set_amphora(failed.id, status="ERROR")
    handler: FailedAmphora = house.handler()
    assert [finding.problem for finding in handler.inspect(Key("amphora", failed.id))] == ["failover"]
    mend(handler)
    assert [row.status for row in house.serving(balancer)] == ["ALLOCATED"]
    assert house.serving(balancer)[0].id != failed.id
