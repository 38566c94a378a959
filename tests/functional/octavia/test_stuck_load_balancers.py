"""Load balancers without a flow are freed and get their amphorae back; those on which a flow may work stay."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import sqlalchemy as sa
from oslo_config import cfg

from consumer.bus import probe
from consumer.conf import bus as bus_conf
from handlers.access.service_files import ConfigError
from handlers.base import Bus, Conflict, InFlight, Key, QueueDepth, QueueReader, Refused, Resources, Unavailable
from handlers.octavia import options, queries, tables
from handlers.octavia.housekeeping import AmphoraDriverError
from handlers.octavia.stuck.problems import Permissions
from handlers.octavia.stuck.stuck_load_balancers import StuckLoadBalancers
from handlers.octavia.work_queue import QUEUE, WorkQueue
from tests.functional.octavia.mending import findings, grow_older, killed_everywhere, mend, problems, world
from tests.functional.octavia.work_queue import Queue
from tests.functional.octavia.world import House, balancer_key

AFTER = 1800.0


@pytest.fixture
def queue() -> Queue:
    return Queue()


@pytest.fixture
def handler(house: House, queue: Queue) -> StuckLoadBalancers:
    return StuckLoadBalancers(house.driver, queue, AFTER)


def stuck(house: House, status: str = "PENDING_UPDATE") -> str:
    """A load balancer in a state that its flow left, long ago."""
    balancer = house.octavia.add_load_balancer()
    house.octavia.set_balancer(balancer, status)
    grow_older(house)
    return balancer


def add_amphora(house: House, balancer: str, status: str) -> None:
    house.octavia._build(balancer, "STANDALONE", None, 0)
    newest = max(house.serving(balancer), key=lambda row: (row.updated_at is None, str(row.id)))
    house.octavia.set_amphora(newest.id, status=status)


def assert_whole(house: House, balancer: str) -> None:
    """ACTIVE, with the amphorae of its topology, and nothing else of it in the cloud."""
    row, live = house.balancer(balancer), house.serving(balancer)
    assert row.status == "ACTIVE"
    assert len(live) == {"SINGLE": 1, "ACTIVE_STANDBY": 2}[row.topology or ""]
    assert {amphora.status for amphora in live} == {"ALLOCATED"}
    assert {server.id for server in house.cloud.servers()} == {amphora.compute_id for amphora in live}
    deleted = [amphora for amphora in house.database.run(queries.deleted_amphorae) if amphora.load_balancer_id]
    assert deleted == []


def test_a_healthy_cloud_has_nothing_stuck(house: House, handler: StuckLoadBalancers) -> None:
    house.octavia.add_load_balancer()
    house.octavia.add_load_balancer("ACTIVE_STANDBY", anti_affinity=True)
    gone = house.octavia.add_load_balancer()
    house.octavia.delete_load_balancer(gone)
    grow_older(house)
    assert findings(handler) == []
    assert list(handler.inspect(balancer_key(gone))) == []
    assert list(handler.inspect(balancer_key("no such load balancer"))) == []


def test_stuck_in_an_update_it_is_freed_and_failed_over(house: House, handler: StuckLoadBalancers) -> None:
    balancer = stuck(house)
    (old,) = house.serving(balancer)
    healed = mend(handler)
    assert_whole(house, balancer)
    assert house.serving(balancer)[0].id != old.id
    assert [heal.action.split()[0] for heal in healed] == ["set", "asked", "detached"]


def test_the_amphorae_of_a_dead_worker_are_replaced(house: House, handler: StuckLoadBalancers) -> None:
    """Killed mid-failover: the old amphora is PENDING_DELETE, the new one BOOTING, and both have servers."""
    balancer = house.octavia.add_load_balancer()
    house.octavia.set_amphora(house.serving(balancer)[0].id, status="PENDING_DELETE")
    add_amphora(house, balancer, "BOOTING")
    house.octavia.set_balancer(balancer, "PENDING_UPDATE")
    grow_older(house)
    mend(handler)
    assert_whole(house, balancer)


def test_a_server_in_error_does_not_prevent_the_freeing(house: House, handler: StuckLoadBalancers) -> None:
    balancer = house.octavia.add_load_balancer("ACTIVE_STANDBY")
    failed, _other = house.serving(balancer)
    house.cloud.alter_server(failed.compute_id or "", status="ERROR")
    house.octavia.set_balancer(balancer, "PENDING_UPDATE")
    grow_older(house)
    mend(handler)
    assert_whole(house, balancer)


def test_the_undo_of_freeing_works(house: House, handler: StuckLoadBalancers) -> None:
    balancer = stuck(house)
    (finding,) = findings(handler)
    healed = handler.heal(finding)
    assert house.balancer(balancer).status == "ERROR"
    house.database.run(lambda connection: connection.exec_driver_sql(healed.undo))
    assert house.balancer(balancer).status == "PENDING_UPDATE"


@pytest.mark.parametrize("status", ["PENDING_CREATE", "PENDING_UPDATE", "PENDING_DELETE"])
def test_a_load_balancer_on_which_a_flow_may_work_stays(house: House, handler: StuckLoadBalancers, status: str) -> None:
    balancer = house.octavia.add_load_balancer()
    grow_older(house)
    house.octavia.set_balancer(balancer, status)
    assert findings(handler) == []
    assert list(handler.inspect(balancer_key(balancer))) == []


def test_an_amphora_that_was_just_written_shows_a_flow_at_work(house: House, handler: StuckLoadBalancers) -> None:
    balancer = stuck(house)
    house.octavia.set_amphora(house.serving(balancer)[0].id, status="PENDING_DELETE")
    assert findings(handler) == []


@pytest.mark.parametrize("known", [True, False])
def test_a_server_that_is_building_shows_a_flow_at_work(house: House, handler: StuckLoadBalancers, known: bool) -> None:
    balancer = house.octavia.add_load_balancer()
    (row,) = house.serving(balancer)
    house.cloud.alter_server(row.compute_id or "", status="BUILD")
    if not known:
        house.octavia.set_amphora(row.id, status="PENDING_CREATE", compute_id=None)
    house.octavia.set_balancer(balancer, "PENDING_UPDATE")
    grow_older(house)
    with pytest.raises(InFlight):
        handler.inspect(balancer_key(balancer))


@pytest.mark.parametrize("error", [InFlight("requests wait"), Unavailable("octavia-worker", "no worker consumes")])
def test_a_load_balancer_whose_request_waits_in_the_queue_stays(
    house: House, handler: StuckLoadBalancers, queue: Queue, error: Exception
) -> None:
    balancer = stuck(house)
    (finding,) = findings(handler)
    queue.error = error
    with pytest.raises(type(error)):
        handler.inspect(balancer_key(balancer))
    with pytest.raises(type(error)):
        handler.heal(finding)
    assert house.balancer(balancer).status == "PENDING_UPDATE"


def test_the_queue_is_read_again_right_before_the_write(
    house: House, handler: StuckLoadBalancers, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    balancer = stuck(house)
    (finding,) = findings(handler)
    describe = house.driver.describe_server

    def request_comes(*arguments: object) -> None:
        describe(*arguments)  # type: ignore[arg-type]
        queue.error = InFlight("a request waits")

    monkeypatch.setattr(house.driver, "describe_server", request_comes)
    with pytest.raises(InFlight):
        handler.heal(finding)
    assert house.balancer(balancer).status == "PENDING_UPDATE"


def test_a_stuck_load_balancer_is_only_reported_where_the_queue_is_unknown(house: House) -> None:
    handler = StuckLoadBalancers(house.driver, Queue("Octavia has a jobboard"), AFTER)
    balancer = stuck(house)
    (finding,) = findings(handler)
    assert (finding.healable, finding.refusal) == (False, "Octavia has a jobboard")
    assert "no flow" not in finding.summary
    with pytest.raises(Refused):
        handler.heal(finding)
    assert house.balancer(balancer).status == "PENDING_UPDATE"


def test_a_load_balancer_that_moved_on_is_not_touched(house: House, handler: StuckLoadBalancers) -> None:
    balancer = stuck(house)
    (finding,) = findings(handler)
    house.octavia.set_balancer(balancer, "ACTIVE")
    before = world(house)
    with pytest.raises(Conflict):
        handler.heal(finding)
    assert world(house) == before


def test_a_flow_that_writes_in_the_last_moment_wins(
    house: House, handler: StuckLoadBalancers, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    balancer = stuck(house)
    (finding,) = findings(handler)
    monkeypatch.setattr(queue, "prove_idle", lambda *requests: None)
    describe = house.driver.describe_server

    def flow_ends(*arguments: object) -> None:
        describe(*arguments)  # type: ignore[arg-type]
        house.octavia.set_balancer(balancer, "ACTIVE")

    monkeypatch.setattr(house.driver, "describe_server", flow_ends)
    with pytest.raises(Conflict):
        handler.heal(finding)
    assert house.balancer(balancer).status == "ACTIVE"
    grow_older(house)
    assert findings(handler) == []


def test_a_new_flow_that_begins_between_proof_and_write_is_not_taken_for_the_stuck_one(
    house: House, handler: StuckLoadBalancers, monkeypatch: pytest.MonkeyPatch
) -> None:
    balancer = stuck(house)
    (finding,) = findings(handler)
    inspect = handler.inspect

    def proved_then_new_flow(key: Key) -> object:
        proved = inspect(key)
        house.octavia.set_balancer(balancer, "PENDING_UPDATE")
        return proved

    monkeypatch.setattr(handler, "inspect", proved_then_new_flow)
    with pytest.raises(Conflict):
        handler.heal(finding)
    assert house.balancer(balancer).status == "PENDING_UPDATE"


def test_in_error_for_another_reason_it_is_only_reported(house: House, handler: StuckLoadBalancers) -> None:
    """The mark on the servers counts only while the row is unchanged."""
    balancer = stuck(house)
    handler.heal(findings(handler)[0])
    assert problems(handler) == ["failover-due"]
    house.octavia.set_balancer(balancer, "ACTIVE")
    house.octavia.set_balancer(balancer, "ERROR")
    change = sa.update(tables.load_balancer).values(updated_at=sa.func.datetime("now", "+7 seconds"))
    house.database.run(lambda connection: connection.execute(change))
    assert findings(handler) == []
    grow_older(house)
    (finding,) = findings(handler)
    assert (finding.problem, finding.healable) == ("load-balancer-error", False)


def test_a_load_balancer_in_error_is_failed_over_where_the_operator_allows_it(house: House, queue: Queue) -> None:
    balancer = stuck(house, "ERROR")
    mend(StuckLoadBalancers(house.driver, queue, AFTER, permissions=Permissions(failover_errors=True)))
    assert_whole(house, balancer)


def test_a_load_balancer_with_a_failed_amphora_is_left_to_failed_amphora(house: House, queue: Queue) -> None:
    balancer = house.octavia.add_load_balancer()
    house.octavia.set_amphora(house.serving(balancer)[0].id, status="ERROR")
    house.octavia.set_balancer(balancer, "ERROR")
    grow_older(house)
    assert findings(StuckLoadBalancers(house.driver, queue, AFTER, permissions=Permissions(failover_errors=True))) == []


@pytest.mark.parametrize("topology", ["SINGLE", "ACTIVE_STANDBY"])
@pytest.mark.parametrize("status", ["ACTIVE", "ERROR"])
def test_too_few_amphorae(house: House, handler: StuckLoadBalancers, topology: str, status: str) -> None:
    balancer = house.octavia.add_load_balancer(topology)
    house.octavia._delete(house.serving(balancer)[0])
    house.octavia.set_balancer(balancer, status)
    grow_older(house)
    assert "amphora-count" in problems(handler)
    mend(handler)
    if (topology, status) == ("SINGLE", "ERROR"):
        # without any row, its creation or deletion failed, and only its owner decides
        assert (house.balancer(balancer).status, house.serving(balancer)) == ("ERROR", [])
    else:
        assert_whole(house, balancer)


def delete_vip_port(house: House, balancer: str) -> None:
    for port in house.cloud.ports():
        if port.device_id == f"lb-{balancer}":
            house.cloud.remove_port(port.id)


def delete_server_group(house: House, balancer: str) -> None:
    for group in house.cloud.server_groups():
        if group.name == f"octavia-lb-{balancer}":
            house.cloud.delete_server_group(group.id)


@pytest.mark.parametrize("removed", [delete_vip_port, delete_server_group])
def test_a_load_balancer_whose_deletion_failed_is_not_built_again(
    house: House, queue: Queue, removed: Callable[[House, str], None]
) -> None:
    balancer = house.octavia.add_load_balancer("ACTIVE_STANDBY", anti_affinity=True)
    house.octavia._delete(house.serving(balancer)[0])
    removed(house, balancer)
    house.octavia.set_balancer(balancer, "ERROR")
    grow_older(house)
    handler = StuckLoadBalancers(house.driver, queue, AFTER, permissions=Permissions(failover_errors=True))

    found = {finding.problem: finding for finding in findings(handler)}["amphora-count"]

    assert "only its owner" in found.refusal
    with pytest.raises(Refused, match="only its owner"):
        handler.heal(found)
    mend(handler)
    assert house.balancer(balancer).status == "ERROR"
    assert len(house.cloud.servers()) == 1


def test_three_failovers_that_did_not_help_are_followed_by_a_report(house: House, handler: StuckLoadBalancers) -> None:
    balancer = house.octavia.add_load_balancer("ACTIVE_STANDBY")
    house.octavia._delete(house.serving(balancer)[0])
    house.octavia.set_balancer(balancer, "ERROR")
    house.cloud.room = 0
    requests = 0
    for _number in range(6):
        grow_older(house)
        requests += sum(heal.action.startswith("asked") for heal in mend(handler))
    assert requests == 3
    (finding,) = (finding for finding in findings(handler) if finding.problem == "amphora-count")
    assert "did not help" in finding.refusal


def test_a_request_that_the_api_refuses_is_no_attempt(house: House, handler: StuckLoadBalancers) -> None:
    balancer = house.octavia.add_load_balancer("ACTIVE_STANDBY")
    house.octavia._delete(house.serving(balancer)[0])
    house.octavia.set_balancer(balancer, "ERROR")
    grow_older(house)
    (finding,) = (finding for finding in findings(handler) if finding.problem == "amphora-count")
    house.cloud.weather.unreachable = {"load-balancer"}
    for _number in range(5):
        with pytest.raises(Unavailable):
            handler.heal(finding)
    house.cloud.weather.unreachable = set()
    mend(handler)
    assert_whole(house, balancer)


def test_an_accepted_failover_stands_without_a_spare(
    house: House, handler: StuckLoadBalancers, monkeypatch: pytest.MonkeyPatch
) -> None:
    balancer = house.octavia.add_load_balancer("ACTIVE_STANDBY")
    house.octavia._delete(house.serving(balancer)[0])
    house.octavia.set_balancer(balancer, "ERROR")
    grow_older(house)
    (finding,) = (finding for finding in findings(handler) if finding.problem == "amphora-count")

    def fail(*arguments: object) -> None:
        raise AmphoraDriverError("it answered 400")

    monkeypatch.setattr(house.driver, "servers", fail)
    assert handler.heal(finding).action.startswith("asked Octavia to fail over")
    assert house.balancer(balancer).status == "ACTIVE"


def test_a_load_balancer_whose_creation_failed_is_not_built(house: House, handler: StuckLoadBalancers) -> None:
    balancer = house.octavia.add_load_balancer()
    (row,) = house.serving(balancer)
    house.octavia._delete(row)
    house.octavia.set_amphora(row.id, load_balancer_id=None)
    delete_vip_port(house, balancer)
    house.octavia.set_balancer(balancer, "ERROR")
    grow_older(house)

    (finding,) = findings(handler)

    assert not finding.healable
    mend(handler)
    assert house.cloud.servers() == []


def test_a_problem_without_a_heal_is_refused(house: House, handler: StuckLoadBalancers) -> None:
    balancer = stuck(house)
    (finding,) = findings(handler)
    before = world(house)

    with pytest.raises(Refused, match="does not heal"):
        handler.heal(replace(finding, problem="a-new-problem"))

    assert world(house) == before
    assert house.balancer(balancer).status == "PENDING_UPDATE"


def test_a_load_balancer_whose_request_may_wait_inside_a_worker_stays(house: House) -> None:
    """A worker of two threads takes three requests off the queue at once."""
    handler = StuckLoadBalancers(house.driver, Queue(threads=2), AFTER)
    first = stuck(house)
    other = house.octavia.add_load_balancer()
    house.octavia.set_balancer(other, "PENDING_UPDATE")

    with pytest.raises(InFlight, match="may wait inside a worker"):
        handler.inspect(balancer_key(first))

    house.octavia.set_balancer(other, "ACTIVE")
    assert [finding.healable for finding in handler.inspect(balancer_key(first))] == [True]


def test_too_many_amphorae(house: House, handler: StuckLoadBalancers) -> None:
    balancer = house.octavia.add_load_balancer()
    add_amphora(house, balancer, "ALLOCATED")
    grow_older(house)
    assert problems(handler) == ["amphora-count"]
    mend(handler)
    assert_whole(house, balancer)


def test_a_wrong_number_that_has_just_come_up_is_given_time(house: House, handler: StuckLoadBalancers) -> None:
    balancer = house.octavia.add_load_balancer()
    add_amphora(house, balancer, "ALLOCATED")
    assert findings(handler) == []
    grow_older(house)
    house.octavia.set_balancer(balancer, "PENDING_UPDATE")
    assert findings(handler) == []


def test_a_failover_that_did_not_help_is_not_repeated_at_once(house: House, handler: StuckLoadBalancers) -> None:
    balancer = house.octavia.add_load_balancer("ACTIVE_STANDBY")
    house.octavia.set_balancer(balancer, "PENDING_UPDATE")
    grow_older(house)
    house.cloud.room = 0
    mend(handler)
    assert house.balancer(balancer).status == "ERROR"
    assert findings(handler) == []
    add_amphora_at = house.serving(balancer)[0].id
    house.octavia.set_amphora(add_amphora_at, status="DELETED", load_balancer_id=None)
    assert findings(handler) == []
    house.cloud.room = 9
    grow_older(house)
    mend(handler)
    assert house.balancer(balancer).status == "ACTIVE"


def test_rows_of_deleted_amphorae_are_detached(house: House, handler: StuckLoadBalancers) -> None:
    balancer, other = house.octavia.add_load_balancer(), house.octavia.add_load_balancer()
    (old,) = house.serving(balancer)
    house.driver.failover_amphora(old.id)
    (finding,) = findings(handler)
    assert finding.problem == "deleted-amphora"
    healed = handler.heal(finding)
    assert house.amphora(old.id).load_balancer_id is None
    assert len(house.serving(balancer)) == len(house.serving(other)) == 1
    assert findings(handler) == []
    house.database.run(lambda connection: connection.execute(sa.text(healed.undo)))
    assert house.amphora(old.id).load_balancer_id == balancer


def test_the_row_of_a_deleted_amphora_stays_while_its_server_exists(house: House, handler: StuckLoadBalancers) -> None:
    """The deletion of the load balancer removes the server of every row, so a detached server would outlive it."""
    balancer = house.octavia.add_load_balancer()
    (old,) = house.serving(balancer)
    house.octavia.set_amphora(old.id, status="ERROR", compute_id=None)
    house.driver.failover_amphora(old.id)
    house.octavia.set_amphora(old.id, compute_id=old.compute_id)
    grow_older(house)
    assert findings(handler) == []
    house.cloud.delete_server(old.compute_id or "")
    assert problems(handler) == ["deleted-amphora"]


def test_the_row_of_a_deleted_amphora_is_detached_while_nova_keeps_its_server(
    house: House, handler: StuckLoadBalancers
) -> None:
    """Nova itself ends a soft-deleted server, and until then the next update of the load balancer would fail."""
    house.cloud.weather.soft_deletes = True
    balancer = house.octavia.add_load_balancer()
    house.driver.failover_load_balancer(balancer)
    mend(handler)
    house.assert_whole(balancer)


def test_before_octavia_16_rows_of_deleted_amphorae_stay(house: House, handler: StuckLoadBalancers) -> None:
    balancer = house.octavia.add_load_balancer()
    house.driver.failover_load_balancer(balancer)
    assert problems(handler) == ["deleted-amphora"]
    house.database.run(tables.amphora_member_port.drop)
    assert findings(handler) == []
    assert list(handler.inspect(balancer_key(balancer))) == []


def test_rows_of_deleted_amphorae_stay_while_a_flow_uses_them(house: House, handler: StuckLoadBalancers) -> None:
    balancer = house.octavia.add_load_balancer()
    house.driver.failover_load_balancer(balancer)
    (finding,) = findings(handler)
    house.octavia.set_balancer(balancer, "PENDING_DELETE")
    assert findings(handler) == []
    with pytest.raises(Conflict):
        handler.heal(finding)
    rows = house.database.run(partial(queries.amphorae_of, load_balancer=balancer))
    assert len(rows) == 2


def test_the_row_of_an_amphora_in_preservation_is_left_to_failed_amphora(
    house: House, handler: StuckLoadBalancers
) -> None:
    balancer = house.octavia.add_load_balancer()
    (old,) = house.serving(balancer)
    house.octavia.set_amphora(old.id, status="ERROR", compute_id=None)
    house.driver.failover_amphora(old.id)
    assert findings(handler) == []
    grow_older(house)
    mend(handler)
    assert house.amphora(old.id).load_balancer_id is None


def test_load_balancers_of_other_providers_stay(house: House, handler: StuckLoadBalancers) -> None:
    balancer = stuck(house)
    change = sa.update(tables.load_balancer).values(provider="ovn")
    house.database.run(lambda connection: connection.execute(change))
    assert findings(handler) == []
    assert list(handler.inspect(balancer_key(balancer))) == []


@pytest.mark.parametrize("provider", ["octavia", "amphorav1", "amphorav2"])
def test_other_names_of_the_amphora_provider_are_handled_like_amphora(house: House, provider: str) -> None:
    balancer = stuck(house)
    change = sa.update(tables.load_balancer).values(provider=provider)
    house.database.run(lambda connection: connection.execute(change))
    mend(StuckLoadBalancers(house.driver, Queue(old_topic="octavia_prov"), AFTER))
    assert_whole(house, balancer)


def test_a_schema_that_is_not_known_is_not_written(house: House, handler: StuckLoadBalancers) -> None:
    stuck(house)
    (finding,) = findings(handler)
    change = sa.update(tables.alembic_version).values(version_num="unknown")
    house.database.run(lambda connection: connection.execute(change))
    before = world(house)
    with pytest.raises(Refused):
        handler.heal(finding)
    assert world(house) == before


@pytest.mark.slow
def test_a_load_balancer_is_freed_although_the_handler_is_killed_at_any_moment(
    make_house: Callable[..., House],
) -> None:
    def make() -> tuple[House, StuckLoadBalancers]:
        house = make_house()
        stuck(house)
        return house, StuckLoadBalancers(house.driver, Queue(), AFTER)

    moments = 0
    for house, handler, where in killed_everywhere(make):
        mend(handler)
        moments += 1
        (balancer,) = house.database.run(queries.load_balancers)
        assert balancer.status == "ACTIVE", where
        assert_whole(house, balancer.id)
    assert moments > 20


def test_requests_that_waited_for_a_worker_have_the_time_of_a_flow(house: House) -> None:
    """The worker takes them off the queue at once, and their load balancers are old."""
    times, consumers = [0.0], 1
    queue = WorkQueue(lambda _queue: QueueDepth(0, consumers), longest=600.0, clock=lambda: times[-1])
    handler = StuckLoadBalancers(house.driver, queue, AFTER)
    balancer = stuck(house)
    (finding,) = findings(handler)

    consumers = 0
    with pytest.raises(Unavailable):
        handler.heal(finding)
    consumers = 1
    for now in (0.0, 1.0, 599.0):
        times.append(now)
        with pytest.raises(InFlight, match="had no worker lately"):
            handler.heal(finding)
    assert house.balancer(balancer).status == "PENDING_UPDATE"
    times.append(600.0)
    mend(handler)
    assert_whole(house, balancer)


def test_a_queue_without_a_worker_is_remembered_after_every_question() -> None:
    consumers = 0
    queue = WorkQueue(lambda _queue: QueueDepth(0, consumers), longest=600.0, clock=lambda: 0.0)
    with pytest.raises(Unavailable):
        queue.require_worker()
    consumers = 1
    queue.require_worker()
    with pytest.raises(InFlight):
        queue.prove_idle(0)


URL = "[DEFAULT]\ntransport_url = rabbit://u:secret@h//\n"
RETRIES = "[haproxy_amphora]\nconnection_max_retries = 120\n"
NO_JOBBOARD = f"{RETRIES}[task_flow]\njobboard_enabled = False\n"


def work_queue(
    folder: Path,
    text: str,
    jobboard: bool | None = None,
    depth: QueueReader | None = None,
) -> WorkQueue:
    """Return Octavia's queue by a file with this text; by no file for an empty text."""
    conf = cfg.ConfigOpts()
    bus_conf.register(conf)
    options.register(conf)
    conf([], default_config_files=[])
    if text:
        (folder / "octavia.conf").write_text(text)
        conf.set_override("config_file", [str(folder / "octavia.conf")], "octavia")
    conf.set_override("jobboard", jobboard, "octavia")
    bus = probe.bus(conf) if depth is None else Bus(queues=lambda _broker: depth)
    return WorkQueue.from_resources(Resources(conf, bus))


