"""An attempt counts when Octavia has accepted it, and never otherwise, whichever handler requests it and wherever it dies."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import pairwise, permutations

import pytest

from handlers.base import Conflict, Finding, Handler, InFlight, Key
from handlers.octavia import rebuild
from handlers.octavia.cloud_objects import SPARE
from handlers.octavia.housekeeping import UnavailableException
from handlers.octavia.leftovers.deactivated_amphorae import DeactivatedAmphorae
from handlers.octavia.spares.spare_pool import SparePool
from handlers.octavia.stuck.problems import Permissions
from handlers.octavia.stuck.stuck_load_balancers import StuckLoadBalancers
from tests.functional.octavia.mending import Killed, grow_older, mend
from tests.functional.octavia.work_queue import Queue
from tests.functional.octavia.world import House

AFTER = 3600.0


@dataclass(frozen=True)
class Case:
    """A load balancer in ERROR, and the handler that rebuilds it."""

    house: House
    balancer: str
    handler: Handler
    key: Key

    def finding(self) -> Finding:
        (found,) = (one for one in self.handler.inspect(self.key) if one.problem != "deleted-amphora")
        return found

    def remains(self) -> rebuild.Remains:
        return rebuild.read(self.house.driver, self.house.balancer(self.balancer), self.house.rows(self.balancer))

    def fail(self) -> None:
        """Let the flow of an accepted request fail and revert."""
        assert self.house.balancer(self.balancer).status == "PENDING_UPDATE"
        self.house.octavia.forget()
        self.house.octavia.set_balancer(self.balancer, "ERROR")


def failed(house: House) -> Case:
    balancer = house.octavia.add_load_balancer()
    amphora = house.fail(balancer)
    return Case(house, balancer, house.handler(), Key("amphora", amphora.id))


def miscounted(house: House) -> Case:
    balancer = house.octavia.add_load_balancer("ACTIVE_STANDBY")
    house.octavia._delete(house.serving(balancer)[0])
    return Case(house, balancer, StuckLoadBalancers(house.driver, Queue(), AFTER), Key("load-balancer", balancer))


def in_error(house: House) -> Case:
    balancer = house.octavia.add_load_balancer()
    handler = StuckLoadBalancers(house.driver, Queue(), AFTER, permissions=Permissions(failover_errors=True))
    return Case(house, balancer, handler, Key("load-balancer", balancer))


def booting(house: House) -> Case:
    balancer = house.octavia.add_load_balancer()
    (row,) = house.serving(balancer)
    house.octavia.set_amphora(row.id, status="BOOTING")
    return Case(house, balancer, DeactivatedAmphorae(house.driver, Queue(), AFTER), Key("amphora", row.id))


def short_of_one(house: House) -> Case:
    """Return a pair of which every failover loses an amphora again."""
    case, build = miscounted(house), house.octavia._failover

    def lose_one(balancer: str, only: list[str] | None) -> None:
        build(balancer, only)
        house.octavia._delete(house.serving(balancer)[0])

    house.octavia._failover = lose_one  # type: ignore[method-assign]
    return case


def lost_in_a_flow(house: House) -> Case:
    """Return an ACTIVE load balancer whose amphora no failover changes."""
    case = booting(house)

    def nothing(balancer: str, only: list[str] | None) -> None:
        house.octavia.set_balancer(balancer, "ACTIVE")

    house.octavia._failover = nothing  # type: ignore[method-assign]
    return case


@pytest.mark.parametrize("make", [short_of_one, lost_in_a_flow])
def test_failovers_that_do_not_cure_an_active_load_balancer_end_with_a_report(
    house: House, make: Callable[[House], Case]
) -> None:
    """Each process remembers nothing; each failover interrupts the traffic."""
    case = make(house)
    house.octavia.add_load_balancer()
    grow_older(house)
    requests, now = list[float](), 0.0

    def note(call: str) -> None:
        if call.startswith("failover"):
            requests.append(now)

    house.cloud.weather.before = note
    while now < 2 * 86_400.0:
        step = 60.0 if now < 3600.0 else 1800.0
        made = type(case.handler)(house.driver, Queue(), AFTER)  # type: ignore[call-arg]
        with suppress(InFlight):
            for finding in made.inspect(case.key):
                if finding.healable:
                    made.heal(finding)
        grow_older(house, step)
        now += step
    assert len(requests) == len(rebuild.PAUSES)
    gaps = [later - earlier for earlier, later in pairwise(requests)]
    assert all(gap >= pause for gap, pause in zip(gaps, rebuild.PAUSES[1:], strict=True)), gaps
    assert house.balancer(case.balancer).status == "ACTIVE"
    assert not case.finding().healable
    assert "did not help" in case.finding().refusal


CASES = [failed, miscounted, in_error, booting]


def begun(make: Callable[[House], Case], house: House) -> Case:
    case = make(house)
    house.octavia.set_balancer(case.balancer, "ERROR")
    grow_older(house)
    # the cloud of the comparison: a second load balancer that works
    house.octavia.add_load_balancer()
    house.octavia.pace.held = True
    return case


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest, house: House) -> Case:
    return begun(request.param, house)


@pytest.fixture(params=CASES)
def case_with_spares(request: pytest.FixtureRequest, make_house: Callable[..., House]) -> Case:
    house = make_house(spare_amphora_pool_size=2, maximum_deploying_amphora_count=9)
    mend(SparePool(house.driver))
    return begun(request.param, house)


def spares_of(case: Case) -> int:
    return sum(SPARE in server.tags for server in case.house.cloud.servers())


def at_the_request(error: BaseException) -> Callable[[str], None]:
    def strike(call: str) -> None:
        if call.startswith("failover"):
            raise error

    return strike


NO_ANSWER = UnavailableException("load-balancer", "no answer")
REFUSED = UnavailableException("load-balancer:x", "answered 409")


@pytest.mark.parametrize("error", [NO_ANSWER, Killed("after the request")], ids=["lost answer", "killed"])
def test_an_accepted_request_counts_although_its_answer_is_lost(case: Case, error: BaseException) -> None:
    finding = case.finding()
    case.house.cloud.weather.after = at_the_request(error)

    with pytest.raises(type(error)):
        case.handler.heal(finding)

    case.house.cloud.weather.after = lambda _call: None
    case.fail()
    assert (case.remains().attempts, case.remains().lately) == (1, 1)


@pytest.mark.parametrize("error", [REFUSED, NO_ANSWER, Killed("before")], ids=["refused", "not sent", "killed"])
def test_a_request_that_octavia_did_not_accept_does_not_count(case: Case, error: BaseException) -> None:
    for _number in range(5):
        finding = case.finding()
        case.house.cloud.weather.before = at_the_request(error)
        with pytest.raises(type(error)):
            case.handler.heal(finding)
        case.house.cloud.weather.before = lambda _call: None
        assert (case.remains().attempts, case.remains().lately) == (0, 0)

    case.handler.heal(case.finding())
    case.fail()
    assert (case.remains().attempts, case.remains().lately) == (1, 1)


def in_error_itself(house: House) -> Case:
    """Return an ACTIVE load balancer whose amphora is in ERROR."""
    case = failed(house)
    house.octavia.set_amphora(case.key.id, status="ERROR")
    return case


@pytest.fixture(params=[miscounted, booting, in_error_itself])
def active(request: pytest.FixtureRequest, house: House) -> Case:
    case: Case = request.param(house)
    grow_older(house)
    house.octavia.add_load_balancer()
    house.octavia.pace.held = True
    assert house.balancer(case.balancer).status == "ACTIVE"
    return case


def owner_changes(case: Case, call: str) -> Callable[[str], None]:
    """Let the owner change the load balancer right before the first call whose name begins so."""

    def strike(made: str) -> None:
        if made.startswith(call):
            case.house.cloud.weather.before = lambda _call: None
            case.house.octavia.set_balancer(case.balancer, "PENDING_UPDATE")

    return strike


def test_a_request_that_octavia_refuses_because_the_owner_was_first_does_not_count(active: Case) -> None:
    for _number in range(len(rebuild.PAUSES)):
        active.house.cloud.weather.before = owner_changes(active, "failover")
        with pytest.raises(UnavailableException, match="409"):
            active.handler.heal(active.finding())
        active.house.octavia.set_balancer(active.balancer, "ACTIVE")
        grow_older(active.house)
        assert (active.remains().attempts, active.remains().lately) == (0, 0)
    assert active.finding().healable


def test_a_failover_of_the_owner_counts_though_octavia_refuses_ours(case: Case) -> None:
    """Octavia lets nobody change a load balancer in ERROR, other than by a failover or a deletion."""
    case.house.cloud.weather.before = owner_changes(case, "failover")
    with pytest.raises(UnavailableException, match="409"):
        case.handler.heal(case.finding())
    case.fail()
    assert (case.remains().attempts, case.remains().lately) == (1, 1)


def test_nothing_is_requested_and_nothing_counts_if_the_row_changes_before_the_server_is_forgotten(
    make_house: Callable[..., House],
) -> None:
    house = make_house(maximum_preserved_amphora_count=1)
    case = in_error_itself(house)
    grow_older(house)
    while (finding := case.finding()).problem != "let-go":
        case.handler.heal(finding)
    house.cloud.weather.before = owner_changes(case, "tag_security_group")
    with pytest.raises(InFlight):
        case.handler.heal(finding)
    house.octavia.set_balancer(case.balancer, "ACTIVE")
    assert (case.remains().attempts, case.remains().lately) == (0, 0)


def test_the_record_of_another_handler_stays_after_a_refusal(active: Case) -> None:
    before = active.house.balancer(active.balancer)
    group = rebuild.security_group(active.house.driver, active.balancer)
    assert group is not None
    for row in active.house.rows(active.balancer):
        record = rebuild.Attempt(row.id, rebuild.version(before))
        active.house.driver.tag_security_group(group.id, record.tag)
    finding = active.finding()
    active.house.cloud.weather.before = owner_changes(active, "failover")
    with pytest.raises(UnavailableException, match="409"):
        active.handler.heal(finding)
    active.house.octavia.set_balancer(active.balancer, "ACTIVE")
    assert active.remains().lately == 1


@dataclass(frozen=True)
class Rivals:
    """A pair in ERROR with two failed amphorae, and the ways to request its one failover."""

    house: House
    balancer: str

    @classmethod
    def of(cls, house: House) -> Rivals:
        balancer = house.octavia.add_load_balancer("ACTIVE_STANDBY")
        for row in house.serving(balancer):
            house.cloud.alter_server(row.compute_id or "", status="SHUTOFF")
        house.octavia.set_balancer(balancer, "ERROR")
        grow_older(house)
        house.octavia.add_load_balancer("ACTIVE_STANDBY")
        house.octavia.pace.held = True
        return cls(house, balancer)

    def case(self, number: int) -> Case:
        """Return the first amphora, the second, or the load balancer itself, with the handler that judges it."""
        if number < 2:
            key = Key("amphora", self.house.serving(self.balancer)[number].id)
            return Case(self.house, self.balancer, self.house.handler(), key)
        handler = StuckLoadBalancers(self.house.driver, Queue(), AFTER, permissions=Permissions(failover_errors=True))
        return Case(self.house, self.balancer, handler, Key("load-balancer", self.balancer))

    def race(self, first: int, second: int) -> None:
        """Let Octavia accept a request after another one was proved and recorded, and before it is sent."""
        winner, loser = self.case(first), self.case(second)
        finding, rival = winner.finding(), loser.finding()

        def overtake(call: str) -> None:
            if call.startswith("failover"):
                self.house.cloud.weather.before = lambda _call: None
                winner.handler.heal(finding)

        self.house.cloud.weather.before = overtake
        with pytest.raises(UnavailableException, match="409"):
            loser.handler.heal(rival)


@pytest.mark.parametrize(("first", "second"), list(permutations(range(3), 2)))
def test_requests_for_one_state_of_a_load_balancer_count_once(house: House, first: int, second: int) -> None:
    """Octavia accepts one of them, and refuses the other, whose record stays."""
    rivals = Rivals.of(house)
    for number in range(len(rebuild.PAUSES)):
        rivals.race(first, second)
        case = rivals.case(0)
        case.fail()
        assert (case.remains().attempts, case.remains().lately) == (number + 1, number + 1)
        grow_older(house)
    assert all("did not help" in rivals.case(number).finding().refusal for number in range(3))


def test_nothing_is_requested_that_cannot_be_counted(case: Case) -> None:
    finding = case.finding()
    before = case.house.balancer(case.balancer)
    (group,) = (one for one in case.house.cloud.security_groups() if one.name == f"lb-{case.balancer}")

    def delete(call: str) -> None:
        if call == "tag_security_group":
            case.house.cloud.delete_security_group(group.id)

    case.house.cloud.weather.before = delete
    with pytest.raises(Conflict, match="is gone"):
        case.handler.heal(finding)
    assert case.house.balancer(case.balancer).updated_at == before.updated_at


def test_three_attempts_are_followed_by_a_report(case: Case) -> None:
    requests = 0
    for _number in range(6):
        finding = case.finding()
        if finding.healable:
            case.handler.heal(finding)
            requests += 1
            case.fail()
            grow_older(case.house)
    assert requests == len(rebuild.PAUSES)
    assert "did not help" in case.finding().refusal


@pytest.mark.parametrize("error", [REFUSED, NO_ANSWER], ids=["refused", "not sent"])
def test_a_request_that_octavia_did_not_accept_costs_no_spare(case_with_spares: Case, error: BaseException) -> None:
    case = case_with_spares
    finding = case.finding()
    case.house.cloud.weather.before = at_the_request(error)
    with pytest.raises(type(error)):
        case.handler.heal(finding)
    assert spares_of(case) == 2


def test_a_spare_goes_after_the_request_and_none_after_an_attempt_that_had_one(case_with_spares: Case) -> None:
    case = case_with_spares
    when_accepted: list[int] = []

    def note(call: str) -> None:
        if call.startswith("failover"):
            when_accepted.append(spares_of(case))

    case.house.cloud.weather.after = note
    for _attempt in range(2):
        case.handler.heal(case.finding())
        case.fail()
        grow_older(case.house)
    assert when_accepted == [2, 1]
    assert spares_of(case) == 1


def test_pauses_outlive_a_restart(house: House) -> None:
    case = failed(house)
    house.octavia.set_balancer(case.balancer, "ERROR")
    house.octavia.pace.held = True
    for pause in rebuild.PAUSES:
        house.pass_time(pause - 2)
        with pytest.raises(InFlight, match="the next failover waits"):
            list(replace(case, handler=house.handler()).handler.inspect(case.key))
        house.pass_time(3)
        again = replace(case, handler=house.handler())
        again.handler.heal(again.finding())
        case.fail()


def test_old_records_go(house: House) -> None:
    """Neutron keeps 50 tags of an object."""
    case = failed(house)
    house.octavia.set_balancer(case.balancer, "ERROR")
    house.cloud.room = 0
    for _number in range(60):
        grow_older(house, 100_000)
        (finding,) = case.handler.inspect(case.key)
        if finding.healable:
            case.handler.heal(finding)
            house.cloud.room = 0
        else:
            house.cloud.room = 1000
            house.octavia.failover_load_balancer(case.balancer)
            case = replace(case, key=Key("amphora", house.fail(case.balancer).id))
            house.octavia.set_balancer(case.balancer, "ERROR")
            house.cloud.room = 0
    (group,) = (one for one in house.cloud.security_groups() if one.name == f"lb-{case.balancer}")
    assert 0 < len(group.tags) <= 10


def test_a_working_amphora_is_replaced_without_a_record(house: House) -> None:
    """Nothing waits for Neutron while the load balancer is ACTIVE: its failure sets ERROR, and only then attempts count."""
    balancer = house.octavia.add_load_balancer()
    key = Key("amphora", house.fail(balancer).id)
    called: list[str] = []
    house.cloud.weather.before = called.append
    handler = house.handler()
    (finding,) = handler.inspect(key)
    handler.heal(finding)
    assert not [call for call in called if "security_group" in call]
