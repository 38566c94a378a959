"""stackmend beside a real control plane: each drift made for real, noticed and healed, or left alone."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from openstack import exceptions

from tests.cloud import drift
from tests.cloud.control_plane import ControlPlane, wait_until
from tests.program import Program


def options(cloud: ControlPlane, **audit: object) -> dict[str, dict[str, object]]:
    """The whole configuration next to a controller, and what tests need on top: no sweep in between."""
    return {
        "nova": {"config_file": cloud.nova_conf},
        "audit": {
            "audit_allocations_mode": "heal",
            **{f"{name}_interval": 0 for name in ("discover_hosts", "sync_aggregates", "audit_allocations")},
            **audit,
        },
        "engine": {"poll_seconds": 0.2, "breaker_count": 100_000, "heals_per_hour": 0},
    }


@pytest.fixture
def stackmend(cloud: ControlPlane, tmp_path: Path) -> Iterator[Program]:
    """An installation beside the controller; its log is shown when a test fails."""
    with Program(tmp_path / "stackmend", options(cloud)) as program:
        yield program
        print(program.log.read_text()[-12000:] if program.log.exists() else "")


@pytest.fixture
def running(stackmend: Program, cloud: ControlPlane) -> Program:
    """The daemon, with its first sweeps and the backlog of earlier tests behind it."""
    stackmend.start()
    wait_until(lambda: "runs as" in stackmend.log.read_text(), 60, "the start of stackmend")
    wait_until(lambda: drift.undeclared_work(cloud) == 0, 120, "the backlog")
    wait_until(lambda: settled(stackmend), 120, "the first sweeps")
    return stackmend


@pytest.fixture
def server(cloud: ControlPlane) -> Iterator[Any]:
    """A server in cell1, deleted after the test if it is still there."""
    booted = cloud.boot(f"server-{uuid.uuid4().hex[:8]}", host="compute-1")
    yield booted
    cloud.delete(booted.id)


@pytest.fixture
def aggregate(cloud: ControlPlane) -> Iterator[Any]:
    """An aggregate, emptied and deleted after the test."""
    made = cloud.admin.compute.create_aggregate(name=f"rack-{uuid.uuid4().hex[:8]}")
    made = cloud.admin.compute.get_aggregate(made.id)
    yield made
    for host in cloud.admin.compute.get_aggregate(made.id).hosts or []:
        cloud.admin.compute.remove_host_from_aggregate(made.id, host)
    cloud.admin.compute.delete_aggregate(made.id)


def settled(program: Program) -> bool:
    """Whether nothing is left to look at but timers."""
    waiting = program.json("work", "list")
    return not [row for row in waiting if row["state"] in ("pending", "running") and not row["key"].startswith("sweep:")]


def healed(program: Program, key: str) -> list[dict[str, Any]]:
    """The history's heals of a key."""
    lines: list[dict[str, Any]] = program.json("history", "--key", key, "--outcome", "healed")
    return lines


@pytest.fixture
def without_placement(cloud: ControlPlane) -> Iterator[Callable[[], None]]:
    """Placement is down; call the fixture's value to bring it back."""
    cloud.stop_service("placement")

    def back() -> None:
        if not cloud.is_running("placement"):
            cloud.start_service("placement")

    yield back
    back()


