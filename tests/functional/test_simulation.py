"""The simulated cloud is healthy and honest, its Placement is the real one, and every scene of the demonstration drifts."""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from keystoneauth1 import session, token_endpoint
from oslo_config import cfg
from sqlalchemy import event

from handlers.access import cloud_options
from handlers.base import Resources
from handlers.demo import Notification
from handlers.nova import options, queries, tables
from handlers.nova.database import NovaDatabases
from handlers.nova.demo import HOSTS, NovaDemo
from handlers.nova.placement import Placement
from handlers.nova.simulation import Flavor, NovaSimulation, PlacementServer, notification


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[NovaSimulation]:
    simulation = NovaSimulation(tmp_path)
    simulation.start()
    for host, cell in (("compute-1", "cell1"), ("compute-2", "cell1"), ("compute-3", "cell2")):
        simulation.add_compute(host, cell)
        simulation.map_host(host)
    simulation.take()
    yield simulation
    simulation.stop()


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[NovaDemo]:
    shown = NovaDemo()
    shown.start(tmp_path)
    yield shown
    shown.stop()


def message(sent: Notification) -> dict[str, Any]:
    """Unpack a notification as a consumer does."""
    inner: dict[str, Any] = json.loads(json.loads(sent.body)["oslo.message"])
    return inner


def data(sent: Notification) -> dict[str, Any]:
    payload: dict[str, Any] = message(sent)["payload"]["nova_object.data"]
    return payload


def events(cloud: NovaSimulation) -> list[str]:
    return [message(sent)["event_type"] for sent in cloud.take()]


class TestPlacementServer:
    @pytest.fixture
    def server(self, tmp_path: Path) -> Iterator[PlacementServer]:
        server = PlacementServer(tmp_path)
        server.start()
        yield server
        server.stop()

    def test_speaks_http_to_plain_urllib(self, server: PlacementServer) -> None:
        request = urllib.request.Request(f"{server.url}/resource_providers", headers={"X-Auth-Token": "admin"})
        with urllib.request.urlopen(request, timeout=10) as reply:
            assert json.load(reply) == {"resource_providers": []}

    def test_wants_a_token(self, server: PlacementServer) -> None:
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(f"{server.url}/resource_providers", timeout=10)

    def test_serves_keystoneauth_and_microversions(self, server: PlacementServer) -> None:
        client = session.Session(token_endpoint.Token(server.url, server.TOKEN))
        arguments = {"endpoint_filter": {"service_type": "placement"}, "microversion": "1.20"}
        provider = str(uuid.uuid4())
        made = client.post("/resource_providers", json={"uuid": provider, "name": "n"}, **arguments)
        assert made.json()["generation"] == 0
        missing = client.get(f"/resource_providers/{uuid.uuid4()}", raise_exc=False, **arguments)
        assert missing.status_code == 404
        stale = client.put(
            f"/resource_providers/{provider}/aggregates",
            json={"aggregates": [], "resource_provider_generation": 7},
            raise_exc=False,
            **arguments,
        )
        assert stale.status_code == 409
        assert client.delete(f"/resource_providers/{provider}", **arguments).status_code == 204

    def test_keeps_a_connection_open(self, server: PlacementServer) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", int(server.url.rpartition(":")[2]), timeout=10)
        for _ in range(3):
            connection.request("GET", "/resource_providers", headers={"X-Auth-Token": "admin"})
            reply = connection.getresponse()
            assert (reply.status, reply.version) == (200, 11)
            reply.read()
            assert connection.sock is not None

    def test_refuses_while_stopped_and_comes_back_as_it_was(self, server: PlacementServer) -> None:
        client = session.Session(token_endpoint.Token(server.url, server.TOKEN))
        provider = str(uuid.uuid4())
        server.request("POST", "/resource_providers", {"uuid": provider, "name": "n"})
        assert client.get(f"{server.url}/resource_providers/{provider}").status_code == 200
        url = server.url
        server.stop()
        with pytest.raises(ConnectionRefusedError):
            server.request("GET", "/")
        server.start()
        assert server.url == url
        assert client.get(f"{url}/resource_providers/{provider}").status_code == 200

    def test_one_at_a_time(self, server: PlacementServer, tmp_path: Path) -> None:
        second = PlacementServer(tmp_path / "second")
        with pytest.raises(RuntimeError, match="another PlacementServer"):
            second.start()
        (tmp_path / "second").mkdir()
        server.stop()
        second.start()
        assert second.request("GET", "/traits?name=in:COMPUTE_NODE").body == {"traits": ["COMPUTE_NODE"]}
        second.stop()

    def test_a_server_that_could_not_start_blocks_no_other(self, server: PlacementServer, tmp_path: Path) -> None:
        server.stop()
        with pytest.raises(Exception, match="unable to open database file"):
            PlacementServer(tmp_path / "no" / "such" / "folder").start()
        server.start()
        assert server.request("GET", "/resource_providers").status == 200

    def test_leaves_the_process_as_it_was(self, tmp_path: Path) -> None:
        program = (
            "import logging, sys, threading, pathlib\n"
            "from oslo_config import cfg\n"
            "from handlers.nova.simulation import PlacementServer\n"
            "assert 'placement' not in sys.modules\n"
            "server = PlacementServer(pathlib.Path(sys.argv[1]))\n"
            "server.start()\n"
            "assert server.request('GET', '/resource_providers').status == 200\n"
            "server.stop()\n"
            "assert not logging.getLogger().handlers\n"
            # oslo.log below 8.3 imports eventlet where it is installed
            "patcher = sys.modules.get('eventlet.patcher')\n"
            "assert patcher is None or not patcher.is_monkey_patched('thread')\n"
            "assert 'placement_database' not in cfg.CONF\n"
            "assert threading.active_count() == 1\n"
        )
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", program, str(tmp_path)],
            capture_output=True,
            text=True,
            check=False,
            cwd=Path(__file__).parents[2],
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")

    def test_says_which_extra_is_missing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "placement", None)
        with pytest.raises(Exception, match=r"pip install stackmend\[demo\]"):
            PlacementServer(tmp_path).start()


