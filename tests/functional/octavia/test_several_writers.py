"""On a Galera cluster, another node may set a load balancer to PENDING_* although our transaction locks its row as idle.

Galera compares only written rows, so both transactions can commit. stackmend then has let a server go in a load balancer on
which Octavia works. Octavia's flows take neither a port nor a server from such a row: it is in ERROR (``CalculateDelta`` in
``octavia/controller/worker/v2/tasks/network_tasks.py``), and it names no server.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from handlers.base import Key, Unavailable
from handlers.octavia.failover.steps import StepName
from tests.functional.octavia.test_refused_failover import advance_to, silent_one
from tests.functional.octavia.world import House, mend

MakeHouse = Callable[..., House]
Act = Callable[[House, str], object]


def _begin_update(house: House, balancer: str) -> None:
    house.octavia.set_balancer(balancer, "PENDING_UPDATE")


def _begin_failover(house: House, balancer: str) -> None:
    house.octavia.pace.held = True
    house.octavia.failover_load_balancer(balancer)


def _end(status: str) -> Act:
    return lambda house, balancer: house.octavia.set_balancer(balancer, status)


def _finish(house: House, _balancer: str) -> None:
    house.octavia.pace.held = False
    house.octavia.finish()


def let_go_beside(house: House, key: Key, balancer: str, begin: Act) -> None:
    """Let an amphora go while another writer begins its work, and let Octavia refuse the failover."""
    handler = house.handler()
    finding = advance_to(house, handler, key, StepName.LET_GO)

    def other_writer(call: str) -> None:
        if call == "failover_amphora":
            begin(house, balancer)

    house.cloud.weather.before = other_writer
    with pytest.raises(Unavailable, match="409"):
        handler.heal(finding)
    house.cloud.weather.before = lambda _call: None


@pytest.mark.parametrize("topology", ["SINGLE", "ACTIVE_STANDBY"])
@pytest.mark.parametrize(
    ("begin", "end"),
    [(_begin_update, _end("ACTIVE")), (_begin_update, _end("ERROR")), (_begin_failover, _finish)],
    ids=["an update", "an update that fails", "a failover"],
)
def test_an_amphora_let_go_beside_another_flow_is_replaced_and_preserved_after_it(
    make_house: MakeHouse, topology: str, begin: Act, end: Act
) -> None:
    house = make_house(maximum_preserved_amphora_count=1)
    balancer, key = silent_one(house, topology)
    let_go_beside(house, key, balancer, begin)

    assert (house.amphora(key.id).status, house.amphora(key.id).compute_id) == ("ERROR", None)
    assert house.health_manager_replaces() == []
    end(house, balancer)
    house.pass_time(60)
    mend(house, house.handler(), key)

    house.assert_whole(balancer, 1 if topology == "SINGLE" else 2)
    assert [one.amphora for one in house.preserved()] == [key.id]
    house.assert_no_leak()


def test_an_amphora_let_go_beside_a_deletion_stays_preserved(make_house: MakeHouse) -> None:
    house = make_house(maximum_preserved_amphora_count=1)
    balancer, key = silent_one(house)
    let_go_beside(house, key, balancer, _begin_update)
    house.octavia.set_balancer(balancer, "ACTIVE")
    house.octavia.delete_load_balancer(balancer)
    mend(house, house.handler(), key)

    assert house.balancer(balancer).status == "DELETED"
    assert [one.amphora for one in house.preserved()] == [key.id]
    house.assert_no_leak()