def test_a_new_host_is_mapped_at_once(cloud: ControlPlane, running: Program, aggregate: Any) -> None:
    host = f"compute-{uuid.uuid4().hex[:6]}"
    cloud.add_compute(host, "cell2")
    try:
        wait_until(lambda: host in drift.mapped_hosts(cloud), 90, "the mapping")
        assert drift.mapped_hosts(cloud)[host] == "cell2"
        cloud.admin.compute.add_host_to_aggregate(aggregate.id, host)
        cloud.wait_for_compute(host)
        times = cloud.mariadb.execute(
            "SELECT m.created_at <= n.created_at FROM nova_api.host_mappings m"
            f" JOIN nova_cell2.compute_nodes n ON n.host = m.host AND n.deleted = 0 WHERE m.host = '{host}'"
        )
        assert times.strip() == "1", "the mapping must be there before the compute node"
        booted = cloud.boot("first", host=host)
        assert booted.compute_host == host
        wait_until(lambda: drift.members(cloud, aggregate.uuid) == {host}, 90, "the membership")
        (line,) = healed(running, f"host:{host}")[:1]
        print(f"lag from service.create to the mapping: {line['lag_s']} s")
        assert line["handler"] == "discover_hosts"
        assert line["hint"] == "service.create"
        cloud.delete(booted.id)
    finally:
        with suppress(exceptions.SDKException):
            cloud.admin.compute.remove_host_from_aggregate(aggregate.id, host)
        cloud.remove_compute(host)
        for service in cloud.admin.compute.services(host=host):
            cloud.admin.compute.delete_service(service)


def test_an_ironic_like_host_is_mapped_once(cloud: ControlPlane, running: Program) -> None:
    host = f"ironic-{uuid.uuid4().hex[:6]}"
    nodes = [f"{host}-a", f"{host}-b"]
    cloud.add_compute(host, "cell1", nodes=nodes)
    try:
        cloud.wait_for_compute(host, nodes)
        wait_until(lambda: host in drift.mapped_hosts(cloud), 90, "the mapping")
        assert drift.compute_nodes(cloud, host) == 2
        wait_until(lambda: settled(running), 60, "an end")
        assert len(healed(running, f"host:{host}")) >= 1
    finally:
        cloud.remove_compute(host)
        for service in cloud.admin.compute.services(host=host):
            cloud.admin.compute.delete_service(service)


def test_aggregate_changed_behind_a_stopped_placement(
    cloud: ControlPlane, running: Program, aggregate: Any, without_placement: Callable[[], None]
) -> None:
    cloud.admin.compute.add_host_to_aggregate(aggregate.id, "compute-1")
    assert drift.members(cloud, aggregate.uuid) == set()
    time.sleep(3)
    without_placement()
    wait_until(lambda: drift.members(cloud, aggregate.uuid) == {"compute-1"}, 60, "the membership")
    wait_until(lambda: settled(running), 60, "an end")
    cloud.stop_service("placement")
    with suppress(exceptions.SDKException):
        cloud.admin.compute.remove_host_from_aggregate(aggregate.id, "compute-1")
    hosts = cloud.admin.compute.get_aggregate(aggregate.id).hosts
    cloud.start_service("placement")
    expected = {"compute-1"} if hosts else set()
    wait_until(lambda: drift.members(cloud, aggregate.uuid) == expected, 60, "the membership's end")
    assert running.json("work", "list", "--state", "parked") == []


def test_an_instance_deleted_while_placement_is_down(
    cloud: ControlPlane, running: Program, server: Any, without_placement: Callable[[], None]
) -> None:
    bystander = cloud.mariadb.execute("SELECT COUNT(*) FROM allocations", "placement")
    cloud.delete(server.id)
    assert server.id in drift.allocations(cloud), "the leak that this test is about did not happen"
    time.sleep(3)
    without_placement()
    wait_until(lambda: server.id not in drift.allocations(cloud), 60, "the allocation's end")
    wait_until(lambda: settled(running), 60, "an end")
    (line,) = healed(running, f"consumer:{server.id}")
    assert line["undo"].startswith("openstack")
    assert int(bystander) - int(cloud.mariadb.execute("SELECT COUNT(*) FROM allocations", "placement")) == 3


