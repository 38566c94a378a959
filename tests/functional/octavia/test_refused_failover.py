"""When Octavia's API refuses or does not answer, no amphora is left in a state that the health manager does not repair."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial

import pytest
import sqlalchemy as sa

from handlers.base import Finding, Handler, InFlight, Key, Unavailable
from handlers.octavia import changes, queries
from handlers.octavia.failover.steps import StepName
from handlers.octavia.housekeeping import AmphoraDriverError, NotFoundError, UnauthorizedException, UnavailableException
from tests.functional.octavia.world import House, mend

MakeHouse = Callable[..., House]

REFUSALS: dict[str, AmphoraDriverError] = {
    "503": UnavailableException("load-balancer", "503"),
    "403": UnauthorizedException("load-balancer", "403"),
    "409": UnavailableException("load-balancer:x", "409"),
    "400": AmphoraDriverError("400"),
    "404": NotFoundError("404"),
}
#: the calls that ask for a failover
REQUESTS = {"failover_amphora", "failover_load_balancer"}


@contextmanager
def refusing(house: House, calls: set[str], refusal: AmphoraDriverError) -> Iterator[None]:
    """Let Octavia's API refuse these calls."""

    def before(call: str) -> None:
        if call in calls:
            raise refusal

    house.cloud.weather.before = before
    try:
        yield
    finally:
        house.cloud.weather.before = lambda _call: None


def first(handler: Handler, key: Key) -> Finding:
    return next(iter(handler.inspect(key)))


def silent_one(house: House, topology: str = "SINGLE") -> tuple[str, Key]:
    balancer = house.octavia.add_load_balancer(topology)
    failed = house.serving(balancer)[0]
    house.silence(failed.id, 70)
    return balancer, Key("amphora", failed.id)


def advance_to(house: House, handler: Handler, key: Key, step: StepName) -> Finding:
    """Take all steps before a step; return its finding."""
    for _turn in range(20):
        finding = first(handler, key)
        if finding.problem == step:
            return finding
        handler.heal(finding)
    raise AssertionError(step)


@pytest.mark.parametrize("silent", ["load-balancer", "broker"])
@pytest.mark.parametrize("method", ["unplug", "snapshot"])
def test_nothing_is_cut_off_while_octavia_takes_no_request(make_house: MakeHouse, method: str, silent: str) -> None:
    house = make_house(maximum_preserved_amphora_count=1, preservation_method=method)
    _balancer, key = silent_one(house)
    row = house.amphora(key.id)
    handler = house.handler()
    house.cloud.weather.unreachable = {silent}
    with pytest.raises(Unavailable):
        mend(house, handler, key)
    assert (left := house.amphora(key.id)).status == "ALLOCATED"
    assert left.compute_id == row.compute_id
    server = house.cloud.server(row.compute_id or "")
    assert server is not None
    assert server.status == "ACTIVE"
    assert all(port.admin_up for port in house.driver.ports_of(server.id))
    assert house.driver.ports_of(server.id)
    assert house.health_manager_replaces() == [key.id], "no lease holds the health manager off"


@pytest.mark.parametrize("refusal", REFUSALS)
@pytest.mark.parametrize("calls", [REQUESTS, REQUESTS | {"require_failover"}], ids=["request", "every call"])
@pytest.mark.parametrize("step", [StepName.UNPLUG, StepName.LET_GO])
def test_whatever_the_api_refuses_the_health_manager_can_act(
    make_house: MakeHouse, step: StepName, calls: set[str], refusal: str
) -> None:
    house = make_house(maximum_preserved_amphora_count=1)
    balancer, key = silent_one(house)
    handler = house.handler()
    advance_to(house, handler, key, step)
    with refusing(house, calls, REFUSALS[refusal]), suppress(Exception):
        mend(house, handler, key)
    row = house.amphora(key.id)
    assert row.status == "ALLOCATED"
    assert row.compute_id is not None
    assert house.health_manager_replaces() == [key.id]
    # once the API answers, the recovery goes on
    mend(house, handler, key)
    house.assert_whole(balancer)
    assert [one.amphora for one in house.preserved()] == [key.id]


def test_a_load_balancer_in_error_gets_its_row_back_as_well(make_house: MakeHouse) -> None:
    house = make_house(maximum_preserved_amphora_count=1)
    balancer, key = silent_one(house)
    house.octavia.set_balancer(balancer, "ERROR")
    house.pass_time(60)
    handler = house.handler()
    finding = advance_to(house, handler, key, StepName.LET_GO)
    with refusing(house, REQUESTS, REFUSALS["503"]), pytest.raises(Unavailable):
        handler.heal(finding)
    assert house.amphora(key.id).compute_id is not None
    assert house.health_manager_replaces() == [key.id]


