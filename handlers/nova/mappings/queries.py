"""The SQL about instance mappings, and :func:`read`, which puts the facts about instances together.

As in :mod:`handlers.nova.queries`, each takes a connection within a transaction and can be run again. Whatever changes or
deletes a row has that row's old values in its condition and raises :class:`~handlers.base.Conflict` when it meets no such
row, which rolls everything back. What is deleted is read before with all columns that the table has, whichever release
made it, and given back as the statements that restore it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from handlers.access.database import utcnow
from handlers.base import Conflict, Unavailable
from handlers.nova import tables
from handlers.nova.database import API, NovaDatabases
from handlers.nova.mappings.rules import Copy, Facts, MappingRow
from handlers.nova.queries import NOW
from handlers.nova.sql_text import as_typed

#: rows read at a time
PAGE = 1000


def read(databases: NovaDatabases, instances: Collection[str]) -> dict[str, Facts]:
    """Read what is known about these instances: their mappings first, then every cell.

    In this order a boot cannot look like a lost instance: the mapping is there before the row in the cell.

    :raises Unavailable: when a cell does not answer, or is one that ``cell_mappings`` does not list
    """
    cells = databases.cells()
    mappings, requests = databases.api.run(
        lambda connection: (mappings_of(connection, instances), request_ages(connection, instances))
    )
    known = {cell.id for cell in cells}
    strange = {row.cell_id for row in mappings.values() if row.cell_id is not None} - known
    if strange:
        raise Unavailable(API, f"there are mappings to the cell {min(strange)}, which is not in cell_mappings")
    found: dict[str, list[Copy]] = {}
    for cell in cells:
        for copy in databases.database(cell).run(partial(copies, cell_id=cell.id, instances=instances)):
            found.setdefault(copy.uuid, []).append(copy)
    return {
        uuid: Facts(mappings.get(uuid), requests.get(uuid), tuple(found.get(uuid, ())))
        for uuid in dict.fromkeys(instances)
    }


# nova_api, reading


def mappings_of(connection: Connection, instances: Collection[str]) -> dict[str, MappingRow]:
    """The mappings of these instances."""
    c = tables.instance_mappings.c
    return {
        row.instance: row for chunk in _chunks(instances) for row in _mappings(connection, c.instance_uuid.in_(chunk))
    }


def mapping_page(connection: Connection, after: int) -> list[MappingRow]:
    """The next mappings in the order of their ids."""
    return _mappings(connection, tables.instance_mappings.c.id > after, PAGE)


def mapping_part(connection: Connection, first: int, last: int) -> list[MappingRow]:
    """The mappings with ids from the first to the last; no more than a page."""
    return _mappings(connection, tables.instance_mappings.c.id.between(first, last), PAGE)


def _mappings(connection: Connection, where: sa.ColumnElement[bool], limit: int | None = None) -> list[MappingRow]:
    c = tables.instance_mappings.c
    query = (
        sa.select(c.id, c.instance_uuid, c.project_id, c.cell_id, c.queued_for_delete, c.created_at, c.updated_at, NOW)
        .where(where)
        .order_by(c.id)
        .limit(limit)
    )
    return [
        MappingRow(
            row.id,
            row.instance_uuid,
            row.project_id,
            row.cell_id,
            None if row.queued_for_delete is None else bool(row.queued_for_delete),
            _since(row.now, row.created_at, row.updated_at),
        )
        for row in connection.execute(query)
    ]


def mapped(connection: Connection, instances: Collection[str]) -> set[str]:
    """Those of these instances that have a mapping."""
    c = tables.instance_mappings.c
    found: set[str] = set()
    for chunk in _chunks(instances):
        found.update(connection.scalars(sa.select(c.instance_uuid).where(c.instance_uuid.in_(chunk))))
    return found


def mappings_count(connection: Connection) -> int:
    """How many mappings there are."""
    return int(connection.execute(sa.select(sa.func.count()).select_from(tables.instance_mappings)).scalar_one())


def request_ages(connection: Connection, instances: Collection[str]) -> dict[str, float]:
    """Seconds since the build requests of these instances were made."""
    c = tables.build_requests.c
    found: dict[str, float] = {}
    for chunk in _chunks(instances):
        query = sa.select(c.instance_uuid, c.created_at, NOW).where(c.instance_uuid.in_(chunk))
        found.update({row.instance_uuid: _since(row.now, row.created_at) for row in connection.execute(query)})
    return found


def requested_and_mapped(connection: Connection) -> list[str]:
    """The instances that have a build request and a mapping to a cell: there are few build requests at any time."""
    b, m = tables.build_requests.c, tables.instance_mappings.c
    both = tables.build_requests.join(tables.instance_mappings, m.instance_uuid == b.instance_uuid)
    query = sa.select(m.instance_uuid).select_from(both).where(m.cell_id.is_not(None)).order_by(b.id)
    return list(connection.scalars(query))


# nova_api, writing


def insert_mappings(connection: Connection, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Insert those of these mappings that are not there, and return of which instances.

    The unique key on the instance decides races: then nothing is inserted at all.
    """
    there = mapped(connection, [row["instance_uuid"] for row in rows])
    missing = [dict(row) for row in rows if row["instance_uuid"] not in there]
    if missing:
        connection.execute(sa.insert(tables.instance_mappings).values(created_at=utcnow()), missing)
    return [row["instance_uuid"] for row in missing]


