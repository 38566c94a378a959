"""The driver's calls to Neutron: ports and security groups.

Octavia creates VRRP and member ports in Octavia's project, and VIP ports in the load balancer's project. Neutron cannot filter
by the beginning of a name. So the driver finds VIP ports by the device owner ``Octavia``, which Octavia sets
(``octavia/network/drivers/neutron/allowed_address_pairs.py``).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from handlers.access import neutron
from handlers.base import Conflict
from handlers.octavia.cloud_objects import Group, Port
from handlers.octavia.drivers.base import Driver
from handlers.octavia.drivers.openstack.api import Api, age, translated
from handlers.octavia.housekeeping import AmphoraDriverError, DeleteFailed, NotFoundError, UnavailableException

#: security groups per request; Neutron may give fewer
PAGE = 500

PREFIX = "octavia-lb-"
OWNER = "Octavia"

#: a revision that no port has, for a Neutron without revisions: no change succeeds with it
_NO_REVISION = -1


class NetworkCalls(Driver):
    network: Api
    neutron: neutron.Network

    def port(self, port: str) -> Port | None:
        found = translated(lambda: self.neutron.port(port))
        return None if found is None else _port(found)

    def ports_of(self, device: str) -> Sequence[Port]:
        if not device:
            raise ValueError("without a device, Neutron lists every port")
        return self._ports({"device_id": device})

    def ports(self) -> Sequence[Port]:
        found = self._ports({"project_id": self.project()}) + self._ports({"device_owner": OWNER})
        return list({port.id: port for port in found if port.name.startswith(PREFIX)}.values())

    def ports_at(self, network: str, address: str) -> Sequence[Port]:
        return self._ports({"network_id": network, "fixed_ips": f"ip_address={address}"})

    def ports_named(self, names: Collection[str]) -> Sequence[Port]:
        return self._ports({"name": sorted(names)}) if names else []

    def disable_port(self, port: Port) -> None:
        try:
            translated(lambda: self.neutron.update(_as_read(port), {"admin_state_up": False}))
        except AmphoraDriverError as error:
            if isinstance(error.__cause__, Conflict) and self.port(port.id) is None:
                raise NotFoundError(f"port:{port.id}: it does not exist") from error
            raise _changed(port, error) from error

    def delete_port(self, port: Port) -> None:
        try:
            translated(lambda: self.neutron.delete(_as_read(port)))
        except AmphoraDriverError as error:
            if self.port(port.id) is None:
                return
            refused = not isinstance(error, UnavailableException) and not isinstance(error.__cause__, Conflict)
            raise (DeleteFailed(str(error)) if refused else _changed(port, error)) from error

    def security_groups(self) -> Sequence[Group]:
        query = {"project_id": self.project(), "fields": ["id", "name", "project_id", "created_at"]}
        return [
            Group(shown["id"], shown["name"], shown["project_id"], age=age(shown.get("created_at")))
            for shown in self.network.list("/v2.0/security-groups", "security_groups", PAGE, **query)
        ]

    def delete_security_group(self, group: str) -> None:
        self.network.remove(f"/v2.0/security-groups/{group}", f"security-group:{group}")

    def security_group(self, name: str) -> Group | None:
        query = {"project_id": self.project(), "name": name}
        url = "/v2.0/security-groups"
        body = self.network.get(url, f"security-group:{name}", params=query)
        if body is None or "security_groups" not in body:
            raise UnavailableException("network", f"answered to {url} without security_groups")
        found = [
            Group(shown["id"], shown["name"], shown["project_id"], tags=frozenset(shown.get("tags") or ()))
            for shown in self.network.page(url, body["security_groups"], set())
        ]
        return found[0] if len(found) == 1 else None

    def tag_security_group(self, group: str, tag: str) -> None:
        self.network.call("PUT", f"/v2.0/security-groups/{group}/tags/{tag}", f"security-group:{group}")

    def untag_security_group(self, group: str, tag: str) -> None:
        self.network.remove(f"/v2.0/security-groups/{group}/tags/{tag}", f"security-group:{group}")

    def _ports(self, filters: Mapping[str, str | Sequence[str]]) -> list[Port]:
        return translated(lambda: [_port(found) for found in self.neutron.ports(filters)])


def _port(found: neutron.Port) -> Port:
    shown: Mapping[str, Any] = found.shown
    return Port(
        id=found.id,
        name=shown["name"],
        project_id=shown["project_id"],
        network_id=shown["network_id"],
        device_id=found.device,
        device_owner=found.owner,
        mac=shown["mac_address"],
        admin_up=bool(shown["admin_state_up"]),
        revision=_NO_REVISION if found.revision is None else found.revision,
        address_pairs=tuple(pair["ip_address"] for pair in shown.get("allowed_address_pairs") or ()),
        security_groups=tuple(shown.get("security_groups") or ()),
        age=age(shown.get("created_at")),
        addresses=tuple(fixed["ip_address"] for fixed in shown.get("fixed_ips") or ()),
    )


def _as_read(port: Port) -> neutron.Port:
    return neutron.Port({"id": port.id, "revision_number": port.revision})


def _changed(port: Port, error: AmphoraDriverError) -> AmphoraDriverError:
    if isinstance(error.__cause__, Conflict):
        return UnavailableException(f"port:{port.id}", str(error))
    return error
