from __future__ import annotations

import contextlib
import json
import threading
import uuid as uuids
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar

from sqlalchemy import Engine, Row

from handlers.demo import Notification
from handlers.nova import tables
from handlers.nova.cells import CELL0
from handlers.nova.simulation.bus import notification
from handlers.nova.simulation.cinder import Cinder
from handlers.nova.simulation.neutron import Neutron
from handlers.nova.simulation.placement import PlacementServer
from handlers.nova.simulation.records import Flavor, Node
from handlers.nova.simulation.report import Report
from handlers.nova.simulation.store import Store


class World:
    """The databases, Placement, Neutron, Cinder and notifications of a simulated cloud. Subclasses add Nova's operations.

    :param cells: names of the cells, without cell0
    """

    PROJECT: ClassVar[str] = "3a7e4c8d2b6f4a0f9d1c5e7b8a6d4f20"
    USER: ClassVar[str] = "c1d2e3f4a5b64788990a1b2c3d4e5f60"
    #: the capacity of every node
    CAPACITY: ClassVar[Mapping[str, int]] = {"VCPU": 64, "MEMORY_MB": 131072, "DISK_GB": 2000}

    def __init__(self, folder: Path, cells: Sequence[str] = ("cell1", "cell2")) -> None:
        self.placement = PlacementServer(folder)
        self.neutron = Neutron()
        self.cinder = Cinder(self._uses_attachment)
        self._store = Store(folder, ("cell0", *cells))
        self._report = Report(self.placement, self.PROJECT, self.USER)
        self._published: list[Notification] = []
        self._lock = threading.Lock()
        self._store.age = timedelta(0)

    # the cloud as a whole

    def start(self) -> None:
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
        self.placement.stop()
        self.neutron.close()
        self.cinder.close()
        self._store.close()

    @property
    def api(self) -> Engine:
        return self._store.api

    @property
    def cells(self) -> Mapping[str, Engine]:
        return self._store.cells

    def options(self) -> Mapping[str, Mapping[str, str]]:
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
                "network_endpoint_override": self.neutron.url,
                "block_storage_endpoint_override": self.cinder.url,
            },
        }

    def take(self) -> list[Notification]:
        with self._lock:
            published, self._published = self._published, []
        return published

    @contextlib.contextmanager
    def ago(self, **age: float) -> Iterator[None]:
        """Date the operations of a ``with`` block back: ``with cloud.ago(hours=1): cloud.delete(uuid)``."""
        self._store.age = timedelta(**age)
        try:
            yield
        finally:
            self._store.age = timedelta(0)

    # the state, for assertions

    def instance(self, uuid: str) -> Row[Any]:
        return self._store.find(tables.instances, tables.instances.c.uuid == uuid)[0]

    def live_instances(self) -> list[Row[Any]]:
        condition = tables.instances.c.deleted == 0
        return [row for engine in self.cells.values() for row in self._store.rows(engine, tables.instances, condition)]

    def migration(self, uuid: str) -> Row[Any]:
        return self._store.find(tables.migrations, tables.migrations.c.uuid == uuid)[0]

    def migrations(self, instance: str) -> list[Row[Any]]:
        _, cell = self._store.find(tables.instances, tables.instances.c.uuid == instance)
        migrations = tables.migrations
        return list(self._store.rows(self.cells[cell], migrations, migrations.c.instance_uuid == instance))

    def node(self, host: str, name: str = "") -> Node:
        condition = (tables.compute_nodes.c.host == host) & (tables.compute_nodes.c.deleted == 0)
        if name:
            condition &= tables.compute_nodes.c.hypervisor_hostname == name
        row, cell = self._store.find(tables.compute_nodes, condition)
        return Node(row.uuid, row.hypervisor_hostname, row.host, cell)

    def nodes(self) -> list[Node]:
        nodes = tables.compute_nodes
        return [
            Node(row.uuid, row.hypervisor_hostname, row.host, cell)
            for cell, engine in self.cells.items()
            for row in self._store.rows(engine, nodes, nodes.c.deleted == 0)
        ]

    def flavor(self, uuid: str) -> Flavor:
        spec = tables.request_specs
        row = self._store.rows(self.api, spec, spec.c.instance_uuid == uuid)[0]
        return Flavor(**json.loads(row.spec)["nova_object.data"]["flavor"]["nova_object.data"])

    def allocation(self, consumer: str) -> dict[str, dict[str, int]]:
        return self._report.held(consumer)

    def host_mappings(self) -> dict[str, str]:
        names = {row.id: row.name for row in self._store.rows(self.api, tables.cell_mappings)}
        return {row.host: names[row.cell_id] for row in self._store.rows(self.api, tables.host_mappings)}

    def instance_mapping(self, uuid: str) -> str | None:
        mappings, cells = tables.instance_mappings, tables.cell_mappings
        [mapping] = self._store.rows(self.api, mappings, mappings.c.instance_uuid == uuid)
        if mapping.cell_id is None:
            return None
        [cell] = self._store.rows(self.api, cells, cells.c.id == mapping.cell_id)
        return str(cell.name)

    def build_requests(self) -> set[str]:
        return {row.instance_uuid for row in self._store.rows(self.api, tables.build_requests)}

    def aggregate_hosts(self, uuid: str) -> set[str]:
        members = tables.aggregate_hosts
        return {
            row.host for row in self._store.rows(self.api, members, members.c.aggregate_id == self._aggregate(uuid).id)
        }

    def provider_aggregates(self, uuid: str) -> set[str]:
        return self._report.aggregates(uuid)

    # for the subclasses

    def _uses_attachment(self, instance: str, attachment: str) -> bool:
        mappings = tables.block_device_mapping
        named = (mappings.c.instance_uuid == instance) & (mappings.c.attachment_id == attachment)
        return instance in {one.uuid for one in self.live_instances()} and any(
            self._store.rows(engine, mappings, named & (mappings.c.deleted == 0)) for engine in self.cells.values()
        )

    def _service(self, host: str) -> tuple[Row[Any], str]:
        services = tables.services
        return self._store.find(services, (services.c.host == host) & (services.c.deleted == 0))

    def _aggregate(self, uuid: str) -> Row[Any]:
        return self._store.rows(self.api, tables.aggregates, tables.aggregates.c.uuid == uuid)[0]

    def _cell_id(self, name: str) -> int:
        cells = tables.cell_mappings
        cell_id: int = self._store.rows(self.api, cells, cells.c.name == name)[0].id
        return cell_id

    def _publish(self, event_type: str, publisher: str, data: Mapping[str, Any]) -> None:
        sent_at = datetime.now(UTC).replace(tzinfo=None) - self._store.age
        made = notification(event_type, publisher, data, sent_at)
        with self._lock:
            self._published.append(made)

    def _publish_instance(self, uuid: str, event_type: str, publisher: str) -> None:
        row = self.instance(uuid)
        fields = ("uuid", "user_id", "display_name", "host", "node", "task_state")
        times = ("created_at", "updated_at", "launched_at", "terminated_at", "deleted_at")
        data = {name: getattr(row, name) for name in fields}
        data |= {name: _iso(getattr(row, name)) for name in times}
        data |= {"tenant_id": row.project_id, "state": row.vm_state, "image_uuid": row.image_ref}
        self._publish(event_type, publisher, data)

    def _publish_aggregate(self, uuid: str, event_type: str) -> None:
        row = self._aggregate(uuid)
        data = {"uuid": uuid, "id": row.id, "name": row.name, "hosts": sorted(self.aggregate_hosts(uuid))}
        self._publish(event_type, "nova-api:controller", data)


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else f"{moment.isoformat()}Z"
