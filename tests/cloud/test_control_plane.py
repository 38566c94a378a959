"""The control plane itself: what other tests rely on works with the fake hypervisors."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from typing import Any

import kombu.connection
import pytest

from tests.cloud.control_plane import ControlPlane


@pytest.fixture
def server(cloud: ControlPlane) -> Iterator[Any]:
    """A server in cell1."""
    booted = cloud.boot(f"server-{uuid.uuid4().hex[:8]}", host="compute-1")
    yield booted
    cloud.delete(booted.id)


def host_of(cloud: ControlPlane, server: Any) -> str:
    host: str = cloud.admin.compute.get_server(server.id).compute_host
    return host


def providers_of(cloud: ControlPlane, server: Any) -> list[str]:
    rows = cloud.mariadb.execute(
        "SELECT DISTINCT p.name FROM allocations a"
        " JOIN resource_providers p ON p.id = a.resource_provider_id"
        f" WHERE a.consumer_id = '{server.id}' ORDER BY 1",
        "placement",
    )
    return rows.split()


@pytest.mark.parametrize("host", ["compute-1", "compute-3"])
def test_boot_in_each_cell(cloud: ControlPlane, host: str) -> None:
    server = cloud.boot("here", host=host)
    assert server.compute_host == host
    assert providers_of(cloud, server) == [host]
    cloud.delete(server.id)
    assert providers_of(cloud, server) == []


def test_notifications_reach_the_cell_s_own_bus(cloud: ControlPlane, server: Any) -> None:
    types = set()
    with kombu.connection.Connection(cloud.rabbitmq.url("cell1")) as connection:
        channel = connection.channel()
        while message := channel.basic_get("stackmend.info", no_ack=True):
            content = json.loads(message.body)
            types.add(json.loads(content["oslo.message"])["event_type"])
    legacy, versioned = "compute.instance.create.end", "instance.create.end"
    expected = {"both": {legacy, versioned}, "unversioned": {legacy}}[cloud.release.notification_format]
    assert types & {legacy, versioned} == expected


def test_resize_and_confirm(cloud: ControlPlane, server: Any) -> None:
    compute = cloud.admin.compute
    compute.resize_server(server, "small")
    cloud.wait_for_server(server.id, "VERIFY_RESIZE")
    compute.confirm_server_resize(server)
    cloud.wait_for_server(server.id)
    assert providers_of(cloud, server) == [host_of(cloud, server)] == ["compute-2"]


def test_resize_and_revert(cloud: ControlPlane, server: Any) -> None:
    compute = cloud.admin.compute
    compute.resize_server(server, "small")
    cloud.wait_for_server(server.id, "VERIFY_RESIZE")
    compute.revert_server_resize(server)
    cloud.wait_for_server(server.id)
    assert providers_of(cloud, server) == [host_of(cloud, server)] == ["compute-1"]


def test_cold_migration(cloud: ControlPlane, server: Any) -> None:
    compute = cloud.admin.compute
    compute.migrate_server(server)
    cloud.wait_for_server(server.id, "VERIFY_RESIZE")
    compute.confirm_server_resize(server)
    cloud.wait_for_server(server.id)
    assert host_of(cloud, server) == "compute-2"


def test_live_migration(cloud: ControlPlane, server: Any) -> None:
    compute = cloud.admin.compute
    for target in ("compute-2", "compute-1"):
        compute.live_migrate_server(server, host=None, block_migration="auto")
        cloud.wait_until(
            lambda target=target: host_of(cloud, server) == target,  # type: ignore[misc]
            60,
            f"live migration to {target}",
        )
        cloud.wait_for_server(server.id)
    assert providers_of(cloud, server) == ["compute-1"]


def test_shelve_and_unshelve(cloud: ControlPlane, server: Any) -> None:
    compute = cloud.admin.compute
    compute.shelve_server(server)
    cloud.wait_for_server(server.id, "SHELVED_OFFLOADED")
    assert providers_of(cloud, server) == []
    compute.unshelve_server(server)
    cloud.wait_for_server(server.id)
    assert providers_of(cloud, server) == [host_of(cloud, server)]


def test_evacuation(cloud: ControlPlane, server: Any) -> None:
    cloud.lose_host("compute-1")
    try:
        cloud.admin.compute.evacuate_server(server)
        cloud.wait_until(lambda: host_of(cloud, server) == "compute-2", 60, "evacuation")
        cloud.wait_for_server(server.id, "SHUTOFF")
        assert providers_of(cloud, server) == ["compute-1", "compute-2"]
    finally:
        cloud.return_host("compute-1")
    assert providers_of(cloud, server) == ["compute-2"]


def test_another_compute_with_two_nodes(cloud: ControlPlane) -> None:
    nodes = ["node-1", "node-2"]
    cloud.add_compute("compute-4", "cell2", nodes=nodes)
    cloud.wait_for_compute("compute-4", nodes)
    mapped = "SELECT COUNT(*) FROM host_mappings WHERE host = 'compute-4'"
    assert cloud.mariadb.execute(mapped, "nova_api") == "0\n"
    cloud.discover_hosts()
    assert cloud.mariadb.execute(mapped, "nova_api") == "1\n"
    server = cloud.boot("there", host="compute-4")
    assert server.hypervisor_hostname in nodes
    cloud.delete(server.id)
    cloud.remove_compute("compute-4")
    for service in cloud.admin.compute.services(binary="nova-compute", host="compute-4"):
        cloud.admin.compute.delete_service(service)
    assert cloud.mariadb.execute(mapped, "nova_api") == "0\n"


def test_a_service_can_be_stopped_and_started(cloud: ControlPlane) -> None:
    cloud.stop_service("placement")
    assert not cloud.is_running("placement")
    cloud.start_service("placement")
    server = cloud.boot("after")
    cloud.delete(server.id)
