"""Listeners, pools and their parts in PENDING_* under an ACTIVE load balancer: found, reported, completed on request."""

from __future__ import annotations

from functools import partial

import pytest
import sqlalchemy as sa

from handlers.base import Conflict, InFlight, Key, Refused, Unavailable
from handlers.octavia import children, tables
from handlers.octavia.children import Kind
from handlers.octavia.stuck.problems import Permissions
from handlers.octavia.stuck.stuck_load_balancers import StuckLoadBalancers
from tests.functional.octavia.mending import findings, grow_older, mend, world
from tests.functional.octavia.work_queue import Queue
from tests.functional.octavia.world import House

AFTER = 1800.0


def handler(house: House, queue: Queue | None = None, permitted: bool = True) -> StuckLoadBalancers:
    return StuckLoadBalancers(
        house.driver, queue or Queue(), AFTER, permissions=Permissions(failover_children=permitted)
    )


def unfinished(house: House, kind: Kind, status: str = "PENDING_UPDATE") -> tuple[str, str]:
    """Return an old ACTIVE load balancer and the id of its object in PENDING_*."""
    balancer = house.octavia.add_load_balancer("ACTIVE_STANDBY")
    identity = house.octavia.add_children(balancer)[kind]
    house.octavia.set_child(kind, identity, status)
    grow_older(house)
    return balancer, identity


def pending(house: House, balancer: str) -> list[children.Child]:
    return house.database.run(partial(children.pending_of, load_balancer=balancer))


@pytest.mark.parametrize("status", ["PENDING_CREATE", "PENDING_UPDATE", "PENDING_DELETE"])
@pytest.mark.parametrize("kind", Kind)
def test_a_sweep_reports_each_object_that_stays_in_pending(house: House, kind: Kind, status: str) -> None:
    balancer, identity = unfinished(house, kind, status)
    house.octavia.add_children(house.octavia.add_load_balancer())
    before = world(house)

    (finding,) = findings(handler(house, permitted=False))

    assert (finding.key, finding.problem) == (Key("load-balancer", balancer), "stuck-children")
    assert f"{kind} {identity} ({status})" in finding.summary
    assert finding.evidence["children"][f"{kind} {identity}"][0] == status
    assert not finding.healable
    assert ("delete it again" if status == "PENDING_DELETE" else f"failover {balancer}") in finding.refusal
    with pytest.raises(Refused):
        handler(house, permitted=False).heal(finding)
    assert world(house) == before


@pytest.mark.parametrize("status", ["PENDING_CREATE", "PENDING_UPDATE"])
@pytest.mark.parametrize("kind", Kind)
def test_with_permission_one_failover_completes_it(house: House, kind: Kind, status: str) -> None:
    balancer, _identity = unfinished(house, kind, status)
    healed = mend(handler(house))
    assert sum(heal.action.startswith("asked") for heal in healed) == 1
    assert pending(house, balancer) == []
    house.assert_whole(balancer, amphorae=2)


def test_an_object_that_its_owner_deleted_is_never_restored(house: House) -> None:
    balancer, _identity = unfinished(house, Kind.LISTENER, "PENDING_DELETE")
    house.octavia.set_child(Kind.POOL, house.octavia.add_children(balancer)[Kind.POOL], "PENDING_UPDATE")
    grow_older(house)
    (finding,) = findings(handler(house))
    assert (finding.healable, mend(handler(house))) == (False, [])
    assert {child.status for child in pending(house, balancer)} == {"PENDING_DELETE", "PENDING_UPDATE"}


@pytest.mark.parametrize(("queue", "proved"), [(Queue(), True), (Queue("Octavia has a jobboard"), False)])
def test_a_report_denies_a_flow_only_if_the_queue_proves_it(house: House, queue: Queue, proved: bool) -> None:
    unfinished(house, Kind.POOL)
    (finding,) = findings(
        StuckLoadBalancers(house.driver, queue, AFTER, permissions=Permissions(failover_children=True))
    )
    assert (finding.healable, "no flow" in finding.summary) == (proved, proved)


