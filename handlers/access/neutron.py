"""The client for Neutron's ports.

Every write to a port has the condition ``If-Match: revision_number=N``, and fails if the port changed since the read.

Neutron can hide other projects' ports, and the bindings of ports, from users without an administrator's role. To read a hidden
binding raises :class:`~handlers.base.Unavailable`.

A 404 is proof that a port does not exist only with the error ``PortNotFound``. With ``HTTPNotFound``, Neutron's policy hides
the port from the credentials. A 404 of another server, such as a proxy, has no error of Neutron.

A binding has no revision, and Neutron ignores ``If-Match`` for bindings. So :meth:`Network.delete_binding` reads the port
before and after the request.

Sources: ``neutron/plugins/ml2/plugin.py`` (delete_port_binding), ``neutron/services/revisions/revision_plugin.py``,
``neutron/conf/policies/port.py``, ``neutron/pecan_wsgi/hooks/policy_enforcement.py`` (before, after),
``neutron_lib/api/definitions/revisionifmatch.py``, ``portbindings.py``, ``port_resource_request.py``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import quote

import requests

from handlers.access.cloud import Cloud, Rehearsal, Service, Write, page
from handlers.base import Conflict, Refused, Resources, Unavailable

#: ports per request; Neutron may give fewer
PAGE = 1000
#: values of a filter per request: some servers in front of Neutron accept only 4 kB of address and headers
VALUES = 50

#: the owner of an instance's ports, before the availability zone
INSTANCES = "compute:"
HOST = "binding:host_id"
PROFILE = "binding:profile"
#: Neutron's error for a port that does not exist
_NO_PORT = "PortNotFound"
#: the extension with the bindings of a port
_BINDINGS = "binding-extended"


@dataclass(frozen=True, slots=True)
class Port:
    """A port as Neutron shows it at one revision.

    :param shown: fields by name
    """

    shown: Mapping[str, Any]

    @property
    def id(self) -> str:
        return str(self.shown["id"])

    @property
    def device(self) -> str:
        """The id of the port's user, such as an instance; empty without a user."""
        return self.shown.get("device_id") or ""

    @property
    def owner(self) -> str:
        """The kind of the port's user: ``compute:nova``, ``network:dhcp``, ``Octavia``."""
        return self.shown.get("device_owner") or ""

    @property
    def host(self) -> str:
        """The host of the port's binding; empty for an unbound port."""
        return str(self._bound(HOST) or "")

    @property
    def profile(self) -> Mapping[str, Any]:
        """Nova's data about the port's binding: PCI device, resource providers."""
        profile: Mapping[str, Any] = self._bound(PROFILE) or {}
        return profile

    @property
    def revision(self) -> int | None:
        """The revision number, which changes with the port; None if Neutron shows none."""
        return self.shown.get("revision_number")

    def _bound(self, name: str) -> Any:
        if name not in self.shown:
            raise Unavailable(
                "network", f"does not show {name} of port {self.id}; do the credentials have an administrator's role?"
            )
        return self.shown[name]


@dataclass(frozen=True, slots=True)
class Binding:
    """A binding of a port to one host; at most one binding of a port is ``ACTIVE``."""

    host: str
    status: str
    vnic_type: str
    profile: Mapping[str, Any]

    @property
    def active(self) -> bool:
        return self.status == "ACTIVE"


