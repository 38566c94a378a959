"""The pool of preserved amphorae never exceeds its bound; the operator lists, releases and deletes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
import sqlalchemy as sa

from consumer.journal import history
from consumer.journal.work import Hint, Priority
from handlers.base import Conflict, Handler, Key, Refused
from handlers.octavia import tables
from handlers.octavia.cloud_objects import AMPHORA, PRESERVED, PRESERVED_PREFIX, SINCE, STATE
from handlers.octavia.housekeeping import UnavailableException
from handlers.octavia.leftovers.deactivated_amphorae import DeactivatedAmphorae
from handlers.octavia.preserved import pool
from handlers.octavia.preserved.inventory import PreservedAmphorae
from tests import journals
from tests.doubles import World
from tests.functional.engine.machine import SETTINGS, Machine
from tests.functional.octavia.mending import grow_older, world
from tests.functional.octavia.mending import mend as sweep_and_heal
from tests.functional.octavia.operator import Operator
from tests.functional.octavia.work_queue import Queue
from tests.functional.octavia.world import House, Stuck, mend
from tests.waiting import eventually

MakeHouse = Callable[..., House]
METHODS = ["unplug", "snapshot"]


def preserve_one(house: House) -> str:
    """Let an amphora fail and recover its load balancer; return the amphora."""
    balancer = house.octavia.add_load_balancer()
    failed = house.fail(balancer)
    mend(house, house.handler(), Key("amphora", failed.id))
    house.assert_whole(balancer)
    return failed.id


def preserved(house: House) -> list[str]:
    return [one.amphora for one in house.preserved()]


@pytest.mark.parametrize("method", METHODS)
def test_keep_stops_when_the_pool_is_full(make_house: MakeHouse, method: str) -> None:
    house = make_house(maximum_preserved_amphora_count=2, failover_threshold=0, preservation_method=method)
    failed = [preserve_one(house) for _number in range(4)]
    assert preserved(house) == failed[:2]
    house.assert_no_leak()


@pytest.mark.parametrize("method", METHODS)
def test_cycle_deletes_the_oldest(make_house: MakeHouse, method: str) -> None:
    house = make_house(
        maximum_preserved_amphora_count=2,
        preservation_scheme="cycle",
        failover_threshold=0,
        preservation_method=method,
    )
    failed = [preserve_one(house) for _number in range(4)]
    assert preserved(house) == failed[2:]
    house.assert_no_leak()


def test_cycle_reaches_a_lower_limit_with_the_next_amphora(make_house: MakeHouse) -> None:
    house = make_house(maximum_preserved_amphora_count=3, preservation_scheme="cycle", failover_threshold=0)
    failed = [preserve_one(house) for _number in range(3)]
    house.reconfigure(maximum_preserved_amphora_count=1)
    assert preserved(house) == failed
    last = preserve_one(house)
    assert preserved(house) == [last]
    house.assert_no_leak()


@pytest.mark.parametrize("method", METHODS)
def test_cycle_deletes_no_newer_amphora(make_house: MakeHouse, method: str) -> None:
    """After the limit comes down, an inspection of an older amphora must not displace a newer one."""
    house = make_house(
        maximum_preserved_amphora_count=3,
        preservation_scheme="cycle",
        failover_threshold=0,
        preservation_method=method,
    )
    failed = [preserve_one(house) for _number in range(3)]
    house.reconfigure(maximum_preserved_amphora_count=1)
    for amphora in failed:
        mend(house, house.handler(), Key("amphora", amphora))
    assert preserved(house) == failed[2:]
    house.assert_no_leak()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("moment", ["images", "delete_server", "delete_image", "unseal_image"])
def test_two_replicas_that_trim_at_once_keep_the_newest(make_house: MakeHouse, method: str, moment: str) -> None:
    house = make_house(
        maximum_preserved_amphora_count=2,
        preservation_scheme="cycle",
        failover_threshold=0,
        preservation_method=method,
    )
    for _number in range(2):
        preserve_one(house)
    newest = []
    for _number in range(2):
        key = Key("amphora", house.fail(house.octavia.add_load_balancer()).id)
        newest.append(key.id)
        while (finding := next(iter(house.handler().inspect(key)))).problem != "trim":
            house.handler().heal(finding)
    first, second = (Key("amphora", amphora) for amphora in newest)
    [trim] = house.handler().inspect(first)

    def other_replica(name: str) -> None:
        if name == moment:
            house.cloud.weather.before = lambda name: None
            mend(house, house.handler(), second)

    house.cloud.weather.before = other_replica
    with suppress(Conflict, UnavailableException):
        house.handler().heal(trim)
    house.cloud.weather.before = lambda name: None
    mend(house, house.handler(), first)
    mend(house, house.handler(), second)

    assert preserved(house) == newest
    house.assert_no_leak()


@pytest.mark.parametrize("method", METHODS)
def test_an_amphora_that_is_released_before_it_is_deleted_stays(make_house: MakeHouse, method: str) -> None:
    house = make_house(maximum_preserved_amphora_count=1, failover_threshold=0, preservation_method=method)
    oldest = preserve_one(house)
    [kept] = house.preserved()
    PreservedAmphorae(house.driver).release(oldest)
    before = world(house)

    with pytest.raises(Conflict):
        pool.discard(house.driver, kept)

    assert world(house) == before


def test_an_image_that_is_gone_does_not_keep_the_server(make_house: MakeHouse) -> None:
    house = make_house(
        maximum_preserved_amphora_count=1,
        failover_threshold=0,
        preservation_method="snapshot",
        preservation_keeps="server",
    )
    preserve_one(house)
    [kept] = house.preserved()
    assert kept.server is not None
    assert kept.image is not None
    house.cloud.alter_image(kept.image.id, protected=False)
    house.cloud.delete_image(kept.image.id)

    pool.discard(house.driver, kept)

    assert house.cloud.server(kept.server.id) is None


def test_the_sweep_reaches_a_lower_limit_although_the_newest_row_was_purged(make_house: MakeHouse) -> None:
    house = make_house(maximum_preserved_amphora_count=3, preservation_scheme="cycle", failover_threshold=0)
    failed = [preserve_one(house) for _number in range(3)]
    house.reconfigure(maximum_preserved_amphora_count=2)
    purge = sa.delete(tables.amphora).where(tables.amphora.c.id == failed[2])
    house.database.run(lambda connection: connection.execute(purge))
    grow_older(house)
    sweep_and_heal(DeactivatedAmphorae(house.driver, Queue(), 3600.0))
    assert preserved(house) == failed[1:]


def test_an_image_of_another_project_is_not_the_preserved_one(make_house: MakeHouse) -> None:
    """Anybody can copy the properties, and stackmend deletes the server once its image is complete."""
    house = make_house(
        maximum_preserved_amphora_count=1,
        preservation_method="snapshot",
        preservation_scheme="cycle",
        failover_threshold=0,
    )
    failed = house.fail(house.octavia.add_load_balancer())
    for amphora in (failed.id, "another"):
        copy = house.cloud._keep_image(f"{PRESERVED_PREFIX}{amphora}", {AMPHORA: amphora}, "active")
        house.cloud.alter_image(copy.id, owner="another-project", protected=True)
    copies = {image.id for image in house.cloud.images()}
    mend(house, house.handler(), Key("amphora", failed.id))
    (kept,) = house.preserved()
    assert kept.image is not None
    assert kept.image.id not in copies
    assert copies < {image.id for image in house.cloud.images()}


def test_keep_deletes_none_when_the_limit_comes_down(make_house: MakeHouse) -> None:
    house = make_house(maximum_preserved_amphora_count=3, failover_threshold=0)
    failed = [preserve_one(house) for _number in range(3)]
    house.reconfigure(maximum_preserved_amphora_count=0)
    preserve_one(house)
    assert preserved(house) == failed
    house.assert_no_leak()


@pytest.mark.parametrize("limit", [0, 1])
def test_a_limit_that_comes_down_amid_a_preservation(make_house: MakeHouse, limit: int) -> None:
    for steps in range(1, 5):
        house = make_house(maximum_preserved_amphora_count=2, failover_threshold=0)
        first = preserve_one(house)
        balancer = house.octavia.add_load_balancer()
        failed = house.fail(balancer)
        key = Key("amphora", failed.id)
        handler = house.handler()
        for _step in range(steps):
            handler.heal(next(iter(handler.inspect(key))))
        house.reconfigure(maximum_preserved_amphora_count=limit)
        mend(house, house.handler(), key)
        house.assert_whole(balancer)
        house.assert_no_leak()
        assert first in preserved(house)


@dataclass
class AmphoraMachine(Machine):
    """The machine with the handler, without a bus."""

    mended: list[Handler] = field(default_factory=list)

    def handlers(self) -> list[Handler]:
        return self.mended


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[AmphoraMachine]:
    journal = journals.fresh(tmp_path)
    machine = AmphoraMachine(journal, World(), replace(SETTINGS, workers=10, lease_seconds=60, max_attempts=20))
    yield machine
    machine.stop()
    journal.close()


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["keep", "cycle"])
@pytest.mark.parametrize("method", METHODS)
def test_ten_fail_at_once_and_three_are_preserved(
    make_house: MakeHouse, machine: AmphoraMachine, scheme: str, method: str
) -> None:
    house = make_house(
        maximum_preserved_amphora_count=3,
        failover_threshold=0,
        preservation_scheme=scheme,
        preservation_method=method,
    )
    balancers = [house.octavia.add_load_balancer() for _number in range(10)]
    failed = [house.fail(balancer) for balancer in balancers]
    handler = house.handler()
    machine.mended = [handler]
    machine.start()
    machine.enqueue(*(Hint(handler.name, Key("amphora", row.id), Priority.EVENT, "power_off") for row in failed))
    eventually(lambda: machine.idle() and not list(handler.sweep()), 240)
    for balancer in balancers:
        house.assert_whole(balancer)
    house.assert_no_leak()
    assert len(preserved(house)) == 3
    assert {entry.outcome for entry in history.listing(machine.database, limit=1000)} <= {"healed", "conflict"}


def test_many_marks_at_the_same_moment_stay_within_the_bound(make_house: MakeHouse) -> None:
    """All find an empty pool and mark their servers: the numbers decide, and the others lose their marks."""
    house = make_house(maximum_preserved_amphora_count=2, failover_threshold=0)
    keys = []
    for _number in range(5):
        failed = house.fail(house.octavia.add_load_balancer())
        keys.append(Key("amphora", failed.id))
    handler = house.handler()
    findings = [next(iter(handler.inspect(key))) for key in keys]
    assert {finding.problem for finding in findings} == {"mark"}
    proved = threading.Barrier(len(keys))
    tagged = threading.Barrier(len(keys))

    def wait_until_all_are_proved(call: str) -> None:
        if call == "tag_server":
            proved.wait(60)

    def wait_until_all_are_tagged(call: str) -> None:
        if call == "tag_server":
            tagged.wait(60)

    house.cloud.weather.before, house.cloud.weather.after = wait_until_all_are_proved, wait_until_all_are_tagged
    threads = [threading.Thread(target=handler.heal, args=(finding,)) for finding in findings]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    house.cloud.weather.before = house.cloud.weather.after = lambda _call: None
    assert len(preserved(house)) == 5
    steps = [mend(house, handler, key) for key in keys]
    assert sum(taken[0] == "unmark" for taken in steps) == 3
    assert len(preserved(house)) == 2
    house.assert_no_leak()


def test_a_mark_without_a_number_is_waited_for_but_not_for_ever(make_house: MakeHouse) -> None:
    house = make_house(maximum_preserved_amphora_count=1, failover_threshold=0)
    first = house.fail(house.octavia.add_load_balancer())
    second_balancer = house.octavia.add_load_balancer()
    second = house.fail(second_balancer)
    handler, key = house.handler(), Key("amphora", second.id)
    assert handler.heal(next(iter(handler.inspect(key)))).after[SINCE]
    # the other server was tagged by a process that died before it wrote the number
    house.driver.tag_server(first.compute_id or "", PRESERVED)
    with pytest.raises(Stuck, match="being marked"):
        mend(house, handler, key)
    house.make_mark_older(second.compute_id or "", 31)
    assert mend(house, handler, key) == ["unmark", "failover", "detach"]
    house.assert_whole(second_balancer)
    mend(house, handler, Key("amphora", first.id))
    assert preserved(house) == [first.id]


def test_numbers_grow_also_when_clocks_do_not(make_house: MakeHouse) -> None:
    house = make_house(maximum_preserved_amphora_count=3, failover_threshold=0)
    preserve_one(house)
    (one,) = house.preserved()
    earlier = datetime(2001, 1, 1, tzinfo=UTC)
    assert pool.next_number(house.preserved(), earlier) > one.since
    assert pool.next_number([], earlier) == earlier.isoformat(timespec="microseconds")


@pytest.mark.parametrize("method", METHODS)
def test_the_operator_sees_each_preserved_amphora_and_how_to_examine_it(make_house: MakeHouse, method: str) -> None:
    house = make_house(maximum_preserved_amphora_count=2, preservation_method=method)
    amphora = preserve_one(house)
    inventory = PreservedAmphorae(house.driver)
    (item,) = inventory.items()
    assert set(inventory.columns) <= set(item)
    assert (item["amphora"], item["state"], item["reason"]) == (amphora, "preserved", "its server is SHUTOFF")
    shown = inventory.show(amphora)
    assert shown["how_to_look_inside"]
    assert ("console_log" in shown) == (method == "unplug")
    with pytest.raises(LookupError):
        inventory.show("00000000-0000-0000-0000-000000000000")


@pytest.mark.parametrize("method", METHODS)
def test_a_released_amphora_leaves_the_pool(make_house: MakeHouse, method: str) -> None:
    house = make_house(maximum_preserved_amphora_count=1, preservation_method=method, failover_threshold=0)
    amphora = preserve_one(house)
    PreservedAmphorae(house.driver).release(amphora)
    assert preserved(house) == []
    later = preserve_one(house)
    assert preserved(house) == [later]
    if method == "unplug":
        (server,) = [found for found in house.cloud.servers() if found.name == f"{PRESERVED_PREFIX}{amphora}"]
        assert (server.locked, server.tags) == (False, frozenset())
    else:
        assert len(house.cloud.images()) == 2


def shown(house: House) -> str:
    """Return everything in the cloud, with the states of preservation as text."""
    return str(world(house)).replace(repr(pool.State.PRESERVED), repr(pool.State.PRESERVED.value))


@pytest.mark.parametrize(("method", "keeps"), [("unplug", "server"), ("snapshot", "server"), ("snapshot", "image")])
def test_the_undo_of_a_release_preserves_the_amphora_again(make_house: MakeHouse, method: str, keeps: str) -> None:
    house = make_house(
        maximum_preserved_amphora_count=1, preservation_method=method, preservation_keeps=keeps, failover_threshold=0
    )
    amphora = preserve_one(house)
    before, inventory = shown(house), PreservedAmphorae(house.driver)
    released = inventory.release(amphora)
    assert shown(house) != before
    for command in released.undo.split("; "):
        Operator(house).run(command)
    assert shown(house) == before
    assert [item["state"] for item in inventory.items()] == ["preserved"]


@pytest.mark.parametrize("keeps", ["image", "server"])
def test_no_handler_deletes_a_released_image(make_house: MakeHouse, keeps: str) -> None:
    house = make_house(
        maximum_preserved_amphora_count=1,
        preservation_method="snapshot",
        preservation_keeps=keeps,
        failover_threshold=0,
    )
    amphora = preserve_one(house)
    PreservedAmphorae(house.driver).release(amphora)
    before = house.cloud.images()
    grow_older(house)

    mend(house, house.handler(), Key("amphora", amphora))
    sweep_and_heal(DeactivatedAmphorae(house.driver, Queue(), 3600.0))

    assert [image.id for image in house.cloud.images()] == [image.id for image in before]
    assert [image.properties[STATE] for image in house.cloud.images()] == ["released"]


@pytest.mark.parametrize("method", METHODS)
def test_a_deleted_amphora_is_gone(make_house: MakeHouse, method: str) -> None:
    house = make_house(maximum_preserved_amphora_count=1, preservation_method=method)
    amphora = preserve_one(house)
    inventory = PreservedAmphorae(house.driver)
    inventory.delete(amphora)
    assert preserved(house) == []
    house.assert_no_leak()
    with pytest.raises(LookupError):
        inventory.delete(amphora)


def test_an_amphora_that_is_being_preserved_is_neither_released_nor_deleted(make_house: MakeHouse) -> None:
    house = make_house(maximum_preserved_amphora_count=1)
    failed = house.fail(house.octavia.add_load_balancer())
    handler, key = house.handler(), Key("amphora", failed.id)
    handler.heal(next(iter(handler.inspect(key))))
    inventory = PreservedAmphorae(house.driver)
    assert [item["state"] for item in inventory.items()] == ["preserving"]
    with pytest.raises(Refused):
        inventory.delete(failed.id)
    with pytest.raises(Refused):
        inventory.release(failed.id)


def test_the_pool_is_unknown_while_a_service_does_not_answer(make_house: MakeHouse) -> None:
    house = make_house(maximum_preserved_amphora_count=1)
    preserve_one(house)
    house.cloud.weather.unreachable = {"image"}
    with pytest.raises(UnavailableException):
        PreservedAmphorae(house.driver).items()


@pytest.mark.parametrize("method", ["unplug", "snapshot"])
def test_the_preserved_amphorae_of_another_stackmend_neither_count_nor_go(make_house: MakeHouse, method: str) -> None:
    house = make_house(
        maximum_preserved_amphora_count=1,
        preservation_scheme="cycle",
        failover_threshold=0,
        preservation_method=method,
        spare_owner="another",
    )
    other = preserve_one(house)
    house.reconfigure(spare_owner="octavia")
    assert preserved(house) == []
    own = preserve_one(house)
    assert preserved(house) == [own]
    house.reconfigure(spare_owner="another")
    assert preserved(house) == [other]
