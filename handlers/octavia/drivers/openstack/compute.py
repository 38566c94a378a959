"""The driver's servers and server groups: Nova.

Microversion 2.73 (Train): reasons for locks; since 2.69 the server of a cell that does not answer is shown as UNKNOWN,
with hardly more than its id, which here is no answer. A listing of one project leaves such servers out without a word
(``nova/api/openstack/compute/servers.py``, ``_is_cell_down_supported``): absence from it proves nothing.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from handlers.octavia.appliances import Group, Server
from handlers.octavia.drivers.base import Driver
from handlers.octavia.drivers.openstack.api import Api, age
from handlers.octavia.drivers.openstack.image import MARK
from handlers.octavia.housekeeping import AmphoraDriverError, NotFoundError, UnavailableException

MICROVERSION = "2.73"
PAGE = 500

_HOST_UP = {"UP": True, "MAINTENANCE": True, "DOWN": False}


class ComputeCalls(Driver):
    """Nova's part of the driver; ``compute`` is Nova as ourselves, ``builder`` Nova as Octavia."""

    compute: Api

    @abstractmethod
    def builder(self) -> Api:
        """Return Nova, acting in Octavia's project: what is booted belongs to whoever boots it.

        :raises AmphoraDriverError: see :mod:`handlers.octavia.housekeeping`
        """

    @abstractmethod
    def amphora_image(self) -> str:
        """Return the id of the image from which Octavia would boot an amphora now."""

    @abstractmethod
    def amphora_flavor(self) -> str:
        """Return the id of the flavor of amphorae."""

    def server(self, server: str) -> Server | None:
        body = self.compute.get(f"/servers/{server}", f"server:{server}")
        return None if body is None else _server(body["server"])

    def servers(self) -> Sequence[Server]:
        query = {"all_tenants": "1", "project_id": self.project()}
        return [_server(shown) for shown in self.compute.list("/servers/detail", "servers", PAGE, **query)]

    def create_server(self, name: str, zone: str | None, tag: str, metadata: Mapping[str, str]) -> str:
        wanted: dict[str, Any] = {
            "name": name,
            "imageRef": self.amphora_image(),
            "flavorRef": self.amphora_flavor(),
            "networks": "none",
            "tags": [tag],
            "metadata": dict(metadata),
        }
        if zone:
            wanted["availability_zone"] = zone
        nova = self.builder()
        return str(nova.body(nova.call("POST", "/servers", "server", json={"server": wanted}))["server"]["id"])

    def stop_server(self, server: str) -> None:
        self._act(server, {"os-stop": None})

    def shelve_server(self, server: str) -> None:
        """Shelve, or offload one that is shelved already: Nova may be told to do that only after a while, or never."""
        found = self.server(server)
        if found is None:
            raise NotFoundError(f"server:{server}: it is not there")
        self._act(server, {"shelveOffload": None} if found.status == "SHELVED" else {"shelve": None})

    def delete_server(self, server: str) -> None:
        self.compute.remove(f"/servers/{server}", f"server:{server}")

    def describe_server(self, server: str, metadata: Mapping[str, str], name: str = "") -> None:
        thing = f"server:{server}"
        if metadata:
            self.compute.call("POST", f"/servers/{server}/metadata", thing, json={"metadata": dict(metadata)})
        if name:
            self.compute.call("PUT", f"/servers/{server}", thing, json={"server": {"name": name}})

    def tag_server(self, server: str, tag: str) -> None:
        self.compute.call("PUT", f"/servers/{server}/tags/{tag}", f"server:{server}")

    def untag_server(self, server: str, tag: str) -> bool:
        try:
            self.compute.call("DELETE", f"/servers/{server}/tags/{tag}", f"server:{server}")
        except NotFoundError:
            return False
        return True

    def lock_server(self, server: str, reason: str) -> None:
        self._act(server, {"lock": {"locked_reason": reason[:255]}})

    def unlock_server(self, server: str) -> None:
        self._act(server, {"unlock": None})

    def console(self, server: str, lines: int) -> str:
        try:
            body = self._act(server, {"os-getConsoleOutput": {"length": lines}})
        except (NotFoundError, UnavailableException) as error:
            if self.server(server) is None:
                raise NotFoundError(f"server:{server}: it is not there") from error
            return ""  # not built, on no host, or a hypervisor without consoles (404, 409, 501)
        return str(body.get("output") or "")

    def detach_port(self, server: str, port: str) -> None:
        self.compute.remove(f"/servers/{server}/os-interface/{port}", f"server:{server}")

    def create_image(self, server: str, name: str, properties: Mapping[str, str]) -> str:
        body = self._act(server, {"createImage": {"name": name, "metadata": {**properties, **MARK}}})
        return str(body["image_id"])

    def server_groups(self) -> Sequence[Group]:
        project, found = self.project(), list[Group]()
        while True:  # this listing knows no marker
            query = {"all_projects": "True", "limit": PAGE, "offset": len(found)}
            body = self.compute.get("/os-server-groups", "server groups", params=query)
            if body is None or "server_groups" not in body:
                raise UnavailableException("compute", "answered to /os-server-groups without server_groups")
            found += [_group(shown) for shown in body["server_groups"]]
            if len(body["server_groups"]) < PAGE:
                return [group for group in found if group.project_id == project]

    def delete_server_group(self, group: str) -> None:
        self.compute.remove(f"/os-server-groups/{group}", f"server-group:{group}")

    def _act(self, server: str, action: Mapping[str, Any]) -> Mapping[str, Any]:
        response = self.compute.call("POST", f"/servers/{server}/action", f"server:{server}", json=action)
        return self.compute.body(response) if response.content else {}


def _server(shown: Mapping[str, Any]) -> Server:
    if shown["status"] == "UNKNOWN" and "name" not in shown:
        raise UnavailableException(f"server:{shown['id']}", "the cell that it is in does not answer")
    if "OS-EXT-SRV-ATTR:host" not in shown:
        raise AmphoraDriverError("Nova shows servers without their hosts: [openstack] needs an administrator's role")
    image = shown.get("image") or {}
    return Server(
        id=shown["id"],
        name=shown["name"],
        project_id=shown["tenant_id"],
        status=shown["status"],
        task_state=shown.get("OS-EXT-STS:task_state"),
        host=shown["OS-EXT-SRV-ATTR:host"] or None,
        host_up=_HOST_UP.get(shown.get("host_status") or ""),
        zone=shown.get("OS-EXT-AZ:availability_zone") or None,
        flavor=(shown.get("flavor") or {}).get("original_name"),
        image=image.get("id"),
        metadata=dict(shown.get("metadata") or {}),
        tags=frozenset(shown.get("tags") or ()),
        groups=tuple(shown.get("server_groups") or ()),
        locked=bool(shown.get("locked")),
        age=age(shown.get("created")),
        quiet=age(shown.get("updated")),
    )


def _group(shown: Mapping[str, Any]) -> Group:
    return Group(shown["id"], shown["name"], shown["project_id"], tuple(shown.get("members") or ()))
