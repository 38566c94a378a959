"""A failed amphora is replaced, and preserved where there is room; nothing leaks."""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn

import pytest
import sqlalchemy as sa

from consumer import conf as configuration
from consumer import plugins
from consumer.conf import tasks
from handlers.base import Conflict, InFlight, Key
from handlers.octavia import tables
from handlers.octavia.cloud_objects import AMPHORA, PRESERVED, PRESERVED_PREFIX
from handlers.octavia.failover.failed_amphora import FailedAmphora
from handlers.octavia.housekeeping import UnavailableException
from handlers.octavia.preserved.inventory import PreservedAmphorae
from handlers.octavia.settings import HousekeepingSettings
from handlers.octavia.simulation.cloud import VIPS
from tests.functional.octavia.world import House, Stuck, mend

MakeHouse = Callable[..., House]


def test_an_amphora_is_replaced_where_none_is_preserved(house: House) -> None:
    balancer = house.octavia.add_load_balancer()
    failed = house.fail(balancer)
    assert mend(house, house.handler(), Key("amphora", failed.id)) == ["failover", "detach"]
    house.assert_whole(balancer)
    house.assert_no_leak()
    assert house.preserved() == []


def test_an_amphora_that_lives_is_left_alone(house: House) -> None:
    balancer = house.octavia.add_load_balancer()
    (amphora,) = house.serving(balancer)
    house.octavia.heartbeat(amphora.id, silent=3)
    handler = house.handler()
    assert mend(house, handler, Key("amphora", amphora.id)) == []
    assert list(handler.sweep()) == []
    assert house.serving(balancer) == [house.amphora(amphora.id)]


def test_an_amphora_without_server_is_replaced(make_house: MakeHouse) -> None:
    house = make_house(maximum_preserved_amphora_count=3)
    balancer = house.octavia.add_load_balancer()
    (amphora,) = house.serving(balancer)
    house.cloud.delete_server(amphora.compute_id or "")
    assert mend(house, house.handler(), Key("amphora", amphora.id)) == ["failover", "detach"]
    house.assert_whole(balancer)
    house.assert_no_leak()


def test_an_amphora_whose_server_nova_restores_is_left_alone(house: House) -> None:
    """Nova shows SOFT_DELETED until the restored server runs."""
    balancer = house.octavia.add_load_balancer()
    (amphora,) = house.serving(balancer)
    house.cloud.alter_server(amphora.compute_id or "", status="SOFT_DELETED", task_state="restoring")
    with pytest.raises(Stuck, match="restoring"):
        mend(house, house.handler(), Key("amphora", amphora.id))
    assert house.serving(balancer) == [house.amphora(amphora.id)]
    house.cloud.alter_server(amphora.compute_id or "", task_state=None)
    assert mend(house, house.handler(), Key("amphora", amphora.id)) == ["failover", "detach"]
    house.assert_whole(balancer)


def test_unplug_preserves_the_server_without_a_network(make_house: MakeHouse) -> None:
    house = make_house(maximum_preserved_amphora_count=1)
    balancer = house.octavia.add_load_balancer(members=2)
    (failed,) = house.serving(balancer)
    house.silence(failed.id)
    handler = house.handler()
    assert list(handler.sweep()) == [Key("amphora", failed.id)]
    steps = mend(house, handler, Key("amphora", failed.id))
    assert steps == ["mark", "lease", "unplug", "let-go", "label", "detach"]
    house.assert_whole(balancer)
    house.assert_no_leak()
    (kept,) = house.preserved()
    assert kept.server is not None
    assert (kept.server.id, kept.server.status, kept.server.locked) == (failed.compute_id, "ACTIVE", True)
    assert kept.server.name == f"{PRESERVED_PREFIX}{failed.id}"
    assert kept.load_balancer == balancer
    assert "no heartbeat" in kept.reason
    assert house.driver.ports_of(kept.server.id) == []
    assert list(handler.sweep()) == []


