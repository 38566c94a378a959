"""Removes an amphora completely, and verifies the removal.

stackmend sets the amphora's row to DELETED last, because it needs the row to continue an interrupted removal. Every step can
run again.

For an amphora in ERROR, stackmend first calls Octavia's ``DELETE /octavia/amphorae/ID``. Only the row shows the result. Before
Octavia 18, the row becomes PENDING_DELETE, and no worker gets the request. In Octavia 19, a row stays PENDING_DELETE after a
failure. stackmend always removes server and ports itself: Octavia does not wait for Nova, and deletes only the ports that the
row names.

Sources: ``octavia/api/v2/controllers/amphora.py``, ``octavia/controller/worker/v2/flows/amphora_flows.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from handlers.octavia import changes, names, polling, queries, records
from handlers.octavia.cloud_objects import Port, Server
from handlers.octavia.drivers.base import Driver
from handlers.octavia.housekeeping import DeleteFailed, NotFoundError, UnavailableException

#: seconds for Octavia to delete an amphora: its fifteen attempts take two minutes
OCTAVIA_DEADLINE = 150.0
#: seconds for Nova to delete a server
SERVER_DEADLINE = 60.0


def remove_amphora(driver: Driver, identity: str) -> None:
    """Remove server and ports of an amphora that is on no load balancer, and set its row to DELETED.

    :raises NotFoundError: the amphora does not exist
    :raises DeleteFailed: server or port stays; or stackmend refuses an amphora on a load balancer, a row that is perhaps
        another provider's device, a server that is :func:`names.not_removable`, or a port that another row names
    :raises Unavailable: Octavia perhaps works on the amphora, or an API or the database does not answer
    :raises Conflict: the amphora's row has changed meanwhile
    """
    row = _row(driver, identity)
    if row is None:
        raise NotFoundError(f"amphora {identity} does not exist")
    if row.status == "DELETED":
        return
    _refuse_serving(row)
    if row.is_device:
        raise DeleteFailed(
            f"row {identity} has nothing that the amphora provider writes: it may be another provider's device"
        )
    if names.in_flow(row, driver.settings.longest_flow):
        raise UnavailableException(f"amphora:{identity}", f"it is {row.status}, and Octavia may work on it")
    _refuse_foreign(driver, row)
    _refuse_ports_of_others(driver, row)
    if row.status == "ERROR" and _octavia_deletes(driver, identity):
        _remove_belongings(driver, row)
        return
    now = _row(driver, identity)
    if now is not None and now.status != "DELETED":
        _refuse_serving(now)
        _remove_belongings(driver, now)
        driver.database.run(partial(changes.mark_deleted, amphora=now))


def _octavia_deletes(driver: Driver, identity: str) -> bool:
    def is_deleted() -> bool:
        row = _row(driver, identity)
        return row is None or row.status == "DELETED"

    try:
        driver.delete_amphora(identity)
    except DeleteFailed:
        return False
    except UnavailableException as error:
        row = _row(driver, identity)
        if error.dependency != f"amphora:{identity}" or (row is not None and row.status not in {"ERROR", "DELETED"}):
            raise  # the request may have arrived
        return is_deleted()
    return polling.until(is_deleted, OCTAVIA_DEADLINE)


def _refuse_foreign(driver: Driver, row: records.Amphora) -> Server | None:
    """Return the amphora's server; None when Nova has none.

    :raises DeleteFailed: :func:`names.not_removable` gives a reason to keep the server
    """
    found = driver.server(row.compute_id) if row.compute_id else None
    sharing = driver.database.run(partial(queries.sharing_server, row=row)) if found is not None else None
    refusal = names.not_removable(found, row.id, driver.project(), sharing) if found is not None else ""
    if refusal:
        raise DeleteFailed(refusal)
    return found


def port_of_others(driver: Driver, row: records.Amphora) -> str:
    """Return a port of an amphora that the row of another amphora or of a load balancer names too; empty without one.

    Octavia deletes the VRRP port that the amphora's row names, and stackmend the ports with the amphora's names.
    """
    own = {port.id for port in driver.ports_named(names.ports_of_amphora(row.id))}
    own |= {row.vrrp_port_id} if row.vrrp_port_id else set()
    used = driver.database.run(partial(queries.used_ports, besides=row.id))
    return min(own & used, default="")


def _refuse_ports_of_others(driver: Driver, row: records.Amphora) -> None:
    """:raises DeleteFailed: another row names a port of the amphora"""
    if refusal := names.not_removable_port(port_of_others(driver, row)):
        raise DeleteFailed(refusal)


def _remove_belongings(driver: Driver, row: records.Amphora) -> None:
    found = _refuse_foreign(driver, row)
    _refuse_ports_of_others(driver, row)
    ports = _ports_of(driver, row)
    if found is not None:
        remove_server(driver, found)
    for port in ports:
        remove_port(driver, port)


def _ports_of(driver: Driver, row: records.Amphora) -> Sequence[Port]:
    """Return the VRRP and member ports of an amphora; Nova itself deletes the management port."""
    project = driver.project()
    return [
        port for port in driver.ports() if port.project_id == project and names.amphora_of_port(port.name) == row.id
    ]


def remove_server(driver: Driver, server: Server) -> None:
    """Delete a server, and wait until it is gone.

    :raises DeleteFailed: Nova still has the server
    """
    driver.delete_server(server.id)
    if not polling.until(lambda: driver.server(server.id) is None, SERVER_DEADLINE):
        raise DeleteFailed(
            f"Nova accepted to delete server {server.id}, and still has it after {SERVER_DEADLINE:.0f} s"
        )


def remove_port(driver: Driver, port: Port) -> None:
    """Delete a port, after a new read of it: Nova changes the port when it deletes the server.

    :raises DeleteFailed: a server uses the port, or Neutron still has it
    """
    now = driver.port(port.id)
    if now is None:
        return
    if now.device_id and driver.server(now.device_id) is not None:
        raise DeleteFailed(f"port {port.id} is still attached to server {now.device_id}")
    driver.delete_port(now)
    if driver.port(port.id) is not None:
        raise DeleteFailed(f"Neutron accepted to delete port {port.id}, and still has it")


def _refuse_serving(row: records.Amphora) -> None:
    if row.load_balancer_id is not None:
        raise DeleteFailed(f"amphora {row.id} is on load balancer {row.load_balancer_id}: fail it over instead")


def _row(driver: Driver, identity: str) -> records.Amphora | None:
    return driver.database.run(partial(queries.amphora, identity=identity))
