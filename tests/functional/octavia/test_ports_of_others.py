"""A port with the name of a dead amphora, or in its row, stays if the row of another amphora names it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from handlers.base import Conflict
from handlers.octavia import removal
from handlers.octavia.housekeeping import DeleteFailed
from handlers.octavia.preserved.inventory import PreservedAmphorae
from tests.functional.octavia.mending import findings, grow_older, mend, world
from tests.functional.octavia.test_deactivated_preserved import deactivated, handler_of
from tests.functional.octavia.test_preserved_pool import preserve_one
from tests.functional.octavia.world import House

Houses = Callable[..., House]
STATES = ["READY", "ERROR"]
KINDS = ["by name", "by row"]


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(removal, "OCTAVIA_DEADLINE", 0.0)
    monkeypatch.setattr(removal, "SERVER_DEADLINE", 0.0)


def share(house: House, amphora: str, kind: str) -> str:
    """Let the row of a serving amphora and a dead amphora, by its row or the port's name, have one port; return the port."""
    [other] = house.serving(house.octavia.add_load_balancer())
    if kind == "by row":
        port = house.cloud.port(other.vrrp_port_id or "")
        assert port is not None
        house.octavia.set_amphora(amphora, vrrp_port_id=port.id)
    else:
        [port] = [port for port in house.cloud.ports() if port.name == f"octavia-lb-vrrp-{amphora}"]
        house.octavia.set_amphora(other.id, vrrp_port_id=port.id)
    grow_older(house)
    return port.id


@pytest.mark.parametrize("status", STATES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_dead_amphora_with_the_port_of_another_is_reported(house: House, status: str, kind: str) -> None:
    amphora, _server = deactivated(house, status)
    port = share(house, amphora, kind)
    before = world(house)

    mend(handler_of(house))

    [finding] = [one for one in findings(handler_of(house)) if one.key.id == amphora]
    assert port in finding.refusal
    assert world(house) == before


@pytest.mark.parametrize("status", STATES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_row_that_names_the_port_before_the_heal_stops_it(house: House, status: str, kind: str) -> None:
    amphora, _server = deactivated(house, status)
    [finding] = [one for one in findings(handler_of(house)) if one.key.id == amphora]
    share(house, amphora, kind)
    before = world(house)

    with pytest.raises((Conflict, DeleteFailed)):
        handler_of(house).heal(finding)
    with pytest.raises(DeleteFailed):
        removal.remove_amphora(house.driver, amphora)

    assert world(house) == before


def test_the_port_of_a_preserved_amphora_stays_if_a_row_names_it(make_house: Houses) -> None:
    house = make_house(maximum_preserved_amphora_count=1, failover_threshold=0)
    amphora = preserve_one(house)
    [kept] = house.preserved()
    assert kept.server is not None
    name = f"octavia-lb-vrrp-{amphora}"
    port = house.cloud.plug(kept.server.id, "vips", name)
    house.cloud.detach(kept.server.id, port.id)
    [other] = house.serving(house.octavia.add_load_balancer())
    house.octavia.set_amphora(other.id, vrrp_port_id=port.id)

    PreservedAmphorae(house.driver).delete(amphora)

    assert house.cloud.port(port.id) is not None
    assert house.cloud.server(kept.server.id) is None