def test_snapshot_preserves_an_image(make_house: MakeHouse) -> None:
    house = make_house(maximum_preserved_amphora_count=1, preservation_method="snapshot")
    balancer = house.octavia.add_load_balancer()
    (failed,) = house.serving(balancer)
    house.silence(failed.id)
    steps = mend(house, house.handler(), Key("amphora", failed.id))
    assert steps == ["mark", "lease", "unplug", "let-go", "detach", "image", "seal", "drop-server"]
    house.assert_whole(balancer)
    house.assert_no_leak()
    (kept,) = house.preserved()
    assert kept.server is None
    assert kept.image is not None
    assert (kept.image.status, kept.image.protected, kept.image.visibility) == ("active", True, "private")
    assert kept.image.properties[AMPHORA] == failed.id


def test_snapshot_preserves_the_server_too(make_house: MakeHouse) -> None:
    house = make_house(maximum_preserved_amphora_count=1, preservation_method="snapshot", preservation_keeps="server")
    balancer = house.octavia.add_load_balancer()
    failed = house.fail(balancer)
    steps = mend(house, house.handler(), Key("amphora", failed.id))
    assert steps == ["mark", "unplug", "let-go", "detach", "image", "seal", "label"]
    house.assert_whole(balancer)
    house.assert_no_leak()
    (kept,) = house.preserved()
    assert kept.server is not None
    assert kept.image is not None


def test_a_running_server_that_is_preserved_beside_its_image_is_stopped(make_house: MakeHouse) -> None:
    """As the specification demands: take a snapshot, then stop it."""
    house = make_house(maximum_preserved_amphora_count=1, preservation_method="snapshot", preservation_keeps="server")
    balancer = house.octavia.add_load_balancer()
    (failed,) = house.serving(balancer)
    house.silence(failed.id)
    steps = mend(house, house.handler(), Key("amphora", failed.id))
    assert steps[-4:] == ["image", "seal", "stop", "label"]
    (kept,) = house.preserved()
    assert kept.server is not None
    assert (kept.server.status, kept.complete) == ("SHUTOFF", True)


@pytest.mark.parametrize("method", ["unplug", "snapshot"])
def test_a_server_in_error_is_stopped_first(make_house: MakeHouse, method: str) -> None:
    house = make_house(maximum_preserved_amphora_count=1, preservation_method=method)
    balancer = house.octavia.add_load_balancer()
    (failed,) = house.serving(balancer)
    house.cloud.alter_server(failed.compute_id or "", status="ERROR")
    steps = mend(house, house.handler(), Key("amphora", failed.id))
    assert steps[:2] == ["stop", "mark"]
    house.assert_whole(balancer)
    house.assert_no_leak()
    assert len(house.preserved()) == 1


@pytest.mark.parametrize("method", ["unplug", "snapshot"])
def test_on_a_dead_host_ports_are_set_down(make_house: MakeHouse, method: str) -> None:
    house = make_house(maximum_preserved_amphora_count=1, preservation_method=method)
    balancer = house.octavia.add_load_balancer()
    (failed,) = house.serving(balancer)
    house.silence(failed.id)
    server = house.cloud.server(failed.compute_id or "")
    assert server is not None
    house.cloud.weather.dead_hosts.add(server.host or "")
    steps = mend(house, house.handler(), Key("amphora", failed.id))
    assert steps == ["mark", "lease", "quarantine", "let-go", "label", "detach"]
    house.assert_whole(balancer)
    house.assert_no_leak()
    # the port that Nova made keeps its address reserved, and is down
    assert [(port.name, port.admin_up) for port in house.driver.ports_of(server.id)] == [("", False)]


def test_ports_that_nova_does_not_detach_are_set_down_at_the_deadline(make_house: MakeHouse) -> None:
    house = make_house(maximum_preserved_amphora_count=1, preservation_deadline=600)
    balancer = house.octavia.add_load_balancer()
    failed = house.fail(balancer)
    server = failed.compute_id or ""
    house.cloud.weather.clinging.add(server)
    handler, key = house.handler(), Key("amphora", failed.id)
    with pytest.raises(Stuck, match="detaches"):
        mend(house, handler, key)
    assert house.amphora(failed.id).compute_id == server
    house.make_mark_older(server, 601)
    assert mend(house, handler, key)[0] == "quarantine"
    house.assert_whole(balancer)
    house.assert_no_leak()
    assert [kept.amphora for kept in house.preserved()] == [failed.id]


