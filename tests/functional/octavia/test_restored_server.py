"""A preserved server that an operator wrote into an amphora's row again is not deleted."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from handlers.base import Key, Refused
from handlers.octavia.preserved.inventory import PreservedAmphorae
from tests.functional.octavia.test_preserved_pool import preserve_one
from tests.functional.octavia.world import House, mend

Houses = Callable[..., House]


def restored(house: House) -> tuple[str, str]:
    """Preserve an amphora, and write its server into its row again; return the amphora and the server."""
    amphora = preserve_one(house)
    [kept] = house.preserved()
    assert kept.server is not None
    balancer = house.octavia.add_load_balancer()
    house.octavia.set_amphora(amphora, status="ALLOCATED", compute_id=kept.server.id, load_balancer_id=balancer)
    return amphora, kept.server.id


def test_no_newer_amphora_displaces_it(make_house: Houses) -> None:
    house = make_house(maximum_preserved_amphora_count=1, preservation_scheme="cycle", failover_threshold=0)
    _amphora, server = restored(house)
    before = house.cloud.present(server)

    newer = preserve_one(house)
    newest = preserve_one(house)

    assert house.cloud.present(server).tags == before.tags
    ids = [one.amphora for one in house.preserved()]
    assert (newer in ids, newest in ids) == (False, True), "the next amphora in use by no row goes"


def test_the_operators_command_refuses_to_delete_it(make_house: Houses) -> None:
    house = make_house(maximum_preserved_amphora_count=1, failover_threshold=0)
    amphora, server = restored(house)

    with pytest.raises(Refused, match=server):
        PreservedAmphorae(house.driver).delete(amphora)

    assert house.cloud.server(server) is not None


def test_it_stays_beside_its_image(make_house: Houses) -> None:
    house = make_house(maximum_preserved_amphora_count=1, preservation_method="snapshot", failover_threshold=0)
    failed = house.fail(house.octavia.add_load_balancer())
    key = Key("amphora", failed.id)
    while (finding := next(iter(house.handler().inspect(key)))).problem != "drop-server":
        house.handler().heal(finding)
    [other] = house.serving(house.octavia.add_load_balancer())
    house.octavia.set_amphora(other.id, compute_id=failed.compute_id)

    assert mend(house, house.handler(), key) == []

    assert house.cloud.server(failed.compute_id or "") is not None
    [reported] = house.handler().inspect(key)
    assert not reported.healable
