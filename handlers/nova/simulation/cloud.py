"""Nova's side of a small cloud: what nova-api, nova-conductor, nova-scheduler and nova-compute write, row by row.

Writes ``nova_api.db``, ``cell0.db``, ``cell1.db`` ... and ``placement.db`` in one folder, nothing else. Rows and
allocations change in Nova's order, so a test can stop half way; every method names the Nova module that does it. What
Nova would publish is kept until :meth:`NovaSimulation.take`.

Left out on purpose: quotas, networks, volumes, shadow tables, and every check that Nova makes before it acts.
"""

from __future__ import annotations

import contextlib
import json
import threading
import uuid as uuids
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar

from sqlalchemy import Engine, Row, Table

from handlers.demonstration import Notification
from handlers.nova import tables
from handlers.nova.cells import CELL0
from handlers.nova.simulation.bus import notification
from handlers.nova.simulation.placement import PlacementServer
from handlers.nova.simulation.report import Held, Report
from handlers.nova.simulation.store import Store


@dataclass(frozen=True, slots=True)
class Flavor:
    """What an instance asks for; Nova keeps it in the request specification."""

    name: str = "m1.tiny"
    vcpus: int = 1
    memory_mb: int = 512
    root_gb: int = 1

    def resources(self) -> dict[str, int]:
        """What Placement is asked for (nova.scheduler.utils.ResourceRequest)."""
        wanted = {"VCPU": self.vcpus, "MEMORY_MB": self.memory_mb, "DISK_GB": self.root_gb}
        return {name: amount for name, amount in wanted.items() if amount}


@dataclass(frozen=True, slots=True)
class Node:
    """A compute node: its row's uuid is its resource provider's."""

    uuid: str
    name: str
    host: str
    cell: str