@pytest.mark.parametrize(
    ("text", "refusal"),
    [
        ("", "unknown whether Octavia has a jobboard"),
        (NO_JOBBOARD, "no transport_url"),
        (f"{URL}[task_flow]\njobboard_enabled = True\n", "jobboard"),
        (f"{URL}{NO_JOBBOARD}", ""),
        (f"{URL}[task_flow]\njobboard_enabled = False\n", "no [haproxy_amphora]"),
        # the documented copy of octavia.conf with few groups
        (f"{URL}[controller_worker]\namp_image_tag = amphora\n[health_manager]\nheartbeat_timeout = 60\n", "unknown"),
    ],
)
def test_the_queue_follows_from_octavias_files(tmp_path: Path, text: str, refusal: str) -> None:
    found = work_queue(tmp_path, text).refusal
    assert refusal in found if refusal else found == ""
    assert "secret" not in found


def test_the_topic_of_the_provider_amphorav1_is_read_from_octavias_file(tmp_path: Path) -> None:
    text = f"[DEFAULT]\ntransport_url = kombu+memory://\n{NO_JOBBOARD}"
    asked: list[str] = []

    def depth(queue: str) -> QueueDepth:
        asked.append(queue)
        return QueueDepth(0, 1)

    found = work_queue(tmp_path, f"{text}[oslo_messaging]\ntopic = octavia_prov\n", depth=depth)
    found.prove_idle(0, {"amphora"})
    assert asked == [QUEUE]
    found.prove_idle(0, {"amphora", "amphorav1"})
    assert asked == [QUEUE, QUEUE, "octavia_prov"]