def leak_everything(cloud: ControlPlane, aggregate: Any) -> tuple[str, str]:
    """Make each drift without stackmend listening; return a deleted server and an unmapped host."""
    doomed = cloud.boot("doomed", host="compute-3")
    host = f"compute-{uuid.uuid4().hex[:6]}"
    cloud.add_compute(host, "cell1")
    cloud.wait_for_compute(host)
    cloud.stop_service("placement")
    try:
        cloud.admin.compute.add_host_to_aggregate(aggregate.id, "compute-2")
        cloud.delete(doomed.id)
    finally:
        cloud.start_service("placement")
    assert doomed.id in drift.allocations(cloud)
    return doomed.id, host


def test_a_sweep_audits_and_then_heals_what_no_event_told(
    cloud: ControlPlane, stackmend: Program, aggregate: Any, server: Any
) -> None:
    deleted, host = leak_everything(cloud, aggregate)
    try:
        before = drift.dump(cloud)
        audit = stackmend.run("sweep", "--audit", "-f", "json")
        assert audit.returncode == 2, audit.stderr
        assert drift.dump(cloud) == before, "an audit changes not one row"
        for key in (f"consumer:{deleted}", f"host:{host}", f"aggregate:{aggregate.uuid}"):
            assert key in audit.stdout
        heal = stackmend.run("sweep", "-f", "json")
        assert heal.returncode == 0, heal.stdout + heal.stderr
        assert deleted not in drift.allocations(cloud)
        assert server.id in drift.allocations(cloud)
        assert drift.mapped_hosts(cloud)[host] == "cell1"
        assert drift.members(cloud, aggregate.uuid) == {"compute-2"}
        again = stackmend.run("sweep", "-f", "json")
        assert again.returncode == 0
        assert again.stdout.strip() == "[]"
    finally:
        cloud.remove_compute(host)
        for service in cloud.admin.compute.services(host=host):
            cloud.admin.compute.delete_service(service)


@pytest.mark.timeout(900)
def test_nothing_that_is_right_is_touched_while_the_cloud_lives(cloud: ControlPlane, stackmend: Program) -> None:
    stackmend.configure({
        **options(cloud, audit_allocations_interval=2, discover_hosts_interval=2, sync_aggregates_interval=2),
        "journal": {"connection": f"sqlite:///{stackmend.folder}/journal.sqlite"},
    })
    stackmend.start()
    compute = cloud.admin.compute
    first, second = cloud.boot("walker", host="compute-1"), cloud.boot("sleeper", host="compute-2")
    for _round in range(2):
        compute.resize_server(first, "small")
        cloud.wait_for_server(first.id, "VERIFY_RESIZE")
        time.sleep(6)
        compute.confirm_server_resize(first)
        cloud.wait_for_server(first.id)
        compute.resize_server(first, "tiny")
        cloud.wait_for_server(first.id, "VERIFY_RESIZE")
        compute.revert_server_resize(first)
        cloud.wait_for_server(first.id)
        compute.live_migrate_server(first, host=None, block_migration="auto")
        cloud.wait_for_server(first.id)
        compute.shelve_server(second)
        cloud.wait_for_server(second.id, "SHELVED_OFFLOADED")
        compute.unshelve_server(second)
        cloud.wait_for_server(second.id)
    host = compute.get_server(first.id).compute_host
    cloud.lose_host(host)
    compute.evacuate_server(first.id)
    wait_until(lambda: compute.get_server(first.id).compute_host != host, 60, "the evacuation")
    cloud.wait_for_server(first.id, "SHUTOFF")
    time.sleep(8)
    held = drift.allocations(cloud)
    for server in (first, second):
        here = compute.get_server(server.id).compute_host
        assert here in held.get(server.id, set()), f"{server.name} lost what it holds of {here}"
    lines = stackmend.json("history", "--handler", "audit_allocations", "--limit", "1000")
    print([(line["key"], line["problem"], line["summary"]) for line in lines])
    evacuated = [line for line in lines if line["outcome"] == "healed" and "evacu" not in line["summary"]]
    assert evacuated == [], "only what the evacuation left may be taken"
    cloud.return_host(host)
    for server in (first, second):
        cloud.delete(server.id)
