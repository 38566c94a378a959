"""Tags by which the owner of a load balancer exempts it and its amphorae, where the operator permits that."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from handlers.base import Key
from handlers.octavia import tables
from tests.functional.octavia.world import House


def tag(house: House, balancer: str, text: str) -> None:
    row = sa.insert(tables.tags).values(resource_id=balancer, tag=text)
    house.database.run(lambda connection: connection.execute(row))


@pytest.mark.parametrize("permitted", [True, False])
def test_a_tag_of_the_load_balancer_exempts_its_amphora_where_it_is_permitted(house: House, permitted: bool) -> None:
    house.database.exempt_by_tag = permitted
    tagged, other = house.octavia.add_load_balancer(), house.octavia.add_load_balancer()
    tag(house, tagged, "stackmend:exempt")
    tag(house, other, "production")
    handler = house.handler()
    said = {}
    for balancer in (tagged, other):
        [finding] = handler.inspect(Key("amphora", house.fail(balancer).id))
        said[balancer] = handler.exempting_tag(finding)
    assert said == {tagged: f"load-balancer:{tagged} has the tag stackmend:exempt" if permitted else "", other: ""}
