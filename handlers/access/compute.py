"""The client for Nova's API. Heals use this client; proofs read the databases instead.

Sources: ``nova/api/openstack/compute/servers.py`` (delete), ``nova/compute/api.py`` (_delete),
``nova/api/openstack/compute/server_external_events.py`` (create).
"""

from __future__ import annotations

from typing import Self

import requests

from handlers.access.cloud import Cloud, Service, Write
from handlers.base import Conflict, Refused, Resources

#: Train, the first release whose API all supported releases have
MICROVERSION = "2.79"


class Compute:
    """The client for Nova's servers. Thread-safe."""

    def __init__(self, service: Service) -> None:
        self._service = service

    @classmethod
    def from_resources(cls, resources: Resources) -> Self:
        return cls(resources.get(Cloud.from_resources).service("compute"))

    def delete_server(self, server: str) -> None:
        """Request a server's deletion.

        Nova ignores the request if the server has the task ``deleting`` or ``soft-deleting``, and its host is up.

        :raises Conflict: the server is gone
        :raises Refused: Nova rejects the request
        """
        response = self._service.send(deleting_server(server), microversion=MICROVERSION)
        if response.status_code == 404:
            raise Conflict(f"server {server} is gone")
        if response.status_code != 204:
            raise Refused(f"Nova refuses to delete server {server}: {response.status_code} {_detail(response)}")

    def change_network(self, server: str, port: str) -> None:
        """Ask nova-compute to read a server's port again. The answer comes before nova-compute reads the port.

        :raises Conflict: the server is gone or has no host
        :raises Refused: Nova rejects the event
        """
        response = self._service.send(changed_network(server, port), microversion=MICROVERSION)
        if response.status_code not in {200, 207}:
            raise Refused(f"Nova refuses the event for server {server}: {response.status_code} {_detail(response)}")
        [event] = self._service.json(response)["events"]
        if event["code"] in {404, 422}:
            raise Conflict(f"server {server} is gone or has no host")
        if event["code"] != 200:
            raise Refused(f"Nova refuses the event for server {server}: {event['code']}")


def changed_network(server: str, port: str) -> Write:
    event = {"name": "network-changed", "server_uuid": server, "tag": port}
    return Write("compute", "POST", "/os-server-external-events", {"events": [event]})


def deleting_server(server: str) -> Write:
    return Write("compute", "DELETE", f"/servers/{server}")


def _detail(response: requests.Response) -> str:
    try:
        [error] = response.json().values()
        return " ".join(str(error["message"]).split())
    except (ValueError, LookupError, TypeError, AttributeError):
        return "no detail"
