from __future__ import annotations

import json
import uuid as uuids
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from sqlalchemy import Table

from handlers.nova import tables
from handlers.nova.simulation.devices import Devices
from handlers.nova.simulation.records import Flavor
from handlers.nova.simulation.volumes import Volumes


class Servers(Devices, Volumes):
    def request(self, flavor: Flavor | None = None) -> str:
        """Request a server; return its uuid (nova.compute.api.API._provision_instances)."""
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
        """Add a node's resources to the instance's allocation (nova.scheduler.utils.claim_resources)."""
        there = self.node(host, node).uuid
        self.hold(uuid, {**self.allocation(uuid), there: self.flavor(uuid).resources()})

    def create_instance(self, uuid: str, cell: str) -> None:
        """Create the instance's row in its cell, without a host (nova.conductor.manager.schedule_and_build_instances)."""
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
        """Set the cell in the mapping, then delete the build request (nova.conductor.manager.schedule_and_build_instances)."""
        mapping = tables.instance_mappings
        self._store.update(self.api, mapping, mapping.c.instance_uuid == uuid, cell_id=self._cell_id(cell))
        requests = tables.build_requests
        self._store.delete(self.api, requests, requests.c.instance_uuid == uuid)

    def spawn(self, uuid: str, host: str, node: str = "") -> None:
        """Start the instance on its host (nova.compute.manager._build_and_run_instance)."""
        target = self.node(host, node)
        self.set_instance(uuid, host=host, node=target.name, task_state="spawning")
        self._cache_ports(uuid, self.neutron.plug(uuid, host))
        self.set_instance(uuid, vm_state="active", task_state=None, launched_at=self._store.now())
        self._publish_instance(uuid, "instance.create.end", f"nova-compute:{host}")

    def boot(self, host: str, flavor: Flavor | None = None, node: str = "") -> str:
        uuid = self.request(flavor)
        cell = self.node(host, node).cell
        self.claim(uuid, host, node)
        self.create_instance(uuid, cell)
        self.map_instance(uuid, cell)
        self.spawn(uuid, host, node)
        return uuid

    def delete(self, uuid: str, leak_allocation: bool = False, leak_attachments: bool = False) -> None:
        """Delete a server (nova.compute.api.API._delete, nova.compute.manager._delete_instance).

        :param leak_attachments: whether the attachments stay, as when Cinder does not answer
        """
        host = self.instance(uuid).host
        mapping = tables.instance_mappings
        self._store.update(self.api, mapping, mapping.c.instance_uuid == uuid, queued_for_delete=True)
        self.set_instance(uuid, task_state="deleting")
        self.set_instance(uuid, vm_state="deleted", task_state=None, terminated_at=self._store.now())
        self._free_devices(uuid)
        if not leak_allocation:
            self.hold(uuid, {})
        self.neutron.unplug(uuid)
        self._cache_ports(uuid)
        self._delete_volumes(uuid, leak_attachments)
        row = self.instance(uuid)
        cleaned = int(host is not None)
        self.set_instance(uuid, deleted=row.id, deleted_at=self._store.now(), cleaned=cleaned)
        self._publish_instance(uuid, "instance.delete.end", f"nova-compute:{host}")

    def shelve_offload(self, uuid: str, leak_allocation: bool = False) -> None:
        """Shelve a server, and remove it from its host (nova.compute.manager._shelve_offload_instance)."""
        host = self.instance(uuid).host
        self.set_instance(uuid, vm_state="shelved", task_state="shelving_offloading")
        self.neutron.move(uuid, "")
        self._free_devices(uuid)
        self._disconnect_volumes(uuid)
        if not leak_allocation:
            self.hold(uuid, {})
        self.set_instance(uuid, vm_state="shelved_offloaded", task_state=None)
        self.set_instance(uuid, host=None, node=None)
        self._publish_instance(uuid, "instance.shelve_offload.end", f"nova-compute:{host}")

    def unshelve(self, uuid: str, host: str) -> None:
        """Return a shelved server to a host (nova.conductor.manager.unshelve_instance,
        nova.compute.manager._unshelve_instance).
        """
        self.set_instance(uuid, task_state="unshelving")
        self.claim(uuid, host)
        self.set_instance(uuid, host=host, node=self.node(host).name, task_state="spawning")
        self.neutron.move(uuid, host)
        self.set_instance(uuid, vm_state="active", task_state=None)
        self._publish_instance(uuid, "instance.unshelve.end", f"nova-compute:{host}")

    def _cache_ports(self, uuid: str, *ports: str) -> None:
        shown = (self.neutron.ports[port] for port in ports)
        entries = [
            {
                "id": port["id"],
                "address": port["mac_address"],
                "type": port["binding:vif_type"],
                "vnic_type": port["binding:vnic_type"],
                "network": {"id": port["network_id"], "subnets": []},
            }
            for port in shown
        ]
        _, cell = self._store.find(tables.instances, tables.instances.c.uuid == uuid)
        caches = tables.instance_info_caches
        text = json.dumps(entries)
        self._store.update(self.cells[cell], caches, caches.c.instance_uuid == uuid, network_info=text)

    def _describe(self, uuid: str, cell: str) -> None:
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