def test_a_running_server_whose_ports_stay_is_stopped_before_the_quarantine(make_house: MakeHouse) -> None:
    """A port that is set down still passes traffic where it is SR-IOV without an agent."""
    house = make_house(maximum_preserved_amphora_count=1)
    balancer = house.octavia.add_load_balancer()
    (failed,) = house.serving(balancer)
    house.silence(failed.id)
    server = failed.compute_id or ""
    house.cloud.weather.clinging.add(server)
    handler, key = house.handler(), Key("amphora", failed.id)
    with pytest.raises(Stuck, match="detaches"):
        mend(house, handler, key)
    house.make_mark_older(server, 601)
    assert mend(house, handler, key) == ["stop", "quarantine", "let-go", "label", "detach"]
    assert (left := house.cloud.server(server)) is not None
    assert left.status == "SHUTOFF"
    house.assert_whole(balancer)


def test_the_server_is_preserved_when_its_image_never_becomes_active(make_house: MakeHouse) -> None:
    house = make_house(maximum_preserved_amphora_count=1, preservation_method="snapshot")
    balancer = house.octavia.add_load_balancer()
    failed = house.fail(balancer)
    house.cloud.weather.slow_images = True
    handler, key = house.handler(), Key("amphora", failed.id)
    with pytest.raises(Stuck, match="saving"):
        mend(house, handler, key)
    house.make_mark_older(failed.compute_id or "", 601)
    assert mend(house, handler, key)[0] == "drop-image"
    house.assert_whole(balancer)
    house.assert_no_leak()
    (kept,) = house.preserved()
    assert kept.server is not None
    assert kept.image is None


def test_a_slow_image_is_waited_for(make_house: MakeHouse) -> None:
    house = make_house(maximum_preserved_amphora_count=1, preservation_method="snapshot")
    balancer = house.octavia.add_load_balancer()
    failed = house.fail(balancer)
    house.cloud.weather.slow_images = True
    waits: list[int] = []

    def on_wait() -> bool:
        waits.append(1)
        if len(waits) == 3:
            house.cloud.finish_images()
        return True

    mend(house, house.handler(), Key("amphora", failed.id), on_wait)
    house.assert_whole(balancer)
    house.assert_no_leak()
    assert house.preserved()[0].image is not None


def test_a_lease_is_renewed_while_ports_are_detached(make_house: MakeHouse) -> None:
    house = make_house(maximum_preserved_amphora_count=1)
    balancer = house.octavia.add_load_balancer()
    (failed,) = house.serving(balancer)
    house.silence(failed.id)
    server = failed.compute_id or ""
    house.cloud.weather.clinging.add(server)

    def the_lease_runs_out_and_nova_detaches() -> None:
        house.octavia.heartbeat(failed.id, silent=-50)
        house.cloud.weather.clinging.clear()
        for port in house.driver.ports_of(server):
            house.driver.detach_port(server, port.id)

    on_wait = house.once(the_lease_runs_out_and_nova_detaches)
    steps = mend(house, house.handler(), Key("amphora", failed.id), on_wait)
    assert steps.count("lease") == 2
    house.assert_whole(balancer)


@pytest.mark.parametrize("topology", ["SINGLE", "ACTIVE_STANDBY"])
def test_a_load_balancer_does_not_wait_for_the_image(make_house: MakeHouse, topology: str) -> None:
    house = make_house(maximum_preserved_amphora_count=1, preservation_method="snapshot")
    balancer = house.octavia.add_load_balancer(topology)
    failed = house.fail(balancer)
    house.cloud.weather.slow_images = True
    handler, key = house.handler(), Key("amphora", failed.id)
    with pytest.raises(Stuck, match="saving"):
        mend(house, handler, key)
    house.assert_whole(balancer, len(house.serving(balancer)))
    house.cloud.finish_images()
    assert mend(house, handler, key) == ["seal", "drop-server"]
    house.assert_no_leak()


