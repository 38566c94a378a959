"""The kinds of objects that findings about Nova name. For most kinds, a function searches Nova's databases for an object."""

from __future__ import annotations

from collections.abc import Iterable

import sqlalchemy as sa

from handlers.base import Form, ObjectKind, Resources
from handlers.nova import tables
from handlers.nova.cells import Cell
from handlers.nova.database import NovaDatabases


def _host(resources: Resources, name: str) -> bool:
    databases = resources.get(NovaDatabases.from_resources)
    services, nodes = tables.services.c, tables.compute_nodes.c
    return _in_api(databases, tables.host_mappings.c.host == name) or _in_cells(
        databases,
        databases.host_cells(),
        services.host == name,
        sa.or_(nodes.host == name, nodes.hypervisor_hostname == name),
    )


def _instance(resources: Resources, uuid: str) -> bool:
    databases = resources.get(NovaDatabases.from_resources)
    live, archived = tables.instances.c.uuid == uuid, tables.shadow_instances.c.uuid == uuid
    return _in_api(databases, tables.instance_mappings.c.instance_uuid == uuid) or _in_cells(
        databases, databases.cells(), live, archived
    )


def _consumer(resources: Resources, uuid: str) -> bool:
    databases = resources.get(NovaDatabases.from_resources)
    moves = tables.migrations.c.uuid == uuid, tables.shadow_migrations.c.uuid == uuid
    return _instance(resources, uuid) or _in_cells(databases, databases.host_cells(), *moves)


def _aggregate(resources: Resources, uuid: str) -> bool:
    return _in_api(resources.get(NovaDatabases.from_resources), tables.aggregates.c.uuid == uuid)


def _cell(resources: Resources, identity: str) -> bool:
    c = tables.cell_mappings.c
    # a key of map_instances is a part of a cell: <uuid>/<first>-<last>
    names = sa.or_(c.name == identity, c.uuid == identity, c.uuid == identity.partition("/")[0])
    return _in_api(resources.get(NovaDatabases.from_resources), names)


def _project(resources: Resources, identity: str) -> bool:
    return _in_api(resources.get(NovaDatabases.from_resources), tables.instance_mappings.c.project_id == identity)


def _in_api(databases: NovaDatabases, condition: sa.ColumnElement[bool]) -> bool:
    return databases.api.run(lambda connection: _any(connection, condition))


def _in_cells(databases: NovaDatabases, cells: Iterable[Cell], *conditions: sa.ColumnElement[bool]) -> bool:
    """:raises Unavailable: a cell does not answer, and no earlier cell has a matching row"""
    return any(databases.database(cell).run(lambda connection: _any(connection, *conditions)) for cell in cells)


def _any(connection: sa.Connection, *conditions: sa.ColumnElement[bool]) -> bool:
    found = (connection.execute(sa.select(sa.literal(1)).where(one).limit(1)).first() for one in conditions)
    return any(row is not None for row in found)


OBJECTS = (
    ObjectKind("aggregate", Form.UUID, "Nova knows no aggregate of this uuid", _aggregate),
    ObjectKind("amounts", Form.UUID),
    ObjectKind("cell", Form.TEXT, "Nova knows no cell of this name or uuid", _cell),
    ObjectKind("consumer", Form.UUID, "Nova knows no instance or migration of this uuid", _consumer),
    ObjectKind("database", Form.TEXT),
    ObjectKind("host", Form.TEXT, "Nova knows no host of this name", _host),
    ObjectKind("instance", Form.UUID, "Nova knows no instance of this uuid", _instance),
    ObjectKind("mappings", Form.TEXT),
    ObjectKind("node", Form.UUID),
    ObjectKind("nodes", Form.UUID),
    ObjectKind("project", Form.TEXT, "Nova knows no instance of a project of this id", _project),
    ObjectKind("provider", Form.UUID),
    ObjectKind("volume", Form.UUID),
)
