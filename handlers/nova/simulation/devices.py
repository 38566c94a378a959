"""PCI devices of simulated hosts (nova.compute.resource_tracker, nova.compute.pci_placement_translator)."""

from __future__ import annotations

import json
import uuid as uuids
from typing import Any, ClassVar

from sqlalchemy import Row

from handlers.nova import tables
from handlers.nova.simulation.changes import Changes


class Devices(Changes):
    #: the resource class of every device
    DEVICE: ClassVar[str] = "CUSTOM_PCI_144D_A80A"

    def add_device(self, host: str, address: str, one_time_use: bool = True) -> str:
        """Add a free device, and its provider, to a host.

        :param address: in lower-case letters, as in ``pci_devices``
        :return: the provider's uuid
        """
        node, provider = self.node(host), str(uuids.uuid4())
        self._store.insert(
            self.cells[node.cell],
            tables.pci_devices,
            compute_node_id=self._node_id(host),
            address=address,
            vendor_id="144d",
            product_id="a80a",
            dev_type="type-PCI",
            label="label_144d_a80a",
            status="available",
        )
        traits = ["COMPUTE_MANAGED_PCI_DEVICE", "OWNER_NOVA", *(["HW_PCI_ONE_TIME_USE"] if one_time_use else [])]
        self._report.create_child(provider, f"{node.name}_{address.upper()}", node.uuid, {self.DEVICE: 1}, traits)
        return provider

    def use_device(self, uuid: str, provider: str) -> None:
        """Give a free device to a running instance."""
        self.claim_device(uuid, provider)
        row, cell = self._store.find(tables.instances, tables.instances.c.uuid == uuid)
        extras, devices = tables.instance_extra, tables.pci_devices
        [extra] = self._store.rows(self.cells[cell], extras, extras.c.instance_uuid == row.uuid)
        request = {"count": 1, "spec": [{"rp_uuids": provider}], "alias_name": "nvme", "request_id": str(uuids.uuid4())}
        asked = json.dumps([*json.loads(extra.pci_requests or "[]"), request])
        self._store.update(self.cells[cell], extras, extras.c.id == extra.id, pci_requests=asked)
        device = devices.c.id == self.device(provider).id
        self._store.update(self.cells[cell], devices, device, status="allocated", instance_uuid=uuid)
        self.reserve_device(provider, 1)

    def claim_device(self, uuid: str, provider: str) -> None:
        """Add a device to the instance's allocation (nova.scheduler.utils.claim_resources)."""
        self.hold(uuid, {**self.allocation(uuid), provider: {self.DEVICE: 1}})

    def reserve_device(self, provider: str, reserved: int) -> None:
        self._report.reserve(provider, self.DEVICE, reserved)

    def reserved(self, provider: str) -> int:
        return self._report.reserved(provider, self.DEVICE)

    def device(self, provider: str) -> Row[Any]:
        name = self._report.name(provider)
        devices = tables.pci_devices
        return self._store.find(devices, devices.c.address == name.rpartition("_")[2].lower())[0]

    def _free_devices(self, uuid: str) -> None:
        """Free the devices of an instance; their providers stay reserved (nova.pci.manager.PciDevTracker.free_instance)."""
        devices = tables.pci_devices
        for engine in self.cells.values():
            self._store.update(engine, devices, devices.c.instance_uuid == uuid, status="available", instance_uuid=None)

    def _node_id(self, host: str) -> int:
        nodes = tables.compute_nodes
        row, _ = self._store.find(nodes, (nodes.c.host == host) & (nodes.c.deleted == 0))
        return int(row.id)