def test_a_row_that_octavia_works_on_is_not_taken_back(make_house: MakeHouse) -> None:
    """The answer was lost, and the request had arrived: the flow goes on and leaves the server alone."""
    house = make_house(maximum_preserved_amphora_count=1)
    balancer, key = silent_one(house)
    handler = house.handler()
    finding = advance_to(house, handler, key, StepName.LET_GO)
    house.octavia.pace.held = True

    def lose_the_answer(call: str) -> None:
        if call == "failover_amphora":
            raise UnavailableException("load-balancer", "no answer")

    house.cloud.weather.after = lose_the_answer
    with pytest.raises(UnavailableException):
        handler.heal(finding)
    house.cloud.weather.after = lambda _call: None
    assert house.amphora(key.id).compute_id is None
    assert house.balancer(balancer).status == "PENDING_UPDATE"
    house.octavia.finish()
    mend(house, handler, key)
    house.assert_whole(balancer)
    assert [one.amphora for one in house.preserved()] == [key.id]


@pytest.mark.parametrize("service", ["compute", "network"])
def test_an_accepted_failover_stands_though_its_record_or_its_spare_fails(make_house: MakeHouse, service: str) -> None:
    house = make_house(maximum_preserved_amphora_count=1)
    balancer, key = silent_one(house)
    handler = house.handler()
    finding = advance_to(house, handler, key, StepName.LET_GO)

    def fail_afterwards(call: str) -> None:
        if call == "failover_amphora":
            house.cloud.weather.unreachable = {service}

    house.cloud.weather.after = fail_afterwards
    handler.heal(finding)
    house.cloud.weather.after = lambda _call: None
    house.cloud.weather.unreachable = set()
    assert house.amphora(key.id).status == "DELETED"
    mend(house, handler, key)
    house.assert_whole(balancer)
    assert [one.amphora for one in house.preserved()] == [key.id]


def test_let_go_and_the_request_are_one_heal(make_house: MakeHouse) -> None:
    house = make_house(maximum_preserved_amphora_count=1)
    balancer, key = silent_one(house)
    handler = house.handler()
    healed = handler.heal(advance_to(house, handler, key, StepName.LET_GO))
    assert not healed.complete
    assert house.balancer(balancer).status == "ACTIVE"
    assert [row.status for row in house.serving(balancer)] == ["ALLOCATED"]
    assert house.amphora(key.id).status == "DELETED"


@pytest.mark.parametrize("method", ["unplug", "snapshot"])
def test_findings_of_a_begun_recovery_are_marked_until_the_request(make_house: MakeHouse, method: str) -> None:
    house = make_house(maximum_preserved_amphora_count=1, preservation_method=method)
    _balancer, key = silent_one(house)
    handler = house.handler()
    begun: list[tuple[str, bool]] = []
    while house.amphora(key.id).status != "DELETED":
        finding = first(handler, key)
        begun.append((finding.problem, finding.begun))
        handler.heal(finding)
    assert begun[0] == ("mark", False)
    assert all(flag for _problem, flag in begun[1:])


def test_the_undo_of_let_go_lets_the_health_manager_act(make_house: MakeHouse) -> None:
    house = make_house(maximum_preserved_amphora_count=1)
    _balancer, key = silent_one(house)
    handler = house.handler()
    finding = advance_to(house, handler, key, StepName.LET_GO)
    before = house.amphora(key.id)
    house.database.run(partial(changes.let_go, amphora=before))
    assert house.health_manager_replaces() == []
    take_back(house, finding)
    after = house.amphora(key.id)
    assert (after.status, after.compute_id) == (before.status, before.compute_id)
    house.octavia.heartbeat(key.id, silent=70)  # the lease has expired
    assert house.health_manager_replaces() == [key.id]


def take_back(house: House, finding: Finding) -> None:
    """Run the statements of a finding's undo."""
    statements = finding.undo.split("; ")
    house.database.run(lambda connection: [connection.execute(sa.text(one)) for one in statements])


def is_busy(house: House, amphora: str) -> bool:
    health = house.database.run(partial(queries.health, amphora=amphora))
    return health is not None and health.busy


def test_the_undo_of_let_go_keeps_the_health_manager_off_a_row_in_error(make_house: MakeHouse) -> None:
    """With an old heartbeat and not busy, the health manager could set the row to FAILOVER_STOPPED, and later to ALLOCATED."""
    house = make_house(maximum_preserved_amphora_count=1)
    _balancer, key = silent_one(house)
    house.octavia.set_amphora(key.id, status="ERROR")
    finding = advance_to(house, house.handler(), key, StepName.LET_GO)
    before = house.amphora(key.id)
    house.database.run(partial(changes.let_go, amphora=before))
    take_back(house, finding)
    after = house.amphora(key.id)
    assert (after.status, after.compute_id) == ("ERROR", before.compute_id)
    assert is_busy(house, key.id)


def test_the_undo_of_let_go_changes_nothing_once_octavia_has_begun_the_failover(make_house: MakeHouse) -> None:
    house = make_house(maximum_preserved_amphora_count=1)
    _balancer, key = silent_one(house)
    finding = advance_to(house, house.handler(), key, StepName.LET_GO)
    house.database.run(partial(changes.let_go, amphora=house.amphora(key.id)))
    house.octavia.set_amphora(key.id, status="PENDING_DELETE")
    take_back(house, finding)
    assert (house.amphora(key.id).status, house.amphora(key.id).compute_id) == ("PENDING_DELETE", None)
    assert is_busy(house, key.id)