def test_a_heartbeat_after_the_lease_saves_it(make_house: MakeHouse) -> None:
    house = make_house(maximum_preserved_amphora_count=1)
    balancer = house.octavia.add_load_balancer()
    (amphora,) = house.serving(balancer)
    house.silence(amphora.id)
    handler, key = house.handler(), Key("amphora", amphora.id)
    for _step in ("mark", "lease"):
        handler.heal(next(iter(handler.inspect(key))))
    house.octavia.heartbeat(amphora.id, silent=1)
    assert mend(house, handler, key) == ["unmark"]
    house.assert_whole(balancer)
    assert [row.id for row in house.serving(balancer)] == [amphora.id]
    assert house.preserved() == []


def test_a_heartbeat_between_the_inspection_and_the_lease_saves_it(make_house: MakeHouse) -> None:
    house = make_house(maximum_preserved_amphora_count=1)
    balancer = house.octavia.add_load_balancer()
    failed = house.fail(balancer)
    house.octavia.heartbeat(failed.id, silent=15)
    handler, key = house.handler(), Key("amphora", failed.id)
    handler.heal(next(iter(handler.inspect(key))))
    finding = next(iter(handler.inspect(key)))
    assert finding.problem == "lease"
    house.octavia.heartbeat(failed.id, silent=1)
    with pytest.raises((Conflict, InFlight)):
        handler.heal(finding)
    assert (left := house.amphora(failed.id)).compute_id == failed.compute_id
    assert left.status == "ALLOCATED"


def test_an_amphora_that_lost_its_vip_is_replaced_though_it_beats(make_house: MakeHouse) -> None:
    house = make_house(maximum_preserved_amphora_count=1)
    balancer = house.octavia.add_load_balancer()
    (failed,) = house.serving(balancer)
    house.silence(failed.id)
    handler, key = house.handler(), Key("amphora", failed.id)
    for _step in ("mark", "lease"):
        handler.heal(next(iter(handler.inspect(key))))
    house.driver.detach_port(failed.compute_id or "", failed.vrrp_port_id or "")
    house.octavia.heartbeat(failed.id, silent=1)
    assert mend(house, handler, key) == ["failover", "detach"]
    house.assert_whole(balancer)
    house.assert_no_leak()
    assert house.preserved() == []


def test_the_health_manager_was_faster(make_house: MakeHouse) -> None:
    house = make_house(maximum_preserved_amphora_count=1)
    balancer = house.octavia.add_load_balancer()
    (failed,) = house.serving(balancer)
    house.silence(failed.id, 70)
    house.octavia.pace.held = True
    house.octavia.failover_amphora(failed.id)
    handler, key = house.handler(), Key("amphora", failed.id)
    steps = mend(house, handler, key, house.once(house.octavia.finish))
    assert steps == ["detach"]
    house.assert_whole(balancer)
    house.assert_no_leak()
    assert house.preserved() == []


def test_an_amphora_that_the_health_manager_has_taken_is_left_to_it_for_a_while(make_house: MakeHouse) -> None:
    house = make_house(maximum_preserved_amphora_count=1)
    balancer = house.octavia.add_load_balancer()
    (failed,) = house.serving(balancer)
    house.silence(failed.id, 70)
    house.octavia.set_busy(failed.id)
    handler, key = house.handler(), Key("amphora", failed.id)
    with pytest.raises(Stuck, match="health manager"):
        mend(house, handler, key)
    assert house.preserved() == []
    house.pass_time(60)
    assert mend(house, handler, key) == ["failover", "detach"]
    house.assert_whole(balancer)


def test_a_load_balancer_in_error_is_failed_over_whole(make_house: MakeHouse) -> None:
    house = make_house(maximum_preserved_amphora_count=1)
    balancer = house.octavia.add_load_balancer()
    (failed,) = house.serving(balancer)
    house.silence(failed.id, 90)
    house.octavia.set_busy(failed.id)
    house.octavia.set_amphora(failed.id, status="ERROR")
    house.octavia.set_balancer(balancer, "ERROR")
    handler, key = house.handler(), Key("amphora", failed.id)
    assert list(handler.sweep()) == [key]
    with pytest.raises(Stuck, match="the next failover waits"):
        mend(house, handler, key)
    house.pass_time(20)
    assert mend(house, handler, key) == ["mark", "unplug", "let-go", "label", "detach"]
    house.assert_whole(balancer)
    house.assert_no_leak()
    assert len(house.preserved()) == 1


