"""One heal takes all steps from the mark to the request of the failover, and proves each step before it takes the step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest
import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import Engine

from handlers.base import Finding, InFlight, Key
from handlers.octavia import changes, polling
from handlers.octavia.cloud_objects import AMPHORA, PRESERVED, SINCE, STATE
from handlers.octavia.housekeeping import UnavailableException
from handlers.octavia.preserved.pool import State
from tests.functional.octavia.world import House, mend

MakeHouse = Callable[..., House]
Act = Callable[[House, Key], object]

#: seconds that suffice for all steps of a heal on a slow machine
PATIENCE = 600.0
#: requests to Nova for one call of the driver, where a call needs more than one
REQUESTS = {"servers": 2}
#: a call to Octavia also asks the broker for the work queue
OCTAVIA = ("require_failover", "failover_amphora", "failover_load_balancer")


def stopped_pair(make_house: MakeHouse, **settings: object) -> tuple[House, str, Key]:
    house = make_house(**{"maximum_preserved_amphora_count": 1, **settings})
    balancer = house.octavia.add_load_balancer("ACTIVE_STANDBY")
    failed = house.fail(balancer)
    house.octavia.heartbeat(failed.id, silent=30)
    return house, balancer, Key("amphora", failed.id)


def found(house: House, key: Key) -> Finding:
    (finding,) = house.handler().inspect(key)
    return finding


@pytest.mark.parametrize("method", ["unplug", "snapshot"])
def test_one_heal_leads_to_the_failover(make_house: MakeHouse, method: str) -> None:
    house, balancer, key = stopped_pair(make_house, preservation_method=method)
    before = house.amphora(key.id)
    finding = found(house, key)
    healed = house.handler(PATIENCE).heal(finding)

    assert not healed.complete
    assert house.amphora(key.id).status == "DELETED"
    assert house.balancer(balancer).status == "ACTIVE"
    server = house.cloud.present(before.compute_id or "")
    assert PRESERVED in server.tags
    assert house.driver.ports_of(server.id) == []
    assert list(healed.before) == ["mark", "lease", "unplug", "let-go"]
    mend(house, house.handler(PATIENCE), key)
    house.assert_whole(balancer, 2)
    house.assert_no_leak()


def test_the_undo_of_every_step_is_known_before_the_heal(make_house: MakeHouse) -> None:
    house, _balancer, key = stopped_pair(make_house)
    server = house.amphora(key.id).compute_id
    undo = found(house, key).undo
    positions = [undo.index(text) for text in ("SET status='ALLOCATED'", "server add port", "SET last_update", "--tag")]
    assert positions == sorted(positions), "the last step is undone first"
    statements = [one for one in undo.split("; ") if str(server) in one]
    ports = [port.id for port in house.driver.ports_of(str(server)) if port.name]
    assert all(any(port in one for one in statements) for port in ports)
    assert len(statements) == len(ports) + 6, "the row, its heartbeat record, the ports, a network and the marks"


def _beat(house: House, key: Key) -> None:
    house.cloud.alter_server(house.amphora(key.id).compute_id or "", status="ACTIVE")
    house.octavia.heartbeat(key.id, silent=0)


def _work(house: House, key: Key) -> None:
    house.octavia.set_balancer(house.amphora(key.id).load_balancer_id or "", "PENDING_UPDATE")


def _unmark(house: House, key: Key) -> None:
    house.cloud.alter_server(house.amphora(key.id).compute_id or "", tags=frozenset())


def _expire(house: House, key: Key) -> None:
    house.octavia.heartbeat(key.id, silent=70)


@pytest.mark.parametrize("act", [_beat, _work, _unmark], ids=["a heartbeat", "a flow of Octavia", "no mark"])
def test_an_amphora_that_changes_after_its_lease_is_not_cut_off(
    make_house: MakeHouse, monkeypatch: pytest.MonkeyPatch, act: Act
) -> None:
    house, _balancer, key = stopped_pair(make_house)
    server = house.amphora(key.id).compute_id or ""
    finding, lease = found(house, key), changes.lease

    def lease_and_act(connection: sa.Connection, *arguments: object, **more: object) -> bool:
        done = lease(connection, *arguments, **more)  # type: ignore[arg-type]
        event.listen(connection, "commit", lambda _connection: leased.append(True), once=True)
        return done

    leased: list[bool] = []
    run = house.database.run

    def run_and_act(work: Callable[[sa.Connection], object]) -> object:
        answer = run(work)
        if leased:
            leased.clear()
            act(house, key)
        return answer

    monkeypatch.setattr(changes, "lease", lease_and_act)
    monkeypatch.setattr(house.database, "run", run_and_act)
    house.handler(PATIENCE).heal(finding)
    assert len(house.driver.ports_of(server)) == 3
    assert house.amphora(key.id).compute_id == server


@pytest.mark.parametrize(
    "act", [_beat, _work, _unmark, _expire], ids=["a heartbeat", "a flow of Octavia", "no mark", "no lease"]
)
def test_an_amphora_that_changes_after_it_is_cut_off_is_not_let_go(make_house: MakeHouse, act: Act) -> None:
    house, _balancer, key = stopped_pair(make_house)
    server = house.amphora(key.id).compute_id
    finding = found(house, key)

    def after_the_last_detachment(call: str) -> None:
        if call == "describe_server" and not house.driver.ports_of(server or ""):
            act(house, key)

    house.cloud.weather.after = after_the_last_detachment
    house.handler(PATIENCE).heal(finding)
    assert house.amphora(key.id).compute_id == server
    assert house.amphora(key.id).status == "ALLOCATED"


def test_a_place_that_another_amphora_takes_ends_the_heal_before_the_ports(make_house: MakeHouse) -> None:
    house, _balancer, key = stopped_pair(make_house)
    (other,) = house.serving(house.octavia.add_load_balancer())
    finding, server = found(house, key), house.amphora(key.id).compute_id or ""

    def number_the_other_first(call: str) -> None:
        if call == "tag_server":
            marks = {AMPHORA: other.id, SINCE: "2026-01-01T00:00:00+00:00", STATE: State.PRESERVING}
            house.cloud.alter_server(other.compute_id or "", tags=frozenset({PRESERVED}), metadata=marks)

    house.cloud.weather.after = number_the_other_first
    healed = house.handler(PATIENCE).heal(finding)
    assert healed.action.startswith("marked server")
    assert len(house.driver.ports_of(server)) == 3
    assert found(house, key).problem == "unmark"


def test_an_error_after_the_first_step_ends_the_heal_and_is_met_by_the_next(make_house: MakeHouse) -> None:
    house, balancer, key = stopped_pair(make_house)
    finding = found(house, key)

    def refuse(call: str) -> None:
        if call == "require_failover":
            raise UnavailableException("load-balancer", "503")

    house.cloud.weather.before = refuse
    healed = house.handler(PATIENCE).heal(finding)
    assert not healed.complete
    assert healed.action.startswith("marked server")
    assert found(house, key).problem == "lease"
    with pytest.raises(UnavailableException):
        house.handler(PATIENCE).heal(found(house, key))
    house.cloud.weather.before = lambda _call: None
    mend(house, house.handler(PATIENCE), key)
    house.assert_whole(balancer, 2)


def test_ports_that_nova_does_not_detach_in_time_are_left_to_the_next_heal(
    make_house: MakeHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    house, _balancer, key = stopped_pair(make_house)
    house.cloud.weather.clinging = {house.amphora(key.id).compute_id or ""}
    monkeypatch.setattr(polling, "until", lambda done, _within, _every: done())
    healed = house.handler(PATIENCE).heal(found(house, key))
    assert list(healed.before) == ["mark", "lease", "unplug"]
    with pytest.raises(InFlight, match="detaches 3 ports"):
        list(house.handler().inspect(key))


@dataclass
class Trips:
    """The requests and statements until Octavia gets the request of the failover."""

    calls: Counter[str] = field(default_factory=Counter)
    statements: int = 0
    over: bool = False

    @property
    def requests(self) -> int:
        return sum(number * REQUESTS.get(call, 1) for call, number in self.calls.items())

    @property
    def queues(self) -> int:
        return sum(self.calls[call] for call in OCTAVIA)


@contextmanager
def counted(house: House) -> Iterator[Trips]:
    trips, depth = Trips(), 0

    def before(call: str) -> None:
        nonlocal depth
        depth += 1
        if not trips.over:
            trips.calls[call] += 1

    def after(call: str) -> None:
        nonlocal depth
        depth -= 1
        trips.over = trips.over or call in OCTAVIA[1:]

    def statement(connection: sa.Connection, *_rest: object) -> None:
        trips.statements += not depth and not trips.over

    house.cloud.weather.before, house.cloud.weather.after = before, after
    event.listen(Engine, "before_cursor_execute", statement)
    try:
        yield trips
    finally:
        event.remove(Engine, "before_cursor_execute", statement)


@pytest.mark.parametrize(
    ("settings", "requests", "statements", "queues"),
    [
        ({"maximum_preserved_amphora_count": 0}, 5, 18, 1),
        ({"preservation_method": "unplug"}, 34, 45, 2),
        ({"preservation_method": "snapshot"}, 34, 45, 2),
    ],
    ids=["none is preserved", "unplug", "snapshot"],
)
def test_the_round_trips_from_the_key_to_the_request(
    make_house: MakeHouse, settings: dict[str, object], requests: int, statements: int, queues: int
) -> None:
    house, _balancer, key = stopped_pair(make_house, **settings)
    handler = house.handler(PATIENCE)
    with counted(house) as trips:
        (finding,) = handler.inspect(key)
        handler.heal(finding)
    assert trips.over
    assert trips.requests <= requests, trips.calls
    assert trips.statements <= statements
    assert trips.queues <= queues
