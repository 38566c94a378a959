"""Drift that nova-manage knows nothing of, made for real: what ended migrations, evacuations and deleted services leave."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from openstack import exceptions

from tests.cloud import drift
from tests.cloud.configuration import VHOST
from tests.cloud.control_plane import CELLS, ControlPlane, wait_until
from tests.cloud.operator import Shell
from tests.program import Program, only

TASKS = ("audit_migrations", "audit_services", "audit_providers", "audit_allocations")
#: One thing that is wrong: handler, key and problem.
Wrong = tuple[str, str, str]


@pytest.fixture
def stackmend(cloud: ControlPlane, tmp_path: Path) -> Program:
    """An installation beside the controller, in which these tasks heal."""
    modes = {f"{name}_mode": "heal" for name in TASKS}
    options: dict[str, dict[str, object]] = {
        **cloud.account.options(),
        "audit": {**only(*TASKS), **modes},
        "engine": {"breaker_count": 100_000, "heals_per_hour": 0},
    }
    program = Program(tmp_path / "stackmend", options)
    long_ago(cloud, "instances", "migrations", "services", "compute_nodes")
    program.run("sweep", *TASKS)  # what earlier tests left
    return program


@pytest.fixture
def shell(cloud: ControlPlane, stackmend: Program, tmp_path: Path) -> Shell:
    return Shell(cloud, tmp_path / "home", stackmend.conf)


@pytest.fixture
def network(cloud: ControlPlane) -> Iterator[str]:
    """A network for servers whose host Neutron knows, deleted after the test."""
    made = drift.create_network(cloud, f"leftovers-{uuid.uuid4().hex[:8]}")
    yield made
    with suppress(exceptions.SDKException):
        cloud.admin.network.delete_network(made)


@pytest.fixture
def server(cloud: ControlPlane, network: str) -> Iterator[Any]:
    """A server on compute-1, deleted after the test."""
    booted = cloud.boot(f"server-{uuid.uuid4().hex[:8]}", host="compute-1", networks=[{"uuid": network}])
    yield booted
    cloud.delete(booted.id)


@pytest.fixture
def host(cloud: ControlPlane) -> Iterator[str]:
    """Another compute host in cell1, deleted after the test with all that is left of it."""
    name = f"compute-{uuid.uuid4().hex[:6]}"
    cloud.add_compute(name, "cell1")
    cloud.wait_for_compute(name)
    cloud.discover_hosts()
    yield name
    if f"nova-compute-{name}" in cloud.services:
        drift.retire(cloud, name)


def audited(program: Program, cloud: ControlPlane) -> set[Wrong]:
    """What an audit of these tasks finds; it changes not one row. Nothing may be under way in the cloud."""
    before = drift.at_rest(cloud)
    wrong = found(program)
    assert before ^ set(drift.dump(cloud).splitlines()) == set()
    return wrong


def found(program: Program) -> set[Wrong]:
    """What an audit of these tasks finds."""
    rows = program.json("sweep", *TASKS, "--audit")
    return {(row["handler"], row["key"], row["problem"]) for row in rows}


def healed(program: Program) -> list[dict[str, Any]]:
    """Sweep, and return what was healed."""
    rows = program.json("sweep", *TASKS)
    return [row for row in rows if row["action"] == "healed"]


def long_ago(cloud: ControlPlane, *tables: str) -> None:
    """Let what is in these tables of the cells have happened some minutes ago: Nova gets a minute to finish."""
    for cell in CELLS:
        for table in tables:
            for column in ("created_at", "updated_at", "deleted_at"):
                statement = f"UPDATE {table} SET {column} = {column} - INTERVAL 5 MINUTE WHERE {column} IS NOT NULL"
                cloud.mariadb.execute(statement, f"nova_{cell}")


def migrations(cloud: ControlPlane, server_id: str) -> list[tuple[str, str]]:
    """Return uuid and status of a server's migrations in cell1, the last one first."""
    rows = cloud.mariadb.execute(
        f"SELECT uuid, status FROM migrations WHERE instance_uuid = '{server_id}' ORDER BY id DESC", "nova_cell1"
    )
    return [(found, status) for found, status in (line.split("\t") for line in rows.splitlines())]


def holding(cloud: ControlPlane, consumer: str) -> dict[str, Any]:
    """What a consumer holds, by provider's uuid."""
    answer = drift.allocation(cloud.admin.placement, consumer)["allocations"]
    return {provider: held["resources"] for provider, held in answer.items()}


def provider_names(cloud: ControlPlane) -> dict[str, str]:
    """Every resource provider's uuid, by name."""
    rows = cloud.mariadb.execute("SELECT name, uuid FROM resource_providers", "placement")
    return dict(line.split("\t") for line in rows.splitlines())


