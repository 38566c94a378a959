"""The driver's calls to Nova: servers and server groups.

Microversion 2.73 (Train) adds reasons for locks. Since 2.69, Nova shows a server as UNKNOWN when its cell does not answer. The
driver treats UNKNOWN as no answer. For a server without a request spec, Nova answers 404 instead (``nova/compute/api.py``,
``_get_instance_from_cell``). A listing with a filter or in pages omits the servers of such a cell
(``nova/api/openstack/compute/servers.py``, ``_is_cell_down_supported``).

So after a listing of servers, or a 404 for one server, the driver lists the services. Nova shows the services on mapped hosts
of such a cell as UNKNOWN (``nova/api/openstack/compute/services.py``, ``_get_service_detail``). cell0 has no mapped hosts, but
its servers never ran. If a service is UNKNOWN, the driver lists servers without a filter, with credentials for Octavia's
project. This listing shows the cell's servers as UNKNOWN, up to Nova's ``max_limit``. If it shows one or is incomplete, the
driver's call fails.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from handlers.octavia.cloud_objects import Group, Server
from handlers.octavia.drivers.base import Driver
from handlers.octavia.drivers.openstack.api import Api, age
from handlers.octavia.drivers.openstack.image import MARK
from handlers.octavia.housekeeping import AmphoraDriverError, NotFoundError, UnauthorizedException, UnavailableException

MICROVERSION = "2.73"
PAGE = 500

#: the status of servers and services in a cell that does not answer
_UNKNOWN = "UNKNOWN"

_HOST_UP = {"UP": True, "MAINTENANCE": True, "DOWN": False}


class ComputeCalls(Driver):
    """``compute`` uses the credentials of ``[openstack]``."""

    compute: Api

    @abstractmethod
    def builder(self) -> Api:
        """Return Nova's API with credentials for Octavia's project, which will own new servers.

        :raises UnauthorizedException: no known credentials belong to that project
        """

    @abstractmethod
    def amphora_image(self) -> str:
        """Return the id of the image for new amphorae."""

    @abstractmethod
    def amphora_flavor(self) -> str:
        """Return the id of the flavor for new amphorae."""

    def server(self, server: str) -> Server | None:
        body = self.compute.get(f"/servers/{server}", f"server:{server}")
        if body is None:
            self._must_be_whole()
            return None
        found = _server(body["server"])
        return None if found.is_soft_deleted else found

    def servers(self) -> Sequence[Server]:
        query = {"all_tenants": "1", "project_id": self.project()}
        found = [_server(shown) for shown in self.compute.list("/servers/detail", "servers", PAGE, **query)]
        self._must_be_whole()
        return found

    def _must_be_whole(self) -> None:
        """:raises UnavailableException: a cell that can have servers of Octavia does not answer"""
        services = _listed(self.compute.get("/os-services", "services", params={"binary": "nova-compute"}), "services")
        silent = sorted(shown["host"] for shown in services if shown["status"] == _UNKNOWN)
        if silent and self._may_be_in_silent_cells():
            raise UnavailableException("compute", f"the cell of host {silent[0]} does not answer")

    def _may_be_in_silent_cells(self) -> bool:
        try:
            body = self.builder().get("/servers", "servers")
        except UnauthorizedException:
            return True  # only Octavia's own credentials can exclude it
        # unknown servers come first, but a page full of others has none
        unknown = any(shown.get("status") == _UNKNOWN for shown in _listed(body, "servers"))
        return unknown or bool(body and body.get("servers_links"))

    def create_server(
        self, name: str, zone: str | None, tag: str, metadata: Mapping[str, str], flavor: str = ""
    ) -> str:
        wanted: dict[str, Any] = {
            "name": name,
            "imageRef": self.amphora_image(),
            "flavorRef": flavor or self.amphora_flavor(),
            "networks": "none",
            "tags": [tag],
            "metadata": dict(metadata),
        }
        if zone:
            wanted["availability_zone"] = zone
        nova = self.builder()
        return str(nova.body(nova.call("POST", "/servers", "server", json={"server": wanted}))["server"]["id"])

    def headroom(self, flavor: str = "") -> int | None:
        nova, of = self.builder(), flavor or self.amphora_flavor()
        limits, shown = nova.get("/limits", "limits"), nova.get(f"/flavors/{of}", f"flavor:{of}")
        if limits is None or shown is None:
            raise NotFoundError(f"flavor:{of}: it does not exist")
        absolute, size = limits["limits"]["absolute"], shown["flavor"]
        needs = (("Instances", "Instances", 1), ("Cores", "Cores", size["vcpus"]), ("RAMSize", "RAM", size["ram"]))
        room = [
            (absolute[f"maxTotal{most}"] - absolute[f"total{used}Used"]) // need
            for most, used, need in needs
            if need and absolute[f"maxTotal{most}"] >= 0
        ]
        return max(0, min(room)) if room else None

    def stop_server(self, server: str) -> None:
        self._act(server, {"os-stop": None})

    def shelve_server(self, server: str) -> None:
        """Shelve a server, or offload a SHELVED server. Nova alone can offload late or never (``shelved_offload_time``)."""
        found = self.server(server)
        if found is None:
            raise NotFoundError(f"server:{server}: it does not exist")
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
                raise NotFoundError(f"server:{server}: it does not exist") from error
            return ""  # not built, on no host, or a hypervisor without consoles (404, 409, 501)
        return str(body.get("output") or "")

    def detach_port(self, server: str, port: str) -> None:
        self.compute.remove(f"/servers/{server}/os-interface/{port}", f"server:{server}")

    def create_image(self, server: str, name: str, properties: Mapping[str, str]) -> str:
        body = self._act(server, {"createImage": {"name": name, "metadata": {**properties, **MARK}}})
        return str(body["image_id"])

    def server_groups(self) -> Sequence[Group]:
        project, found, markers = self.project(), list[Group](), set[str]()
        while True:  # this listing has no marker
            query = {"all_projects": "True", "limit": PAGE, "offset": len(found)}
            rows = _listed(self.compute.get("/os-server-groups", "server groups", params=query), "server_groups")
            page = self.compute.page("/os-server-groups", rows, markers)
            found += [_group(shown) for shown in page]
            if len(page) < PAGE:
                return [group for group in found if group.project_id == project]

    def delete_server_group(self, group: str) -> None:
        self.compute.remove(f"/os-server-groups/{group}", f"server-group:{group}")

    def _act(self, server: str, action: Mapping[str, Any]) -> Mapping[str, Any]:
        response = self.compute.call("POST", f"/servers/{server}/action", f"server:{server}", json=action)
        return self.compute.body(response) if response.content else {}


def _listed(body: Mapping[str, Any] | None, name: str) -> Sequence[Mapping[str, Any]]:
    if body is None or name not in body:
        raise UnavailableException("compute", f"answered without {name}")
    listed: Sequence[Mapping[str, Any]] = body[name]
    return listed


def _server(shown: Mapping[str, Any]) -> Server:
    if shown["status"] == _UNKNOWN and "name" not in shown:
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
