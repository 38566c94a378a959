"""The kinds of objects that findings about Octavia name, and look-ups of such objects in Octavia's database."""

from __future__ import annotations

import sqlalchemy as sa

from handlers.base import Form, ObjectKind, Resources
from handlers.octavia import tables
from handlers.octavia.database import OctaviaDatabase


def _amphora(resources: Resources, identity: str) -> bool:
    return _any(resources, tables.amphora.c.id == identity)


def _load_balancer(resources: Resources, identity: str) -> bool:
    return _any(resources, tables.load_balancer.c.id == identity)


def _project(resources: Resources, identity: str) -> bool:
    return _any(resources, tables.load_balancer.c.project_id == identity)


def _any(resources: Resources, condition: sa.ColumnElement[bool]) -> bool:
    query = sa.select(sa.literal(1)).where(condition).limit(1)
    database = resources.get(OctaviaDatabase.from_resources)
    return database.run(lambda connection: connection.execute(query).first()) is not None


OBJECTS = (
    ObjectKind("amphora", Form.UUID, "Octavia knows no amphora of this uuid", _amphora),
    ObjectKind("host", Form.TEXT),
    ObjectKind("image", Form.UUID),
    ObjectKind("instance", Form.UUID),
    ObjectKind("load-balancer", Form.UUID, "Octavia knows no load balancer of this uuid", _load_balancer),
    ObjectKind("pool", Form.TEXT),
    ObjectKind("port", Form.UUID),
    ObjectKind("project", Form.TEXT, "Octavia knows no load balancer of a project of this id", _project),
    ObjectKind("security-group", Form.UUID),
    ObjectKind("server", Form.UUID),
    ObjectKind("server-group", Form.UUID),
)
