"""A simulated Neutron on loopback: ports with their bindings.

It answers the requests of :mod:`handlers.access.neutron` as the real Neutron does.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from handlers.nova.simulation.json_server import Answer, JsonServer

_PLAIN: Mapping[str, Any] = {
    "name": "",
    "device_id": "",
    "device_owner": "",
    "status": "DOWN",
    "mac_address": "fa:16:3e:00:00:01",
    "fixed_ips": [],
    "binding:host_id": "",
    "binding:profile": {},
    "binding:vnic_type": "normal",
    "binding:vif_type": "ovs",
    "resource_request": None,
}
#: the member of a port that holds its inactive bindings by host; no answer shows it
_INACTIVE = "_inactive"


class Neutron(JsonServer):
    """A server with Neutron's API and one network.

    :param page: the most ports in one answer (``pagination_max_limit``)
    """

    def __init__(self, page: int = 1000) -> None:
        super().__init__()
        self.ports: dict[str, dict[str, Any]] = {}
        self.network: dict[str, Any] = {"id": str(uuid.uuid4())}
        self.extensions = {"port-resource-request"}
        #: names of fields that no answer shows
        self.hidden: set[str] = set()
        self.page = page
        self._plugged: dict[str, str] = {}

    def add(self, **values: Any) -> str:
        """Make a port with these values; return its id. ``binding_host_id`` sets ``binding:host_id``."""
        made = str(values.get("id") or uuid.uuid4())
        names = {name.replace("binding_", "binding:"): value for name, value in values.items()}
        start = {_INACTIVE: {}, "network_id": self.network["id"], "revision_number": 1}
        self.ports[made] = {**_PLAIN, **start, **names, "id": made}
        return made

    def plug(self, instance: str, host: str) -> str:
        """Make the port of a new server."""
        mac = f"fa:16:3e:{instance[:2]}:{instance[2:4]}:{instance[4:6]}"
        self._plugged[instance] = self.add(
            device_id=instance, device_owner="compute:nova", status="ACTIVE", binding_host_id=host, mac_address=mac
        )
        return self._plugged[instance]

    def move(self, instance: str, host: str) -> None:
        """Bind the port that :meth:`plug` made, if it still exists, to another host; the host ``""`` unbinds the port."""
        if self._plugged.get(instance) in self.ports:
            self.change(self._plugged[instance], binding_host_id=host)

    def unplug(self, instance: str) -> None:
        self.ports.pop(self._plugged.pop(instance, ""), None)

    def of(self, instance: str) -> list[str]:
        return [uuid_ for uuid_, port in self.ports.items() if port["device_id"] == instance]

    def bind(self, port: str, host: str) -> None:
        """Add an inactive binding, as Nova does at the beginning of a live migration."""
        self.change(port, **{_INACTIVE: {**self.ports[port][_INACTIVE], host: {"vnic_type": "normal", "profile": {}}}})

    def activate(self, port: str, host: str) -> None:
        active, others = self.ports[port]["binding:host_id"], dict(self.ports[port][_INACTIVE])
        del others[host]
        if active:
            others[active] = {"vnic_type": "normal", "profile": {}}
        self.change(port, binding_host_id=host, **{_INACTIVE: others})

    def hosts(self, port: str) -> tuple[str, set[str]]:
        return self.ports[port]["binding:host_id"], set(self.ports[port][_INACTIVE])

    def change(self, port: str, **values: Any) -> None:
        names = {name.replace("binding_", "binding:"): value for name, value in values.items()}
        self.ports[port] |= {**names, "revision_number": self.ports[port]["revision_number"] + 1}

    def answer(self, method: str, url: str, headers: Mapping[str, str], body: Any) -> Answer:
        if len(url) > 4096:
            return 414, None
        split = urlsplit(url)
        version, kind, *rest = split.path.strip("/").split("/")
        if version != "v2.0":
            return 404, None
        if method in self.before:
            self.before[method](rest[0] if rest else "")
        if method in self.faults:
            return self.faults[method], {"NeutronError": {"message": "as the test wants it"}}
        if kind == "networks":
            return 200, {"network": self.network}
        if kind == "extensions":
            if rest[0] in self.extensions:
                return 200, {"extension": {"alias": rest[0]}}
            return 404, {"NeutronError": {"type": "HTTPNotFound", "message": "no extension"}}
        if rest[1:2] == ["bindings"]:
            return self._bindings(method, rest[0], rest[2:], body)
        if not rest:
            return self._list(parse_qs(split.query))
        return self._one(method, rest[0], headers, body)

    def _list(self, query: dict[str, list[str]]) -> Answer:
        fields, limit = query.pop("fields", []), int(query.pop("limit", ["0"])[0])
        marker = query.pop("marker", [""])[0]
        query = {name: values for name, values in query.items() if name not in {"sort_key", "sort_dir"}}
        if set(query) - {*_PLAIN, "id", "network_id"}:
            return 400, {"NeutronError": {"message": f"{sorted(query)} is invalid attribute for filtering"}}
        found = [
            port
            for uuid_, port in self._candidates(query)
            if uuid_ > marker and all(self._matches(port, name, values) for name, values in query.items())
        ]
        page = min(limit or self.page, self.page)
        shown = [self._shown(port, fields) for port in found[:page]]
        more = [{"rel": "next", "href": "..."}] if len(found) > page else []
        return 200, {"ports": shown, "ports_links": more}

    def _candidates(self, query: Mapping[str, list[str]]) -> list[tuple[str, dict[str, Any]]]:
        if "device_id" not in query:
            return sorted(self.ports.items())
        found = {port for device in query["device_id"] for port in self.of(device)}
        return [(port, self.ports[port]) for port in sorted(found)]

    def _one(self, method: str, port: str, headers: Mapping[str, str], body: Any) -> Answer:
        if port not in self.ports:
            return 404, {"NeutronError": {"type": "PortNotFound", "message": "no port"}}
        match = headers.get("If-Match")
        if match is not None and match != f"revision_number={self.ports[port]['revision_number']}":
            return 412, {"NeutronError": {"type": "RevisionNumberConstraintFailed", "message": match}}
        if method == "DELETE":
            del self.ports[port]
            return 204, None
        if method == "PUT":
            changes = dict(body["port"])
            if changes.get("binding:host_id", "") is None:
                changes["binding:host_id"] = ""
            self.change(port, **changes)
        return 200, {"port": self._shown(self.ports[port], [])}

    def _matches(self, port: Mapping[str, Any], name: str, values: list[str]) -> bool:
        """Return whether a port matches; a filter by host also finds inactive bindings (``_ml2_port_result_filter_hook``)."""
        return port[name] in values or (name == "binding:host_id" and not port[_INACTIVE].keys().isdisjoint(values))

    def _bindings(self, method: str, port: str, hosts: list[str], body: Any) -> Answer:
        if port not in self.ports:
            return 404, {"NeutronError": {"type": "PortNotFound", "message": "no port"}}
        active, inactive = self.ports[port]["binding:host_id"], dict(self.ports[port][_INACTIVE])
        if method == "DELETE":
            host = unquote(hosts[0])
            self.change(port, binding_host_id="" if host == active else active)
            self.ports[port][_INACTIVE].pop(host, None)
            return 204, None
        if method == "POST":
            host = body["binding"]["host"]
            if host in {active, *inactive}:
                return 409, {"NeutronError": {"type": "PortBindingAlreadyExists", "message": host}}
            if active:
                self.bind(port, host)
            else:
                self.change(port, binding_host_id=host)
            return 201, {"binding": {"host": host}}
        shown = [{"host": active, "status": "ACTIVE", "vnic_type": "normal", "profile": {}}] if active else []
        shown += [{"host": host, "status": "INACTIVE", **values} for host, values in inactive.items()]
        return 200, {"bindings": shown}

    def _shown(self, port: Mapping[str, Any], fields: list[str]) -> dict[str, Any]:
        return {
            name: value
            for name, value in port.items()
            if name not in {*self.hidden, _INACTIVE} and (not fields or name in fields)
        }