class TestNotification:
    def test_is_nova_s_envelope_with_our_values(self, cloud: NovaSimulation) -> None:
        cloud.register_host("compute-9", "cell1")
        (sent,) = cloud.take()
        assert (sent.exchange, sent.routing_key) == ("nova", "versioned_notifications.info")
        assert json.loads(sent.body)["oslo.version"] == "2.0"
        assert message(sent)["publisher_id"] == "nova-compute:compute-9"
        assert data(sent)["host"] == "compute-9"
        assert data(sent)["binary"] == "nova-compute"

    def test_no_captured_id_or_name_is_left(self, cloud: NovaSimulation) -> None:
        instance = cloud.boot("compute-1", Flavor(vcpus=2))
        (sent,) = cloud.take()
        assert data(sent)["uuid"] == instance
        assert data(sent)["tenant_id"] == cloud.PROJECT
        assert data(sent)["host"] == data(sent)["node"] == "compute-1"
        assert data(sent)["created_at"].endswith("Z")

    def test_two_have_different_ids(self, cloud: NovaSimulation) -> None:
        cloud.boot("compute-1")
        cloud.boot("compute-1")
        first, second = cloud.take()
        assert message(first)["message_id"] != message(second)["message_id"]

    def test_refuses_a_field_that_nova_does_not_send(self, cloud: NovaSimulation) -> None:
        with pytest.raises(KeyError, match="nonsense"):
            notification("service.create", "nova-compute:a", {"nonsense": 1}, datetime(2026, 1, 1))


class TestOptions:
    def test_point_handlers_at_the_cloud(self, cloud: NovaSimulation, tmp_path: Path) -> None:
        lines = []
        for group, values in cloud.options().items():
            lines += [f"[{group}]", *(f"{name} = {value}" for name, value in values.items())]
        file = tmp_path / "stackmend.conf"
        file.write_text("\n".join(lines))
        conf = cfg.ConfigOpts()
        conf.register_opts(options.OPTIONS, options.GROUP)
        conf.register_opts(cloud_options.OPTIONS, cloud_options.GROUP)
        conf([], default_config_files=[str(file)])
        resources = Resources(conf)
        instance = cloud.boot("compute-1")
        try:
            databases = resources.get(NovaDatabases.from_resources)
            assert [cell.name for cell in databases.cells()] == ["cell0", "cell1", "cell2"]
            assert databases.api.run(queries.mapped_hosts).keys() == cloud.host_mappings().keys()
            placement = resources.get(Placement.from_resources)
            assert placement.allocation(instance).providers == cloud.allocation(instance)
            assert set(placement.compute_providers()) == {node.uuid for node in cloud.nodes()}
        finally:
            resources.close()


