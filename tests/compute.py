"""Nova's API in this process: a double for tests that need no real Nova. It works on the simulated cloud.

Sources: ``nova/compute/api.py`` (_delete), ``nova/network/neutron.py`` (_build_network_info_model).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from handlers.nova import tables
from handlers.nova.simulation import NovaSimulation
from handlers.nova.simulation.json_server import Answer, JsonServer
from handlers.nova.simulation.neutron import Neutron


def remember(cloud: NovaSimulation, instance: str, ports: Iterable[Mapping[str, Any]]) -> None:
    """Let Nova's network cache hold these ports."""
    caches = tables.instance_info_caches
    text = json.dumps([_entry(port) for port in ports])
    for engine in cloud.cells.values():
        with engine.begin() as connection:
            connection.execute(sa.update(caches).where(caches.c.instance_uuid == instance).values(network_info=text))


def _entry(port: Mapping[str, Any]) -> dict[str, Any]:
    if "address" in port:
        return dict(port)
    ips = [{"address": one["ip_address"], "type": "fixed"} for one in port["fixed_ips"]]
    return {
        "id": port["id"],
        "address": port["mac_address"],
        "type": port["binding:vif_type"],
        "vnic_type": port["binding:vnic_type"],
        "network": {"id": port["network_id"], "subnets": [{"ips": ips}]},
    }


class Compute(JsonServer):
    """The API of one simulated cloud."""

    def __init__(self, cloud: NovaSimulation, neutron: Neutron | None = None) -> None:
        super().__init__()
        self._cloud = cloud
        #: the Neutron from which nova-compute copies ports; None while it does not answer
        self.neutron = neutron

    @property
    def url(self) -> str:
        """The endpoint."""
        return f"{super().url}/v2.1"

    def answer(self, method: str, url: str, headers: Mapping[str, str], body: Any) -> Answer:
        version, kind, *rest = url.strip("/").split("/")
        if version != "v2.1":
            return 404, None
        if method in self.before:
            self.before[method](rest[0] if rest else "")
        if method in self.faults:
            return self.faults[method], {"fault": {"message": "as the test wants it"}}
        if (method, kind) == ("DELETE", "servers"):
            return self._delete(rest[0])
        if (method, kind) == ("POST", "os-server-external-events"):
            return self._events(body["events"])
        return 404, None

    def _events(self, events: list[dict[str, Any]]) -> Answer:
        hosts = {row.uuid: row.host for row in self._cloud.live_instances()}
        for event in events:
            instance = event["server_uuid"]
            event["code"] = 404 if instance not in hosts else 200 if hosts[instance] else 422
            if event["code"] == 200 and self.neutron is not None:
                self._renew(instance, self.neutron.ports.get(event["tag"]))
        return 200 if all(event["code"] == 200 for event in events) else 207, {"events": events}

    def _renew(self, instance: str, port: Mapping[str, Any] | None) -> None:
        """Copy a port into a cache that has entries."""
        caches = tables.instance_info_caches
        [text] = [
            row.network_info
            for engine in self._cloud.cells.values()
            for row in self._cloud._store.rows(engine, caches, caches.c.instance_uuid == instance)
        ]
        entries = {entry["id"]: entry for entry in json.loads(text)}
        if entries and port is not None and port["device_id"] == instance:
            remember(self._cloud, instance, (entries | {port["id"]: port}).values())

    def _delete(self, server: str) -> Answer:
        """Delete a server, unless the API ignores the request."""
        found = [row for row in self._cloud.live_instances() if row.uuid == server]
        if not found:
            return 404, {"itemNotFound": {"code": 404, "message": "Instance could not be found."}}
        if found[0].task_state not in {"deleting", "soft-deleting"} or not self._is_up(found[0].host):
            self._cloud.delete(server)
        return 204, None

    def _is_up(self, host: str | None) -> bool:
        services = tables.services
        rows = [
            row
            for engine in self._cloud.cells.values()
            for row in self._cloud._store.rows(engine, services, (services.c.host == host) & (services.c.deleted == 0))
        ]
        now = datetime.now(UTC).replace(tzinfo=None)
        return any(row.last_seen_up and abs((now - row.last_seen_up).total_seconds()) <= 60 for row in rows)
