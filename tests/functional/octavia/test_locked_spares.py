"""A placeholder that an operator locked is the operator's: no failover claims it, and no heal stops or deletes it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from handlers.base import Conflict, Key
from handlers.octavia.cloud_objects import SPARE
from handlers.octavia.spares import pool as spares
from handlers.octavia.spares.spare_pool import SparePool
from tests.functional.octavia.mending import grow_older, mend
from tests.functional.octavia.world import House
from tests.functional.octavia.world import mend as recover

Houses = Callable[..., House]
POOL = Key("pool", spares.ANY)


def filled(make_house: Houses) -> tuple[House, str]:
    """Return a cloud with a pool of one spare, and the spare."""
    house = make_house(spare_amphora_pool_size=1, failover_threshold=0)
    mend(SparePool(house.driver))
    [spare] = [server for server in house.cloud.servers() if SPARE in server.tags]
    return house, spare.id


def test_no_failover_claims_a_locked_spare(make_house: Houses) -> None:
    house, spare = filled(make_house)
    house.cloud.alter_server(spare, locked=True)
    before = house.cloud.present(spare)
    balancer = house.octavia.add_load_balancer()

    recover(house, house.handler(), Key("amphora", house.fail(balancer).id))

    house.assert_whole(balancer)
    now = house.cloud.present(spare)
    assert (now.tags, now.metadata, now.status) == (before.tags, before.metadata, before.status)


def test_a_spare_that_is_locked_during_the_failover_stays(make_house: Houses) -> None:
    house, spare = filled(make_house)
    ready = [house.cloud.present(spare)]
    house.cloud.alter_server(spare, locked=True)

    assert spares.make_room(house.driver, ready) is None

    assert SPARE in house.cloud.present(spare).tags


@pytest.mark.parametrize(
    "change",
    [{}, {"tags": frozenset()}, {"status": "ERROR"}, {"status": "ACTIVE"}],
    ids=["surplus", "claimed", "failed", "running"],
)
@pytest.mark.parametrize("size", [0, 1])
def test_no_heal_changes_a_locked_spare(make_house: Houses, change: dict[str, object], size: int) -> None:
    house, spare = filled(make_house)
    house.cloud.alter_server(spare, locked=True, **change)
    before = house.cloud.present(spare)
    house.reconfigure(spare_amphora_pool_size=size)
    grow_older(house)

    mend(SparePool(house.driver))

    assert house.cloud.present(spare) == before
    ready = [server for pool in spares.pools(house.cloud.servers(), house.driver.settings) for server in pool.ready]
    assert len(ready) == size, "the pool fills without the locked server"


def test_a_spare_that_is_locked_before_the_heal_stays(make_house: Houses) -> None:
    house, spare = filled(make_house)
    house.reconfigure(spare_amphora_pool_size=0)
    handler = SparePool(house.driver)
    [finding] = handler.inspect(POOL)
    house.cloud.alter_server(spare, locked=True)

    with pytest.raises(Conflict):
        handler.heal(finding)

    assert SPARE in house.cloud.present(spare).tags
