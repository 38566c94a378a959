"""Reads the facts about one amphora, from Octavia's rows, then from Nova, Neutron and Glance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

from sqlalchemy.engine import Connection

from handlers.base import Key
from handlers.octavia import queries as octavia_queries
from handlers.octavia import rebuild, records
from handlers.octavia.cloud_objects import AMPHORA, PRESERVED, PRESERVED_PREFIX, Image, Server
from handlers.octavia.drivers.base import Driver
from handlers.octavia.failover import queries
from handlers.octavia.failover.heartbeats import Heard, Listener
from handlers.octavia.failover.rules import at_rest
from handlers.octavia.failover.steps import Deactivated, Nothing, Replaced, Situation, Wait
from handlers.octavia.preserved import pool
from handlers.octavia.settings import HousekeepingSettings


@dataclass(frozen=True, slots=True)
class _Rows:
    amphora: records.Amphora
    balancer: records.LoadBalancer | None
    beside: Sequence[records.Amphora]
    health: records.Health | None
    failing: dict[str, queries.Failing]
    heard: Heard
    detaches: bool
    shared: str


@dataclass(frozen=True, slots=True)
class _Cloud:
    server: Server | None
    servers: Sequence[Server] = ()
    images: Sequence[Image] = ()
    others: Sequence[pool.Preserved] = ()


def amphora_of(driver: Driver, key: Key) -> str | None:
    """Return the id of an amphora, which a key names by the amphora's id or by the server's id; None for an unknown server.

    :raises Unavailable: Octavia's database or Nova does not answer
    """
    if key.kind == "amphora":
        return key.id
    row = driver.database.run(partial(octavia_queries.amphora_of_server, server=key.id))
    if row is not None:
        return row.id
    # Octavia may have forgotten this server; its mark names the amphora
    server = driver.server(key.id)
    return server.metadata.get(AMPHORA) if server is not None and PRESERVED in server.tags else None


def read(
    driver: Driver,
    settings: HousekeepingSettings,
    listener: Listener,
    identity: str,
    known: Situation | None = None,
) -> Situation | Replaced | Wait | Nothing:
    """Return the facts about an amphora. Return ``Wait`` or ``Nothing`` if Octavia's rows alone decide so.

    :param known: an earlier result of the same heal, whose images and preserved amphorae are not read again
    :raises Unavailable: a database or an API does not answer
    """
    rows = driver.database.run(partial(_rows, identity=identity, settings=settings))
    if rows is None:
        return Nothing()
    unsettled = listener.observe(rows.heard)
    resting = at_rest(rows.amphora, rows.balancer)
    if resting is not None:
        return resting
    cloud = _cloud(driver, settings, rows, known)
    if rows.amphora.status == "DELETED" or rows.balancer is None:
        return _replaced(driver, rows, cloud)
    return _situation(driver, settings, rows, rows.balancer, cloud, unsettled)


def read_deactivated(
    driver: Driver, settings: HousekeepingSettings, amphora: records.Amphora
) -> Deactivated | Replaced | Nothing:
    """Return the facts about an amphora on no load balancer, in ERROR or DELETED without ``compute_id``; otherwise ``Nothing``.

    :raises Unavailable: an API does not answer
    """
    preserved = amphora.status == "DELETED" and amphora.compute_id is None
    if amphora.load_balancer_id is not None or not (preserved or amphora.status == "ERROR"):
        return Nothing()
    server, images = _server(driver, amphora), driver.images()
    ports = tuple(driver.ports_of(server.id)) if server is not None else ()
    own = _images(amphora, images)
    others = tuple(
        one for one in pool.assemble(driver.servers(), images, settings.spare_owner) if one.amphora != amphora.id
    )
    made = partial(Replaced, balancer=None, named=_named(driver, server, others)) if preserved else Deactivated
    return made(amphora=amphora, now=datetime.now(UTC), server=server, ports=ports, images=own, others=others)


def _rows(connection: Connection, identity: str, settings: HousekeepingSettings) -> _Rows | None:
    amphora = octavia_queries.amphora(connection, identity)
    if amphora is None:
        return None
    on, now = amphora.load_balancer_id, queries.now(connection)
    balancer = octavia_queries.load_balancer(connection, on) if on else None
    failing = queries.failing_lately(connection, now, settings.stale_after, settings.failover_window)
    failing.pop(identity, None)
    troubled = amphora.status in {"ERROR", "DELETED"} or (balancer is not None and balancer.status == "ERROR")
    return _Rows(
        amphora=amphora,
        balancer=balancer,
        beside=octavia_queries.amphorae_of(connection, on) if on and troubled else [],
        health=octavia_queries.health(connection, identity),
        failing=failing,
        heard=queries.heard(connection, now, settings.heard_within),
        detaches=amphora.status == "DELETED" and octavia_queries.has_member_ports(connection),
        shared=octavia_queries.shared_object(connection, [amphora]),
    )


def _cloud(driver: Driver, settings: HousekeepingSettings, rows: _Rows, known: Situation | None) -> _Cloud:
    server = _server(driver, rows.amphora)
    if known is not None:
        return _Cloud(server, images=known.images, others=known.others)
    if rows.amphora.compute_id is not None and server is not None and pool.is_detaching(server):
        return _Cloud(server)  # its place in the pool is certain
    listed = driver.servers() if settings.preserves or len(rows.failing) > 1 else []
    if not settings.preserves:
        return _Cloud(server, listed)
    images = driver.images()
    others = tuple(one for one in pool.assemble(listed, images, settings.spare_owner) if one.amphora != rows.amphora.id)
    return _Cloud(server, listed, _images(rows.amphora, images), others)


def _server(driver: Driver, amphora: records.Amphora) -> Server | None:
    """Return the server that the amphora's row names; None without a server.

    If a row in ERROR or DELETED names no server, return the server whose mark (tag and metadata) names the amphora.

    The server is read by its id, because a listing shows no server groups.
    """
    if amphora.compute_id is not None:
        return driver.server(amphora.compute_id)
    if amphora.status not in {"ERROR", "DELETED"}:
        return None
    marked = sorted(server.id for server in driver.servers() if pool.is_about(server, amphora.id))
    return driver.server(marked[0]) if marked else None


def _images(amphora: records.Amphora, images: Sequence[Image]) -> tuple[Image, ...]:
    """Return the images that stackmend made of an amphora, except images that an operator renamed."""
    name = f"{PRESERVED_PREFIX}{amphora.id}"
    return tuple(image for image in images if image.properties.get(AMPHORA) == amphora.id and image.name == name)


def _named(driver: Driver, server: Server | None, others: Sequence[pool.Preserved]) -> frozenset[str]:
    preserved = {one.id for one in (server, *(other.server for other in others)) if one is not None}
    return driver.database.run(partial(octavia_queries.named_servers, servers=preserved))


def _replaced(driver: Driver, rows: _Rows, cloud: _Cloud) -> Replaced:
    return Replaced(
        amphora=rows.amphora,
        now=datetime.now(UTC),
        server=cloud.server,
        ports=tuple(driver.ports_of(cloud.server.id)) if cloud.server is not None else (),
        images=tuple(cloud.images),
        others=tuple(cloud.others),
        balancer=rows.balancer,
        rows=tuple(row.id for row in rows.beside if _is_to_detach(driver, rows, row)),
        named=_named(driver, cloud.server, cloud.others),
    )


def _is_to_detach(driver: Driver, rows: _Rows, row: records.Amphora) -> bool:
    """Return whether to detach an amphora's row, which must be DELETED, from its load balancer.

    When Octavia deletes a load balancer, it deletes only the servers and ports of attached rows. So stackmend detaches a row
    without a server only if the row is the inspected amphora's. From Octavia 16 on, it also detaches rows whose server and port
    are gone.
    """
    if row.status != "DELETED":
        return False
    if row.compute_id is None:
        return row.id == rows.amphora.id
    has_port = row.vrrp_port_id is not None and driver.port(row.vrrp_port_id) is not None
    return rows.detaches and not has_port and driver.server(row.compute_id) is None


def _situation(
    driver: Driver,
    settings: HousekeepingSettings,
    rows: _Rows,
    balancer: records.LoadBalancer,
    cloud: _Cloud,
    unsettled: float,
) -> Situation:
    server = cloud.server
    hosts = {one.id: one.host for one in cloud.servers}
    troubled = "ERROR" in {balancer.status, rows.amphora.status}
    group = rebuild.security_group(driver, balancer.id) if troubled else None
    live = [row.id for row in rows.beside if row.status != "DELETED"]
    failing = _failing(rows, cloud)
    return Situation(
        amphora=rows.amphora,
        now=datetime.now(UTC),
        server=server,
        ports=tuple(driver.ports_of(server.id)) if server is not None else (),
        images=tuple(cloud.images),
        others=tuple(cloud.others),
        balancer=balancer,
        health=rows.health,
        failing=tuple(sorted(failing)),
        neighbours=tuple(
            other
            for other, its_server in sorted(failing.items())
            if server is not None and server.host is not None and hosts.get(its_server or "") == server.host
        ),
        heard=rows.heard,
        unsettled=unsettled,
        group=group,
        attempts=rebuild.attempts(group, live, balancer),
        remains=rebuild.read(driver, balancer, rows.beside) if balancer.status == "ERROR" else None,
        surplus=rows.amphora.status == "ERROR"
        and balancer.is_whole(sum(row.status in records.SERVING for row in rows.beside)),
        shared=rows.shared,
    )


def _failing(rows: _Rows, cloud: _Cloud) -> dict[str, str | None]:
    """Return the servers' ids, by amphora id, of the other amphorae that are silent, or recently failed or were replaced.

    A heartbeat in the future is a heartbeat lease only if a server's mark names the amphora. Otherwise a clock is ahead, and
    the amphora does not count.
    """
    marked = {server.metadata.get(AMPHORA) for server in cloud.servers if PRESERVED in server.tags}
    return {
        amphora: failing.server for amphora, failing in rows.failing.items() if not failing.ahead or amphora in marked
    }
