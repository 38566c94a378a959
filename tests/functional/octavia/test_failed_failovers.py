"""Failovers that do not help are counted, wait longer each time, and end with a report; a failed deletion is not undone."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import pytest

from handlers.base import Conflict, Finding, InFlight, Key, Unavailable
from handlers.octavia.housekeeping import UnavailableException
from handlers.octavia.rebuild import PAUSES
from tests.functional.octavia.world import House, Stuck, mend

MakeHouse = Callable[..., House]


def requests(house: House) -> list[str]:
    """Return the list that every request for a failover is added to from now on."""
    made: list[str] = []

    def before(call: str) -> None:
        if call.startswith("failover"):
            made.append(call)

    house.cloud.weather.before = before
    return made


def pass_hours(house: House, key: Key, seconds: int, step: int = 10) -> None:
    """Let a handler inspect and heal every few seconds; each time a new process, which remembers nothing."""
    for _turn in range(seconds // step):
        handler = house.handler()
        with suppress(InFlight, Conflict, Unavailable):
            for finding in handler.inspect(key):
                if finding.healable:
                    handler.heal(finding)
        house.pass_time(step)


def without_room(house: House) -> None:
    """Let no replacement find a host."""
    house.cloud.room = 0


def report(house: House, key: Key) -> Finding:
    (finding,) = house.handler().inspect(key)
    assert not finding.healable
    return finding


def test_failovers_that_cannot_succeed_end_with_a_report(house: House) -> None:
    balancer = house.octavia.add_load_balancer()
    key = Key("amphora", house.fail(balancer).id)
    without_room(house)
    made = requests(house)
    pass_hours(house, key, 600)
    assert len(made) <= 3
    pass_hours(house, key, 3 * 3600, 60)
    assert len(made) == 1 + len(PAUSES), "one while it was ACTIVE"
    assert "did not help" in report(house, key).refusal
    assert house.amphora(key.id).status == "ERROR"


def test_a_failover_that_helps_resets_the_count(house: House) -> None:
    balancer = house.octavia.add_load_balancer()
    key = Key("amphora", house.fail(balancer).id)
    without_room(house)
    pass_hours(house, key, 600)
    assert house.balancer(balancer).status == "ERROR"
    house.cloud.room = 1000
    pass_hours(house, key, 3600, 60)
    house.assert_whole(balancer)
    house.pass_time(3600)
    again = Key("amphora", house.fail(balancer).id)
    made = requests(house)
    pass_hours(house, again, 60)
    assert made == ["failover_amphora"]
    house.assert_whole(balancer)


def test_an_amphora_in_error_that_beats_gets_one_attempt(house: House) -> None:
    balancer = house.octavia.add_load_balancer()
    (row,) = house.serving(balancer)
    house.octavia.heartbeat(row.id, silent=1)
    house.octavia.set_amphora(row.id, status="ERROR")
    without_room(house)
    made = requests(house)
    key = Key("amphora", row.id)
    pass_hours(house, key, 50)
    assert made == ["failover_amphora"]
    # an operator makes the load balancer ACTIVE again: it serves, and is left alone
    house.octavia.set_balancer(balancer, "ACTIVE")
    house.octavia.heartbeat(row.id, silent=1)
    assert "still sends heartbeats" in report(house, key).refusal
    house.octavia.set_balancer(balancer, "ERROR")
    house.pass_time(7200)
    assert "still sends heartbeats" in report(house, key).refusal


def spare(house: House) -> str:
    """Make a spare that is ready."""
    server = house.driver.create_server("octavia-spare-any-1", None, "stackmend-spare", {"stackmend_zone": "any"})
    house.driver.stop_server(server)
    return server


def test_a_refused_failover_costs_no_spare(make_house: MakeHouse) -> None:
    house = make_house(spare_amphora_pool_size=1)
    balancer = house.octavia.add_load_balancer()
    failed = house.fail(balancer)
    server = spare(house)

    def refuse(call: str) -> None:
        if call == "failover_amphora":
            raise UnavailableException("load-balancer", "503")

    house.cloud.weather.before = refuse
    with pytest.raises(UnavailableException):
        mend(house, house.handler(), Key("amphora", failed.id))
    house.cloud.weather.before = lambda _call: None
    assert house.cloud.server(server) is not None
    mend(house, house.handler(), Key("amphora", failed.id))
    assert house.cloud.server(server) is None, "the accepted one gets it"


def test_failovers_that_do_not_help_do_not_use_up_the_pool(make_house: MakeHouse) -> None:
    house = make_house(spare_amphora_pool_size=5)
    balancer = house.octavia.add_load_balancer()
    key = Key("amphora", house.fail(balancer).id)
    spares = [spare(house) for _number in range(5)]
    without_room(house)
    pass_hours(house, key, 3 * 3600, 60)
    assert sum(house.cloud.server(server) is not None for server in spares) == 3


@pytest.mark.parametrize("gone", ["VIP port", "server group", "security group"])
@pytest.mark.parametrize("preserved", [0, 1])
def test_a_load_balancer_whose_deletion_failed_is_not_rebuilt(make_house: MakeHouse, gone: str, preserved: int) -> None:
    """Nova failed while Octavia deleted the amphorae; what comes before is gone already."""
    house = make_house(maximum_preserved_amphora_count=preserved)
    balancer = house.octavia.add_load_balancer("ACTIVE_STANDBY", anti_affinity=True)
    first, _second = house.serving(balancer)
    house.cloud.delete_server(first.compute_id or "")
    house.octavia.set_balancer(balancer, "ERROR")
    match gone:
        case "VIP port":
            (vip,) = [port.id for port in house.cloud.ports() if port.name == f"octavia-lb-{balancer}"]
            house.cloud.remove_port(vip)
        case "server group":
            (group,) = house.cloud.server_groups()
            house.cloud.delete_server_group(group.id)
        case "security group":
            (security_group,) = house.cloud.security_groups()
            house.cloud.delete_security_group(security_group.id)
    house.pass_time(7200)
    before = house.rows(balancer)
    made = requests(house)
    key = Key("amphora", first.id)
    pass_hours(house, key, 60)
    assert made == []
    assert gone in report(house, key).refusal
    assert [(row.id, row.status) for row in house.rows(balancer)] == [(row.id, row.status) for row in before]


def test_a_load_balancer_in_error_that_is_whole_is_rebuilt(house: House) -> None:
    balancer = house.octavia.add_load_balancer("ACTIVE_STANDBY", anti_affinity=True)
    first = house.serving(balancer)[0]
    house.cloud.delete_server(first.compute_id or "")
    house.octavia.set_balancer(balancer, "ERROR")
    key = Key("amphora", first.id)
    with pytest.raises(Stuck, match="the next failover waits"):
        mend(house, house.handler(), key)
    house.pass_time(20)
    house.cloud.hosts["compute-4"] = "nova"
    assert [finding.weight for finding in house.handler().inspect(key)] == [2], "it replaces both amphorae"
    assert mend(house, house.handler(), key)[0] == "failover-load-balancer"
    house.assert_whole(balancer, 2)
