from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from sqlalchemy.engine import Connection

from handlers.octavia import queries, records
from handlers.octavia.drivers.base import Driver


def amphorae(driver: Driver, amphora: str, server: str | None = None) -> tuple[records.Amphora, ...]:
    def read(connection: Connection) -> tuple[records.Amphora, ...]:
        found = [queries.amphora(connection, amphora)]
        if server is not None:
            found.append(queries.amphora_of_server(connection, server))
        return tuple({row.id: row for row in found if row is not None}.values())

    return driver.database.run(read)


def balancer(driver: Driver, identity: str | None) -> records.LoadBalancer | None:
    return driver.database.run(partial(queries.load_balancer, identity=identity)) if identity else None


def balancers(driver: Driver, rows: Iterable[records.Amphora]) -> list[records.LoadBalancer | None]:
    return [balancer(driver, row.load_balancer_id) for row in rows]
