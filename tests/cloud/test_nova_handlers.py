"""stackmend beside a real control plane: each drift made for real, noticed and healed, or left alone."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from openstack import exceptions

from tests.cloud import drift
from tests.cloud.control_plane import ControlPlane, wait_until
from tests.program import Program, only


def options(cloud: ControlPlane, **audit: object) -> dict[str, dict[str, object]]:
    """The whole configuration next to a controller, and what tests need on top: no sweep in between."""
    return {
        **cloud.account.options(),
        "audit": {
            **only("discover_hosts", "sync_aggregates"),
            "audit_allocations_mode": "heal",
            "sync_aggregates_remove": True,
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
    return not [
        row for row in waiting if row["state"] in ("pending", "running") and not row["key"].startswith("sweep:")
    ]


def healed(program: Program, key: str) -> list[dict[str, Any]]:
    """The history's heals of a key."""
    lines: list[dict[str, Any]] = program.json("history", "--key", key, "--outcome", "healed")
    return lines


def find_host(cloud: ControlPlane, program: Program, host: str) -> None:
    """Wait until a new host is mapped: by its event, or where Nova sends none of hosts, by a sweep."""
    if not cloud.release.announces_hosts:
        program.run("sweep", "discover_hosts")
    wait_until(lambda: host in drift.mapped_hosts(cloud), 120, "the mapping")


def test_a_healthy_cloud_has_no_drift(cloud: ControlPlane, server: Any, tmp_path: Path) -> None:
    with Program(tmp_path / "fresh", cloud.account.options()) as fresh:
        audit = fresh.run("sweep", "--audit", "-f", "json")
    assert audit.returncode == 0, audit.stdout + audit.stderr
    assert server.status == "ACTIVE"


def test_a_new_host_is_mapped_at_once(cloud: ControlPlane, running: Program, aggregate: Any) -> None:
    if not cloud.release.announces_hosts:
        pytest.skip("the legacy format has no events of hosts")
    host = f"compute-{uuid.uuid4().hex[:6]}"
    cloud.add_compute(host, "cell2")
    try:
        wait_until(lambda: host in drift.mapped_hosts(cloud), 90, "the mapping")
        assert drift.mapped_hosts(cloud)[host] == "cell2"
        cloud.wait_for_compute(host)
        cloud.admin.compute.add_host_to_aggregate(aggregate.id, host)
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
        drift.retire(cloud, host)


def test_an_ironic_like_host_is_mapped_once(cloud: ControlPlane, running: Program) -> None:
    host = f"ironic-{uuid.uuid4().hex[:6]}"
    nodes = [f"{host}-a", f"{host}-b"]
    cloud.add_compute(host, "cell1", nodes=nodes)
    try:
        cloud.wait_for_compute(host, nodes)
        find_host(cloud, running, host)
        assert drift.compute_nodes(cloud, host) == 2
        wait_until(lambda: settled(running), 60, "an end")
        assert len(healed(running, f"host:{host}")) >= 1
    finally:
        drift.retire(cloud, host)


def test_aggregate_changed_behind_a_stopped_placement(cloud: ControlPlane, running: Program, aggregate: Any) -> None:
    cloud.stop_service("placement")
    try:
        # Nova writes its own database first, then fails: the answer is an error, the host is in.
        with pytest.raises(exceptions.HttpException, match="PlacementAPIConnectFailure"):
            cloud.admin.compute.add_host_to_aggregate(aggregate.id, "compute-1")
        assert cloud.admin.compute.get_aggregate(aggregate.id).hosts == ["compute-1"]
        assert drift.members(cloud, aggregate.uuid) == set()
    finally:
        cloud.start_service("placement")
    if "aggregate.add_host.end" not in notified(running, f"aggregate:{aggregate.uuid}"):
        assert running.run("sweep", "sync_aggregates").returncode == 0
    wait_until(lambda: drift.members(cloud, aggregate.uuid) == {"compute-1"}, 60, "the membership")
    assert healed(running, f"aggregate:{aggregate.uuid}")[0]["undo"].startswith("openstack")
    assert running.json("work", "list", "--state", "parked") == []


def test_a_host_that_left_an_aggregate_leaves_it_in_placement(
    cloud: ControlPlane, running: Program, aggregate: Any
) -> None:
    cloud.admin.compute.add_host_to_aggregate(aggregate.id, "compute-1")
    cloud.admin.compute.add_host_to_aggregate(aggregate.id, "compute-2")
    wait_until(lambda: drift.members(cloud, aggregate.uuid) == {"compute-1", "compute-2"}, 60, "the memberships")
    cloud.stop_service("placement")
    try:
        # Here Nova asks Placement first, so a removal that fails leaves both as they were: no drift.
        with pytest.raises(exceptions.HttpException):
            cloud.admin.compute.remove_host_from_aggregate(aggregate.id, "compute-1")
        assert cloud.admin.compute.get_aggregate(aggregate.id).hosts == ["compute-1", "compute-2"]
    finally:
        cloud.start_service("placement")
    cloud.mariadb.execute(
        f"DELETE FROM aggregate_hosts WHERE aggregate_id = {aggregate.id} AND host = 'compute-1'", "nova_api"
    )
    assert running.run("sweep", "sync_aggregates").returncode == 0
    assert drift.members(cloud, aggregate.uuid) == {"compute-2"}


