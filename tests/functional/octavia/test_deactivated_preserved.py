"""Amphorae in ERROR on no load balancer are preserved as the specification demands: count, scheme and method apply to them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from handlers.base import Conflict, InFlight, Key
from handlers.octavia import removal
from handlers.octavia.cloud_objects import PRESERVED, PRESERVED_PREFIX, STATE
from handlers.octavia.leftovers.deactivated_amphorae import DeactivatedAmphorae
from handlers.octavia.preserved.inventory import PreservedAmphorae
from tests.functional.octavia.mending import findings, grow_older, killed_everywhere, mend, problems, world
from tests.functional.octavia.work_queue import Queue
from tests.functional.octavia.world import House

GRACE = 3600.0


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for nothing: an object that is not gone at once stays."""
    monkeypatch.setattr(removal, "OCTAVIA_DEADLINE", 0.0)
    monkeypatch.setattr(removal, "SERVER_DEADLINE", 0.0)


def handler_of(house: House) -> DeactivatedAmphorae:
    return DeactivatedAmphorae(house.driver, Queue(), GRACE)


def deactivated(house: House, status: str = "ERROR") -> tuple[str, str]:
    """Return an amphora on no load balancer, and its server; its load balancer has another one."""
    balancer = house.octavia.add_load_balancer()
    (row,) = house.serving(balancer)
    house.octavia.set_amphora(row.id, status=status, load_balancer_id=None)
    house.octavia.set_balancer(balancer, "ERROR")
    house.driver.failover_load_balancer(balancer)
    grow_older(house)
    return row.id, row.compute_id or ""


def kept(house: House) -> list[str]:
    """Return the amphorae that are completely preserved, oldest first."""
    return [one.amphora for one in house.preserved() if one.complete]


def test_one_in_error_is_preserved_without_a_network(make_house: Callable[..., House]) -> None:
    house = make_house(maximum_preserved_amphora_count=1)
    amphora, server = deactivated(house)
    assert problems(handler_of(house)) == ["amphora-eligible"]
    mend(handler_of(house))
    assert kept(house) == [amphora]
    row, shown = house.amphora(amphora), house.cloud.present(server)
    assert (row.status, row.compute_id, row.load_balancer_id) == ("DELETED", None, None)
    assert (shown.status, shown.locked, shown.name) == ("ACTIVE", True, f"{PRESERVED_PREFIX}{amphora}")
    assert [port for port in house.cloud.ports() if port.device_id == server] == []
    grow_older(house)
    mend(handler_of(house))
    assert [port.name for port in house.cloud.ports() if amphora in port.name] == [], "its ports are leftovers"
    assert kept(house) == [amphora]


def test_a_snapshot_of_one_in_error_replaces_its_server(make_house: Callable[..., House]) -> None:
    house = make_house(maximum_preserved_amphora_count=1, preservation_method="snapshot")
    amphora, server = deactivated(house)
    mend(handler_of(house))
    assert house.cloud.server(server) is None
    (one,) = house.preserved()
    assert (one.amphora, one.complete) == (amphora, True)
    assert one.image is not None
    assert one.image.protected


@pytest.mark.parametrize(
    ("status", "settings"),
    [
        ("READY", {"maximum_preserved_amphora_count": 1}),
        ("BOOTING", {"maximum_preserved_amphora_count": 1}),
        ("PENDING_DELETE", {"maximum_preserved_amphora_count": 1}),
        ("ERROR", {"maximum_preserved_amphora_count": 0}),
    ],
)
def test_one_that_is_not_eligible_is_deleted(
    make_house: Callable[..., House], status: str, settings: dict[str, object]
) -> None:
    house = make_house(**settings)
    amphora, server = deactivated(house, status)
    mend(handler_of(house))
    assert house.cloud.server(server) is None
    assert house.amphora(amphora).status == "DELETED"
    assert house.preserved() == []


def test_scheme_keep_deletes_one_that_does_not_fit(make_house: Callable[..., House]) -> None:
    house = make_house(maximum_preserved_amphora_count=1)
    first, _ = deactivated(house)
    mend(handler_of(house))
    second, server = deactivated(house)
    mend(handler_of(house))
    assert kept(house) == [first]
    assert house.cloud.server(server) is None
    assert house.amphora(second).status == "DELETED"


def test_scheme_cycle_deletes_the_oldest(make_house: Callable[..., House]) -> None:
    house = make_house(maximum_preserved_amphora_count=1, preservation_scheme="cycle")
    _, oldest = deactivated(house)
    mend(handler_of(house))
    second, _ = deactivated(house)
    mend(handler_of(house))
    assert kept(house) == [second]
    assert house.cloud.server(oldest) is None