def test_a_place_that_is_lost_ends_the_lease(make_house: MakeHouse) -> None:
    house = make_house(maximum_preserved_amphora_count=1)
    _balancer, key = silent_one(house)
    advance_to(house, house.handler(), key, StepName.UNPLUG)
    house.reconfigure(maximum_preserved_amphora_count=0)
    handler = house.handler()
    assert mend(house, handler, key)[0] == "failover"


def test_a_recovery_that_must_wait_waits_before_anything_is_cut_off(make_house: MakeHouse) -> None:
    house = make_house(maximum_preserved_amphora_count=1)
    balancer, key = silent_one(house)
    house.octavia.set_balancer(balancer, "ERROR")
    with pytest.raises(InFlight, match="the next failover waits"):
        list(house.handler().inspect(key))
    assert house.preserved() == []


def lose_requests(house: House, balancer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let Octavia's API accept failovers, fail to send them, and set the load balancer to ERROR."""
    monkeypatch.setattr(
        house.octavia, "failover_amphora", lambda _amphora: house.octavia.set_balancer(balancer, "ERROR")
    )


@pytest.mark.parametrize("topology", ["SINGLE", "ACTIVE_STANDBY"])
def test_a_lost_request_gives_the_amphora_and_the_load_balancer_back(
    make_house: MakeHouse, monkeypatch: pytest.MonkeyPatch, topology: str
) -> None:
    house = make_house(maximum_preserved_amphora_count=1)
    balancer, key = silent_one(house, topology)
    before, handler = house.amphora(key.id), house.handler()
    others = {row.id for row in house.serving(balancer)} - {key.id}
    finding = advance_to(house, handler, key, StepName.LET_GO)
    with monkeypatch.context() as broken:
        lose_requests(house, balancer, broken)
        with pytest.raises(Unavailable, match="could not send"):
            handler.heal(finding)

    after = house.amphora(key.id)
    assert (after.status, after.compute_id) == (before.status, before.compute_id)
    assert house.balancer(balancer).status == "ACTIVE"
    assert house.health_manager_replaces() == [key.id]
    mend(house, handler, key)
    house.assert_whole(balancer, len(others) + 1)
    assert others <= {row.id for row in house.serving(balancer)}, "the amphora that lives is not replaced"


@pytest.mark.parametrize("topology", ["SINGLE", "ACTIVE_STANDBY"])
def test_a_lost_request_leaves_the_load_balancer_active_where_nothing_is_preserved(
    make_house: MakeHouse, monkeypatch: pytest.MonkeyPatch, topology: str
) -> None:
    house = make_house()
    balancer, key = silent_one(house, topology)
    before, handler = house.amphora(key.id), house.handler()
    lose_requests(house, balancer, monkeypatch)
    with pytest.raises(Unavailable, match="could not send"):
        mend(house, handler, key)
    after = house.amphora(key.id)
    assert (after.status, after.compute_id) == (before.status, before.compute_id)
    assert house.balancer(balancer).status == "ACTIVE"
    assert house.health_manager_replaces() == [key.id]


@pytest.mark.parametrize("silent", ["load-balancer", "broker"])
@pytest.mark.parametrize("status", ["ACTIVE", "ERROR"])
def test_a_process_killed_before_the_request_leaves_a_row_that_the_next_one_gives_back(
    make_house: MakeHouse, silent: str, status: str
) -> None:
    house = make_house(maximum_preserved_amphora_count=1)
    balancer, key = silent_one(house)
    house.octavia.set_balancer(balancer, status)
    house.pass_time(60)
    before = house.amphora(key.id)
    advance_to(house, house.handler(), key, StepName.LET_GO)
    house.database.run(partial(changes.let_go, amphora=before))
    house.cloud.weather.unreachable = {silent}
    with pytest.raises(Unavailable):
        mend(house, house.handler(), key)
    after = house.amphora(key.id)
    assert (after.status, after.compute_id) == (before.status, before.compute_id)
    assert house.health_manager_replaces() == [key.id]


@pytest.mark.parametrize("silent", ["load-balancer", "broker"])
def test_a_row_is_not_given_back_after_its_failover_failed(make_house: MakeHouse, silent: str) -> None:
    house = make_house(maximum_preserved_amphora_count=1)
    balancer, key = silent_one(house)
    handler = house.handler()
    finding = advance_to(house, handler, key, StepName.LET_GO)
    house.cloud.hosts.clear()
    handler.heal(finding)
    house.pass_time(60)
    house.cloud.weather.unreachable = {silent}
    with pytest.raises(Unavailable):
        mend(house, handler, key)
    assert (house.amphora(key.id).status, house.amphora(key.id).compute_id) == ("ERROR", None)
    assert house.balancer(balancer).status == "ERROR"