class TestHealthyCloud:
    def test_every_instance_is_whole(self, cloud: NovaSimulation) -> None:
        for host in ("compute-1", "compute-2", "compute-3"):
            cloud.boot(host, Flavor(vcpus=2, memory_mb=2048))
        rows = cloud.live_instances()
        assert len(rows) == 3
        for row in rows:
            node = cloud.node(row.host)
            assert (row.vm_state, row.task_state, row.node) == ("active", None, node.name)
            assert cloud.allocation(row.uuid) == {node.uuid: {"VCPU": 2, "MEMORY_MB": 2048, "DISK_GB": 1}}
            assert cloud.instance_mapping(row.uuid) == node.cell
        assert cloud.build_requests() == set()

    def test_every_host_is_mapped_to_its_cell(self, cloud: NovaSimulation) -> None:
        assert cloud.host_mappings() == {"compute-1": "cell1", "compute-2": "cell1", "compute-3": "cell2"}

    def test_a_delete_leaves_nothing(self, cloud: NovaSimulation) -> None:
        instance = cloud.boot("compute-1")
        cloud.delete(instance)
        assert cloud.instance(instance).deleted == cloud.instance(instance).id
        assert cloud.allocation(instance) == {}
        assert cloud.live_instances() == []
        assert events(cloud) == ["instance.create.end", "instance.delete.end"]

    def test_a_whole_cold_migration(self, cloud: NovaSimulation) -> None:
        instance = cloud.boot("compute-1")
        source, target = cloud.node("compute-1").uuid, cloud.node("compute-2").uuid
        migration = cloud.start_migration(instance, "compute-2")
        assert (set(cloud.allocation(migration)), set(cloud.allocation(instance))) == ({source}, {target})
        assert cloud.instance(instance).host == "compute-1"
        cloud.finish_migration(migration)
        assert (cloud.instance(instance).host, cloud.instance(instance).vm_state) == ("compute-2", "resized")
        assert set(cloud.allocation(migration)) == {source}
        cloud.confirm_migration(migration)
        assert (cloud.allocation(migration), set(cloud.allocation(instance))) == ({}, {target})
        assert cloud.migration(migration).status == "confirmed"

    def test_a_whole_live_migration(self, cloud: NovaSimulation) -> None:
        instance = cloud.boot("compute-1")
        migration = cloud.start_migration(instance, "compute-2", live=True)
        assert cloud.instance(instance).task_state == "migrating"
        cloud.finish_migration(migration)
        assert (cloud.instance(instance).host, cloud.migration(migration).status) == ("compute-2", "completed")
        assert (cloud.allocation(migration), set(cloud.allocation(instance))) == ({}, {cloud.node("compute-2").uuid})

    def test_a_live_migration_that_is_rolled_back(self, cloud: NovaSimulation) -> None:
        instance = cloud.boot("compute-1")
        before = cloud.allocation(instance)
        migration = cloud.start_migration(instance, "compute-2", live=True)
        cloud.fail_migration(migration)
        assert (cloud.allocation(instance), cloud.allocation(migration)) == (before, {})
        assert (cloud.instance(instance).host, cloud.migration(migration).status) == ("compute-1", "failed")

    def test_an_evacuation_leaves_the_dead_host_s_share(self, cloud: NovaSimulation) -> None:
        instance = cloud.boot("compute-1")
        cloud.take()
        cloud.force_down("compute-1")
        migration = cloud.evacuate(instance, "compute-2")
        both = {cloud.node("compute-1").uuid, cloud.node("compute-2").uuid}
        assert set(cloud.allocation(instance)) == both
        assert (cloud.instance(instance).host, cloud.migration(migration).status) == ("compute-2", "done")
        assert events(cloud) == ["service.update", "instance.evacuate", "instance.rebuild.end"]

    def test_no_move_leaves_its_cell(self, cloud: NovaSimulation) -> None:
        instance = cloud.boot("compute-1")
        with pytest.raises(ValueError, match="another cell"):
            cloud.start_migration(instance, "compute-3")

    def test_shelving_gives_the_host_back(self, cloud: NovaSimulation) -> None:
        instance = cloud.boot("compute-1")
        cloud.shelve_offload(instance)
        assert (cloud.allocation(instance), cloud.instance(instance).host) == ({}, None)
        cloud.unshelve(instance, "compute-2")
        assert set(cloud.allocation(instance)) == {cloud.node("compute-2").uuid}

    def test_a_boot_can_stop_half_way(self, cloud: NovaSimulation) -> None:
        instance = cloud.request()
        assert (cloud.instance_mapping(instance), cloud.build_requests()) == (None, {instance})
        cloud.claim(instance, "compute-1")
        cloud.create_instance(instance, "cell1")
        assert (cloud.instance(instance).vm_state, cloud.instance(instance).host) == ("building", None)
        assert set(cloud.allocation(instance)) == {cloud.node("compute-1").uuid}

    def test_aggregates(self, cloud: NovaSimulation) -> None:
        aggregate = cloud.create_aggregate("ssd")
        cloud.add_host_to_aggregate(aggregate, "compute-1")
        assert cloud.aggregate_hosts(aggregate) == {"compute-1"}
        assert cloud.provider_aggregates(cloud.node("compute-1").uuid) == {aggregate}
        cloud.remove_host_from_aggregate(aggregate, "compute-1")
        assert cloud.aggregate_hosts(aggregate) == set()
        assert cloud.provider_aggregates(cloud.node("compute-1").uuid) == set()

    def test_a_deleted_host_loses_its_mapping_before_its_service(self, cloud: NovaSimulation) -> None:
        host = "compute-1"
        there: list[tuple[bool, bool]] = []

        def look(_: sa.Connection, deletion: sa.Executable, *others: Any) -> None:
            if isinstance(deletion, sa.Delete) and deletion.table is tables.host_mappings:
                with cloud.cells["cell1"].connect() as connection:
                    services = queries.compute_services(connection, host)
                    nodes = queries.compute_nodes(connection, {"host": host})
                there.append((bool(services), bool(nodes)))

        event.listen(cloud.api, "before_execute", look)
        cloud.delete_service(host)
        assert there == [(True, True)]
        with cloud.cells["cell1"].connect() as connection:
            assert not queries.compute_services(connection, host)
            assert not queries.compute_nodes(connection, {"host": host})

    def test_the_past(self, cloud: NovaSimulation) -> None:
        with cloud.ago(hours=3):
            old = cloud.boot("compute-1")
        new = cloud.boot("compute-1")
        age = cloud.instance(new).created_at - cloud.instance(old).created_at
        assert 3 * 3600 <= age.total_seconds() < 3 * 3600 + 60

    def test_ironic_has_many_nodes(self, cloud: NovaSimulation) -> None:
        nodes = cloud.add_compute("ironic-1", "cell1", nodes=3)
        assert len({node.uuid for node in nodes}) == 3
        instance = cloud.boot("ironic-1", node=nodes[2].name)
        assert set(cloud.allocation(instance)) == {nodes[2].uuid}