class NovaSimulation:
    """One cloud. Call :meth:`start` first and :meth:`stop` last.

    :param folder: an empty folder
    :param cells: names of the cells beside cell0
    """

    PROJECT: ClassVar[str] = "3a7e4c8d2b6f4a0f9d1c5e7b8a6d4f20"
    USER: ClassVar[str] = "c1d2e3f4a5b64788990a1b2c3d4e5f60"
    #: Every node has this much.
    CAPACITY: ClassVar[Mapping[str, int]] = {"VCPU": 64, "MEMORY_MB": 131072, "DISK_GB": 2000}

    def __init__(self, folder: Path, cells: Sequence[str] = ("cell1", "cell2")) -> None:
        self.placement = PlacementServer(folder)
        self._store = Store(folder, ("cell0", *cells))
        self._report = Report(self.placement, self.PROJECT, self.USER)
        self._published: list[Notification] = []
        self._lock = threading.Lock()
        self._store.age = timedelta(0)

    # the cloud as a whole

    def start(self) -> None:
        """Make the databases and the cell mappings (``nova-manage db sync``, ``cell_v2 create_cell``); start Placement.

        :raises PlacementMissing: when openstack-placement is not installed
        """
        self.placement.start()
        self._store.create()
        for number, name in enumerate(self.cells):
            self._store.insert(
                self.api,
                tables.cell_mappings,
                id=number + 1,
                uuid=str(uuids.uuid4()) if number else CELL0,
                name=name,
                transport_url="none:///",
                database_connection=self._store.url(name),
                disabled=False,
            )

    def stop(self) -> None:
        """Stop Placement and close the databases; the files stay."""
        self.placement.stop()
        self._store.close()

    @property
    def api(self) -> Engine:
        """``nova_api``."""
        return self._store.api

    @property
    def cells(self) -> Mapping[str, Engine]:
        """The cells' databases by name, cell0 first."""
        return self._store.cells

    def options(self) -> Mapping[str, Mapping[str, str]]:
        """The options, by group, that point handlers at this cloud."""
        return {
            "nova": {
                "api_database_connection": self._store.url("nova_api"),
                "database_connection": self._store.url("cell0"),
            },
            "openstack": {
                "auth_type": "admin_token",
                "endpoint": self.placement.url,
                "token": self.placement.TOKEN,
                "placement_endpoint_override": self.placement.url,
            },
        }

    def take(self) -> list[Notification]:
        """Return what Nova has published since the last call, in order, and forget it."""
        with self._lock:
            published, self._published = self._published, []
        return published

    @contextlib.contextmanager
    def ago(self, **age: float) -> Iterator[None]:
        """Do what is inside as if it happened earlier: ``with cloud.ago(hours=1): cloud.delete(uuid)``."""
        self._store.age = timedelta(**age)
        try:
            yield
        finally:
            self._store.age = timedelta(0)

    # hosts

    def register_host(self, host: str, cell: str) -> str:
        """First step of a new nova-compute: its service row, then ``service.create`` (nova.service.Service.start).

        :return: the service's uuid
        """
        uuid = str(uuids.uuid4())
        self._store.insert(
            self.cells[cell],
            tables.services,
            uuid=uuid,
            host=host,
            binary="nova-compute",
            topic="compute",
            report_count=0,
            disabled=False,
            forced_down=False,
            version=74,
        )
        self._publish("service.create", f"nova-compute:{host}", {"host": host, "uuid": uuid})
        return uuid

    def report_node(self, host: str, node: str = "") -> Node:
        """Second step: the compute node row, then provider, inventory and trait
        (nova.compute.resource_tracker, nova.scheduler.client.report.update_from_provider_tree); the first heartbeat.
        """
        service, cell = self._service(host)
        found = Node(str(uuids.uuid4()), node or host, host, cell)
        self._store.insert(
            self.cells[cell],
            tables.compute_nodes,
            uuid=found.uuid,
            service_id=service.id,
            host=host,
            hypervisor_hostname=found.name,
            mapped=0,
            vcpus=self.CAPACITY["VCPU"],
            memory_mb=self.CAPACITY["MEMORY_MB"],
            local_gb=self.CAPACITY["DISK_GB"],
        )
        self._report.create_provider(found.uuid, found.name, self.CAPACITY)
        self.heartbeat(host)
        return found

    def add_compute(self, host: str, cell: str, nodes: int = 1) -> tuple[Node, ...]:
        """Both steps; more than one node is what ironic has. The host is in no cell until :meth:`map_host`."""
        self.register_host(host, cell)
        names = [host] if nodes == 1 else [f"{host}-node-{number}" for number in range(1, nodes + 1)]
        return tuple(self.report_node(host, name) for name in names)

    def map_host(self, host: str) -> None:
        """Put the host into its cell (nova.objects.host_mapping.discover_hosts)."""
        _, cell = self._service(host)
        self._store.insert(self.api, tables.host_mappings, host=host, cell_id=self._cell_id(cell))
        self._store.update(self.cells[cell], tables.compute_nodes, tables.compute_nodes.c.host == host, mapped=1)

    def heartbeat(self, host: str) -> None:
        """nova-compute reports that it lives (nova.servicegroup.drivers.db)."""
        service, cell = self._service(host)
        count = service.report_count + 1
        condition = tables.services.c.id == service.id
        self._store.update(
            self.cells[cell], tables.services, condition, report_count=count, last_seen_up=self._store.now()
        )

    def force_down(self, host: str) -> None:
        """An operator or a monitor fences a dead host: ``service.update`` (nova.compute.api.HostAPI.service_update)."""
        service, cell = self._service(host)
        self._store.update(self.cells[cell], tables.services, tables.services.c.id == service.id, forced_down=True)
        data = {"host": host, "uuid": service.uuid, "forced_down": True, "report_count": service.report_count}
        self._publish("service.update", f"nova-compute:{host}", data)

    def delete_service(self, host: str, leak_mapping: bool = False, leak_providers: bool = False) -> None:
        """An operator deletes the nova-compute service of a host: providers, mapping, then service and compute nodes,
        then ``service.delete`` (nova.api.openstack.compute.services.ServiceController.delete).

        :param leak_mapping: somebody maps the host again before its service is gone
        :param leak_providers: Placement is down, or somebody still holds something of them, which Nova passes by
        """
        service, cell = self._service(host)
        nodes, services = tables.compute_nodes, tables.services
        for node in self._store.rows(self.cells[cell], nodes, (nodes.c.host == host) & (nodes.c.deleted == 0)):
            if not leak_providers:
                self._report.delete_provider(node.uuid)
            self._soft_delete(cell, nodes, node.id)
        if not leak_mapping:
            self._store.delete(self.api, tables.host_mappings, tables.host_mappings.c.host == host)
        self._soft_delete(cell, services, service.id)
        self._publish("service.delete", f"nova-compute:{host}", {"host": host, "uuid": service.uuid})

    def _soft_delete(self, cell: str, table: Table, number: int) -> None:
        gone = {"deleted": number, "deleted_at": self._store.now()}
        self._store.update(self.cells[cell], table, table.c.id == number, **gone)

    # instances

    def request(self, flavor: Flavor | None = None) -> str:
        """A user asks for a server: request specification, build request, mapping without a cell, one transaction
        (nova.compute.api.API._provision_instances).
        """
        uuid = str(uuids.uuid4())
        spec = {
            "nova_object.name": "RequestSpec",
            "nova_object.namespace": "nova",
            "nova_object.data": {
                "instance_uuid": uuid,
                "project_id": self.PROJECT,
                "flavor": {"nova_object.name": "Flavor", "nova_object.data": asdict(flavor or Flavor())},
            },
        }
        owner = {"instance_uuid": uuid, "project_id": self.PROJECT}
        rows: Mapping[Table, Mapping[str, Any]] = {
            tables.request_specs: {"instance_uuid": uuid, "spec": json.dumps(spec)},
            tables.build_requests: {**owner, "instance": "{}"},
            tables.instance_mappings: {**owner, "user_id": self.USER, "cell_id": None, "queued_for_delete": False},
        }
        self._store.insert_together(self.api, rows)
        return uuid

    def claim(self, uuid: str, host: str, node: str = "") -> None:
        """The scheduler takes the resources on the node it chose, before anything else knows of it
        (nova.scheduler.utils.claim_resources). What the consumer holds elsewhere stays (an evacuation).
        """
        there = self.node(host, node).uuid
        self.hold(uuid, {**self.allocation(uuid), there: self.flavor(uuid).resources()})

    def create_instance(self, uuid: str, cell: str) -> None:
        """The instance's row in its cell, still without a host (nova.conductor.manager.schedule_and_build_instances)."""
        self._store.insert(
            self.cells[cell],
            tables.instances,
            uuid=uuid,
            project_id=self.PROJECT,
            user_id=self.USER,
            display_name=f"server-{uuid[:8]}",
            image_ref=str(uuids.uuid4()),
            vm_state="building",
            task_state="scheduling",
            hidden=False,
            cleaned=0,
        )
        self._describe(uuid, cell)

    def map_instance(self, uuid: str, cell: str) -> None:
        """Its mapping gets the cell, then the build request goes
        (nova.conductor.manager.schedule_and_build_instances).
        """
        mapping = tables.instance_mappings
        self._store.update(self.api, mapping, mapping.c.instance_uuid == uuid, cell_id=self._cell_id(cell))
        requests = tables.build_requests
        self._store.delete(self.api, requests, requests.c.instance_uuid == uuid)

    def spawn(self, uuid: str, host: str, node: str = "") -> None:
        """nova-compute takes the instance, starts it, then ``instance.create.end``
        (nova.compute.manager._build_and_run_instance).
        """
        target = self.node(host, node)
        self.set_instance(uuid, host=host, node=target.name, task_state="spawning")
        self.set_instance(uuid, vm_state="active", task_state=None, launched_at=self._store.now())
        self._tell(uuid, "instance.create.end", f"nova-compute:{host}")

    def boot(self, host: str, flavor: Flavor | None = None, node: str = "") -> str:
        """A whole boot; the instance is active on the host.

        :return: the instance's uuid
        """
        uuid = self.request(flavor)
        cell = self.node(host, node).cell
        self.claim(uuid, host, node)
        self.create_instance(uuid, cell)
        self.map_instance(uuid, cell)
        self.spawn(uuid, host, node)
        return uuid

    def delete(self, uuid: str, leak_allocation: bool = False) -> None:
        """Delete a server, then ``instance.delete.end`` (nova.compute.api.API._delete, then
        nova.compute.manager._delete_instance).

        :param leak_allocation: Placement keeps the allocation: as in releases that only logged when it did not answer,
            or when its database was restored from a backup
        """
        host = self.instance(uuid).host
        mapping = tables.instance_mappings
        self._store.update(self.api, mapping, mapping.c.instance_uuid == uuid, queued_for_delete=True)
        self.set_instance(uuid, task_state="deleting")
        self.set_instance(uuid, vm_state="deleted", task_state=None, terminated_at=self._store.now())
        if not leak_allocation:
            self.hold(uuid, {})
        row = self.instance(uuid)
        self.set_instance(uuid, deleted=row.id, deleted_at=self._store.now())
        self._tell(uuid, "instance.delete.end", f"nova-compute:{host}")

    def shelve_offload(self, uuid: str, leak_allocation: bool = False) -> None:
        """Take a shelved server off its host, then ``instance.shelve_offload.end``
        (nova.compute.manager._shelve_offload_instance).
        """
        host = self.instance(uuid).host
        self.set_instance(uuid, vm_state="shelved", task_state="shelving_offloading")
        if not leak_allocation:
            self.hold(uuid, {})
        self.set_instance(uuid, vm_state="shelved_offloaded", task_state=None)
        self.set_instance(uuid, host=None, node=None)
        self._tell(uuid, "instance.shelve_offload.end", f"nova-compute:{host}")

    def unshelve(self, uuid: str, host: str) -> None:
        """Bring a shelved server back: resources first, host later, then ``instance.unshelve.end``
        (nova.conductor.manager.unshelve_instance, nova.compute.manager._unshelve_instance).
        """
        self.set_instance(uuid, task_state="unshelving")
        self.claim(uuid, host)
        self.set_instance(uuid, host=host, node=self.node(host).name, task_state="spawning")
        self.set_instance(uuid, vm_state="active", task_state=None)
        self._tell(uuid, "instance.unshelve.end", f"nova-compute:{host}")

    # moves

    def start_migration(self, uuid: str, host: str, live: bool = False) -> str:
        """Begin a cold or live migration: the source's allocation goes to the migration, the destination is claimed
        for the instance, and the move is under way (nova.conductor.tasks.migrate, .live_migrate).

        :return: the migration's uuid
        """
        source, target = self.instance(uuid), self.node(host)
        self.set_instance(uuid, task_state="migrating" if live else "resize_prep")
        migration = self._create_migration(uuid, source, target, "live-migration" if live else "migration")
        self._report.move(uuid, migration)
        self.claim(uuid, host)
        self.set_migration(migration, status="running" if live else "migrating")
        if live:
            self._tell(uuid, "instance.live_migration_pre.end", f"nova-compute:{host}")
        else:
            self.set_instance(uuid, task_state="resize_migrating")
        return migration

    def finish_migration(self, migration: str) -> None:
        """The instance runs on the destination. A cold migration then waits for :meth:`confirm_migration`
        (nova.compute.manager.finish_resize); a live one only lets go of the source
        (nova.compute.manager._post_live_migration, which publishes before it does).
        """
        row = self.migration(migration)
        here = {"host": row.dest_compute, "node": row.dest_node}
        if row.migration_type == "live-migration":
            self.set_instance(row.instance_uuid, **here, task_state=None)
            self._tell(row.instance_uuid, "instance.live_migration_post.end", f"nova-compute:{row.source_compute}")
            self.set_migration(migration, status="completed")
            self.hold(migration, {})
        else:
            self.set_migration(migration, status="post-migrating")
            self.set_instance(row.instance_uuid, **here, task_state="resize_finish")
            self.set_migration(migration, status="finished")
            self.set_instance(row.instance_uuid, vm_state="resized", task_state=None)
            self._tell(row.instance_uuid, "instance.resize_finish.end", f"nova-compute:{row.dest_compute}")

    def confirm_migration(self, migration: str, leak_allocation: bool = False) -> None:
        """The user confirms a cold migration: ``instance.resize_confirm.end``, and only then the source's allocation
        goes (nova.compute.manager.confirm_resize).

        :param leak_allocation: nova-compute dies between the two
        """
        row = self.migration(migration)
        self.set_migration(migration, status="confirming")
        self.set_migration(migration, status="confirmed")
        self.set_instance(row.instance_uuid, vm_state="active", task_state=None)
        self._tell(row.instance_uuid, "instance.resize_confirm.end", f"nova-compute:{row.source_compute}")
        if not leak_allocation:
            self.hold(migration, {})

    def fail_migration(self, migration: str, leak_allocation: bool = False) -> None:
        """A live migration is rolled back: the instance gets its source allocation back, then
        ``instance.live_migration_rollback.end``, then the migration fails (nova.compute.manager._rollback_live_migration).

        :param leak_allocation: Placement did not take the revert, which Nova only logs: the migration still holds the
            source, the instance a host on which it is not
        """
        row = self.migration(migration)
        if not leak_allocation:
            self.hold(row.instance_uuid, {})
            self._report.move(migration, row.instance_uuid)
        self.set_instance(row.instance_uuid, vm_state="active", task_state=None)
        self._tell(row.instance_uuid, "instance.live_migration_rollback.end", f"nova-compute:{row.source_compute}")
        self.set_migration(migration, status="failed")

    def start_evacuation(self, uuid: str, host: str) -> str:
        """Rebuild a dead host's instance elsewhere: ``instance.evacuate``; both hosts are now allocated to the instance
        (nova.compute.api.API.evacuate, nova.conductor.manager.rebuild_instance).

        :return: the migration's uuid
        """
        source, target = self.instance(uuid), self.node(host)
        self.set_instance(uuid, task_state="rebuilding")
        migration = self._create_migration(uuid, source, target, "evacuation")
        self._tell(uuid, "instance.evacuate", "nova-api:controller")
        self.claim(uuid, host)
        self.set_migration(migration, status="pre-migrating")
        return migration

    def finish_evacuation(self, migration: str) -> None:
        """It runs there, then ``instance.rebuild.end``. The dead host's share stays allocated until that host comes
        back, if it ever does (nova.compute.manager._do_rebuild_instance_with_claim, _destroy_evacuated_instances).
        """
        row = self.migration(migration)
        self.set_instance(row.instance_uuid, host=row.dest_compute, node=row.dest_node, task_state="rebuild_spawning")
        self.set_migration(migration, status="done")
        self.set_instance(row.instance_uuid, vm_state="active", task_state=None)
        self._tell(row.instance_uuid, "instance.rebuild.end", f"nova-compute:{row.dest_compute}")

    def evacuate(self, uuid: str, host: str) -> str:
        """A whole evacuation.

        :return: the migration's uuid
        """
        migration = self.start_evacuation(uuid, host)
        self.finish_evacuation(migration)
        return migration

    # aggregates

    def create_aggregate(self, name: str) -> str:
        """An aggregate without hosts: ``aggregate.create.end`` (nova.compute.api.AggregateAPI.create_aggregate).

        :return: its uuid
        """
        uuid = str(uuids.uuid4())
        self._store.insert(self.api, tables.aggregates, uuid=uuid, name=name)
        self._tell_aggregate(uuid, "aggregate.create.end")
        return uuid

    def add_host_to_aggregate(self, uuid: str, host: str, placement_ok: bool = True) -> None:
        """First Nova's row, then Placement, then ``aggregate.add_host.end``
        (nova.compute.api.AggregateAPI.add_host_to_aggregate).

        :param placement_ok: whether Placement takes it; when it does not, Nova writes a line into its log, no more
        """
        self._store.insert(self.api, tables.aggregate_hosts, aggregate_id=self._aggregate(uuid).id, host=host)
        if placement_ok:
            self.set_membership(uuid, host, member=True)
        self._tell_aggregate(uuid, "aggregate.add_host.end")

    def remove_host_from_aggregate(self, uuid: str, host: str, placement_ok: bool = True) -> None:
        """First Placement, then Nova's row, then ``aggregate.remove_host.end``
        (nova.compute.api.AggregateAPI.remove_host_from_aggregate).

        :param placement_ok: False when Placement did not know the provider by its name at that time, which Nova takes
            for "not a member"
        """
        if placement_ok:
            self.set_membership(uuid, host, member=False)
        members = tables.aggregate_hosts
        condition = (members.c.aggregate_id == self._aggregate(uuid).id) & (members.c.host == host)
        self._store.delete(self.api, members, condition)
        self._tell_aggregate(uuid, "aggregate.remove_host.end")

    def set_membership(self, aggregate: str, host: str, member: bool) -> None:
        """Make a host's provider a member of an aggregate in Placement, or not (nova.scheduler.client.report)."""
        self._report.set_member(self.node(host).uuid, aggregate, member)

    # the world, changed by hand: for drift that no method above makes, and for healing

    def set_flavor(self, uuid: str, **values: Any) -> None:
        """Change the flavor that an instance carries with it: ``vcpus``, ``swap``, ``extra_specs`` ...; what it holds
        stays.
        """
        row, cell = self._store.find(tables.instance_extra, tables.instance_extra.c.instance_uuid == uuid)
        stored = json.loads(row.flavor)
        stored["cur"]["nova_object.data"].update(values)
        self._store.update(
            self.cells[cell], tables.instance_extra, tables.instance_extra.c.id == row.id, flavor=json.dumps(stored)
        )

    def set_ports(self, uuid: str, *profiles: Mapping[str, Any]) -> None:
        """Let the instance have ports with these binding profiles (nova.network.neutron, the cache)."""
        vifs = [{"id": str(uuids.uuid4()), "vnic_type": "normal", "profile": dict(profile)} for profile in profiles]
        caches = tables.instance_info_caches
        _, cell = self._store.find(caches, caches.c.instance_uuid == uuid)
        self._store.update(self.cells[cell], caches, caches.c.instance_uuid == uuid, network_info=json.dumps(vifs))

    def set_image_property(self, uuid: str, name: str, value: str) -> None:
        """Let the instance's image have had a property, by its name in Glance (nova.utils.get_system_metadata_from_image)."""
        _, cell = self._store.find(tables.instances, tables.instances.c.uuid == uuid)
        values = {"instance_uuid": uuid, "key": f"image_{name}", "value": value, "deleted": 0}
        self._store.insert(self.cells[cell], tables.instance_system_metadata, **values)

    def set_instance(self, uuid: str, **values: Any) -> None:
        """Change columns of an instance's row, live or deleted."""
        _, cell = self._store.find(tables.instances, tables.instances.c.uuid == uuid)
        self._store.update(self.cells[cell], tables.instances, tables.instances.c.uuid == uuid, **values)

    def set_migration(self, uuid: str, **values: Any) -> None:
        """Change columns of a migration's row."""
        _, cell = self._store.find(tables.migrations, tables.migrations.c.uuid == uuid)
        self._store.update(self.cells[cell], tables.migrations, tables.migrations.c.uuid == uuid, **values)

    def hold(self, consumer: str, held: Held) -> None:
        """Replace what a consumer holds in Placement: provider uuid to amounts; ``{}`` takes everything."""
        self._report.hold(consumer, held)

    # what is: for assertions

    def instance(self, uuid: str) -> Row[Any]:
        """An instance's row, live or deleted."""
        return self._store.find(tables.instances, tables.instances.c.uuid == uuid)[0]

    def live_instances(self) -> list[Row[Any]]:
        """Every instance that is not deleted, of all cells."""
        condition = tables.instances.c.deleted == 0
        return [row for engine in self.cells.values() for row in self._store.rows(engine, tables.instances, condition)]

    def migration(self, uuid: str) -> Row[Any]:
        """A migration's row."""
        return self._store.find(tables.migrations, tables.migrations.c.uuid == uuid)[0]

    def migrations(self, instance: str) -> list[Row[Any]]:
        """Every migration of an instance, oldest first."""
        _, cell = self._store.find(tables.instances, tables.instances.c.uuid == instance)
        migrations = tables.migrations
        return list(self._store.rows(self.cells[cell], migrations, migrations.c.instance_uuid == instance))

    def node(self, host: str, name: str = "") -> Node:
        """A host's compute node; its first one when no name is given."""
        condition = (tables.compute_nodes.c.host == host) & (tables.compute_nodes.c.deleted == 0)
        if name:
            condition &= tables.compute_nodes.c.hypervisor_hostname == name
        row, cell = self._store.find(tables.compute_nodes, condition)
        return Node(row.uuid, row.hypervisor_hostname, row.host, cell)

    def nodes(self) -> list[Node]:
        """Every compute node that is not deleted."""
        nodes = tables.compute_nodes
        return [
            Node(row.uuid, row.hypervisor_hostname, row.host, cell)
            for cell, engine in self.cells.items()
            for row in self._store.rows(engine, nodes, nodes.c.deleted == 0)
        ]

    def flavor(self, uuid: str) -> Flavor:
        """What an instance asked for."""
        spec = tables.request_specs
        row = self._store.rows(self.api, spec, spec.c.instance_uuid == uuid)[0]
        return Flavor(**json.loads(row.spec)["nova_object.data"]["flavor"]["nova_object.data"])

    def allocation(self, consumer: str) -> dict[str, dict[str, int]]:
        """What a consumer holds: provider uuid to amounts; empty when it holds nothing."""
        return self._report.held(consumer)

    def host_mappings(self) -> dict[str, str]:
        """Host to name of its cell."""
        names = {row.id: row.name for row in self._store.rows(self.api, tables.cell_mappings)}
        return {row.host: names[row.cell_id] for row in self._store.rows(self.api, tables.host_mappings)}

    def instance_mapping(self, uuid: str) -> str | None:
        """Name of the cell to which an instance is mapped; None while it is mapped to none."""
        mappings, cells = tables.instance_mappings, tables.cell_mappings
        [mapping] = self._store.rows(self.api, mappings, mappings.c.instance_uuid == uuid)
        if mapping.cell_id is None:
            return None
        [cell] = self._store.rows(self.api, cells, cells.c.id == mapping.cell_id)
        return str(cell.name)

    def build_requests(self) -> set[str]:
        """Instances that have a build request."""
        return {row.instance_uuid for row in self._store.rows(self.api, tables.build_requests)}

    def aggregate_hosts(self, uuid: str) -> set[str]:
        """Members of an aggregate according to Nova."""
        members = tables.aggregate_hosts
        return {
            row.host for row in self._store.rows(self.api, members, members.c.aggregate_id == self._aggregate(uuid).id)
        }

    def provider_aggregates(self, uuid: str) -> set[str]:
        """The aggregates of a resource provider according to Placement."""
        return self._report.aggregates(uuid)

    # rows

    def _create_migration(self, uuid: str, source: Row[Any], target: Node, kind: str) -> str:
        """Nova's conductor does it first of all; moves between cells are another story, which is not told here."""
        if self._store.find(tables.instances, tables.instances.c.uuid == uuid)[1] != target.cell:
            raise ValueError(f"{target.host} is in another cell than the instance")
        migration = str(uuids.uuid4())
        self._store.insert(
            self.cells[target.cell],
            tables.migrations,
            uuid=migration,
            instance_uuid=uuid,
            source_compute=source.host,
            source_node=source.node,
            dest_compute=target.host,
            dest_node=target.name,
            status="accepted",
            migration_type=kind,
            hidden=False,
            cross_cell_move=False,
            project_id=self.PROJECT,
            user_id=self.USER,
        )
        return migration

    def _describe(self, uuid: str, cell: str) -> None:
        """What an instance carries with it: its flavor and its network cache (nova.objects.instance.Instance.create)."""
        data = {**asdict(self.flavor(uuid)), "ephemeral_gb": 0, "swap": 0, "extra_specs": {}}
        flavor = {"nova_object.name": "Flavor", "nova_object.namespace": "nova", "nova_object.data": data}
        rows: Mapping[Table, Mapping[str, Any]] = {
            tables.instance_extra: {
                "instance_uuid": uuid,
                "flavor": json.dumps({"cur": flavor, "old": None, "new": None}),
            },
            tables.instance_info_caches: {"instance_uuid": uuid, "network_info": "[]"},
        }
        self._store.insert_together(self.cells[cell], rows)

    def _service(self, host: str) -> tuple[Row[Any], str]:
        services = tables.services
        return self._store.find(services, (services.c.host == host) & (services.c.deleted == 0))

    def _aggregate(self, uuid: str) -> Row[Any]:
        return self._store.rows(self.api, tables.aggregates, tables.aggregates.c.uuid == uuid)[0]

    def _cell_id(self, name: str) -> int:
        cells = tables.cell_mappings
        cell_id: int = self._store.rows(self.api, cells, cells.c.name == name)[0].id
        return cell_id

    # what Nova publishes

    def _publish(self, event_type: str, publisher: str, data: Mapping[str, Any]) -> None:
        sent_at = datetime.now(UTC).replace(tzinfo=None) - self._store.age
        made = notification(event_type, publisher, data, sent_at)
        with self._lock:
            self._published.append(made)

    def _tell(self, uuid: str, event_type: str, publisher: str) -> None:
        """Publish an instance's state as it is in its row."""
        row = self.instance(uuid)
        fields = ("uuid", "user_id", "display_name", "host", "node", "task_state")
        times = ("created_at", "updated_at", "launched_at", "terminated_at", "deleted_at")
        data = {name: getattr(row, name) for name in fields}
        data |= {name: _iso(getattr(row, name)) for name in times}
        data |= {"tenant_id": row.project_id, "state": row.vm_state, "image_uuid": row.image_ref}
        self._publish(event_type, publisher, data)

    def _tell_aggregate(self, uuid: str, event_type: str) -> None:
        row = self._aggregate(uuid)
        data = {"uuid": uuid, "id": row.id, "name": row.name, "hosts": sorted(self.aggregate_hosts(uuid))}
        self._publish(event_type, "nova-api:controller", data)


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else f"{moment.isoformat()}Z"