def test_an_amphora_in_error_that_beats_is_replaced_and_not_preserved(make_house: MakeHouse) -> None:
    house = make_house(maximum_preserved_amphora_count=1)
    balancer = house.octavia.add_load_balancer()
    (failed,) = house.serving(balancer)
    house.octavia.heartbeat(failed.id, silent=2)
    house.octavia.set_amphora(failed.id, status="ERROR")
    assert mend(house, house.handler(), Key("amphora", failed.id)) == ["failover", "detach"]
    house.assert_whole(balancer)
    assert house.preserved() == []


def test_an_immutable_load_balancer_is_waited_for(make_house: MakeHouse) -> None:
    house = make_house(maximum_preserved_amphora_count=1)
    balancer = house.octavia.add_load_balancer()
    failed = house.fail(balancer)
    house.octavia.set_balancer(balancer, "PENDING_UPDATE")
    handler, key = house.handler(), Key("amphora", failed.id)
    with pytest.raises(Stuck, match="PENDING_UPDATE"):
        mend(house, handler, key)
    mend(house, handler, key, house.once(lambda: house.octavia.set_balancer(balancer, "ACTIVE")))
    house.assert_whole(balancer)


@pytest.mark.parametrize("steps", range(8))
def test_the_deletion_of_the_load_balancer_leaves_only_the_preserved_amphora(make_house: MakeHouse, steps: int) -> None:
    house = make_house(maximum_preserved_amphora_count=1)
    balancer = house.octavia.add_load_balancer()
    failed = house.fail(balancer)
    handler, key = house.handler(), Key("amphora", failed.id)
    for _step in range(steps):
        findings = list(handler.inspect(key))
        if findings:
            handler.heal(findings[0])
    house.octavia.delete_load_balancer(balancer)
    mend(house, handler, key)
    house.assert_no_leak()
    assert house.balancer(balancer).status == "DELETED"
    assert [row.status for row in house.rows(balancer)] == ["DELETED"] * len(house.rows(balancer))


def test_the_place_in_the_server_group_is_freed(make_house: MakeHouse) -> None:
    house = make_house(maximum_preserved_amphora_count=1)
    balancer = house.octavia.add_load_balancer("ACTIVE_STANDBY", anti_affinity=True)
    failed = house.fail(balancer)
    handler, key = house.handler(), Key("amphora", failed.id)
    assert mend(house, handler, key)[-2:] == ["detach", "shelve"]
    house.assert_whole(balancer, 2)
    house.assert_no_leak()
    (kept,) = house.preserved()
    assert kept.server is not None
    assert (kept.server.status, kept.server.host) == ("SHELVED_OFFLOADED", None)
    # both hosts that the load balancer does not use are free for the next failover
    for row in house.serving(balancer):
        house.driver.failover_amphora(row.id)
    house.octavia.finish()
    assert house.balancer(balancer).status == "ACTIVE"


def test_a_preserved_server_is_shelved_when_the_replacement_finds_no_host(make_house: MakeHouse) -> None:
    house = make_house(maximum_preserved_amphora_count=1)
    del house.cloud.hosts["compute-3"]
    balancer = house.octavia.add_load_balancer("ACTIVE_STANDBY", anti_affinity=True)
    failed = house.fail(balancer)
    handler, key = house.handler(), Key("amphora", failed.id)
    with pytest.raises(Stuck, match=r"'let-go', 'label', 'shelve'.*the next failover waits"):
        mend(house, handler, key)
    assert house.balancer(balancer).status == "ERROR"
    house.cloud.hosts["compute-4"] = "nova"
    house.pass_time(20)
    assert mend(house, handler, key) == ["failover-load-balancer", "detach"]
    house.assert_whole(balancer, 2)
    assert len(house.preserved()) == 1


def test_the_server_of_a_volume_backed_amphora_is_preserved(make_house: MakeHouse) -> None:
    house = make_house(maximum_preserved_amphora_count=1, preservation_method="snapshot")
    balancer = house.octavia.add_load_balancer(volume_backed=True)
    failed = house.fail(balancer)
    assert "image" not in mend(house, house.handler(), Key("amphora", failed.id))
    house.assert_whole(balancer)
    house.assert_no_leak()
    (kept,) = house.preserved()
    assert kept.method == "unplug"
    assert kept.server is not None


