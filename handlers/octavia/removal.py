"""Removing what is left of an amphora, wholly, and making sure that it is gone.

The order is such that the row goes last: whoever dies half-way leaves a row by which the rest is found. Every step can be
repeated. Octavia's own ``DELETE /octavia/amphorae/ID`` is asked first where it may work, for a row in ERROR, and never
believed: before release 18 it sets the row to PENDING_DELETE and its message reaches nobody; in 19 a failure inside it
leaves the row PENDING_DELETE for ever. Only the row tells, and when it does not tell in time, the work is done here. When
it does, server and ports are looked for all the same: Octavia does not wait until Nova has deleted the server, and deletes
no port that the row does not name.

Sources: ``octavia/api/v2/controllers/amphora.py``, ``octavia/controller/worker/v2/flows/amphora_flows.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from handlers.octavia import changes, names, polling, queries, records
from handlers.octavia.cloud_objects import Port, Server
from handlers.octavia.drivers.base import Driver
from handlers.octavia.housekeeping import DeleteFailed, NotFoundError, UnavailableException

#: seconds for Octavia to delete an amphora: it tries fifteen times, which takes two minutes
OCTAVIA_DEADLINE = 150.0
#: seconds for Nova to delete a server
SERVER_DEADLINE = 60.0

#: seconds after which no flow of Octavia's that began on an amphora is still at work
LONGEST_FLOW = 1800.0


def remove_amphora(driver: Driver, identity: str, in_flow_for: float = LONGEST_FLOW) -> None:
    """Remove an amphora that serves no load balancer: server, ports and row.

    :param in_flow_for: seconds since its last change within which Octavia may be deleting it
    :raises NotFoundError: when there is no such amphora
    :raises DeleteFailed: when it serves a load balancer, its server is not Octavia's, or it does not go
    :raises UnavailableException: when Octavia may be at work on it, or something does not answer
    """
    row = _row(driver, identity)
    if row is None:
        raise NotFoundError(f"there is no amphora {identity}")
    if row.status == "DELETED":
        return
    _refuse_serving(row)
    if names.in_flow(row, in_flow_for):
        raise UnavailableException(f"amphora:{identity}", f"it is {row.status}, and Octavia may be at work on it")
    _refuse_foreign(driver, row)
    if row.status == "ERROR" and _octavia_deletes(driver, identity):
        _remove_belongings(driver, row)
        return
    now = _row(driver, identity)
    if now is not None and now.status != "DELETED":
        _refuse_serving(now)
        _remove_belongings(driver, now)
        driver.database.run(partial(changes.mark_deleted, amphora=now))


def _octavia_deletes(driver: Driver, identity: str) -> bool:
    """Ask Octavia, and wait for the row."""

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
            raise  # it may have arrived, and be at work
        return is_deleted()
    return polling.until(is_deleted, OCTAVIA_DEADLINE)


def _refuse_foreign(driver: Driver, row: records.Amphora) -> Server | None:
    """Return the amphora's server, if Nova has it and Octavia made it."""
    found = driver.server(row.compute_id) if row.compute_id else None
    refusal = names.not_removable(found, row.id, driver.project()) if found is not None else ""
    if refusal:
        raise DeleteFailed(refusal)
    return found


def _remove_belongings(driver: Driver, row: records.Amphora) -> None:
    """Remove server and ports. After Octavia has deleted the row it is not done: it waits for no server."""
    found = _refuse_foreign(driver, row)
    ports = _ports_of(driver, row)
    if found is not None:
        remove_server(driver, found)
    for port in ports:
        remove_port(driver, port)


def _ports_of(driver: Driver, row: records.Amphora) -> Sequence[Port]:
    """The amphora's ports, by their names, in Octavia's project; Nova deletes the one in the management network."""
    project = driver.project()
    return [
        port for port in driver.ports() if port.project_id == project and names.amphora_of_port(port.name) == row.id
    ]


def remove_server(driver: Driver, server: Server) -> None:
    """Delete a server, and wait until Nova does not know it any more.

    :raises DeleteFailed: when it does not go
    """
    driver.delete_server(server.id)
    if not polling.until(lambda: driver.server(server.id) is None, SERVER_DEADLINE):
        raise DeleteFailed(
            f"Nova accepted to delete server {server.id}, and still has it after {SERVER_DEADLINE:.0f} s"
        )


def remove_port(driver: Driver, port: Port) -> None:
    """Delete a port that nothing uses; read again, for Nova changes it when its server goes.

    :raises DeleteFailed: when it is attached to something, or does not go
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