class TestNovaDemo:
    def test_begins_healthy(self, demo: NovaDemo) -> None:
        assert demo.harm() == ""
        assert set(demo.cloud.host_mappings()) == set(HOSTS)
        for row in demo.cloud.live_instances():
            assert bool(demo.cloud.allocation(row.uuid)) == (row.vm_state != "shelved_offloaded")
        for scene in demo.scenes():
            if scene.handler in {"sync_aggregates", "heal_allocations"}:
                assert scene.drift() == ""

    def test_every_scene_drifts(self, demo: NovaDemo) -> None:
        for scene in demo.scenes():
            scene.play()
            assert scene.drift() != "", scene.title
            assert "harm" not in scene.drift()
        assert demo.harm() == ""

    def test_every_scene_but_the_silent_one_sends_a_notification(self, demo: NovaDemo) -> None:
        sent = [[message(each)["event_type"] for each in scene.play()] for scene in demo.scenes()]
        assert sent == [
            ["service.create"],
            ["aggregate.add_host.end"],
            ["instance.unshelve.end"],
            ["instance.delete.end"],
            ["instance.resize_confirm.end"],
            [],
        ]

    def test_drift_ends_when_the_world_is_mended(self, demo: NovaDemo) -> None:
        cloud = demo.cloud
        host, missing, without, deleted, confirmed, silent = demo.scenes()
        for scene in demo.scenes():
            scene.play()
        for scene in (host, silent):
            cloud.map_host(scene.key.id)
        cloud.set_membership(missing.key.id, "compute-2", member=True)
        cloud.hold(without.key.id, {cloud.node("compute-3").uuid: {"VCPU": 1}})
        cloud.hold(deleted.key.id, {})
        (migration,) = cloud.migrations(confirmed.key.id)
        cloud.hold(migration.uuid, {})
        assert [scene.drift() for scene in demo.scenes()] == [""] * 6

    def test_taking_a_bystander_s_allocation_is_harm(self, demo: NovaDemo) -> None:
        deleted = demo.scenes()[3]
        deleted.play()
        cloud = demo.cloud
        cloud.hold(deleted.key.id, {})
        assert deleted.drift() == ""
        (building,) = [row.uuid for row in cloud.live_instances() if row.vm_state == "building"]
        cloud.hold(building, {})
        assert deleted.drift() == "harm: a boot lost its allocation"

    def test_needs_a_start(self) -> None:
        with pytest.raises(RuntimeError, match="not been started"):
            _ = NovaDemo().cloud
        NovaDemo().stop()