def delete_service(cloud: ControlPlane, name: str) -> None:
    """Let an operator delete the service of a host that is gone."""
    for service in cloud.admin.compute.services(host=name):
        cloud.admin.compute.delete_service(service)


def lose_without_placement(cloud: ControlPlane, name: str) -> None:
    """Delete the service of a host that is gone for good while Placement is down: Nova only logs that the provider stays."""
    drift.acquaint(cloud)
    cloud.stop_service("placement")
    try:
        cloud.remove_compute(name)
        delete_service(cloud, name)
    finally:
        cloud.start_service("placement")


def undo(shell: Shell, program: Program, problem: str) -> None:
    """Type the undo that the history gives for the last heal of a problem."""
    lines = program.json("history", "--outcome", "healed", "--limit", "1000")
    *_, last = [line["undo"] for line in lines if line["problem"] == problem]
    shell.undo(last)


def test_a_healthy_cloud_that_has_lived_has_none_of_it(
    cloud: ControlPlane, stackmend: Program, server: Any, host: str
) -> None:
    compute = cloud.admin.compute
    cloud.remove_compute(host)
    delete_service(cloud, host)
    waiting = cloud.boot("waiting", host="compute-2")
    try:
        compute.live_migrate_server(server, host=None, block_migration="auto")
        wait_until(lambda: compute.get_server(server.id).compute_host != "compute-1", 90, "the live migration")
        cloud.wait_for_server(server.id)
        for _ in range(2):
            compute.migrate_server(server)
            cloud.wait_for_server(server.id, "VERIFY_RESIZE")
            compute.revert_server_resize(server)
            cloud.wait_for_server(server.id)
        compute.resize_server(server, "small")
        cloud.wait_for_server(server.id, "VERIFY_RESIZE")
        compute.confirm_server_resize(server)
        cloud.wait_for_server(server.id)
        compute.migrate_server(waiting)
        cloud.wait_for_server(waiting.id, "VERIFY_RESIZE")
        long_ago(cloud, "instances", "migrations", "services", "compute_nodes")
        assert audited(stackmend, cloud) == set()
        assert healed(stackmend) == []
    finally:
        with suppress(exceptions.SDKException):
            compute.revert_server_resize(waiting)
            cloud.wait_for_server(waiting.id)
        cloud.delete(waiting.id)


def test_a_migration_whose_scheduling_fails_with_placement(
    cloud: ControlPlane, stackmend: Program, shell: Shell, server: Any
) -> None:
    mine = holding(cloud, server.id)
    cloud.kill_service("nova-scheduler")
    try:
        cloud.admin.compute.migrate_server(server)
        wait_until(lambda: migrations(cloud, server.id), 60, "the migration")
        migration = migrations(cloud, server.id)[0][0]
        wait_until(lambda: holding(cloud, migration) == mine, 60, "the migration's allocation")
        assert found(stackmend) == set(), "it is in progress"
        cloud.stop_service("placement")
        # nobody answers the conductor, and it gives up after a minute
        wait_until(lambda: migrations(cloud, server.id)[0][1] == "error", 240, "the end of the migration")
        task = f"SELECT 1 FROM instances WHERE uuid = '{server.id}' AND task_state IS NULL"
        wait_until(lambda: cloud.mariadb.execute(task, "nova_cell1"), 60, "the end of the task")
    finally:
        cloud.start_service("placement")  # first: without it, a nova-scheduler that starts ends at once
        # the request waits longer than whoever made it: answered now, it would claim resources for nobody
        cloud.rabbitmq.ctl("purge_queue", "-p", VHOST, "scheduler")
        cloud.start_service("nova-scheduler")
    assert holding(cloud, server.id) == {}, "the drift that this is about did not happen"
    assert holding(cloud, migration) == mine
    long_ago(cloud, "instances", "migrations")

    left = {("audit_migrations", f"instance:{server.id}", "migration-holds-the-allocation")}
    for _ in range(2):
        assert audited(stackmend, cloud) == left
        assert len(healed(stackmend)) == 1
        assert holding(cloud, server.id) == mine
        assert holding(cloud, migration) == {}
        assert audited(stackmend, cloud) == set()

        undo(shell, stackmend, "migration-holds-the-allocation")
        assert holding(cloud, server.id) == {}
        assert holding(cloud, migration) == mine
    assert len(healed(stackmend)) == 1
    assert audited(stackmend, cloud) == set()


