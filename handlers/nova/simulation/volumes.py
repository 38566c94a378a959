"""The volumes of simulated instances: attachments in Cinder, block device mappings in the cell."""

from __future__ import annotations

from handlers.nova import tables
from handlers.nova.simulation.changes import Changes


class Volumes(Changes):
    def attach_volume(self, uuid: str, volume: str = "") -> str:
        """Attach a volume, by default a new volume (nova.compute.api.API.attach_volume, nova.virt.block_device).

        :return: the attachment's id
        """
        volume = volume or self.cinder.create_volume()
        attachment = self.cinder.reserve(volume, uuid)
        _, cell = self._store.find(tables.instances, tables.instances.c.uuid == uuid)
        self._store.insert(
            self.cells[cell],
            tables.block_device_mapping,
            instance_uuid=uuid,
            source_type="volume",
            destination_type="volume",
            volume_id=volume,
            attachment_id=attachment,
            deleted=0,
        )
        self.cinder.connect(attachment)
        return attachment

    def _delete_volumes(self, uuid: str, leak_attachments: bool) -> None:
        """Delete attachments, then block device mappings (nova.compute.manager._shutdown_instance, _cleanup_volumes)."""
        for attachment in [] if leak_attachments else self.cinder.of(instance=uuid):
            self.cinder.delete_attachment(attachment)
        mappings = tables.block_device_mapping
        gone = {"deleted": mappings.c.id, "deleted_at": self._store.now()}
        for engine in self.cells.values():
            self._store.update(engine, mappings, mappings.c.instance_uuid == uuid, **gone)

    def _disconnect_volumes(self, uuid: str) -> None:
        """Turn the instance's attachments into reservations (nova.compute.manager._terminate_volume_connections)."""
        for attachment in self.cinder.of(instance=uuid):
            self.cinder.disconnect(attachment)
