"""A load balancer that is stuck in its creation or deletion: reported, set to ERROR on request, deleted by its owner only."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import pytest

from handlers.base import Conflict, Finding, Handler, HandlerError, Key, Refused
from handlers.octavia import queries, rebuild
from handlers.octavia.leftovers.deactivated_amphorae import DeactivatedAmphorae
from handlers.octavia.stuck.problems import NONE, Permissions
from handlers.octavia.stuck.stuck_load_balancers import StuckLoadBalancers
from tests.functional.octavia.mending import findings, grow_older, killed_everywhere, mend, world
from tests.functional.octavia.operator import Operator
from tests.functional.octavia.work_queue import Postings, Queue, job
from tests.functional.octavia.world import House, balancer_key

AFTER = 1800.0
EVERYTHING = Permissions(failover_errors=True, failover_children=True, return_to_owner=True)

both = pytest.mark.parametrize("status", ["PENDING_CREATE", "PENDING_DELETE"])


def handler(house: House, permissions: Permissions = EVERYTHING, queue: Queue | None = None) -> StuckLoadBalancers:
    return StuckLoadBalancers(house.driver, queue or Queue(), AFTER, permissions)


def stuck(house: House, status: str, topology: str = "SINGLE") -> str:
    """Return a load balancer in a state that its flow left, long ago."""
    balancer = house.octavia.add_load_balancer(topology)
    house.octavia.set_balancer(balancer, status)
    grow_older(house)
    return balancer


def delete_security_group(house: House, balancer: str) -> None:
    (group,) = (group for group in house.cloud.security_groups() if group.name == f"lb-{balancer}")
    house.cloud.delete_security_group(group.id)


def tags(house: House, balancer: str) -> list[str]:
    group = rebuild.security_group(house.driver, balancer)
    return [] if group is None else sorted(group.tags)


@both
def test_without_permission_it_is_reported_with_the_statement_for_an_operator(house: House, status: str) -> None:
    balancer = stuck(house, status)
    (finding,) = findings(handler(house, NONE))
    assert not finding.healable
    before = world(house)
    with pytest.raises(Refused):
        handler(house, NONE).heal(finding)
    assert world(house) == before

    _before, _run, then = finding.refusal.partition(", or run ")
    statement, _then, command = then.partition("; then its owner runs ")
    house.database.run(lambda connection: connection.exec_driver_sql(statement))
    assert house.balancer(balancer).status == "ERROR"
    assert command == f"openstack loadbalancer delete --cascade {balancer}"


@both
def test_an_operator_who_runs_the_statement_late_changes_nothing(house: House, status: str) -> None:
    balancer = stuck(house, status)
    (finding,) = findings(handler(house, NONE))
    statement = finding.refusal.partition(", or run ")[2].partition("; then")[0]
    house.octavia.set_balancer(balancer, status)
    house.database.run(lambda connection: connection.exec_driver_sql(statement))
    assert house.balancer(balancer).status == status


@both
def test_with_permission_its_owner_can_delete_it(house: House, status: str) -> None:
    balancer = stuck(house, status)
    (healed,) = mend(handler(house))
    assert healed.complete
    assert house.balancer(balancer).status == "ERROR"
    house.octavia.delete_load_balancer(balancer)
    assert house.balancer(balancer).status == "DELETED"
    assert house.cloud.servers() == []


def _whole(house: House, balancer: str) -> None:
    del house, balancer


def _without_an_amphora(house: House, balancer: str) -> None:
    house.octavia.set_amphora(house.serving(balancer)[0].id, status="DELETED", load_balancer_id=None)


def _failed_amphora(house: House, balancer: str) -> None:
    house.octavia.set_amphora(house.serving(balancer)[0].id, status="ERROR")


def _silent_amphora(house: House, balancer: str) -> None:
    house.silence(house.serving(balancer)[0].id, 3600.0)


def _amphora_of_a_flow(house: House, balancer: str) -> None:
    house.octavia.set_amphora(house.serving(balancer)[0].id, status="BOOTING")


def _stopped_server(house: House, balancer: str) -> None:
    house.cloud.alter_server(house.serving(balancer)[0].compute_id or "", status="SHUTOFF")


def every_handler(house: House) -> list[Handler]:
    """Return the handlers that fail over load balancers."""
    return [
        handler(house),
        house.handler(600.0),
        DeactivatedAmphorae(house.driver, Queue(), AFTER, without_rows=True),
    ]


@both
@pytest.mark.parametrize("topology", ["SINGLE", "ACTIVE_STANDBY"])
@pytest.mark.parametrize(
    "later",
    [_whole, _without_an_amphora, _failed_amphora, _silent_amphora, _amphora_of_a_flow, _stopped_server],
)
def test_nothing_fails_it_over_afterwards(
    house: House, status: str, topology: str, later: Callable[[House, str], None]
) -> None:
    """Every permission for a failover is given, and its amphorae fail."""
    balancer = stuck(house, status, topology)
    mend(handler(house))
    grow_older(house)
    later(house, balancer)
    at = house.balancer(balancer).updated_at
    for one in every_handler(house):
        for finding in found(one, house, balancer):
            assert not (finding.healable and finding.problem.startswith(("failover", "load-balancer-error")))
            if finding.healable:
                with_heal(one, finding)
    assert house.balancer(balancer).status == "ERROR"
    assert house.balancer(balancer).updated_at == at, "no failover began"


def found(one: Handler, house: House, balancer: str) -> list[Finding]:
    keys = [balancer_key(balancer), *(Key("amphora", row.id) for row in house.serving(balancer))]
    return [finding for key in keys if key.kind in one.kinds for finding in inspected(one, key)]


def inspected(one: Handler, key: Key) -> list[Finding]:

    with suppress(HandlerError):
        return list(one.inspect(key))
    return []


def with_heal(one: Handler, finding: Finding) -> None:

    with suppress(HandlerError):
        one.heal(finding)


@both
def test_the_report_afterwards_names_the_owner(house: House, status: str) -> None:
    stuck(house, status)
    mend(handler(house, Permissions(return_to_owner=True)))
    grow_older(house)
    (finding,) = findings(handler(house, Permissions(return_to_owner=True)))
    assert (finding.problem, finding.healable) == ("load-balancer-error", False)
    assert "only its owner" in finding.refusal


@both
def test_without_a_security_group_it_is_freed_and_stays(house: House, status: str) -> None:
    """Octavia deletes the group before the amphorae, and creates it late."""
    balancer = stuck(house, status, "ACTIVE_STANDBY")
    delete_security_group(house, balancer)
    (finding,) = findings(handler(house))
    assert finding.undo.startswith("none until the heal has ended: ")
    Operator(house).follow(handler(house).heal(finding).undo, finding.problem)
    assert house.balancer(balancer).status == status
    grow_older(house)
    mend(handler(house))
    grow_older(house)
    house.octavia.set_amphora(house.serving(balancer)[0].id, status="DELETED", load_balancer_id=None)
    assert [one.healable for one in findings(handler(house))] == [False]


@both
def test_the_undo_before_and_after_the_write_restores_the_state(house: House, status: str) -> None:
    balancer = stuck(house, status)
    for known_before in (True, False):
        (finding,) = findings(handler(house))
        healed = handler(house).heal(finding)
        assert house.balancer(balancer).status == "ERROR"
        Operator(house).follow(finding.undo if known_before else healed.undo, finding.problem)
        assert house.balancer(balancer).status == status
        grow_older(house)


@both
def test_a_late_undo_leaves_a_later_state_alone(house: House, status: str) -> None:
    balancer = stuck(house, status)
    (finding,) = findings(handler(house))
    handler(house).heal(finding)
    house.octavia.set_balancer(balancer, "ERROR")
    Operator(house).follow(finding.undo, finding.problem)
    assert house.balancer(balancer).status == "ERROR"


def test_a_second_heal_keeps_one_tag(house: House) -> None:
    balancer = stuck(house, "PENDING_CREATE")
    mend(handler(house))
    house.octavia.set_balancer(balancer, "PENDING_DELETE")
    (first,) = tags(house, balancer)
    grow_older(house)
    mend(handler(house))
    (second,) = tags(house, balancer)
    assert first.startswith(rebuild.FREED)
    assert second == f"{rebuild.FREED}{house.balancer(balancer).updated_at:%Y-%m-%dT%H:%M:%S}"


@both
def test_a_job_of_it_is_reported_and_left_to_its_worker(house: House, status: str) -> None:
    balancer = stuck(house, status)
    queue = Queue()
    queue.board = Postings(job("get_create_load_balancer_flow-7", balancer))
    one = handler(house, queue=queue)
    (finding,) = findings(one)
    assert "get_create_load_balancer_flow-7" in finding.refusal
    with pytest.raises(Refused):
        one.heal(finding)
    queue.board = Postings(job("get_create_load_balancer_flow-7", "another"))
    mend(one)
    assert house.balancer(balancer).status == "ERROR"


def test_a_job_that_is_posted_in_the_last_moment_wins(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    balancer = stuck(house, "PENDING_DELETE")
    queue = Queue()
    queue.board = board = Postings()
    one = handler(house, queue=queue)
    (finding,) = findings(one)
    tag = house.driver.tag_security_group

    def posted(*arguments: str) -> None:
        tag(*arguments)
        board._jobs.append(job("get_delete_load_balancer_flow-1", balancer))

    monkeypatch.setattr(house.driver, "tag_security_group", posted)
    with pytest.raises(Refused, match="get_delete_load_balancer_flow-1"):
        one.heal(finding)
    assert house.balancer(balancer).status == "PENDING_DELETE"


def test_a_flow_that_writes_in_the_last_moment_wins(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    balancer = stuck(house, "PENDING_CREATE")
    (finding,) = findings(handler(house))
    tag = house.driver.tag_security_group

    def flow_ends(*arguments: str) -> None:
        tag(*arguments)
        house.octavia.set_balancer(balancer, "ACTIVE")

    monkeypatch.setattr(house.driver, "tag_security_group", flow_ends)
    with pytest.raises(Conflict):
        handler(house).heal(finding)
    assert house.balancer(balancer).status == "ACTIVE"
    assert tags(house, balancer) == [], "stackmend may fail it over later"


@both
def test_with_a_silent_amphora_the_health_manager_is_stopped_first(house: House, status: str) -> None:
    """As soon as the load balancer is in ERROR, the health manager fails it over."""
    balancer = stuck(house, status)
    (row,) = house.serving(balancer)
    house.octavia.heartbeat(row.id, silent=3600)
    (finding,) = findings(handler(house))
    statement = finding.refusal.partition("first run ")[2]
    assert not finding.healable
    assert house.health_manager_replaces() == [row.id]
    house.database.run(lambda connection: connection.exec_driver_sql(statement))
    mend(handler(house))
    assert house.balancer(balancer).status == "ERROR"
    assert house.health_manager_replaces() == []


@pytest.mark.slow
@both
def test_it_is_freed_although_the_handler_is_killed_at_any_moment(
    make_house: Callable[..., House], status: str
) -> None:
    def make() -> tuple[House, StuckLoadBalancers]:
        house = make_house()
        stuck(house, status)
        return house, handler(house)

    moments = 0
    for house, one, where in killed_everywhere(make):
        mend(one)
        moments += 1
        (row,) = house.database.run(queries.load_balancers)
        assert row.status == "ERROR", where
        (tag,) = tags(house, row.id)
        assert tag.startswith(rebuild.FREED), where
    assert moments > 5