class Network:
    """The client for Neutron's ports. Thread-safe."""

    def __init__(self, service: Service) -> None:
        self._service = service

    @classmethod
    def from_resources(cls, resources: Resources) -> Self:
        return cls(resources.get(Cloud.from_resources).service("network"))

    def rehearsing(self, writes: list[Write]) -> Network:
        """Return a client that adds its writes to a list instead of sending them."""
        return Network(Rehearsal(self._service, writes))

    def ports(self, filters: Mapping[str, str | Sequence[str]], fields: Sequence[str] = ()) -> Iterator[Port]:
        """Yield the ports that match, page by page.

        :param filters: values by Neutron's filter names; a port must match one value of each filter. At most one filter may
            have more than :data:`VALUES` values
        :param fields: the fields to show besides the id; empty for all fields
        :raises Unavailable: no usable answer arrives; the ports before the error are valid
        """
        for some in _short(filters):
            query: dict[str, Any] = {**some, "limit": PAGE, "sort_key": "id", "sort_dir": "asc"}
            if fields:
                query["fields"] = ["id", *fields]
            yield from self._pages(query)

    def _pages(self, query: dict[str, Any]) -> Iterator[Port]:
        more, markers, url = True, set[str](), "/v2.0/ports"
        while more:
            body = self._body(self._service.read(url, params=query), url, "ports")
            found = [Port(row) for row in page("network", url, body["ports"], markers)]
            yield from found
            more = bool(found) and any(link.get("rel") == "next" for link in body.get("ports_links") or ())
            if more:
                query["marker"] = found[-1].id

    def port(self, port: str) -> Port | None:
        """Return a port; None if Neutron says that it does not exist.

        :raises Unavailable: no usable answer arrives, or Neutron hides the port from the credentials
        """
        url = f"/v2.0/ports/{port}"
        response = self._service.read(url)
        if _error_type(response) == _NO_PORT:
            return None
        [row] = page("network", url, [self._body(response, url, "port")["port"]], set())
        return Port(row)

    def update(self, before: Port, changes: Mapping[str, Any]) -> Port:
        """Change a port; return the changed port.

        :raises Conflict: the port is gone, or changed since ``before`` was read
        :raises Refused: Neutron rejects the change, or shows no revision
        """
        write = changing(before, changes)
        response = self._send(before, write)
        if response.status_code != 200:
            raise _failure(response, before)
        return Port(self._body(response, write.url, "port")["port"])

    def delete(self, before: Port) -> None:
        """:raises Conflict, Refused: as in :meth:`update`"""
        response = self._send(before, deleting(before))
        if response.status_code != 204:
            raise _failure(response, before)

    def bindings(self, port: str) -> list[Binding]:
        """Return a port's bindings; empty if the port is gone, or Neutron lacks the extension ``binding-extended``."""
        url = f"/v2.0/ports/{port}/bindings"
        response = self._service.read(url)
        if _error_type(response) == _NO_PORT or (response.status_code == 404 and not self.has(_BINDINGS)):
            return []
        rows = self._body(response, url, "bindings")["bindings"]
        return [
            Binding(row["host"], row["status"], row.get("vnic_type") or "normal", row.get("profile") or {})
            for row in rows
        ]

    def delete_binding(self, before: Port, binding: Binding) -> None:
        """Delete an inactive binding. If the port has no active binding afterwards, create the binding again.

        :raises Conflict: the port changed since ``before`` was read, or the binding is or became active
        :raises Refused: Neutron rejects the request
        """
        now = self.port(before.id)
        if now is None or now.revision != before.revision or binding.active:
            raise Conflict(f"port {before.id} changed meanwhile")
        response = self._service.send(deleting_binding(before, binding))
        if response.status_code != 204:
            raise _failure(response, before)
        after = self.port(before.id)
        if after is not None and not after.host:
            self._bind(before.id, binding)
            raise Conflict(f"the binding of port {before.id} to {binding.host} became active; it was created again")

    def _bind(self, port: str, binding: Binding) -> None:
        wanted = {"host": binding.host, "vnic_type": binding.vnic_type, "profile": dict(binding.profile)}
        response = self._service.write("POST", f"/v2.0/ports/{port}/bindings", json={"binding": wanted})
        if response.status_code not in {200, 201}:
            raise Refused(
                f"port {port} lost its binding to {binding.host}, and Neutron refuses a new one: {_detail(response)}"
            )

    def dns_domain(self, network: str) -> str:
        url = f"/v2.0/networks/{network}"
        body = self._body(self._service.read(url, params={"fields": "dns_domain"}), url, "network")
        return body["network"].get("dns_domain") or ""

    def has(self, extension: str) -> bool:
        url = f"/v2.0/extensions/{extension}"
        response = self._service.read(url)
        return not _error_type(response) and bool(self._body(response, url, "extension"))

    def _send(self, before: Port, write: Write) -> requests.Response:
        if before.revision is None:
            raise Refused(f"Neutron shows no revision of port {before.id}, so that it cannot be changed safely")
        return self._service.send(write)

    def _body(self, response: requests.Response, url: str, name: str) -> Mapping[str, Any]:
        if response.status_code != 200:
            raise Unavailable("network", f"answered {response.status_code} to {url}{_HINT}")
        body = self._service.json(response)
        if name not in body:
            raise Unavailable("network", f"answered to {url} without {name}{_HINT}")
        return body


_HINT = "; is this Neutron? See [openstack] network_endpoint_override"


def _short(filters: Mapping[str, str | Sequence[str]]) -> Iterator[Mapping[str, str | Sequence[str]]]:
    for name, values in filters.items():
        if not isinstance(values, str) and len(values) > VALUES:
            for start in range(0, len(values), VALUES):
                yield {**filters, name: values[start : start + VALUES]}
            return
    yield filters


def changing(before: Port, changes: Mapping[str, Any]) -> Write:
    return Write("network", "PUT", f"/v2.0/ports/{before.id}", {"port": dict(changes)}, _unchanged(before))


def deleting(before: Port) -> Write:
    return Write("network", "DELETE", f"/v2.0/ports/{before.id}", headers=_unchanged(before))


def deleting_binding(before: Port, binding: Binding) -> Write:
    return Write("network", "DELETE", f"/v2.0/ports/{before.id}/bindings/{quote(binding.host, safe='')}")


def _unchanged(before: Port) -> dict[str, str]:
    return {"If-Match": f"revision_number={before.revision}"}


def _failure(response: requests.Response, port: Port) -> Exception:
    if response.status_code == 412:
        return Conflict(f"port {port.id} changed meanwhile")
    if response.status_code == 404:
        return Conflict(f"port {port.id} is gone")
    return Refused(f"Neutron refuses to change port {port.id}: {response.status_code} {_detail(response)}")


def _error_type(response: requests.Response) -> str:
    """Return the type of Neutron's error in an answer 404; an empty text for another answer, or the 404 of another server."""
    if response.status_code != 404:
        return ""
    try:
        return str(response.json()["NeutronError"]["type"])
    except (ValueError, LookupError, TypeError):
        return ""


def _detail(response: requests.Response) -> str:
    try:
        return " ".join(str(response.json()["NeutronError"]["message"]).split())
    except (ValueError, LookupError, TypeError):
        return "no detail"
