from __future__ import annotations

import json
from typing import Any

import sqlalchemy as sa

from handlers.nova import tables
from handlers.nova.simulation.report import Held
from handlers.nova.simulation.world import World


class Changes(World):
    def set_flavor(self, uuid: str, **values: Any) -> None:
        row, cell = self._store.find(tables.instance_extra, tables.instance_extra.c.instance_uuid == uuid)
        stored = json.loads(row.flavor)
        stored["cur"]["nova_object.data"].update(values)
        self._store.update(
            self.cells[cell], tables.instance_extra, tables.instance_extra.c.id == row.id, flavor=json.dumps(stored)
        )

    def set_image_property(self, uuid: str, name: str, value: str) -> None:
        """Add an image property to the instance's system metadata (nova.utils.get_system_metadata_from_image)."""
        _, cell = self._store.find(tables.instances, tables.instances.c.uuid == uuid)
        values = {"instance_uuid": uuid, "key": f"image_{name}", "value": value, "deleted": 0}
        self._store.insert(self.cells[cell], tables.instance_system_metadata, **values)

    def tag_server(self, uuid: str, tag: str) -> None:
        _, cell = self._store.find(tables.instances, tables.instances.c.uuid == uuid)
        with self.cells[cell].begin() as connection:
            connection.execute(sa.insert(tables.tags).values(resource_id=uuid, tag=tag))

    def set_metadata(self, uuid: str, name: str, value: str, deleted: int = 0) -> None:
        """Add metadata to a server.

        :param deleted: 0 for a live row; the row's id if the owner has removed the value
        """
        _, cell = self._store.find(tables.instances, tables.instances.c.uuid == uuid)
        values = {"instance_uuid": uuid, "key": name, "value": value, "deleted": deleted}
        self._store.insert(self.cells[cell], tables.instance_metadata, **values)

    def set_instance(self, uuid: str, **values: Any) -> None:
        _, cell = self._store.find(tables.instances, tables.instances.c.uuid == uuid)
        self._store.update(self.cells[cell], tables.instances, tables.instances.c.uuid == uuid, **values)

    def set_migration(self, uuid: str, **values: Any) -> None:
        _, cell = self._store.find(tables.migrations, tables.migrations.c.uuid == uuid)
        self._store.update(self.cells[cell], tables.migrations, tables.migrations.c.uuid == uuid, **values)

    def hold(self, consumer: str, held: Held) -> None:
        """Replace a consumer's allocation; ``{}`` removes it."""
        self._report.hold(consumer, held)
