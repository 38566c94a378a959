from __future__ import annotations

from collections.abc import Iterable

from handlers.access.neutron import Port
from handlers.nova.cells import Cell
from handlers.nova.database import NovaDatabases
from handlers.nova.info_cache.queries import cache
from handlers.nova.info_cache.rules import Case, Facts, Vif
from handlers.nova.info_cache.rules import read as read_cache
from handlers.nova.mapped import read_mapped
from handlers.nova.names import HostNames

#: the fields of a port that :func:`vif` needs
FIELDS = ("device_id", "device_owner", "mac_address", "fixed_ips", "binding:vif_type", "binding:vnic_type")


def read(databases: NovaDatabases, instance: str) -> tuple[Cell | None, Facts]:
    found = read_mapped(databases, instance, cache)
    return found.cell, Facts(found.here, found.copies, found.building, read_cache(found.more))


def cases(facts: Facts, ports: Iterable[Port], names: HostNames) -> dict[str, Case]:
    """Return, by port id, a case for each of ``ports`` and for each port that the network cache names."""
    cached = facts.cached or {}
    shown = {port.id: port for port in ports}
    host = None if facts.here is None else facts.here.host
    return {
        port: Case(
            cached.get(port),
            vif(shown[port]) if port in shown else None,
            shown[port].host if port in shown else "",
            host,
            not cached,
            names,
        )
        for port in dict.fromkeys([*shown, *cached])
    }


def vif(port: Port) -> Vif:
    values = port.shown
    addresses = tuple(sorted(one["ip_address"] for one in values.get("fixed_ips") or ()))
    return Vif(
        values.get("mac_address") or "",
        addresses,
        values.get("binding:vif_type") or "",
        values.get("binding:vnic_type") or "normal",
    )
