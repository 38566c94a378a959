"""A tenant that gives servers the names and marks of amphorae causes inspections, and no heal."""

from __future__ import annotations

from collections.abc import Callable
from uuid import uuid4

import pytest

from handlers.base import Event, Key
from handlers.octavia.cloud_objects import PRESERVED, SINCE, SPARE, SPARE_PREFIX
from handlers.octavia.failover import keys
from handlers.octavia.preserved import pool as preserved
from handlers.octavia.simulation.cloud import OWNER
from handlers.octavia.spares import pool as spares
from handlers.octavia.spares.spare_pool import SparePool
from tests.functional.octavia.world import House

Houses = Callable[..., House]


@pytest.mark.parametrize("living", [True, False])
def test_a_stopped_server_with_the_name_of_an_amphora_fails_nothing_over(house: House, living: bool) -> None:
    balancer = house.octavia.add_load_balancer()
    [amphora] = house.serving(balancer)
    victim = amphora.id if living else str(uuid4())
    tenants = house.cloud.boot(f"amphora-{victim}", project=OWNER)
    house.cloud.stop(tenants.id)

    key = keys.amphora(Event("instance.power_off.end", {"uuid": tenants.id, "display_name": tenants.name}))

    assert key == Key("amphora", victim)
    assert list(house.handler().inspect(key)) == []
    assert [row.id for row in house.serving(balancer)] == [amphora.id]


def test_a_server_with_the_marks_of_a_spare_is_no_spare(make_house: Houses) -> None:
    house = make_house(spare_amphora_pool_size=1)
    marks = {spares.ZONE: spares.ANY, spares.OWNER: ""}
    name = f"{SPARE_PREFIX}{spares.ANY}-12345678"
    tenants = house.cloud.boot(name, project=OWNER, tags=frozenset({SPARE}), metadata=marks)
    handler = SparePool(house.driver)

    assert [finding.problem for finding in handler.inspect(Key("pool", spares.ANY))] == ["pool-short"]
    [finding] = handler.inspect(Key("pool", spares.ANY))
    handler.heal(finding)
    [running] = handler.inspect(Key("pool", spares.ANY))
    assert running.evidence["server"] != tenants.id
    shown = house.cloud.server(tenants.id)
    assert shown is not None
    assert shown.status == "ACTIVE"


def test_a_server_with_the_marks_of_a_preserved_amphora_takes_no_place(make_house: Houses) -> None:
    house = make_house(maximum_preserved_amphora_count=1)
    marks = {SINCE: "2000-01-01T00:00:00+00:00"}
    house.cloud.boot("preserved-amphora-x", project=OWNER, tags=frozenset({PRESERVED}), metadata=marks)

    assert preserved.read(house.driver) == []