def test_an_evacuated_host_that_is_deleted_and_archived(
    cloud: ControlPlane, stackmend: Program, shell: Shell, network: str, host: str
) -> None:
    moved = cloud.boot("moved", host=host, networks=[{"uuid": network}])
    try:
        cloud.lose_host(host)
        cloud.admin.compute.evacuate_server(moved.id)
        wait_until(lambda: cloud.admin.compute.get_server(moved.id).compute_host != host, 90, "the evacuation")
        cloud.wait_for_server(moved.id, "SHUTOFF")
        long_ago(cloud, "instances", "migrations")
        consumer = ("audit_allocations", f"consumer:{moved.id}", "left-on-another-node")
        assert audited(stackmend, cloud) == {consumer}, "the host is only lost, not deleted"

        mapping = cloud.mariadb.execute(f"SELECT cell_id FROM host_mappings WHERE host = '{host}'", "nova_api").strip()
        lose_without_placement(cloud, host)
        # an old release left the mapping, and so does whoever maps hosts before the service is gone
        cloud.mariadb.execute(f"INSERT INTO host_mappings (host, cell_id) VALUES ('{host}', {mapping})", "nova_api")
        left = provider_names(cloud)[host]
        long_ago(cloud, "services", "compute_nodes")
        cloud.nova_manage("db", "archive_deleted_rows", "--all-cells", "--until-complete")
        rows = f"SELECT COUNT(*) FROM compute_nodes WHERE host = '{host}'"
        assert cloud.mariadb.execute(rows, "nova_cell1").strip() == "0"

        mapped = ("audit_services", f"host:{host}", "mapping-left")
        held = ("audit_services", f"host:{host}", "provider-left")
        assert left == drift.provider(cloud, host)
        assert audited(stackmend, cloud) == {consumer, mapped, held}
        problems = {line["problem"] for line in healed(stackmend)}
        assert problems >= {"left-on-another-node", "mapping-left"}
        healed(stackmend)  # now that nobody holds anything of it

        assert host not in provider_names(cloud)
        assert host not in drift.mapped_hosts(cloud)
        assert set(drift.mapped_hosts(cloud)) >= {"compute-1", "compute-2", "compute-3"}
        here = cloud.admin.compute.get_server(moved.id).compute_host
        assert drift.allocations(cloud)[moved.id] == {here}
        assert audited(stackmend, cloud) == set()

        undo(shell, stackmend, "mapping-left")
        undo(shell, stackmend, "provider-left")
        assert drift.mapped_hosts(cloud)[host] == "cell1"
        assert provider_names(cloud)[host] == left
        assert {line["problem"] for line in healed(stackmend)} == {"mapping-left", "provider-left"}
        assert host not in {*provider_names(cloud), *drift.mapped_hosts(cloud)}
    finally:
        cloud.delete(moved.id)


def test_a_host_that_comes_back_with_another_identity(cloud: ControlPlane, stackmend: Program, host: str) -> None:
    old = provider_names(cloud)[host]
    lose_without_placement(cloud, host)
    for identity in cloud.folder.rglob(f"{host}/compute_id"):
        identity.unlink()
    cloud.add_compute(host, "cell1")
    wait_until(lambda: drift.compute_nodes(cloud, host) == 1, 120, "the new compute node")
    name = f"nova-compute-{host}"
    wait_until(lambda: "onflicting resource provider" in cloud.log(name), 120, "nova-compute's complaint")
    long_ago(cloud, "services", "compute_nodes")
    cloud.discover_hosts()

    assert audited(stackmend, cloud) == {("audit_providers", f"host:{host}", "provider-uuid-wrong")}
    assert healed(stackmend) == []
    assert provider_names(cloud)[host] == old

    answer = cloud.admin.placement.delete(f"/resource_providers/{old}", microversion="1.28")  # as it advises
    assert answer.status_code == 204
    cloud.stop_service(name)
    cloud.start_service(name)
    cloud.wait_for_compute(host)
    assert provider_names(cloud)[host] != old
    assert audited(stackmend, cloud) == set()


def test_a_host_that_comes_back_as_itself(cloud: ControlPlane, stackmend: Program, host: str) -> None:
    """Nova makes the deleted compute node a live one again, and its provider was there all the time."""
    old = provider_names(cloud)[host]
    lose_without_placement(cloud, host)
    cloud.add_compute(host, "cell1")
    wait_until(lambda: drift.compute_nodes(cloud, host) == 1, 120, "the compute node")
    cloud.wait_for_compute(host)
    cloud.discover_hosts()
    long_ago(cloud, "services", "compute_nodes")
    assert audited(stackmend, cloud) == set()
    assert healed(stackmend) == []
    assert provider_names(cloud)[host] == old
