"""Reads all that matters for one amphora: Octavia's rows in one transaction, then Nova, Neutron and Glance. Writes nothing."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

from sqlalchemy.engine import Connection

from handlers.base import Key
from handlers.octavia import queries, records
from handlers.octavia.cloud_objects import AMPHORA, PRESERVED, Server
from handlers.octavia.drivers.base import Driver
from handlers.octavia.failover import queries as failure_queries
from handlers.octavia.failover.rules import at_rest
from handlers.octavia.failover.steps import Nothing, Situation, Wait
from handlers.octavia.preserved import pool
from handlers.octavia.settings import HousekeepingSettings


@dataclass(frozen=True, slots=True)
class _Rows:
    """What Octavia's database says, all of one moment."""

    amphora: records.Amphora
    balancer: records.LoadBalancer | None
    health: records.Health | None
    failing: dict[str, str | None]
    replaced: tuple[str, ...]


def amphora_of(driver: Driver, key: Key) -> str | None:
    """Return the amphora that a key is about; by its server where the key names that.

    :raises Unavailable: when that cannot be told
    """
    if key.kind == "amphora":
        return key.id
    row = driver.database.run(partial(queries.amphora_of_server, server=key.id))
    if row is not None:
        return row.id
    # the row has forgotten its server when we let go of it; the server's mark says whose it was
    server = driver.server(key.id)
    return server.metadata.get(AMPHORA) if server is not None and PRESERVED in server.tags else None


def read(driver: Driver, settings: HousekeepingSettings, identity: str) -> Situation | Wait | Nothing:
    """Read the situation of an amphora; less than all where Octavia's rows alone decide.

    :raises Unavailable: when something does not answer
    """
    rows = driver.database.run(partial(_rows, identity=identity, settings=settings))
    if rows is None:
        return Nothing()
    resting = at_rest(rows.amphora, rows.balancer)
    if resting is not None:
        return resting
    server = _server(driver, rows.amphora)
    keeps = settings.maximum_preserved_amphora_count > 0
    images = driver.images() if keeps else []
    listed = driver.servers() if keeps or len(rows.failing) > 1 else []
    others = [one for one in pool.assemble(listed, images) if one.amphora != identity] if keeps else []
    hosts = {one.id: one.host for one in listed}
    near = [
        other
        for other, its_server in sorted(rows.failing.items())
        if server is not None and server.host is not None and hosts.get(its_server or "") == server.host
    ]
    return Situation(
        rows.amphora,
        rows.balancer,
        rows.health,
        datetime.now(UTC),
        server,
        tuple(driver.ports_of(server.id)) if server is not None else (),
        tuple(image for image in images if image.properties.get(AMPHORA) == identity),
        tuple(others),
        tuple(sorted(rows.failing)),
        tuple(near),
        rows.replaced,
    )


def _rows(connection: Connection, identity: str, settings: HousekeepingSettings) -> _Rows | None:
    amphora = queries.amphora(connection, identity)
    if amphora is None:
        return None
    on = amphora.load_balancer_id
    balancer = queries.load_balancer(connection, on) if on else None
    beside = queries.amphorae_of(connection, on) if on else []
    failing = failure_queries.failing_lately(connection, settings.stale_after, settings.failover_window)
    failing.pop(identity, None)
    # one that was let go of is taken off by the look at itself, when it is seen to
    replaced = tuple(row.id for row in beside if row.status == "DELETED" and row.compute_id is not None)
    return _Rows(amphora, balancer, queries.health(connection, identity), failing, replaced)


def _server(driver: Driver, amphora: records.Amphora) -> Server | None:
    """Return its server, as Nova shows it by itself: listings do not tell server groups."""
    if amphora.compute_id is not None:
        return driver.server(amphora.compute_id)
    if amphora.status not in {"ERROR", "DELETED"}:
        return None
    marked = sorted(server.id for server in driver.servers() if pool.is_about(server, amphora.id))
    return driver.server(marked[0]) if marked else None
