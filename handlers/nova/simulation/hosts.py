from __future__ import annotations

import uuid as uuids

from sqlalchemy import Table

from handlers.nova import tables
from handlers.nova.simulation.records import Node
from handlers.nova.simulation.world import World


class Hosts(World):
    def register_host(self, host: str, cell: str) -> str:
        """Make the service's row, as nova-compute does first (nova.service.Service.start).

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
        """Make the compute node and its provider, as nova-compute does next (nova.compute.resource_tracker,
        nova.scheduler.client.report.update_from_provider_tree).
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
        """Start nova-compute on a new host; return the nodes. ``nova_api`` learns of the host only by :meth:`map_host`."""
        self.register_host(host, cell)
        names = [host] if nodes == 1 else [f"{host}-node-{number}" for number in range(1, nodes + 1)]
        return tuple(self.report_node(host, name) for name in names)

    def map_host(self, host: str) -> None:
        """Map the host to its cell (nova.objects.host_mapping.discover_hosts)."""
        _, cell = self._service(host)
        self._store.insert(self.api, tables.host_mappings, host=host, cell_id=self._cell_id(cell))
        self._store.update(self.cells[cell], tables.compute_nodes, tables.compute_nodes.c.host == host, mapped=1)

    def heartbeat(self, host: str) -> None:
        """Write a heartbeat of nova-compute into ``services`` (nova.servicegroup.drivers.db)."""
        service, cell = self._service(host)
        count = service.report_count + 1
        condition = tables.services.c.id == service.id
        self._store.update(
            self.cells[cell], tables.services, condition, report_count=count, last_seen_up=self._store.now()
        )

    def force_down(self, host: str) -> None:
        """Force a dead host down (nova.compute.api.HostAPI.service_update)."""
        service, cell = self._service(host)
        self._store.update(self.cells[cell], tables.services, tables.services.c.id == service.id, forced_down=True)
        data = {"host": host, "uuid": service.uuid, "forced_down": True, "report_count": service.report_count}
        self._publish("service.update", f"nova-compute:{host}", data)

    def delete_service(self, host: str, leak_mapping: bool = False, leak_providers: bool = False) -> None:
        """Delete a host's providers, host mapping, service and compute nodes, in this order
        (nova.api.openstack.compute.services.ServiceController.delete).

        :param leak_providers: whether the providers stay, as when Placement is down
        """
        service, cell = self._service(host)
        nodes, services = tables.compute_nodes, tables.services
        found = self._store.rows(self.cells[cell], nodes, (nodes.c.host == host) & (nodes.c.deleted == 0))
        if not leak_providers:
            for node in found:
                self._report.delete_provider(node.uuid)
        if not leak_mapping:
            self._store.delete(self.api, tables.host_mappings, tables.host_mappings.c.host == host)
        self._soft_delete(cell, services, service.id)
        for node in found:
            self._soft_delete(cell, nodes, node.id)
        self._publish("service.delete", f"nova-compute:{host}", {"host": host, "uuid": service.uuid})

    def _soft_delete(self, cell: str, table: Table, number: int) -> None:
        gone = {"deleted": number, "deleted_at": self._store.now()}
        self._store.update(self.cells[cell], table, table.c.id == number, **gone)
