"""Read an instance's rows and its ports."""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy.engine import Connection

from handlers.access.neutron import Port
from handlers.nova import queries
from handlers.nova.cells import Cell
from handlers.nova.database import NovaDatabases
from handlers.nova.info_cache.queries import cache
from handlers.nova.info_cache.rules import Case, Facts, Vif
from handlers.nova.info_cache.rules import read as read_cache
from handlers.nova.names import HostNames
from handlers.nova.records import Instance, InstanceMapping

#: the fields of a port that :func:`vif` needs
FIELDS = ("device_id", "device_owner", "mac_address", "fixed_ips", "binding:vif_type", "binding:vnic_type")
#: the owner of an instance's ports, before the availability zone
OWNER = "compute:"


def read(databases: NovaDatabases, instance: str) -> tuple[Cell | None, Facts]:
    """Return the cell of the instance's mapping, and the rows.

    :raises Unavailable: when a database does not answer
    """
    requested, mapping = databases.api.run(lambda connection: _scheduling(connection, instance))
    seen = databases.run_in_all(databases.cells(), lambda connection: _in_cell(connection, instance))
    home = next((cell for cell in seen if mapping is not None and cell.id == mapping.cell_id), None)
    here, text = seen[home] if home is not None else (None, None)
    copies = tuple(row for row, _ in seen.values() if row is not None)
    return home, Facts(here, copies, requested or home is None, read_cache(text))


def cases(facts: Facts, ports: Iterable[Port], names: HostNames) -> dict[str, Case]:
    """Return a case for each port that Neutron shows or the cache names."""
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
    """Return the values of a port that Nova copies."""
    values = port.shown
    addresses = tuple(sorted(one["ip_address"] for one in values.get("fixed_ips") or ()))
    return Vif(
        values.get("mac_address") or "",
        addresses,
        values.get("binding:vif_type") or "",
        values.get("binding:vnic_type") or "normal",
    )


def _scheduling(connection: Connection, instance: str) -> tuple[bool, InstanceMapping | None]:
    return queries.has_build_request(connection, instance), queries.instance_mapping(connection, instance)


def _in_cell(connection: Connection, instance: str) -> tuple[Instance | None, str | None]:
    return queries.instance(connection, instance), cache(connection, instance)
