"""While the image of a preserved amphora is deactivated, its server stays, and neither image nor server is deleted."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from handlers.base import Key
from tests.functional.octavia.mending import world
from tests.functional.octavia.world import House, mend

Houses = Callable[..., House]


@pytest.mark.parametrize("protected", [True, False])
def test_the_server_of_a_deactivated_image_stays_until_an_administrator_decides(
    make_house: Houses, protected: bool
) -> None:
    house = make_house(failover_threshold=0, maximum_preserved_amphora_count=1, preservation_method="snapshot")
    failed = house.fail(house.octavia.add_load_balancer())
    key = Key("amphora", failed.id)
    while (finding := next(iter(house.handler().inspect(key)))).problem != "drop-server":
        house.handler().heal(finding)
    [image] = house.cloud.images()
    house.cloud.alter_image(image.id, status="deactivated", protected=protected)
    before = world(house)

    assert mend(house, house.handler(), key) == []

    [reported] = house.handler().inspect(key)
    assert image.id in reported.refusal
    assert world(house) == before

    house.cloud.alter_image(image.id, status="active", protected=True)
    mend(house, house.handler(), key)
    [kept] = house.preserved()
    assert (kept.amphora, kept.complete, kept.server) == (failed.id, True, None)