@pytest.mark.parametrize(("jobboard", "refused"), [(False, False), (True, True)])
def test_the_operator_can_state_whether_octavia_has_a_jobboard(tmp_path: Path, jobboard: bool, refused: bool) -> None:
    assert bool(work_queue(tmp_path, f"{URL}{RETRIES}", jobboard).refusal) == refused


def test_a_jobboard_value_that_is_no_boolean_is_an_error(tmp_path: Path) -> None:
    error = r"octavia.conf: \[task_flow\] jobboard_enabled = ture is neither"
    with pytest.raises(ConfigError, match=error) as raised:
        work_queue(tmp_path, "[DEFAULT]\ntransport_url = rabbit://u:secret@h//\n[task_flow]\njobboard_enabled = ture\n")
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(("query", "section"), [("", "[oslo_messaging_rabbit]\nssl = ture\n"), ("?ssl=ture", "")])
def test_a_tls_value_that_is_no_boolean_proves_nothing(tmp_path: Path, query: str, section: str) -> None:
    found = work_queue(tmp_path, f"[DEFAULT]\ntransport_url = rabbit://u:secret@h//{query}\n{NO_JOBBOARD}{section}")
    with pytest.raises(Unavailable, match="ssl") as raised:
        found.prove_idle(0)
    assert "secret" not in str(raised.value)
