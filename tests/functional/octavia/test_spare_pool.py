"""The pool is filled, bounded and emptied; a spare makes room for one failover."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from dataclasses import replace
from functools import partial
from pathlib import Path
from uuid import uuid4

import pytest
import sqlalchemy as sa
from oslo_config import cfg

from handlers.access.database import utcnow
from handlers.base import Conflict, Event, Finding, InFlight, Key, Refused, Resources, Unavailable
from handlers.octavia import options, polling, records, settings, tables
from handlers.octavia.cloud_objects import PRESERVED, SPARE, Server
from handlers.octavia.drivers.base import Driver
from handlers.octavia.housekeeper import Housekeeper
from handlers.octavia.simulation.cloud import Cloud
from handlers.octavia.spares import pool
from handlers.octavia.spares.inventory import Spares
from handlers.octavia.spares.pool import ANY, ZONE
from handlers.octavia.spares.spare_pool import RETRY_AFTER, SparePool, pool_key
from tests.functional.octavia.mending import Killed, findings, grow_older, killed_everywhere, mend, problems, stepping
from tests.functional.octavia.world import House

Houses = Callable[..., House]


def spare_servers(house: House) -> list[Server]:
    return [server for server in house.cloud.servers() if pool.is_placeholder(server)]


def states(house: House) -> list[str]:
    return sorted(server.status for server in spare_servers(house))


def building(house: House) -> int:
    return sum(server.status == "BUILD" for server in house.cloud.servers())


def turn(handler: SparePool) -> None:
    """One turn of the housekeeping: look at every zone, heal what is found."""
    for key in list(handler.sweep()):
        try:
            for finding in list(handler.inspect(key)):
                handler.heal(finding)
        except (InFlight, Conflict):
            continue


def filled(make_house: Houses, size: int = 2, **more: object) -> tuple[House, SparePool]:
    house = make_house(spare_amphora_pool_size=size, maximum_deploying_amphora_count=9, **more)
    handler = SparePool(house.driver)
    mend(handler)
    return house, handler


def test_a_pool_of_three_gets_three_spares_and_logs_its_size(
    make_house: Houses, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "handlers.octavia.housekeeping")
    house = make_house(spare_amphora_pool_size=3)
    handler = SparePool(house.driver)
    house.octavia.add_load_balancer()
    mend(handler)
    assert states(house) == ["SHUTOFF"] * 3
    assert all(SPARE in server.tags and not house.driver.ports_of(server.id) for server in spare_servers(house))
    assert findings(handler) == []
    assert "spare amphora pool: 0 of 3 ready" in caplog.text
    assert "spare amphora pool: 3 of 3 ready" in caplog.text
    assert (
        Housekeeper(house.driver).get_ready_spare_amphora_count()
        == Housekeeper(house.driver).get_spare_amphora_size()
        == 3
    )


def test_no_pool_is_asked_for_and_none_is_kept(house: House) -> None:
    assert findings(SparePool(house.driver)) == []
    Housekeeper(house.driver).create_amphora(3)
    assert spare_servers(house) == []


@pytest.mark.parametrize("most", [1, 2])
def test_never_more_than_the_cap_are_building(make_house: Houses, most: int) -> None:
    house = make_house(spare_amphora_pool_size=5, maximum_deploying_amphora_count=most)
    house.cloud.weather.slow_builds = True
    handler = SparePool(house.driver)
    seen = []
    for _turn in range(12):
        turn(handler)
        Housekeeper(house.driver).create_amphora(5)
        seen.append(building(house))
        house.cloud.finish_builds()
    assert max(seen) == most
    mend(handler)
    assert states(house) == ["SHUTOFF"] * 5


def test_spares_leave_octavia_the_quota_of_a_load_balancer(make_house: Houses) -> None:
    house = make_house(spare_amphora_pool_size=5, maximum_deploying_amphora_count=9)
    house.cloud.quota = 6
    balancer = house.octavia.add_load_balancer()
    handler = SparePool(house.driver)
    mend(handler)
    assert house.cloud.headroom() == 2
    assert states(house) == ["SHUTOFF"] * 3
    (finding,) = handler.inspect(Key("pool", ANY))
    assert (finding.problem, finding.healable) == ("pool-short", False)
    assert "raise the project's instances, cores and ram" in finding.refusal
    house.octavia.failover_amphora(house.serving(balancer)[0].id)  # as the health manager does, without our spare
    assert house.balancer(balancer).status == "ACTIVE"


def test_spares_give_way_to_load_balancers_that_use_the_quota(make_house: Houses) -> None:
    house, handler = filled(make_house, size=3)
    house.cloud.quota = 6
    house.octavia.add_load_balancer("ACTIVE_STANDBY")
    mend(handler)
    assert house.cloud.headroom() == 2
    assert states(house) == ["SHUTOFF"] * 2
    house.octavia.add_load_balancer("ACTIVE_STANDBY")
    mend(handler)
    assert states(house) == []
    house.cloud.quota = None
    mend(handler)
    assert states(house) == ["SHUTOFF"] * 3


def test_only_the_pool_that_is_filled_last_gives_way(zoned: House) -> None:
    handler = SparePool(zoned.driver)
    mend(handler)
    zoned.cloud.quota = 5
    mend(handler)
    assert sorted(server.zone or "" for server in spare_servers(zoned)) == ["az-1", "az-1", "az-2"]


def test_no_spare_gives_way_to_a_failover_that_ends(make_house: Houses) -> None:
    house, handler = filled(make_house, size=2)
    (row,) = house.serving(house.octavia.add_load_balancer())
    house.cloud.quota = 5
    house.octavia.pace.held = True
    house.octavia.failover_amphora(row.id)
    house.octavia.set_amphora(row.id, status="PENDING_DELETE")
    house.cloud.boot("amphora-00000000-0000-4000-8000-000000000000")
    assert house.cloud.headroom() == 1
    assert [one.problem for one in findings(handler)] == []


def test_octavias_own_builds_count(make_house: Houses) -> None:
    house = make_house(spare_amphora_pool_size=2, maximum_deploying_amphora_count=2)
    handler = SparePool(house.driver)
    rows = [house.serving(house.octavia.add_load_balancer())[0] for _number in range(2)]
    house.octavia.set_amphora(rows[0].id, status="BOOTING")
    house.cloud.alter_server(rows[0].compute_id or "", status="BUILD")
    house.cloud.weather.slow_builds = True
    turn(handler)
    assert len(spare_servers(house)) == 1
    house.octavia.set_amphora(rows[1].id, status="PENDING_CREATE")
    house.cloud.finish_builds()
    turn(handler)
    with pytest.raises(InFlight):
        handler.inspect(Key("pool", ANY))
    Housekeeper(house.driver).create_amphora(2)
    assert len(spare_servers(house)) == 1


def test_a_build_that_a_dead_worker_left_does_not_count_for_ever(make_house: Houses) -> None:
    house = make_house(spare_amphora_pool_size=1, maximum_deploying_amphora_count=1)
    (row,) = house.serving(house.octavia.add_load_balancer())
    house.octavia.set_amphora(row.id, status="BOOTING")
    assert findings(SparePool(house.driver)) == []
    grow_older(house)
    mend(SparePool(house.driver))
    assert states(house) == ["SHUTOFF"]


def test_devices_of_another_provider_are_no_builds(make_house: Houses) -> None:
    """The F5 provider sets the row of a device that is off to BOOTING, again and again."""
    house = make_house(spare_amphora_pool_size=1)
    values = {"status": "BOOTING", "cached_zone": "bigip-1", "compute_flavor": "host-1", "created_at": utcnow()}
    rows = [{"id": str(uuid4()), **values} for _number in range(3)]
    house.database.run(lambda connection: [connection.execute(sa.insert(tables.amphora).values(row)) for row in rows])
    mend(SparePool(house.driver))
    assert states(house) == ["SHUTOFF"]


@pytest.fixture
def zoned(make_house: Houses) -> House:
    house = make_house(spare_amphora_pool_size=2, spare_amphora_zones=("az-1", "az-2"))
    house.cloud.hosts = {"compute-1": "az-1", "compute-2": "az-2"}
    return house


def test_each_zone_has_its_pool(zoned: House) -> None:
    handler = SparePool(zoned.driver)
    zoned.cloud.weather.slow_builds = True
    for _turn in range(8):
        turn(handler)
        assert building(zoned) <= 2
        zoned.cloud.finish_builds()
    assert sorted(server.zone or "" for server in spare_servers(zoned)) == ["az-1", "az-1", "az-2", "az-2"]
    assert (
        Housekeeper(zoned.driver).get_ready_spare_amphora_count()
        == Housekeeper(zoned.driver).get_spare_amphora_size()
        == 4
    )


def test_two_replicas_do_not_build_for_two_zones_at_once(zoned: House) -> None:
    handler = SparePool(zoned.driver)
    (short,) = handler.inspect(Key("pool", "az-1"))
    with pytest.raises(InFlight, match="az-1"):
        handler.inspect(Key("pool", "az-2"))
    handler.heal(short)
    assert {server.zone for server in spare_servers(zoned)} == {"az-1"}


def test_a_zone_without_room_does_not_hold_the_others(zoned: House) -> None:
    zoned.cloud.weather.dead_hosts = {"compute-1"}
    handler = SparePool(zoned.driver)
    for _turn in range(6):
        turn(handler)
    assert states(zoned) == ["ERROR", "ERROR", "SHUTOFF", "SHUTOFF"]
    assert {server.zone for server in spare_servers(zoned) if server.status == "SHUTOFF"} == {"az-2"}


def test_a_full_cloud_is_not_asked_every_few_seconds(make_house: Houses) -> None:
    house = make_house(spare_amphora_pool_size=1)
    house.cloud.room = 0
    handler = SparePool(house.driver)
    for _turn in range(5):
        turn(handler)
    (failed,) = spare_servers(house)
    assert failed.status == "ERROR"
    house.cloud.grow_older(RETRY_AFTER)
    house.cloud.room = 1
    mend(handler)
    assert states(house) == ["SHUTOFF"]
    assert failed.id not in {server.id for server in spare_servers(house)}


def test_what_is_too_much_goes_and_nothing_else(make_house: Houses) -> None:
    house, handler = filled(make_house, 3)
    balancer = house.octavia.add_load_balancer()
    preserved = house.cloud.boot("preserved-amphora-1", tags=frozenset({PRESERVED}))
    stranger = house.cloud.boot("octavia-spare-by-hand")
    house.driver.settings = make_house(spare_amphora_pool_size=1).driver.settings
    assert problems(handler) == ["pool-over", "pool-over"]
    mend(handler)
    assert states(house) == ["SHUTOFF"]
    house.driver.settings = make_house().driver.settings
    mend(handler)
    assert {server.id for server in house.cloud.servers()} == {
        preserved.id,
        stranger.id,
        house.serving(balancer)[0].compute_id,
    }


def test_what_is_too_much_while_it_is_built_goes_when_it_stands(make_house: Houses) -> None:
    house = make_house(spare_amphora_pool_size=1)
    house.cloud.weather.slow_builds = True
    handler = SparePool(house.driver)
    turn(handler)
    house.driver.settings = make_house().driver.settings
    mend(handler)
    assert states(house) == ["BUILD"]
    house.cloud.finish_builds()
    mend(handler)
    assert states(house) == []


def test_the_pool_of_a_zone_that_is_not_configured_any_more_goes(make_house: Houses) -> None:
    house, handler = filled(make_house)
    house.driver.settings = make_house(spare_amphora_pool_size=1, spare_amphora_zones=("nova",)).driver.settings
    mend(handler)
    (server,) = spare_servers(house)
    assert server.metadata[ZONE] == "nova"


def test_a_spare_on_a_host_that_is_down_is_not_counted_and_not_deleted(make_house: Houses) -> None:
    house, handler = filled(make_house, 1)
    (asleep,) = spare_servers(house)
    house.cloud.weather.dead_hosts = {asleep.host or ""}
    mend(handler)
    assert states(house) == ["SHUTOFF", "SHUTOFF"]
    assert Housekeeper(house.driver).get_ready_spare_amphora_count() == 1
    assert release_spare(house.driver, None) != asleep.id
    mend(handler)
    house.cloud.weather.dead_hosts = set()
    mend(handler)
    assert states(house) == ["SHUTOFF"]


def test_a_spare_that_was_started_is_stopped(make_house: Houses) -> None:
    house, handler = filled(make_house, 1)
    house.cloud.alter_server(spare_servers(house)[0].id, status="ACTIVE")
    assert problems(handler) == ["spare-not-stopped"]
    mend(handler)
    assert states(house) == ["SHUTOFF"]


def test_nova_that_does_not_answer_proves_no_shortage(make_house: Houses) -> None:
    house, handler = filled(make_house)
    house.cloud.weather.unreachable = {"compute"}
    for look in (lambda: list(handler.sweep()), lambda: handler.inspect(Key("pool", ANY))):
        with pytest.raises(Unavailable):
            look()


# handing over


def release_spare(
    driver: Driver, zone: str | None, taken: Collection[str] = (), flavor: str | None = None
) -> str | None:
    return pool.make_room(driver, pool.eligible(driver.servers(), driver.settings.spare_owner, zone, taken, flavor))


def room_for(driver: Driver, amphora: records.Amphora) -> str | None:
    return pool.make_room(driver, pool.spares_for(driver, amphora))


def full(make_house: Houses, size: int) -> tuple[House, SparePool, str]:
    """A cloud without room for anything, one amphora and the pool."""
    house, handler = filled(make_house, size)
    balancer = house.octavia.add_load_balancer()
    house.cloud.room = 0
    return house, handler, balancer


def test_a_failover_in_a_full_cloud_succeeds_with_spares_and_fails_without(make_house: Houses) -> None:
    for size, status in ((1, "ACTIVE"), (0, "ERROR")):
        house, _handler, balancer = full(make_house, size)
        house.cloud.hosts = {"compute-1": "nova"}
        for server in house.cloud.servers():
            house.cloud.alter_server(server.id, host="compute-1", zone="nova")
        house.cloud.room = len(house.cloud.servers())
        (row,) = house.serving(balancer)
        assert bool(room_for(house.driver, row)) == bool(size)
        house.driver.failover_amphora(row.id)
        assert house.balancer(balancer).status == status


@pytest.mark.parametrize("has_room", [True, False], ids=["room", "no room"])
def test_a_failover_gets_a_spare_once_octavia_has_accepted_it(make_house: Houses, has_room: bool) -> None:
    """Only Nova knows whether it had room, and its refusal would leave the load balancer in ERROR."""
    house, handler = filled(make_house, 1)
    balancer = house.octavia.add_load_balancer()
    failed = house.fail(balancer)
    house.cloud.hosts = {"compute-1": "nova"}
    for server in house.cloud.servers():
        house.cloud.alter_server(server.id, host="compute-1", zone="nova")
    house.cloud.room = len(house.cloud.servers()) + (1 if has_room else 0)
    house.octavia.pace.held = True
    when_accepted: list[int] = []

    def note(call: str) -> None:
        if call == "failover_amphora":
            when_accepted.append(len(spare_servers(house)))

    house.cloud.weather.after = note
    recovery, key = house.handler(), Key("amphora", failed.id)
    recovery.heal(next(iter(recovery.inspect(key))))
    assert when_accepted == [1]
    assert spare_servers(house) == []
    house.octavia.finish()
    assert house.balancer(balancer).status == "ACTIVE"
    mend(handler)
    assert states(house) == ["SHUTOFF"], "the pool is filled again"


def test_a_recovery_does_not_wait_until_its_spare_is_gone(make_house: Houses, monkeypatch: pytest.MonkeyPatch) -> None:
    house, handler = filled(make_house, 1)
    balancer = house.octavia.add_load_balancer()
    failed = house.fail(balancer)
    waits: list[float] = []

    def until(_done: Callable[[], bool], within: float, _every: float = 0.0) -> bool:
        waits.append(within)
        return False

    monkeypatch.setattr(polling, "until", until)
    deleting = partial(house.cloud.alter_server, task_state="deleting")
    monkeypatch.setattr(house.driver, "delete_server", deleting)
    recovery, key = house.handler(), Key("amphora", failed.id)
    recovery.heal(next(iter(recovery.inspect(key))))
    assert waits == []
    assert house.balancer(balancer).status == "ACTIVE"
    (spare,) = spare_servers(house)
    assert spare.task_state == "deleting"
    with pytest.raises(InFlight, match="was claimed"):
        handler.inspect(Key("pool", ANY))


def test_a_failover_does_not_wait_for_the_limit_of_builds(make_house: Houses) -> None:
    """The limit holds spares back, not recoveries: waiting would prolong an outage that Octavia alone would end."""
    house = make_house(spare_amphora_pool_size=1, maximum_deploying_amphora_count=1)
    balancers = [house.octavia.add_load_balancer() for _number in range(3)]
    (built,) = house.serving(balancers[0])
    house.octavia.set_amphora(built.id, status="BOOTING")
    house.octavia.pace.held = True
    for balancer in balancers[1:]:
        recovery, key = house.handler(), Key("amphora", house.fail(balancer).id)
        recovery.heal(next(iter(recovery.inspect(key))))
        assert house.balancer(balancer).status == "PENDING_UPDATE"
    turn(SparePool(house.driver))
    Housekeeper(house.driver).create_amphora(1)
    assert spare_servers(house) == []
    house.octavia.finish()
    assert {house.balancer(balancer).status for balancer in balancers} == {"ACTIVE"}
    turn(SparePool(house.driver))
    assert spare_servers(house) == [], "one amphora is still building"


def test_a_spare_is_handed_over_once(make_house: Houses) -> None:
    house, _handler = filled(make_house, 2)
    gone = {release_spare(house.driver, None) for _number in range(3)}
    assert len(gone) == 3
    assert None in gone
    assert spare_servers(house) == []


@pytest.mark.parametrize("survivor", ["compute-1", "compute-2", "compute-3"])
def test_not_beside_the_amphora_that_survives(make_house: Houses, survivor: str) -> None:
    house, _handler = filled(make_house, 3)
    hosts = {server.id: server.host for server in spare_servers(house)}
    assert len(set(hosts.values())) == 3
    others = {server for server, host in hosts.items() if host != survivor}
    assert {release_spare(house.driver, None, [survivor]) for _number in range(3)} == others | {None}


def test_where_the_replacement_of_one_of_a_pair_may_stand(make_house: Houses) -> None:
    """Not beside the other one; nor, while a server group counts it, where the failed one stands."""
    for apart in (True, False):
        house, _handler = filled(make_house, 3)
        balancer = house.octavia.add_load_balancer("ACTIVE_STANDBY", anti_affinity=apart)
        failed, survivor = house.serving(balancer)
        standing = {server.id: server.host for server in house.cloud.servers()}
        hosts = {row.id: standing[row.compute_id or ""] for row in (failed, survivor)}
        assert len(set(hosts.values())) == 2
        free = {server.id for server in spare_servers(house) if server.host not in hosts.values()}
        on_failed = {server.id for server in spare_servers(house) if server.host == hosts[failed.id]}
        handed = {room_for(house.driver, failed) for _number in range(3)}
        assert handed == (free if apart else free | on_failed) | {None}
        assert hosts[survivor.id] in {server.host for server in spare_servers(house)}


def test_the_zone_counts_where_spares_are_kept_by_zone(zoned: House) -> None:
    handler = SparePool(zoned.driver)
    for _turn in range(8):
        turn(handler)
    in_two = {server.id for server in spare_servers(zoned) if server.zone == "az-2"}
    assert {release_spare(zoned.driver, "az-2") for _number in range(3)} == in_two | {None}
    assert release_spare(zoned.driver, None) is not None


def test_each_flavor_has_its_pool_and_an_amphora_gets_one_of_its_own_first(make_house: Houses) -> None:
    flavors = ("small", "large")
    house = make_house(spare_amphora_pool_size=1, spare_amphora_zones=("az-1",), spare_amphora_flavors=flavors)
    house.cloud.hosts = {"compute-1": "az-1"}
    house.cloud.boot("octavia-spare-az-1-0", tags=frozenset({SPARE}), metadata={ZONE: "az-1"})
    handler = SparePool(house.driver)
    keys = list(handler.sweep())
    assert keys == [Key("pool", "az-1/small"), Key("pool", "az-1/large"), Key("pool", "az-1")]
    mend(handler)
    of = {server.flavor or "": server for server in spare_servers(house)}
    assert sorted(of) == sorted(flavors), "the one without a flavor is too much now"
    assert pool_key(Event("instance.create.end", {"display_name": of["large"].name})) == Key("pool", "az-1/large")
    assert (
        Housekeeper(house.driver).get_ready_spare_amphora_count()
        == Housekeeper(house.driver).get_spare_amphora_size()
        == 2
    )
    balancer = house.octavia.add_load_balancer()
    (row,) = house.serving(balancer)
    house.cloud.alter_server(row.compute_id or "", host="compute-2")
    asked = replace(row, zone="az-1", compute_flavor="large")
    assert room_for(house.driver, asked) == of["large"].id
    assert room_for(house.driver, asked) == of["small"].id, "the room of another flavor is better than none"


@pytest.mark.parametrize(("flavor", "own"), [("huge", True), (None, True), ("large", False)])
def test_for_a_flavor_that_is_not_listed_one_of_octavias_own_is_taken_first(
    make_house: Houses, flavor: str | None, own: bool
) -> None:
    house, _handler = filled(make_house, 1)
    (default,) = spare_servers(house)
    house.reconfigure(spare_amphora_flavors=("large",))
    Housekeeper(house.driver).create_amphora(1)
    (large,) = (server for server in spare_servers(house) if server.id != default.id)
    house.cloud.alter_server(large.id, status="SHUTOFF")
    assert release_spare(house.driver, None, (), flavor) == (default.id if own else large.id)


def test_one_that_is_not_ready_is_not_handed_over(make_house: Houses) -> None:
    house, _handler = filled(make_house, 1)
    (server,) = spare_servers(house)
    house.cloud.alter_server(server.id, status="ACTIVE")
    assert release_spare(house.driver, None) is None
    house.cloud.alter_server(server.id, status="SHUTOFF", tags=frozenset())
    assert release_spare(house.driver, None) is None


def test_the_room_is_not_taken_again_before_the_failover_has_it(make_house: Houses) -> None:
    house, handler, balancer = full(make_house, 1)
    (row,) = house.serving(balancer)
    house.octavia.pace.held = True
    assert release_spare(house.driver, row.zone)
    house.driver.failover_amphora(row.id)
    house.octavia.set_amphora(row.id, status="PENDING_DELETE")
    with pytest.raises(InFlight, match="need the room"):
        handler.inspect(Key("pool", ANY))
    house.cloud.room = 9
    house.octavia.finish()
    mend(handler)
    assert house.balancer(balancer).status == "ACTIVE"
    assert states(house) == ["SHUTOFF"]


def test_a_spare_that_is_being_handed_over_is_not_replaced_yet(make_house: Houses) -> None:
    house, handler = filled(make_house, 1)
    (server,) = spare_servers(house)
    house.cloud.alter_server(server.id, tags=frozenset(), task_state="deleting")
    with pytest.raises(InFlight, match="was claimed"):
        handler.inspect(Key("pool", ANY))
    assert len(spare_servers(house)) == 1


def test_killed_while_handing_over_nothing_is_left(make_house: Houses) -> None:
    number = 0
    while True:
        house, handler = filled(make_house, 2)
        try:
            with stepping(house, [], number):
                release_spare(house.driver, None)
        except Killed:
            number += 1
        else:
            break
        mend(handler)
        assert states(house) == ["SHUTOFF"] * 2, number
        assert all(SPARE in server.tags for server in spare_servers(house)), number
    assert number >= 6


@pytest.mark.slow
def test_killed_while_filling_or_emptying_the_pool_is_right_in_the_end(make_house: Houses) -> None:
    def make() -> tuple[House, SparePool]:
        house = make_house(spare_amphora_pool_size=2)
        house.cloud.boot("octavia-spare-any-1", tags=frozenset({SPARE}), metadata={ZONE: "gone"})
        house.cloud.boot("octavia-spare-any-2", metadata={ZONE: ANY})
        return house, SparePool(house.driver)

    for house, handler, where in killed_everywhere(make):
        mend(handler)
        assert states(house) == ["SHUTOFF"] * 2, where
        assert {server.metadata[ZONE] for server in spare_servers(house)} == {ANY}, where


# hints and the operator


def test_a_notification_gives_the_zone(make_house: Houses) -> None:
    house = make_house(spare_amphora_pool_size=1, spare_amphora_zones=("az-1-a",))
    house.cloud.hosts = {"compute-1": "az-1-a"}
    mend(SparePool(house.driver))
    (server,) = spare_servers(house)
    event = Event("instance.create.end", {"display_name": server.name})
    assert pool_key(event) == Key("pool", "az-1-a")
    assert pool_key(Event("instance.create.end", {"display_name": "amphora-1"})) is None


def test_an_operator_lists_takes_and_deletes(make_house: Houses) -> None:
    house, handler = filled(make_house, 2)
    inventory = Spares(house.driver)
    first, second = (str(item["id"]) for item in inventory.items())
    assert all(set(inventory.columns) <= set(item) for item in inventory.items())
    assert all(item["ready"] for item in inventory.items())
    assert inventory.show(first)["image"] == "amphora-image"
    inventory.release(first)
    inventory.delete(second)
    assert inventory.items() == []
    mend(handler)
    assert {str(item["id"]) for item in inventory.items()}.isdisjoint({first, second})
    assert len(inventory.items()) == 2
    assert house.driver.server(first) is not None
    for gone in (first, second, "no such server", house.cloud.boot("web-1", project="other").id):
        for act in (inventory.show, inventory.release, inventory.delete):
            with pytest.raises(LookupError):
                act(gone)


@pytest.mark.slow
def test_killed_while_it_is_released_it_is_the_pools_or_the_operators(make_house: Houses) -> None:
    for number in range(12):
        house, handler = filled(make_house, 1)
        (server,) = spare_servers(house)
        released = False
        try:
            with stepping(house, [], number):
                Spares(house.driver).release(server.id)
            released = True
        except Killed:
            pass
        mend(handler)
        assert states(house) == ["SHUTOFF"]
        if released:
            assert house.driver.server(server.id) is not None
            assert server.id not in {spare.id for spare in spare_servers(house)}


def test_a_spare_that_vanishes_is_a_conflict(make_house: Houses) -> None:
    house, handler = filled(make_house, 1)
    house.driver.settings = make_house().driver.settings
    (finding,) = findings(handler)
    release_spare(house.driver, None)
    with pytest.raises(Conflict):
        handler.heal(finding)


def test_a_cloud_without_room_boots_no_server() -> None:
    assert Cloud({"one": "nova"}, room=0).boot("x").status == "ERROR"


def test_it_is_made_of_the_configuration(tmp_path: Path) -> None:
    from oslo_config import cfg

    conf = cfg.ConfigOpts()
    for group, opts in SparePool.options().items():
        conf.register_opts(opts, group)
    conf([], default_config_files=[])
    conf.set_override("driver", "noop", "housekeeping")
    conf.set_override("spare_amphora_pool_size", 2, "housekeeping")
    conf.set_override("database_connection", f"sqlite:///{tmp_path}/octavia.sqlite", "octavia")
    resources = Resources(conf)
    handler = SparePool.from_resources(resources)
    mend(handler)
    assert len(Spares.from_resources(resources).items()) == 2
    resources.close()


def test_a_problem_without_a_heal_is_refused(make_house: Houses) -> None:
    house = make_house(spare_amphora_pool_size=1)
    handler = SparePool(house.driver)
    mend(handler)
    (server,) = spare_servers(house)
    new = Finding(Key("pool", ANY), "a-new-problem", "", {"server": server.id})
    with pytest.raises(Refused, match="does not heal"):
        handler.heal(new)
    assert [server.id for server in spare_servers(house)] == [server.id]


def test_the_spares_beside_another_octavia_stay(make_house: Houses) -> None:
    """A second stackmend was installed with its defaults: no spares, and the same owner."""
    house, _first = filled(make_house, 2)
    servers = [house.cloud.boot(f"amphora-{uuid4()}") for _number in range(3)]
    house.reconfigure(spare_amphora_pool_size=0)
    second = SparePool(house.driver)
    found = findings(second)
    assert {(finding.problem, finding.healable) for finding in found} == {("pool-over", False)}
    with pytest.raises(Refused, match="spare_amphora_owner"):
        second.heal(found[0])
    assert len(spare_servers(house)) == 2
    for server in servers[1:]:
        house.cloud.delete_server(server.id)
    house.reconfigure(spare_amphora_pool_size=1)
    smaller = SparePool(house.driver)
    assert [(finding.problem, finding.healable) for finding in findings(smaller)] == [("pool-over", False)]
    house.cloud.quota = len(house.cloud.servers()) + 1
    assert [(finding.problem, finding.healable) for finding in findings(smaller)] == [("pool-over", True)]
    house.cloud.quota = None
    house.cloud.delete_server(servers[0].id)
    assert {finding.healable for finding in (*findings(second), *findings(smaller))} == {True}


def test_the_owner_of_spares_does_not_depend_on_the_url_of_the_database() -> None:
    assert not hasattr(options, "database_mark")
    conf = cfg.ConfigOpts()
    conf([])
    options.register(conf)
    conf.register_opts(settings.OPTIONS, settings.GROUP)
    conf.set_override("database_connection", "sqlite://", "octavia")
    mark = settings.settings(conf, 60).spare_owner
    conf.set_override("database_connection", "mysql+pymysql://octavia@other-name:3306/octavia?charset=utf8", "octavia")
    assert settings.settings(conf, 60).spare_owner == mark == "octavia"


def test_the_spares_of_another_stackmend_stay(make_house: Houses) -> None:
    """A second stackmend in the project, for another Octavia, has no spares by default."""
    house, first = filled(make_house, 2, spare_owner="octavia-1")
    ids = {server.id for server in spare_servers(house)}
    house.reconfigure(spare_amphora_pool_size=0, spare_owner="octavia-2")
    second = SparePool(house.driver)
    assert findings(second) == []
    assert release_spare(house.driver, None) is None
    assert list(Spares(house.driver).items()) == []
    assert {server.id for server in spare_servers(house)} == ids
    assert findings(first) == []
