from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

from handlers.base import Healed, Inventory, Json, Resources
from handlers.octavia import removal
from handlers.octavia.base import OctaviaPlugin
from handlers.octavia.cloud_objects import SPARE, STATE, Server
from handlers.octavia.drivers.base import Driver
from handlers.octavia.drivers.chosen import chosen_driver
from handlers.octavia.spares import pool as spares


class Spares(OctaviaPlugin, Inventory):
    name = "amphora spare"
    title = "Stopped placeholder servers that make room for failovers"
    columns = ("id", "name", "zone", "flavor", "host", "status", "ready")

    def __init__(self, driver: Driver) -> None:
        self._driver = driver

    @classmethod
    def from_resources(cls, resources: Resources) -> Self:
        return cls(resources.get(chosen_driver))

    def items(self) -> Sequence[Json]:
        servers = self._driver.servers()
        ready = {server.id for pool in spares.pools(servers, self._driver.settings) for server in pool.ready}
        ours = [server for server in servers if spares.is_ours(server, self._driver.settings.spare_owner)]
        ours.sort(key=lambda server: (-server.age, server.id))
        return [_item(server, server.id in ready) for server in ours]

    def show(self, identity: str) -> Json:
        item = next((item for item in self.items() if item["id"] == identity), None)
        if item is None:
            raise LookupError(identity)
        server = self._one(identity)
        return {**item, "image": server.image, "host_up": server.host_up}

    def release(self, identity: str) -> Healed:
        server = self._one(identity)
        self._driver.describe_server(identity, {STATE: spares.RELEASED})
        self._driver.untag_server(identity, SPARE)
        return Healed(
            f"released spare {server.name} ({identity}): stackmend no longer counts or touches it",
            before={"tags": sorted(server.tags)},
            undo=f"openstack server delete {identity}; the pool builds another",
        )

    def delete(self, identity: str) -> Healed:
        server = self._one(identity)
        removal.remove_server(self._driver, server)
        return Healed(f"deleted spare {server.name} ({identity})", undo="the pool builds another")

    def _one(self, identity: str) -> Server:
        server, owner = self._driver.server(identity), self._driver.settings.spare_owner
        if server is None or server.project_id != self._driver.project() or not spares.is_ours(server, owner):
            raise LookupError(identity)
        return server


def _item(server: Server, ready: bool) -> dict[str, Any]:
    return {
        "id": server.id,
        "name": server.name,
        "zone": server.metadata[spares.ZONE],
        "flavor": server.flavor,
        "host": server.host,
        "status": server.status,
        "ready": ready,
    }