def test_count_covers_amphorae_of_failovers_too(make_house: Callable[..., House]) -> None:
    house = make_house(maximum_preserved_amphora_count=1)
    balancer = house.octavia.add_load_balancer()
    failed = house.fail(balancer)
    recovery = house.handler()
    while found := [one for one in recovery.inspect(Key("amphora", failed.id)) if one.healable]:
        recovery.heal(found[0])
    _, server = deactivated(house)
    mend(handler_of(house))
    assert kept(house) == [failed.id]
    assert house.cloud.server(server) is None


def test_several_at_once_never_exceed_the_count(make_house: Callable[..., House]) -> None:
    house = make_house(maximum_preserved_amphora_count=2)
    amphorae = {deactivated(house)[0] for _ in range(4)}
    mend(handler_of(house), turns=80)
    assert len(kept(house)) == 2
    assert set(kept(house)) < amphorae
    assert {house.amphora(one).status for one in amphorae} == {"DELETED"}
    assert findings(handler_of(house)) == []


def test_a_server_in_error_is_stopped_and_preserved(make_house: Callable[..., House]) -> None:
    house = make_house(maximum_preserved_amphora_count=1)
    amphora, server = deactivated(house)
    house.cloud.alter_server(server, status="ERROR")
    mend(handler_of(house))
    assert kept(house) == [amphora]


def test_a_server_that_nova_cannot_stop_is_deleted(make_house: Callable[..., House]) -> None:
    """It was renamed before the stop, and is still recognised as the server of its amphora."""
    house = make_house(maximum_preserved_amphora_count=1)
    amphora, server = deactivated(house)
    house.cloud.alter_server(server, status="ERROR", name=f"{PRESERVED_PREFIX}{amphora}")
    mend(handler_of(house))
    assert house.cloud.server(server) is None
    assert house.amphora(amphora).status == "DELETED"
    assert house.preserved() == []


def test_without_room_for_it_any_more_a_marked_server_is_unmarked_and_deleted(make_house: Callable[..., House]) -> None:
    house = make_house(maximum_preserved_amphora_count=1)
    amphora, server = deactivated(house)
    (marking,) = findings(handler_of(house))
    handler_of(house).heal(marking)
    assert PRESERVED in house.cloud.present(server).tags
    house.reconfigure(maximum_preserved_amphora_count=0)
    mend(handler_of(house))
    assert house.cloud.server(server) is None
    assert house.amphora(amphora).status == "DELETED"


def test_a_released_server_is_neither_preserved_again_nor_deleted(make_house: Callable[..., House]) -> None:
    house = make_house(maximum_preserved_amphora_count=1)
    _, server = deactivated(house)
    house.cloud.alter_server(server, metadata={STATE: "released"})
    before = world(house)
    (found,) = findings(handler_of(house))
    assert not found.healable
    assert world(house) == before


def test_one_that_gets_a_load_balancer_before_the_heal_is_not_touched(make_house: Callable[..., House]) -> None:
    house = make_house(maximum_preserved_amphora_count=1)
    amphora, _ = deactivated(house)
    (found,) = findings(handler_of(house))
    house.octavia.set_amphora(amphora, load_balancer_id=house.octavia.add_load_balancer())
    before = world(house)
    with pytest.raises((Conflict, InFlight)):
        handler_of(house).heal(found)
    assert world(house) == before


def test_the_operator_sees_and_deletes_it(make_house: Callable[..., House]) -> None:
    house = make_house(maximum_preserved_amphora_count=1)
    amphora, server = deactivated(house)
    mend(handler_of(house))
    inventory = PreservedAmphorae(house.driver)
    (item,) = inventory.items()
    assert (item["amphora"], item["state"], item["server"]) == (amphora, "preserved", server)
    assert "on no load balancer" in item["reason"]
    inventory.delete(amphora)
    assert house.cloud.server(server) is None


@pytest.mark.slow
@pytest.mark.parametrize(("method", "scheme"), [("unplug", "cycle"), ("snapshot", "keep")])
def test_killed_at_any_moment_the_next_process_finishes_it(
    make_house: Callable[..., House], method: str, scheme: str
) -> None:
    def make() -> tuple[House, DeactivatedAmphorae]:
        house = make_house(maximum_preserved_amphora_count=1, preservation_method=method, preservation_scheme=scheme)
        deactivated(house)
        return house, handler_of(house)

    for house, handler, moment in killed_everywhere(make):
        mend(handler)
        assert len(kept(house)) == 1, moment
        assert all(one.complete for one in house.preserved()), moment
        assert findings(handler) == [], moment