def notified(program: Program, key: str) -> set[str]:
    """The events that made a key be looked at and healed."""
    return {line["hint"] for line in program.json("history", "--key", key)}


def test_an_instance_deleted_while_placement_is_down(cloud: ControlPlane, running: Program) -> None:
    doomed, bystander = cloud.boot("doomed", host="compute-1"), cloud.boot("bystander", host="compute-1")
    try:
        drift.die_while_deleting(cloud, doomed.id, "compute-1")
        assert bystander.id in drift.allocations(cloud)
    finally:
        cloud.start_service("placement")
    back = time.time()
    wait_until(lambda: doomed.id not in drift.allocations(cloud), 120, "the allocation's end")
    print(f"healed {time.time() - back:.1f} s after Placement's return")
    wait_until(lambda: healed(running, f"consumer:{doomed.id}"), 30, "the history's line")
    (line,) = healed(running, f"consumer:{doomed.id}")
    assert line["undo"].startswith("openstack")
    assert line["problem"] == "instance-deleted"
    assert bystander.id in drift.allocations(cloud)
    cloud.start_service("nova-compute-compute-1")
    cloud.delete(bystander.id)


def test_a_delete_that_fails_with_placement_is_no_drift(cloud: ControlPlane, running: Program, server: Any) -> None:
    cloud.stop_service("placement")
    try:
        cloud.admin.compute.delete_server(server.id)
        wait_until(lambda: cloud.admin.compute.get_server(server.id).status == "ERROR", 60, "Nova's giving up")
    finally:
        cloud.start_service("placement")
    wait_until(lambda: settled(running), 120, "an end")
    assert server.id in drift.allocations(cloud), "the instance is alive in Nova's database, and so is its allocation"


def test_a_sweep_audits_and_then_heals_drift_without_an_event(
    cloud: ControlPlane, stackmend: Program, aggregate: Any, server: Any
) -> None:
    doomed = cloud.boot("doomed", host="compute-3")
    host = f"compute-{uuid.uuid4().hex[:6]}"
    cloud.add_compute(host, "cell1")
    cloud.wait_for_compute(host)
    try:
        drift.die_while_deleting(cloud, doomed.id, "compute-3")
        with pytest.raises(exceptions.HttpException):
            cloud.admin.compute.add_host_to_aggregate(aggregate.id, "compute-2")
    finally:
        cloud.start_service("placement")
    try:
        before = drift.dump(cloud)
        audit = stackmend.run("sweep", "--audit", "-f", "json")
        assert audit.returncode == 2, audit.stderr
        assert drift.dump(cloud) == before, "an audit changes not one row"
        for key in (f"consumer:{doomed.id}", f"host:{host}", f"aggregate:{aggregate.uuid}"):
            assert key in audit.stdout
        heal = stackmend.run("sweep", "-f", "json")
        assert heal.returncode == 0, heal.stdout + heal.stderr
        assert doomed.id not in drift.allocations(cloud)
        assert server.id in drift.allocations(cloud)
        assert drift.mapped_hosts(cloud)[host] == "cell1"
        assert drift.members(cloud, aggregate.uuid) == {"compute-2"}
        again = stackmend.run("sweep", "-f", "json")
        assert again.returncode == 0
        assert again.stdout.strip() == "[]"
    finally:
        cloud.start_service("nova-compute-compute-3")
        drift.retire(cloud, host)


@pytest.mark.timeout(600)
def test_database_and_broker_go_and_come_back(cloud: ControlPlane, running: Program) -> None:
    doomed = cloud.boot("doomed", host="compute-2")
    drift.die_while_deleting(cloud, doomed.id, "compute-2")
    cloud.mariadb.stop()
    time.sleep(30)
    cloud.mariadb.start()
    cloud.rabbitmq.restart()
    cloud.start_service("placement")
    wait_until(lambda: doomed.id not in drift.allocations(cloud), 180, "the allocation's end")
    cloud.start_service("nova-compute-compute-2")
    host = f"compute-{uuid.uuid4().hex[:6]}"
    cloud.add_compute(host, "cell1")
    try:
        cloud.wait_for_compute(host)
        find_host(cloud, running, host)
        wait_until(lambda: settled(running), 120, "an end")
        assert running.json("work", "list", "--state", "parked") == []
    finally:
        drift.retire(cloud, host)