def test_a_stopped_amphora_is_judged_only_without_heartbeats(house: House) -> None:
    balancer = house.octavia.add_load_balancer()
    failed = house.fail(balancer)
    house.octavia.heartbeat(failed.id, silent=2)
    handler, key = house.handler(), Key("amphora", failed.id)
    with pytest.raises(Stuck, match="just sent a heartbeat"):
        mend(house, handler, key)
    house.octavia.heartbeat(failed.id, silent=13)
    assert mend(house, handler, key) == ["failover", "detach"]


def test_a_server_leads_to_its_amphora_before_and_after_let_go(make_house: MakeHouse) -> None:
    house = make_house(maximum_preserved_amphora_count=1)
    balancer = house.octavia.add_load_balancer()
    failed = house.fail(balancer)
    steps = mend(house, house.handler(), Key("server", failed.compute_id or ""))
    assert steps == ["mark", "unplug", "let-go", "label", "detach"]
    house.assert_whole(balancer)
    assert mend(house, house.handler(), Key("server", "00000000-0000-0000-0000-000000000000")) == []


def test_a_row_without_its_server_is_replaced(house: House) -> None:
    """The state in which Octavia would take foreign ports for the amphora's."""
    balancer = house.octavia.add_load_balancer()
    (amphora,) = house.serving(balancer)
    house.octavia.set_amphora(amphora.id, compute_id=None)
    handler = house.handler()
    assert list(handler.sweep()) == [Key("amphora", amphora.id)]
    mend(house, handler, Key("amphora", amphora.id))
    house.assert_whole(balancer)


def test_when_many_fail_they_are_reported_and_left(make_house: MakeHouse) -> None:
    house = make_house(maximum_preserved_amphora_count=3, failover_threshold=3)
    balancers = [house.octavia.add_load_balancer() for _number in range(4)]
    handler = house.handler()
    for balancer in balancers:
        (row,) = house.serving(balancer)
        house.silence(row.id)
    before = [house.rows(balancer) for balancer in balancers]
    for key in handler.sweep():
        (finding,) = handler.inspect(key)
        assert (finding.problem, finding.healable) == ("amphora-failed", False)
        assert "failover_threshold" in finding.refusal
    assert [[row.id for row in rows] for rows in before] == [
        [row.id for row in house.rows(balancer)] for balancer in balancers
    ]
    assert house.preserved() == []


def test_failures_before_the_window_do_not_count(make_house: MakeHouse) -> None:
    house = make_house(failover_threshold=2)
    handler = house.handler()
    for _number in range(2):
        balancer = house.octavia.add_load_balancer()
        mend(house, handler, Key("amphora", house.fail(balancer).id))
    third = house.octavia.add_load_balancer()
    failed = house.fail(third)
    assert mend(house, handler, Key("amphora", failed.id)) == []
    house.pass_time(301)
    assert mend(house, handler, Key("amphora", failed.id)) == ["failover", "detach"]
    house.assert_whole(third)


def test_amphorae_that_go_with_their_load_balancer_do_not_count(make_house: MakeHouse) -> None:
    house = make_house(failover_threshold=1)
    gone = house.octavia.add_load_balancer("ACTIVE_STANDBY")
    house.octavia.delete_load_balancer(gone)
    balancer = house.octavia.add_load_balancer()
    assert mend(house, house.handler(), Key("amphora", house.fail(balancer).id)) == ["failover", "detach"]


def test_an_unreachable_service_changes_nothing(make_house: MakeHouse) -> None:
    house = make_house(maximum_preserved_amphora_count=1)
    balancer = house.octavia.add_load_balancer()
    failed = house.fail(balancer)
    handler, key = house.handler(), Key("amphora", failed.id)
    for service in ("compute", "network", "image"):
        house.cloud.weather.unreachable = {service}
        with pytest.raises(Exception, match="no answer"):
            mend(house, handler, key)
    house.cloud.weather.unreachable = set()
    assert house.amphora(failed.id) == failed or house.amphora(failed.id).compute_id == failed.compute_id
    mend(house, handler, key)
    house.assert_whole(balancer)


