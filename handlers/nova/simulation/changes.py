"""The world, changed by hand: for drift that no method of Nova's makes, and for healing."""

from __future__ import annotations

import json
import uuid as uuids
from collections.abc import Mapping
from typing import Any

from handlers.nova import tables
from handlers.nova.simulation.report import Held
from handlers.nova.simulation.world import World


class Changes(World):
    """Changes one thing, and tells nobody."""

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