def test_a_failover_that_left_it_in_pending_is_not_repeated(house: House) -> None:
    """Octavia 10 to 12 leave a pool without a listener in PENDING_*."""
    balancer, identity = unfinished(house, Kind.POOL)
    requests = 0
    for _sweep in range(4):
        requests += sum(heal.action.startswith("asked") for heal in mend(handler(house)))
        house.octavia.set_child(Kind.POOL, identity, "PENDING_UPDATE")
        grow_older(house)
    assert requests == 1
    (finding,) = findings(handler(house))
    assert "did not help" in finding.refusal
    assert house.balancer(balancer).status == "ACTIVE"


def test_a_request_that_the_api_refuses_is_no_failover(house: House) -> None:
    balancer, _identity = unfinished(house, Kind.POOL)
    (finding,) = findings(handler(house))
    house.cloud.weather.unreachable = {"load-balancer"}
    with pytest.raises(Unavailable):
        handler(house).heal(finding)
    house.cloud.weather.unreachable = set()
    mend(handler(house))
    assert pending(house, balancer) == []


@pytest.mark.parametrize("status", ["PENDING_UPDATE", "PENDING_CREATE", "PENDING_DELETE"])
def test_under_a_load_balancer_on_which_a_flow_works_it_is_not_looked_at(house: House, status: str) -> None:
    balancer, _identity = unfinished(house, Kind.MEMBER)
    house.octavia.set_balancer(balancer, status)
    assert findings(handler(house)) == []


def test_right_after_the_flow_of_another_object_it_is_given_time(house: House) -> None:
    balancer, _identity = unfinished(house, Kind.MEMBER)
    house.octavia.set_balancer(balancer, "ACTIVE")
    assert findings(handler(house)) == []


def test_an_object_that_changes_between_proof_and_heal_stops_the_heal(house: House) -> None:
    balancer, identity = unfinished(house, Kind.MEMBER)
    (finding,) = findings(handler(house))
    house.octavia.set_child(Kind.MEMBER, identity, "PENDING_UPDATE")
    grow_older(house)
    before = world(house)
    with pytest.raises(Conflict):
        handler(house).heal(finding)
    assert world(house) == before
    assert house.balancer(balancer).status == "ACTIVE"


def test_objects_of_other_providers_stay(house: House) -> None:
    unfinished(house, Kind.POOL)
    change = sa.update(tables.load_balancer).values(provider="ovn")
    house.database.run(lambda connection: connection.execute(change))
    assert findings(handler(house)) == []


def test_a_wrong_number_of_amphorae_is_healed_first_and_completes_it_too(house: House) -> None:
    balancer, _identity = unfinished(house, Kind.POOL)
    house.octavia._delete(house.serving(balancer)[0])
    grow_older(house)
    healed = mend(handler(house, permitted=False))
    assert sum(heal.action.startswith("asked") for heal in healed) == 1
    assert pending(house, balancer) == []


def test_the_queue_of_the_provider_amphorav1_must_be_idle_too(house: House) -> None:
    """Octavia 10 to 12: this provider sends its requests to ``[oslo_messaging] topic``."""
    balancer, _identity = unfinished(house, Kind.POOL)
    change = sa.update(tables.load_balancer).values(provider="amphorav1")
    house.database.run(lambda connection: connection.execute(change))
    with pytest.raises(Unavailable, match="amphorav1 is unknown"):
        handler(house).inspect(Key("load-balancer", balancer))
    queue = Queue(old_topic="octavia_prov")
    queue.waiting = {"octavia_prov": 1}
    with pytest.raises(InFlight, match="1 requests wait"):
        handler(house, queue).inspect(Key("load-balancer", balancer))
    queue.waiting = {}
    mend(handler(house, queue))
    assert pending(house, balancer) == []