@pytest.mark.parametrize("obstacle", ["dead host", "never stops"])
def test_a_server_in_error_that_cannot_be_stopped_is_not_preserved(make_house: MakeHouse, obstacle: str) -> None:
    house = make_house(maximum_preserved_amphora_count=1)
    balancer = house.octavia.add_load_balancer()
    (failed,) = house.serving(balancer)
    house.cloud.alter_server(failed.compute_id or "", status="ERROR")
    if obstacle == "dead host":
        server = house.cloud.server(failed.compute_id or "")
        assert server is not None
        house.cloud.weather.dead_hosts.add(server.host or "")
    else:
        house.cloud.alter_server(failed.compute_id or "", name=f"preserved-amphora-{failed.id}")
    assert mend(house, house.handler(), Key("amphora", failed.id)) == ["failover", "detach"]
    house.assert_whole(balancer)
    assert house.preserved() == []


@pytest.mark.parametrize("state", [{"status": "ERROR"}, {"task_state": "powering-off"}])
def test_the_load_balancer_does_not_wait_for_the_label(make_house: MakeHouse, state: dict[str, str]) -> None:
    """Nova refuses marks for a server in ERROR, and for one that it never ceases to work on."""
    house = make_house(maximum_preserved_amphora_count=1)
    balancer = house.octavia.add_load_balancer()
    failed = house.fail(balancer)
    handler, key = house.handler(), Key("amphora", failed.id)
    while house.amphora(failed.id).status != "DELETED":
        handler.heal(next(iter(handler.inspect(key))))
    house.cloud.alter_server(failed.compute_id or "", **state)
    with pytest.raises(Stuck, match="changes no marks"):
        mend(house, handler, key)
    house.assert_whole(balancer)
    # the operator need not wait for it either
    PreservedAmphorae(house.driver).delete(failed.id)
    house.assert_no_leak()


def test_a_server_that_octavia_failed_to_delete_loses_its_mark(make_house: MakeHouse) -> None:
    """With the mark it would take a place in the pool, and deactivated_amphorae would not remove it."""
    house = make_house(maximum_preserved_amphora_count=1)
    balancer = house.octavia.add_load_balancer()
    failed = house.fail(balancer)
    handler, key = house.handler(), Key("amphora", failed.id)
    handler.heal(next(iter(handler.inspect(key))))
    house.octavia.set_amphora(failed.id, status="DELETED")
    assert mend(house, handler, key) == ["unmark"]
    assert house.preserved() == []
    assert (left := house.cloud.server(failed.compute_id or ""))
    assert PRESERVED not in left.tags


def test_of_two_images_one_is_preserved(make_house: MakeHouse) -> None:
    """Nova's answer was lost, or two processes healed at the same time."""
    house = make_house(maximum_preserved_amphora_count=1, preservation_method="snapshot")
    balancer = house.octavia.add_load_balancer()
    failed = house.fail(balancer)
    house.driver.create_image(failed.compute_id or "", f"{PRESERVED_PREFIX}{failed.id}", {AMPHORA: failed.id})
    house.driver.create_image(failed.compute_id or "", f"{PRESERVED_PREFIX}{failed.id}", {AMPHORA: failed.id})
    steps = mend(house, house.handler(), Key("amphora", failed.id))
    assert (steps.count("drop-image"), steps.count("image")) == (1, 0)
    house.assert_whole(balancer)
    house.assert_no_leak()
    assert len(house.preserved()) == 1


def test_the_hourly_bound_does_not_stop_what_the_threshold_lets_pass() -> None:
    """The budget delays no usual recovery."""
    defaults, most_steps = HousekeepingSettings(), 13
    in_an_hour = defaults.failover_threshold * 3600 // defaults.failover_window
    conf = configuration.load(plugins.handlers())
    assert tasks.settings(conf, FailedAmphora).heals_per_hour >= in_an_hour * most_steps


