"""Reads the watermarks of nova_api, the cells and Placement.

A stored watermark serves to recognise an older copy of a database. A table's next id (``AUTO_INCREMENT``) survives archive and
purge. On Galera, each writer's counter is above the ids of all rows. Rows of ``services`` and ``cell_mappings`` keep their uuid
as long as they exist.

The watermark of Placement has generations of providers, which only grow (``placement/objects/resource_provider.py``).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import sqlalchemy as sa
from oslo_config import cfg
from sqlalchemy.engine import Connection

from handlers.access.database import Database
from handlers.base import HandlerError, Ids, Resources, Rising, Watermark
from handlers.nova import options, tables
from handlers.nova.database import NovaDatabases
from handlers.nova.placement import Placement

#: old rows that are remembered of a database
_ANCHORS = 20
#: resource providers whose generations are remembered
_PROVIDERS = 50

#: statements that return the next id of a table, by dialect
_NEXT_ID = {
    "mysql": "SELECT AUTO_INCREMENT FROM information_schema.TABLES "
    "WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = :name",
    "postgresql": "SELECT last_value + 1 FROM pg_sequences "
    "WHERE schemaname = current_schema() AND sequencename = :name || '_id_seq'",
}
_NEXT_ID["mariadb"] = _NEXT_ID["mysql"]


def nova_watermarks(resources: Resources) -> Iterator[Watermark]:
    """Yield the watermarks of nova_api, and of those cells and the Placement that answer; nothing without ``[nova]``.

    :raises Unavailable: nova_api does not answer, or lists no cell
    """
    options.register(resources.conf)
    if not (resources.conf[options.GROUP].config_file or resources.conf[options.GROUP].api_database_connection):
        return
    databases = resources.get(NovaDatabases.from_resources)
    cells = databases.cells()
    yield databases.api.run(_of_api)
    for cell in cells:
        try:
            database = databases.database(cell)
            yield cell_watermark(database)
        except HandlerError:
            continue
    try:
        yield _of_placement(resources.get(Placement.from_resources).generations())
    except (HandlerError, cfg.Error):
        # without credentials no handler that relies on Placement runs
        return


def _of_api(connection: Connection) -> Watermark:
    c = tables.cell_mappings.c
    rows = connection.execute(sa.select(c.id, c.uuid).order_by(c.id).limit(_ANCHORS))
    anchors = {f"cell mapping {row.id}": row.uuid for row in rows}
    ids = [
        _ids(connection, "instance_mappings", [tables.instance_mappings]),
        _ids(connection, "request_specs", [tables.request_specs]),
    ]
    return Watermark("nova_api", _server(connection), anchors=anchors, ids=tuple(one for one in ids if one))


def cell_watermark(database: Database) -> Watermark:
    def read(connection: Connection) -> Watermark:
        c = tables.services.c
        rows = connection.execute(sa.select(c.id, c.uuid, c.host, c.binary).order_by(c.id).limit(_ANCHORS))
        anchors = {f"service {row.id}": f"{row.binary} on {row.host} ({row.uuid})" for row in rows}
        ids = _ids(connection, "instances", [tables.instances, tables.shadow_instances])
        return Watermark(database.name, _server(connection), anchors=anchors, ids=(ids,) if ids else ())

    return database.run(read)


def _of_placement(generations: Iterable[tuple[str, int]]) -> Watermark:
    known = dict(sorted(generations)[:_PROVIDERS])
    rising = Rising("generations of resource providers", known, min(2, len(known)))
    anchors = {f"resource provider {uuid}": "there" for uuid in known}
    return Watermark("placement", "its API", (rising,) if known else (), anchors)


def _ids(connection: Connection, name: str, homes: Iterable[sa.Table]) -> Ids | None:
    """Return the highest id in ``homes`` (a table and its shadow table), and the next id."""
    highest = [connection.execute(sa.select(sa.func.max(table.c.id))).scalar() for table in homes]
    next_id = _next_id(connection, name)
    if next_id is None:
        return None
    return Ids(name, max((one or 0 for one in highest), default=0), next_id)


def _next_id(connection: Connection, name: str) -> int | None:
    dialect = connection.dialect.name
    if dialect == "sqlite":
        found = connection.execute(sa.text(f'SELECT MAX(id) FROM "{name}"')).scalar()
        return int(found or 0) + 1
    if dialect == "mysql" and not getattr(connection.dialect, "is_mariadb", False):
        # MySQL 8 answers from a cache that is a day old
        connection.exec_driver_sql("SET SESSION information_schema_stats_expiry = 0")
    found = connection.execute(sa.text(_NEXT_ID[dialect]), {"name": name}).scalar()
    return None if found is None else int(found)


def _server(connection: Connection) -> str:
    if connection.dialect.name in {"mysql", "mariadb"}:
        return str(connection.exec_driver_sql("SELECT CONCAT(@@hostname, ':', @@port, '/', DATABASE())").scalar())
    if connection.dialect.name == "postgresql":
        text = "SELECT COALESCE(inet_server_addr()::text, 'local') || '/' || current_database()"
        return str(connection.exec_driver_sql(text).scalar())
    return connection.dialect.name