def change_mapping(
    connection: Connection, before: MappingRow, values: Mapping[str, int | bool], drop_request: bool
) -> list[str]:
    """Change a mapping that still is as it was, take the build request away if asked to; return what restores both.

    Where only the build request goes, the mapping is still checked to be as it was.

    :raises Conflict: when it is not
    """
    table = tables.instance_mappings
    changed = connection.execute(sa.update(table).where(_as_it_was(before)).values({**values, "updated_at": utcnow()}))
    if changed.rowcount != 1:
        raise Conflict(f"the mapping of {before.instance} is not as it was")
    undo = []
    if values:
        old = {"cell_id": before.cell_id, "queued_for_delete": before.queued}
        restored = {name: old[name] for name in values}
        restore = sa.update(table).where(table.c.id == before.id, table.c.instance_uuid == before.instance)
        undo.append(as_typed(connection, restore.values(restored)))
    if drop_request:
        undo += _delete(connection, tables.build_requests, before.instance)
        if len(undo) == bool(values):
            raise Conflict(f"the build request of {before.instance} is gone")
    return undo


def forget(connection: Connection, before: MappingRow) -> list[str]:
    """Delete a mapping that still is as it was and has no build request, the request specification and the membership
    of a server group; return what restores them.

    :raises Conflict: when it is not as it was, or there is a build request again
    """
    table, requests = tables.instance_mappings, tables.build_requests
    building = sa.exists().where(requests.c.instance_uuid == before.instance)
    undo = _restoring(connection, table, before.instance)
    gone = connection.execute(sa.delete(table).where(_as_it_was(before), sa.not_(building)))
    if gone.rowcount != 1:
        raise Conflict(f"the mapping of {before.instance} is not as it was")
    for leftover in (tables.request_specs, tables.instance_group_member):
        undo += _delete(connection, leftover, before.instance)
    return undo


def _as_it_was(before: MappingRow) -> sa.ColumnElement[bool]:
    c = tables.instance_mappings.c
    return sa.and_(
        c.id == before.id,
        c.instance_uuid == before.instance,
        c.cell_id.is_(None) if before.cell_id is None else c.cell_id == before.cell_id,
        c.queued_for_delete.is_(None) if before.queued is None else c.queued_for_delete == sa.literal(before.queued),
    )


def _delete(connection: Connection, table: sa.Table, instance: str) -> list[str]:
    undo = _restoring(connection, table, instance)
    connection.execute(sa.delete(table).where(table.c.instance_uuid == instance))
    return undo


def _restoring(connection: Connection, table: sa.Table, instance: str) -> list[str]:
    """Return the INSERTs of an instance's rows as they are now, whatever columns there are."""
    query = sa.select(sa.text("*")).select_from(table).where(table.c.instance_uuid == instance)
    statements = []
    for row in connection.execute(query).mappings():
        columns: list[sa.ColumnClause[Any]] = [sa.column(name) for name in row]
        values = {name: sa.null() if value is None else sa.literal(value) for name, value in row.items()}
        statements.append(as_typed(connection, sa.insert(sa.table(table.name, *columns)).values(values)))
    return statements


# a cell


def copies(connection: Connection, cell_id: int, instances: Collection[str]) -> list[Copy]:
    """The rows of these instances in this cell, deleted and hidden ones too."""
    c = tables.instances.c
    columns = (c.uuid, c.project_id, c.user_id, c.host, c.vm_state, c.task_state, c.deleted, c.hidden)
    times = (c.created_at, c.updated_at, c.deleted_at)
    return [
        Copy(
            row.uuid,
            cell_id,
            row.project_id,
            row.user_id,
            row.host,
            row.vm_state,
            row.task_state,
            bool(row.deleted),
            bool(row.hidden),
            _since(row.now, row.created_at),
            _since(row.now, row.created_at, row.updated_at, row.deleted_at),
        )
        for chunk in _chunks(instances)
        for row in connection.execute(sa.select(*columns, *times, NOW).where(c.uuid.in_(chunk)))
    ]


def instance_page(connection: Connection, after: int, last: int | None = None) -> list[tuple[int, str]]:
    """The next instances, live or deleted but not hidden, in the order of their ids up to and with the last one."""
    c = tables.instances.c
    query = sa.select(c.id, c.uuid).where(c.id > after, _visible()).order_by(c.id).limit(PAGE)
    if last is not None:
        query = query.where(c.id <= last)
    return [(row.id, row.uuid) for row in connection.execute(query)]


def instances_count(connection: Connection) -> int:
    """How many instances there are, live or deleted."""
    query = sa.select(sa.func.count()).select_from(tables.instances).where(_visible())
    return int(connection.execute(query).scalar_one())


def _visible() -> sa.ColumnElement[bool]:
    hidden = tables.instances.c.hidden
    return sa.or_(hidden.is_(None), hidden == sa.false())


def _since(now: Any, *times: Any) -> float:
    known = [time for time in times if time is not None]
    return max(0.0, float((now - max(known)).total_seconds())) if known else float("inf")


def _chunks(values: Collection[str]) -> Iterator[list[str]]:
    ordered = sorted(set(values))
    for start in range(0, len(ordered), PAGE):
        yield ordered[start : start + PAGE]