def test_a_failover_does_not_wait_for_a_cell_in_which_there_may_be_spares(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    def silent() -> NoReturn:
        raise UnavailableException("compute", "the cell of host compute-2 does not answer")

    monkeypatch.setattr(house.driver, "servers", silent)
    balancer = house.octavia.add_load_balancer()
    failed = house.fail(balancer)
    assert mend(house, house.handler(), Key("amphora", failed.id)) == ["failover", "detach"]
    house.assert_whole(balancer)


@pytest.mark.parametrize("others", [1, 2, 9])
def test_a_sweep_finds_a_gone_server_that_never_sent_a_heartbeat(house: House, others: int) -> None:
    """No notification came, and the health manager knows only amphorae with a heartbeat record."""
    balancer = house.octavia.add_load_balancer()
    for _number in range(others):
        house.octavia.add_load_balancer()
    (row,) = house.serving(balancer)
    house.cloud.delete_server(row.compute_id or "")
    handler = house.handler()
    assert list(handler.sweep()) == [], "a young amphora is still about to send one"
    house.pass_time(120)
    assert list(handler.sweep()) == [Key("amphora", row.id)]
    mend(house, handler, Key("amphora", row.id))
    house.assert_whole(balancer)


def test_a_sweep_of_a_strange_nova_finds_no_gone_server(house: House) -> None:
    for _number in range(3):
        (row,) = house.serving(house.octavia.add_load_balancer())
        house.cloud.delete_server(row.compute_id or "")
    house.pass_time(120)
    assert list(house.handler().sweep()) == []


def test_a_device_of_another_provider_is_no_failure_of_others(house: House) -> None:
    """F5 has a row for each device, on no load balancer."""
    balancer = house.octavia.add_load_balancer()
    failed = house.fail(balancer)
    for _number in range(3):
        (device,) = house.serving(house.octavia.add_load_balancer())
        house.octavia.set_amphora(device.id, load_balancer_id=None, compute_id=None, cert_expiration=None)
        house.octavia.heartbeat(device.id, silent=3600)
    mend(house, house.handler(), Key("amphora", failed.id))
    house.assert_whole(balancer)


@pytest.mark.parametrize("left", ["server", "port"])
def test_a_deleted_row_stays_on_its_load_balancer_while_server_or_port_exists(house: House, left: str) -> None:
    """The deletion of the load balancer removes both by its rows."""
    balancer = house.octavia.add_load_balancer()
    failed = house.fail(balancer)
    handler, key = house.handler(), Key("amphora", failed.id)
    (finding,) = handler.inspect(key)
    handler.heal(finding)
    if left == "server":
        house.cloud.boot(f"amphora-{failed.id}", identity=failed.compute_id or "")
    else:
        house.cloud.plug("", VIPS, f"octavia-lb-vrrp-{failed.id}", identity=failed.vrrp_port_id or "")
    assert mend(house, handler, key) == []
    assert house.amphora(failed.id).load_balancer_id == balancer


def test_before_octavia_16_deleted_rows_stay(house: House) -> None:
    """No update looks for their ports there."""
    balancer = house.octavia.add_load_balancer(members=0)
    failed = house.fail(balancer)
    house.database.run(tables.amphora_member_port.drop)
    house.octavia.pace.held = True
    handler, key = house.handler(), Key("amphora", failed.id)
    (finding,) = handler.inspect(key)
    handler.heal(finding)
    house.octavia.set_amphora(failed.id, status="DELETED")
    house.cloud.delete_server(failed.compute_id or "")
    house.cloud.remove_port(failed.vrrp_port_id or "")
    house.octavia.set_balancer(balancer, "ACTIVE")
    assert list(handler.inspect(key)) == []


def test_the_watch_is_one_query_and_no_log_line_while_nothing_changes(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    for _number in range(5):
        for row in house.serving(house.octavia.add_load_balancer()):
            house.octavia.heartbeat(row.id)
    house.pass_time(600)
    asked: list[str] = []
    calls: list[str] = []
    house.cloud.weather.before = calls.append
    handler = house.handler()

    def note(*given: object) -> None:
        asked.append(str(given[2]))

    sa.event.listen(sa.Engine, "before_cursor_execute", note)
    try:
        with caplog.at_level("INFO"):
            assert list(handler.sweep()) == []
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", note)
    assert len([text for text in asked if text.startswith("SELECT")]) == 1, asked
    assert (calls, caplog.records) == ([], [])
